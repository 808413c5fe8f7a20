"""Draw a timeline as SVG. Pure functions."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from q8s_wrapper.experiment.timeline_record import MILESTONES, PHASES
from q8s_wrapper.experiment.timeline_text import describe_segment

_LABEL, _WIDTH, _ROW, _TOP = 230, 1000, 26, 34  # pixels: labels, chart, height of a row, of the axis
# Colours in the order in which stages first occur, for light and dark pages. Short stages share the last one.
_LIGHT: Final = (
    "#0969da #1a7f37 #9a6700 #8250df #bf3989 #1b7c83 #bc4c00 #6639ba #4d2d00 #0550ae #116329 #a40e26 #818b98".split()
)
_DARK: Final = (
    "#4493f8 #3fb950 #d29922 #ab7df8 #db61a2 #39c5cf #f0883e #8957e5 #bb8009 #79c0ff #56d364 #ff7b72 #656c76".split()
)
_SHORT: Final = 0.01  # of the deploy
_OTHER: Final = "other stages"
_BOOT: Final = ("#c8e1ff", "#9ecbff", "#79b8ff", "#58a6ff", "#388bfd")


@dataclass(frozen=True)
class Row:
    """A row of the chart: its label, and bars as start, end, name and colour."""

    label: str
    bars: tuple[tuple[float, float, str, str], ...]


def _colours(analysis: Mapping[str, Any]) -> dict[str, str]:
    """Return the colour of each stage that has one of its own, in order of time."""
    shortest = _SHORT * analysis["seconds"]
    long = dict.fromkeys(c["stage"] for c in analysis["stages"] if c["end"] - c["start"] >= shortest)
    return {stage: f"var(--stage-{number})" for number, stage in enumerate([*long][: len(_LIGHT) - 1])}


def _rows(analysis: Mapping[str, Any]) -> list[Row]:
    """Return the rows of the chart: this machine, then each host, and below a host its guest."""
    colours, other = _colours(analysis), f"var(--stage-{len(_LIGHT) - 1})"
    guests = {guest["host"]: guest for guest in analysis["guests"]}
    rows = []
    for host in dict.fromkeys(cell["host"] for cell in analysis["stages"]):
        bars = tuple(
            (cell["start"], cell["end"], cell["stage"], colours.get(cell["stage"], other))
            for cell in analysis["stages"]
            if cell["host"] == host
        )
        rows.append(Row("this machine" if host == "localhost" else host, bars))
        if host in guests:
            rows.append(_guest_row(guests[host]))
    return rows


def _guest_row(guest: Mapping[str, Any]) -> Row:
    """Return the row with the phases of a guest's boot."""
    times = guest["times"]
    known = [name for name in MILESTONES if name in times]
    bars = tuple(
        (times[before], times[name], PHASES[name], f"var(--boot-{MILESTONES.index(name) - 1})")
        for before, name in pairwise(known)
    )
    return Row(f"guest {guest['node']}", bars)


def svg(analysis: Mapping[str, Any]) -> str:
    """Return the chart as SVG, with the colours of the reader's scheme."""
    rows, seconds = _rows(analysis), analysis["seconds"] or 1.0
    scale = (_WIDTH - _LABEL - 20) / seconds
    path_top = _TOP + len(rows) * _ROW + 10
    legend, legend_height = _legend(analysis, path_top + 46)
    height = path_top + 46 + legend_height
    title = f"Timeline of the deploy of {html.escape(analysis['cluster'])}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-size="13" font-family="system-ui, sans-serif"><title>{title}</title>',
        f"<style>{_chart_style()}</style>",
    ]
    for tick in _ticks(seconds):
        x = _LABEL + tick * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{path_top + 24}"/>')
        parts.append(f'<text class="quiet" x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle">{tick:g} s</text>')
    for number, row in enumerate(rows):
        top = _TOP + number * _ROW
        parts.append(f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{html.escape(row.label)}</text>')
        for start, end, name, colour in row.bars:
            tip = f"{name}: {start:.1f} s to {end:.1f} s, {end - start:.1f} s"
            parts.append(_bar(_LABEL + start * scale, top, (end - start) * scale, tip, f'style="fill: {colour}"'))
    label = f'<text x="{_LABEL - 8}" y="{path_top + 15}" text-anchor="end" font-weight="bold">critical path</text>'
    parts.append(label)
    for segment in analysis["critical_path"]:
        took = segment["end"] - segment["start"]
        tip = f"{segment['host']} {describe_segment(segment)}: {took:.1f} s".strip()
        kind = "idle" if segment["kind"] in ("ansible", "wait") else "path"
        parts.append(_bar(_LABEL + segment["start"] * scale, path_top, took * scale - 1, tip, f'class="{kind}"'))
    return "\n".join([*parts, legend, "</svg>"])


def _bar(x: float, top: int, width: float, tip: str, attribute: str) -> str:
    """Return a bar of the chart with a tooltip."""
    size = f'x="{x:.1f}" y="{top + 3}" width="{max(width, 1.0):.1f}" height="{_ROW - 8}"'
    return f"<rect {attribute} {size}><title>{html.escape(tip)}</title></rect>"


def _legend(analysis: Mapping[str, Any], top: int) -> tuple[str, int]:
    """Return the legend and its height: stages on the left, phases of guests and the critical path on the right."""
    left = [(colour, stage) for stage, colour in _colours(analysis).items()]
    left.append((f"var(--stage-{len(_LIGHT) - 1})", _OTHER))
    right = [(f"var(--boot-{number})", PHASES[name]) for number, name in enumerate(MILESTONES[1:])]
    right = right if analysis["guests"] else []
    right += [
        ("var(--path)", "critical path: work, or a guest's boot"),
        ("var(--idle)", "critical path: waiting, or Ansible itself"),
    ]
    entries = [(_LABEL, number, entry) for number, entry in enumerate(left)]
    entries += [(_LABEL + 390, number, entry) for number, entry in enumerate(right)]
    lines = [
        f'<rect x="{x}" y="{top + 22 * number}" width="12" height="12" style="fill: {colour}"/>'
        f'<text x="{x + 20}" y="{top + 22 * number + 11}">{html.escape(name)}</text>'
        for x, number, (colour, name) in entries
    ]
    return "\n".join(lines), 22 * max(len(left), len(right)) + 8


def _ticks(seconds: float) -> Iterable[float]:
    """Return the marks of the time axis: at most ten, at round numbers."""
    step = next(size for size in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 1e9) if seconds / size <= 10)
    return [step * number for number in range(int(seconds / step) + 1)]


def _chart_style() -> str:
    """Return the chart's style sheet. The dark colours apply where the reader prefers them."""
    light = "".join(f"--stage-{number}:{colour};" for number, colour in enumerate(_LIGHT))
    dark = "".join(f"--stage-{number}:{colour};" for number, colour in enumerate(_DARK))
    boot = "".join(f"--boot-{number}:{colour};" for number, colour in enumerate(_BOOT))
    return (
        f"svg{{{light}{boot}--path:#cf222e;--idle:#f5b5b8;--ink:#1f2328;--quiet:#59636e;--grid:#d1d9e0;"
        "background:#fff}"
        f"@media (prefers-color-scheme: dark){{svg{{{dark}--path:#f85149;--idle:#7d3b3b;--ink:#e6edf3;--quiet:#9198a1;"
        "--grid:#3d444d;background:#0d1117}}"
        "svg text{fill:var(--ink)}svg text.quiet{fill:var(--quiet)}svg .grid{stroke:var(--grid)}"
        ".path{fill:var(--path)}.idle{fill:var(--idle)}"
    )
