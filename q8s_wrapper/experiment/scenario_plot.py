"""Plot the round trips that ``scenario run --ping`` measured, with what happened at the time. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

_WIDTH, _LEFT, _RIGHT = 1000, 70, 20  # pixels: the plot, its margins
_TOP, _CHART, _ROW = 20, 260, 32  # the margin above, height of the chart, of a row of what happened
_LEGEND_ROW: Final = 22
_SILENCE: Final = 1.5  # seconds without an answer that are shown as such: six packets
_COLOURS: Final = 4
_STYLE: Final = """\
svg { background: #fff; --ink: #1f2328; --quiet: #59636e; --grid: #d1d9e0; --fault: #fff1e5; --bar: #f0883e;
  --silence: #ffebe9; --c0: #0969da; --c1: #1a7f37; --c2: #8250df; --c3: #bf3989; }
@media (prefers-color-scheme: dark) { svg { background: #0d1117; --ink: #e6edf3; --quiet: #9198a1; --grid: #3d444d;
  --fault: #2b1d0e; --bar: #bc4c00; --silence: #3c1a1d; --c0: #4493f8; --c1: #3fb950; --c2: #ab7df8; --c3: #db61a2; } }
text { fill: var(--ink); } .quiet { fill: var(--quiet); } .grid { stroke: var(--grid); }
.fault { fill: var(--fault); } .bar { fill: var(--bar); } .silence { fill: var(--silence); }
"""

_Data = Mapping[str, Any]


def svg(data: _Data) -> str:
    """Return the plot as SVG, with the colours of the reader's scheme.

    :param data: a scenario's report with at least one ping
    """
    pairs = dict.fromkeys((one["from"], one["to"]) for one in data["pings"])
    series = {
        pair: sorted((one["at"], one["ms"]) for one in data["pings"] if (one["from"], one["to"]) == pair)
        for pair in pairs
    }
    end: float = max(one["at"] for one in data["pings"])
    faults = _faults(data["actions"], last=end)
    highest = _round_up(max(one["ms"] for one in data["pings"]))
    bottom = _TOP + _CHART
    silences = [
        (before, after)
        for points in series.values()
        for (before, _), (after, _) in pairwise(points)
        if after - before > _SILENCE
    ]
    legend = [
        (f"c{number % _COLOURS}", f"round trip {source} → {target}") for number, (source, target) in enumerate(series)
    ]
    legend += [("silence", f"no answer for more than {_SILENCE:g} s")] * bool(silences)
    height = bottom + 44 + _ROW * len(faults) + _LEGEND_ROW * len(legend)

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(seconds, 0.0), end) / (end or 1.0)

    def y(delay: float) -> float:
        return bottom - _CHART * delay / highest

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-size="13" font-family="system-ui, sans-serif"><title>Round trips during the scenario of '
        f"{escape(data['begin'])}</title>",
        f"<style>{_STYLE}</style>",
    ]
    for _, begin, until in faults:
        parts.append(_rectangle("fault", (x(begin), _TOP), (x(until) - x(begin), _CHART)))
    for before, after in silences:
        tip = f"no answer from {before:.1f} s to {after:.1f} s"
        parts.append(_rectangle("silence", (x(before), _TOP), (x(after) - x(before), _CHART), tip))
    for number in range(6):
        level = y(highest * number / 5)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        label = f"{highest * number / 5:g} ms"
        parts.append(f'<text class="quiet" x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{label}</text>')
    step = _round_up(end / 12)
    for number in range(int(end / step) + 1):
        place = x(number * step)
        parts.append(
            f'<text class="quiet" x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{number * step:g} s</text>'
        )
    for number, points in enumerate(series.values()):
        dots = "".join(f'<circle cx="{x(at):.1f}" cy="{y(delay):.1f}" r="2"/>' for at, delay in points if at >= 0)
        parts.append(f'<g style="fill: var(--c{number % _COLOURS})">{dots}</g>')
    top = bottom + 32
    for text, begin, until in faults:
        parts.append(_label(text, x(begin), x(until), top + 13))
        parts.append(_rectangle("bar", (x(begin), top + 18), (max(x(until) - x(begin), 2), 8)))
        top += _ROW
    for colour, text in legend:
        parts.append(f'<circle cx="{_LEFT + 5}" cy="{top + 11}" r="5" style="fill: var(--{colour})"/>')
        parts.append(f'<text x="{_LEFT + 18}" y="{top + 15}">{escape(text)}</text>')
        top += _LEGEND_ROW
    return "\n".join([*parts, "</svg>", ""])


def _faults(actions: Sequence[_Data], last: float) -> list[tuple[str, float, float]]:
    """Return what happened, from when it was done until its end was done, or until the last ping."""
    found: list[tuple[str, float, float]] = []
    for one in actions:
        if not one["undo"]:
            end = next(
                (
                    other["done"]
                    for other in actions
                    if other["undo"] and other["what"] == f"end of {one['what']}" and other["done"] > one["done"]
                ),
                one["done"] if one["kind"] == "reboot" else last,
            )
            found.append((one["what"], one["done"], end))
    return found


def _round_up(value: float) -> float:
    """Return the next round number that is not below the value, such as 1, 1.5, 2, 3, 5, 10, 15."""
    size = 1.0
    while True:
        for factor in (1, 1.5, 2, 3, 5):
            if value <= factor * size:
                return factor * size
        size *= 10


def _rectangle(kind: str, corner: tuple[float, float], size: tuple[float, float], tip: str = "") -> str:
    title = f"<title>{escape(tip)}</title>" if tip else ""
    place = f'x="{corner[0]:.1f}" y="{corner[1]}" width="{size[0]:.1f}" height="{size[1]}"'
    return f'<rect class="{kind}" {place}>{title}</rect>'


def _label(text: str, begin: float, end: float, level: int) -> str:
    """Return the name of a fault, above its bar: from the bar's begin in the left half, else to its end."""
    if begin < _WIDTH / 2:
        return f'<text x="{begin:.1f}" y="{level}">{escape(text)}</text>'
    return f'<text x="{end:.1f}" y="{level}" text-anchor="end">{escape(text)}</text>'
