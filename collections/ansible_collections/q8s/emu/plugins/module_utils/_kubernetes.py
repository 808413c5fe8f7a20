# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read objects of Kubernetes' API. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Optional

_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def condition(node: Mapping[str, Any], kind: str = "Ready") -> Mapping[str, Any]:
    """Return a node's condition. Its status is Unknown if the node has none of this kind."""
    conditions = node.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {"status": "Unknown"})


def reason(condition: Mapping[str, Any], otherwise: str = "no reason given") -> str:
    """Return why a condition has its status: its message, else its reason, else another text."""
    return str(condition.get("message") or condition.get("reason") or otherwise)


def ready_by_node(lines: str) -> dict[str, bool]:
    """Return whether each node is Ready, from lines with its name and the status of its condition Ready."""
    return {line.split()[0]: line.endswith(" True") for line in lines.splitlines()}


def ready_problem(node: Optional[Mapping[str, Any]]) -> str:
    """Return why a node is not Ready, empty if it is. None stands for a node that the API does not have."""
    if node is None:
        return "it has not joined the cluster"
    ready = condition(node)
    if ready.get("status") == "True":
        return ""
    return reason(ready)


def epoch(text: Any) -> Optional[float]:
    """Return a time of Kubernetes in seconds since the epoch, or None."""
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ"):
        try:
            return datetime.strptime(str(text), form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    return None


def parse_quantity(text: str) -> int:
    """Return a quantity of Kubernetes in bytes: ``2044Mi`` is 2143289344."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(float(text[:-1]) / 1000) if text.endswith("m") else int(float(text))
