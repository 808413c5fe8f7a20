# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve the limit of a run to the servers that it selects: a pure function of the cluster file."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Union

from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster


class LimitError(ValueError):
    """A limit that selects nothing. ``known`` lists the names that would."""

    def __init__(self, unknown: list[str], known: list[str]) -> None:
        super().__init__(f"no server, node or group {', '.join(unknown)}; known are {', '.join(known)}")
        self.unknown = unknown
        self.known = known


def limited_servers(cluster: Cluster, limit: Union[str, Iterable[str], None]) -> list[str]:
    """Return the names of the servers that a limit selects, and of the initial control plane, in the file's order.

    :param limit: names of servers, of nodes and of the inventory's groups, with commas between them or as a list; a name
        may have the wildcards of a shell, and one after ``!`` is left out. None or an empty list selects all servers; a
        text without a name does not, for it may be a variable of a shell that was not set
    :raises LimitError: a name is not known, or a text has none
    """
    words = limit.split(",") if isinstance(limit, str) else list(limit or ())
    words = [word.strip() for word in words if word.strip()]
    by_name: dict[str, set[str]] = {}
    for spec in cluster.servers():
        names = [spec.name, spec.node, "all"]
        if spec.vm_type is None:
            names += ["control_plane", *(["control_plane_initial"] if spec.initial else [])]
        else:
            names += ["worker_hosts", "emulated_workers", f"type_{group_word(spec.vm_type.name)}"]
            names += [
                f"arch_{spec.vm_type.architecture}",
                *([f"zone_{group_word(spec.vm_type.zone)}"] if spec.vm_type.zone else []),
            ]
        for name in names:
            by_name.setdefault(name, set()).add(spec.name)
    initial = {spec.name for spec in cluster.servers() if spec.initial}
    matches = {word: fnmatch.filter(by_name, word.lstrip("!")) for word in words}
    unknown = [word for word in words if not matches[word]]
    if isinstance(limit, str) and not words:
        unknown = [repr(limit)]
    if unknown:
        raise LimitError(unknown, list(by_name))
    selected: set[str] = set()
    left_out: set[str] = set()
    for word in words:
        target = left_out if word.startswith("!") else selected
        target.update(*(by_name[name] for name in matches[word]))
    if all(word.startswith("!") for word in words):
        selected = set(by_name.get("all", ()))
    chosen = (selected - left_out) | initial
    return [spec.name for spec in cluster.servers() if spec.name in chosen]


def group_word(name: str) -> str:
    """Return a name as the inventory has it in the name of a group."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
