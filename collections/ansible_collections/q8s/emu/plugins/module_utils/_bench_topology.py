# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The topology of a cluster as SVG: a row for each type, a box for each server, and in it the guest. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._html import escape

NOTE = "A box is a server of the cloud. A filled box in it is an emulated machine, which has the node's address."
_WIDTH, _BOX, _HEIGHT, _GAP, _HEAD = 820, 190, 66, 12, 30  # pixels: chart, a box, between boxes, heading of a type
_PER_ROW = 4
_SHOWN = 12  # nodes of a type; the others are counted


def chart(document: Mapping[str, Any]) -> str:
    """Return the chart. Results of an earlier version have the measured nodes only."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for node in document.get("topology") or document["nodes"]:
        kinds.setdefault(node["kind"], []).append(node)
    top = _GAP
    parts: list[str] = []
    for nodes in kinds.values():
        parts.append(f'<text x="0" y="{top + 14}" font-weight="bold">{escape(_describe(nodes))}</text>')
        top += _HEAD
        shown = nodes if len(nodes) <= _SHOWN else nodes[: _SHOWN - 1]
        for number, node in enumerate(shown):
            parts += _box(node, number % _PER_ROW * (_BOX + _GAP), top + number // _PER_ROW * (_HEIGHT + _GAP))
        if len(shown) < len(nodes):
            x, y = len(shown) % _PER_ROW * (_BOX + _GAP), top + len(shown) // _PER_ROW * (_HEIGHT + _GAP)
            parts.append(f'<text x="{x + 8}" y="{y + 38}">and {len(nodes) - len(shown)} more</text>')
        top += -(-min(len(nodes), _SHOWN) // _PER_ROW) * (_HEIGHT + _GAP) + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" role="img" font-size="13" '
        f'font-family="system-ui, sans-serif"><title>Topology of {escape(document["cluster"])}</title>'
    )
    return "\n".join([head, *parts, "</svg>"])


def _describe(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Describe the nodes of a type: their number, the type, architecture, CPUs and memory."""
    first = nodes[0]
    emulated = ", emulated" if first["emulated"] else ""
    cpus = f"{first['cpus']} CPU{'' if first['cpus'] == 1 else 's'}"
    memory = f"{first['allocatable'] >> 20} MiB for pods"
    return f"{len(nodes)} × {first['kind']}: {first['architecture']}, {cpus}, {memory}{emulated}"


def _box(node: Mapping[str, Any], left: int, top: int) -> list[str]:
    """Return the box of a server, and that of its guest."""
    parts = [
        f'<rect x="{left + 1}" y="{top}" width="{_BOX - 2}" height="{_HEIGHT}" rx="4" fill="none" stroke="#818b98"/>'
    ]
    name, address = escape(_fit(node["name"])), escape(node["address"] or "no address")
    if not node["emulated"]:
        parts.append(f'<text x="{left + 10}" y="{top + 24}">{name}</text>')
        return [*parts, f'<text x="{left + 10}" y="{top + 46}">{address}</text>']
    white = 'style="fill: #fff"'
    parts.append(f'<text x="{left + 10}" y="{top + 16}" font-size="11">host {escape(_fit(node["host"], 25))}</text>')
    parts.append(f'<rect x="{left + 8}" y="{top + 22}" width="{_BOX - 16}" height="38" rx="3" fill="#0969da"/>')
    parts.append(f'<text x="{left + 14}" y="{top + 38}" {white}>{name}</text>')
    return [*parts, f'<text x="{left + 14}" y="{top + 54}" font-size="11" {white}>{address}</text>']


def _fit(name: str, length: int = 23) -> str:
    """Shorten a name that does not fit in its box. Its end tells nodes of a type apart."""
    return name if len(name) <= length else f"…{name[1 - length :]}"
