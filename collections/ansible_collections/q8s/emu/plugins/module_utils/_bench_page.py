# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One self-contained HTML page with a benchmark's tables, and charts as SVG. Pure functions of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _bench_resume, _bench_tables, _bench_topology
from ansible_collections.q8s.emu.plugins.module_utils._html import escape, figure, note, table
from ansible_collections.q8s.emu.plugins.module_utils._html import page as html_page

_BAR, _GAP, _LABEL, _WIDTH = 18, 8, 300, 820  # pixels: height of a bar, between bars, width of labels, of the chart


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its label, its value, and the text beside it."""

    label: str
    value: float
    text: str


def page(document: Mapping[str, Any], timeline: str = "") -> str:
    """Return the page.

    :param timeline: the chart of the deploy's timeline as SVG, if there is one
    """
    kind = "quick" if document["quick"] else "full"
    title = f"Benchmark of {document['cluster']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(document['created'])}, {kind}. {escape(_bench_tables.load_text(document))}.</p>",
    ]
    sessions = _bench_resume.describe(document)
    parts += [f"<p>{escape(sessions)}</p>"] if sessions else []
    problems = _bench_tables.problems(document)
    if problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        resume = "q8s-run bench FILE --resume measures what is missing."
        parts.append(f'<div class="partial"><strong>The results are partial.</strong> {resume}<ul>{items}</ul></div>')
    parts += ["<h2>Topology</h2>", figure(_bench_topology.chart(document)), note(_bench_topology.NOTE)]
    charts = {"bandwidth": bandwidth_chart(document), "machines": speed_chart(document), "deploy": timeline}
    found = _bench_tables.tables(document)
    for one in found:
        parts.append(f"<h2>{escape(one.title)}</h2>")
        parts += [figure(charts[one.name])] if charts.get(one.name) else []
        parts.append(table(one.heads, one.rows))
        parts += [note(one.note)] if one.note else []
    if timeline and "deploy" not in {one.name for one in found}:
        parts += ["<h2>Timeline of the deploy</h2>", figure(timeline)]
    return html_page(title, parts)


def bandwidth_chart(document: Mapping[str, Any]) -> str:
    """Return a chart of the TCP bandwidth from pod to pod, or nothing if it was not measured."""
    bars = [
        Bar(f"{entry['client']} to {entry['server']}", entry["median"], f"{entry['median']:.0f} Mbit/s")
        for entry in document["summary"]
        if entry["figure"] == "received_mbit_s" and (entry["path"], entry["protocol"]) == ("pod-pod", "tcp")
    ]
    return chart("TCP bandwidth from pod to pod", bars)


# What a bar's label adds to the metric, where one metric has several figures.
_SIDES = {"read_mb_per_s": ", read", "write_mb_per_s": ", written"}


def speed_chart(document: Mapping[str, Any]) -> str:
    """Return a chart of each emulated node's speed relative to a native core, or nothing without a native node."""
    nodes = {node["name"]: node for node in document["nodes"]}
    entries = [e for e in document["summary"] if e["group"] in ("cpu", "memory") and e["figure"] in _bench_tables.UNITS]
    native = {
        (entry["metric"], entry["figure"]): entry["median"]
        for entry in entries
        if not nodes[entry["client"]]["emulated"]
    }
    bars = [
        Bar(f"{entry['client']}, {entry['metric']}{_SIDES.get(entry['figure'], '')}", share, f"{100 * share:.1f} %")
        for entry in entries
        if nodes[entry["client"]]["emulated"] and native.get((entry["metric"], entry["figure"]))
        for share in [entry["median"] / native[(entry["metric"], entry["figure"])]]
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
        f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>'
    ]
    for number, row in enumerate(bars):
        top = _GAP + number * (_BAR + _GAP)
        width = max(1.0, room * row.value / most)
        middle = top + _BAR - 4
        lines.append(f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{escape(row.label)}</text>')
        lines.append(f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="#0969da"/>')
        lines.append(f'<text x="{_LABEL + width + 6:.1f}" y="{middle}">{escape(row.text)}</text>')
    return "\n".join([*lines, "</svg>"])
