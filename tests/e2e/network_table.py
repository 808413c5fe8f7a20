"""Print the tables of docs/reference/network.md: ``python tests/e2e/network_table.py RESULTS.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURED = ("short connections", "transfers", "guest's reboot", "host's reboot")


def client(name: str) -> str:
    """Return the kind of a client, the column of a cell."""
    kind = next((word for word in ("pod on", "host of", "outside") if name.startswith(word)), "")
    return {"pod on": "pods", "": "nodes", "host of": "workers' hosts", "outside": "outside"}[kind]


def count(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    good = sum(row["passed"] for row in rows)
    refused = all("error" in row["expected"] for row in rows)
    text = f"{good} of {len(rows)}" if good < len(rows) else str(len(rows))
    return f"{text} (dropped)" if refused else text


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = ("pods", "nodes", "workers' hosts", "outside")
    lines = [f"| what | {' | '.join(columns)} |", "|---" * 5 + "|"]
    for group in dict.fromkeys(row["group"] for row in rows if row["group"] not in MEASURED):
        found = [row for row in rows if row["group"] == group]
        parts = [count([row for row in found if client(row["source"]) == column]) for column in columns]
        lines.append(f"| {group} | {' | '.join(parts)} |")
    return lines


def measured(rows: Sequence[Mapping[str, Any]], group: str, words: Callable[[Mapping[str, Any]], str]) -> list[str]:
    return [
        f"| {group} | {row['source']} → {row['target']} | {row['what']} | {words(row['result'])} |"
        for row in rows
        if row["group"] == group
    ]


def connections(result: Mapping[str, Any]) -> str:
    return f"median {result['median'] * 1000:.0f} ms, longest {result['longest'][-1] * 1000:.0f} ms"


def speed(request_size: int, result: Mapping[str, Any]) -> str:
    return f"{result['seconds']:.0f} s, {request_size / result['seconds'] / 1e6:.1f} MB/s"


def gap(result: Mapping[str, Any]) -> str:
    return f"no answer for {result['gap']:.0f} s, then {result['answers']} answers in all"


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text())
    print("\n".join(table(rows)), "\n")
    print("| what | from → to | | result |\n|---|---|---|---|")
    print("\n".join(measured(rows, "short connections", connections)))
    for row in rows:
        if row["group"] == "transfers":
            words = speed(row["request"]["size"], row["result"])
            print(f"| transfers | {row['source']} → {row['target']} | {row['what']} | {words} |")
    for group in ("guest's reboot", "host's reboot"):
        print("\n".join(measured(rows, group, gap)))


if __name__ == "__main__":
    main()
