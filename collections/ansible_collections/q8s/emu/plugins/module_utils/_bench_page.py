# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One self-contained HTML page with a benchmark's tables, and charts as SVG. Pure functions of the document."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _bench_tables
from ansible_collections.q8s.emu.plugins.module_utils._bench_tables import Table

_BAR, _GAP, _LABEL, _WIDTH = 18, 8, 300, 820  # pixels: height of a bar, between bars, width of labels, of the chart
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #d1d9e0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { border: 1px solid #d1d9e0; padding: .25rem .6rem; text-align: left; white-space: nowrap; }
th { background: #f6f8fa; } svg { width: 100%; height: auto; max-width: 820px; } .note { color: #59636e; font-size: .9rem; }
.partial { background: #fff1e5; border: 1px solid #bc4c00; padding: .5rem 1rem; }
"""


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its label, its value, and the text beside it."""

    label: str
    value: float
    text: str


def page(document: Mapping[str, Any]) -> str:
    """Return the page."""
    kind = "quick" if document["quick"] else "full"
    parts = [
        f"<h1>Benchmark of {_escape(document['cluster'])}</h1>",
        f"<p>{_escape(document['created'])}, {kind}. {_escape(_bench_tables.load_text(document))}.</p>",
    ]
    problems = _bench_tables.problems(document)
    if problems:
        items = "".join(f"<li>{_escape(problem)}</li>" for problem in problems)
        parts.append(f'<div class="partial"><strong>The results are partial.</strong><ul>{items}</ul></div>')
    charts = {"bandwidth": bandwidth_chart(document), "machines": speed_chart(document)}
    for table in _bench_tables.tables(document):
        parts.append(f"<h2>{_escape(table.title)}</h2>")
        parts += [charts[table.name]] if charts.get(table.name) else []
        parts.append(_table(table))
        parts += [f'<p class="note">{_escape(table.note)}</p>'] if table.note else []
    title = f"Benchmark of {_escape(document['cluster'])}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def bandwidth_chart(document: Mapping[str, Any]) -> str:
    """Return a chart of the TCP bandwidth from pod to pod, or nothing if it was not measured."""
    bars = [
        Bar(f"{entry['client']} to {entry['server']}", entry["median"], f"{entry['median']:.0f} Mbit/s")
        for entry in document["summary"]
        if entry["figure"] == "received_mbit_s" and (entry["path"], entry["protocol"]) == ("pod-pod", "tcp")
    ]
    return chart("TCP bandwidth from pod to pod", bars)


def speed_chart(document: Mapping[str, Any]) -> str:
    """Return a chart of each emulated node's speed relative to a native core, or nothing without a native node."""
    nodes = {node["name"]: node for node in document["nodes"]}
    entries = [e for e in document["summary"] if e["group"] in ("cpu", "memory") and e["figure"] in _bench_tables.UNITS]
    native = {entry["metric"]: entry["median"] for entry in entries if not nodes[entry["client"]]["emulated"]}
    bars = [
        Bar(f"{entry['client']}, {entry['metric']}", share, f"{100 * share:.1f} %")
        for entry in entries
        if nodes[entry["client"]]["emulated"] and native.get(entry["metric"])
        for share in [entry["median"] / native[entry["metric"]]]
    ]
    return chart("Speed relative to a native core", bars)


def chart(title: str, bars: Sequence[Bar]) -> str:
    """Return a chart with horizontal bars as SVG, or nothing without bars."""
    if not bars:
        return ""
    most = max(row.value for row in bars) or 1.0
    room = _WIDTH - _LABEL - 110
    height = len(bars) * (_BAR + _GAP) + _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-size="13" '
        f'font-family="system-ui, sans-serif"><title>{_escape(title)}</title>'
    ]
    for number, row in enumerate(bars):
        top = _GAP + number * (_BAR + _GAP)
        width = max(1.0, room * row.value / most)
        middle = top + _BAR - 4
        lines.append(f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{_escape(row.label)}</text>')
        lines.append(f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="#0969da"/>')
        lines.append(f'<text x="{_LABEL + width + 6:.1f}" y="{middle}">{_escape(row.text)}</text>')
    return "\n".join([*lines, "</svg>"])


def _table(table: Table) -> str:
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in table.heads)
    rows = "".join(f"<tr>{''.join(f'<td>{_escape(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def _escape(text: object) -> str:
    return html.escape(str(text))
