# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resume a benchmark that was interrupted or that failed in part: what is left to measure, and what of it was kept.

A benchmark is measured in sessions. Each adds its results to those of the earlier ones. Pure functions.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Optional

# What must be the same for the figures of two sessions to be comparable. A node's address and free memory may change.
_SAME = ("name", "kind", "architecture", "emulated", "cpus", "machine")


def earlier(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a new session has to know of the results: the options of the benchmark, and what is finished."""
    return {
        "quick": document["quick"],
        "groups": list(document["groups"]),
        "nodes": [{key: node[key] for key in _SAME if key in node} for node in document["nodes"]],
        "versions": dict(document["versions"]),
        "done": {result["name"]: list(result["argv"]) for result in document["measurements"] if not result["error"]},
    }


def differences(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in what nodes differ from those of the earlier sessions, so that figures cannot be compared."""
    found = {node["name"]: node for node in now}
    lines = []
    for node in before:
        current = found.get(node["name"])
        if current is None:
            lines.append(f"node {node['name']} is no longer in the cluster")
            continue
        lines += [
            f"node {node['name']} had {key} {node[key]}, and has {current[key]}"
            for key in _SAME
            if key in node and node[key] != current[key]  # results of an earlier release lack some
        ]
    return lines


def changed_commands(done: Mapping[str, Sequence[str]], plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which finished measurements the plan has no more or measures in another way, as after an update of Q8S.

    :param done: command by the name of the measurement
    :param plan: the measurements that are planned
    """
    planned = {one["name"]: one["argv"] for one in plan}
    lines = []
    for name, argv in done.items():
        if name not in planned:
            lines.append(f"{name} is finished, and is no longer measured")
        elif _without_addresses(argv) != _without_addresses(planned[name]):
            lines.append(f"{name} ran `{shlex.join(argv)}`, and would run `{shlex.join(planned[name])}`")
    return [*lines[:3], f"and {len(lines) - 3} more measurements"] if len(lines) > 3 else lines


def _without_addresses(argv: Sequence[str]) -> list[str]:
    """Return the words of a command, without those of nodes, pods and Services: they may change, or are not known yet."""
    return [word for word in argv if not _is_address(word)]


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return word.startswith("@")
    return True


def batches(plan: Mapping[str, Any], done: Iterable[str], size: int) -> list[dict[str, Any]]:
    """Return what is left to measure, in parts. The results are written after each part.

    Each part has ``measurements``, and the ``nodes`` whose load is read: those that take part. The idle cluster is a
    part of its own, with all nodes.

    :param plan: ``nodes`` and ``measurements``
    :param done: names of the measurements that are finished
    """
    finished = set(done)
    left = [one for one in plan["measurements"] if one["name"] not in finished]
    idle = [one for one in left if one["group"] == "idle"]
    others = [one for one in left if one["group"] != "idle"]
    parts = [others[start : start + size] for start in range(0, len(others), size)]
    found = [{"measurements": idle, "nodes": list(plan["nodes"])}] if idle else []
    for part in parts:
        busy = {one[side] for one in part for side in ("client", "server")}
        found.append({"measurements": part, "nodes": [node for node in plan["nodes"] if node["name"] in busy]})
    return found


def merge(
    before: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], order: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the results of all sessions. A measurement that was repeated replaces the one that failed.

    :param order: names of all measurements in the order of the plan
    """
    found = {result["name"]: dict(result) for result in (*before, *results)}
    return [found[name] for name in order if name in found]


def sessions(
    before: Sequence[Mapping[str, Any]],
    *,
    started: str,
    now: str,
    measured: int,
    machine: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the sessions: the earlier ones and the current one, which may have written results before.

    :param started: when the current session began
    :param measured: number of measurements since it last wrote results
    :param machine: the load of the control plane before and after
    """
    found = [dict(session) for session in before]
    if not found or found[-1]["started"] != started:
        found.append({"started": started, "ended": now, "measured": 0, "load_before": "", "load_after": ""})
    current = found[-1]
    current["ended"] = now
    current["measured"] += measured
    for key in ("load_before", "load_after"):
        current[key] = str(machine.get(key) or current[key])
    return found


def describe(document: Mapping[str, Any]) -> Optional[str]:
    """Describe the sessions of results, or return None if there was only one."""
    found = document["sessions"]
    if len(found) < 2:
        return None
    parts = [f"{one['started']} to {one['ended']} ({one['measured']} measurements)" for one in found]
    return f"Measured in {len(found)} sessions, the later ones with --resume: {'; '.join(parts)}."
