"""Show a run: live on a terminal, as lines elsewhere, or as JSON lines for programs. All on stderr but the JSON's."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from q8s_wrapper.events import State

_RETRIES_PER_LINE = 5


class Renderer(Protocol):
    """Is told each new state, and the end."""

    def update(self, before: State, after: State) -> None: ...

    def close(self, state: State) -> None: ...


class Plain:
    """Timestamped lines: a stage begins, a host waits, something fails."""

    def update(self, before: State, after: State) -> None:
        known = {stage.name for stage in before.stages}
        for stage in after.stages:
            if stage.name not in known:
                self._line(after, f"{stage.name}")
        for host, count in after.retries.items():
            if count != before.retries.get(host) and count % _RETRIES_PER_LINE == 0:
                self._line(after, f"  {host}: {after.current.get(host, 'task')}: not yet, tried {count} times")
        for failure in after.failures[len(before.failures) :]:
            self._line(after, f"  {failure.host}: FAILED: {failure.task}")

    def close(self, state: State) -> None:
        pass

    @staticmethod
    def _line(state: State, text: str) -> None:
        print(f"[{state.seconds:6.1f}s] {text}", file=sys.stderr, flush=True)


class Terminal:
    """A live table: each stage with its time, and what each host does now."""

    def __init__(self) -> None:
        # Imported here: the start of `q8s-run validate` must not wait for it.
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
        self._live.start()

    def update(self, before: State, after: State) -> None:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for stage in after.stages:
            table.add_row(f"{stage.seconds:6.1f}s", stage.name, ", ".join(sorted(stage.hosts)))
        for host, task in sorted(after.current.items()):
            tries = f" (tried {after.retries[host]} times)" if host in after.retries else ""
            table.add_row("", f"[cyan]{host}[/cyan]", task + tries)
        self._live.update(table)

    def close(self, state: State) -> None:
        self._live.stop()


class JsonLines:
    """One JSON object a line on stdout: stages as they begin, failures, and the result at the end."""

    def update(self, before: State, after: State) -> None:
        known = {stage.name for stage in before.stages}
        for stage in after.stages:
            if stage.name not in known:
                self._emit({"event": "stage", "name": stage.name, "seconds": round(after.seconds, 1)})
        for failure in after.failures[len(before.failures) :]:
            self._emit({"event": "failure", "host": failure.host, "task": failure.task, "reason": failure.reason})

    def close(self, state: State) -> None:
        pass

    @staticmethod
    def _emit(data: Mapping[str, Any]) -> None:
        print(json.dumps(data), flush=True)


def renderer(as_json: bool) -> Renderer:
    """The one that fits where the output goes."""
    if as_json:
        return JsonLines()
    return Terminal() if sys.stderr.isatty() else Plain()


def table(rows: list[Mapping[str, Any]]) -> str:
    """Rows of the same keys as aligned text with a head line; an empty list gives an empty string."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[head.upper() for head in heads]] + [[str(row.get(head, "")) for head in heads] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def stage_table(state: State) -> str:
    """When each stage began and how long it took (the paper's Table 5); stages overlap: the sum exceeds the total."""
    rows: list[Mapping[str, Any]] = [
        {
            "stage": stage.name,
            "start": f"{stage.start:.1f} s",
            "took": f"{stage.seconds:.1f} s",
            "hosts": len(stage.hosts),
        }
        for stage in state.stages
    ]
    return table(rows)


def result(what: str, code: int, state: State, log: str) -> dict[str, Any]:
    """The end of a run as data."""
    return {
        "event": "result",
        "command": what,
        "exit_code": code,
        "changed": state.changed,
        "seconds": round(state.seconds, 1),
        "stages": [
            {"name": s.name, "start": round(s.start, 1), "seconds": round(s.seconds, 1), "hosts": sorted(s.hosts)}
            for s in state.stages
        ],
        "failures": [{"host": f.host, "task": f.task, "reason": f.reason, "place": f.place} for f in state.failures],
        "notes": list(state.notes),
        "warnings": list(state.warnings),
        "log": log,
    }
