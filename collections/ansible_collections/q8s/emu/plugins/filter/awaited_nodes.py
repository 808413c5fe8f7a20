# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the nodes that a run waits for, and since when each must have reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: awaited_nodes
short_description: List the nodes that a run waits for, and since when each must have reported
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns what M(q8s.emu.nodes_ready) takes as O(q8s.emu.nodes_ready#module:nodes).
options:
  _input:
    description:
      - Variables of all hosts, as C(hostvars) has them. Of each host, C(q8s_node_name) is the name of its node, and C(emulated_worker_started_at)
        the time at which the role C(emulated_worker) started its guest, if it did.
    type: dict
    required: true
  hosts:
    description: Names of the hosts whose nodes are awaited.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Wait until the nodes are Ready
  q8s.emu.nodes_ready:
    nodes: "{{ hostvars | q8s.emu.awaited_nodes(groups.booted) }}"
"""

RETURN = r"""
_value:
  description: A dictionary for each host, with the name of its node and the start of its guest, empty if the guest was not started now.
  type: list
  elements: dict
  sample: [{"name": "arm-mid-1", "started_at": "2026-11-27T01:02:03Z"}]
"""


def awaited_nodes(variables: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> list[dict[str, str]]:
    """Return the nodes. See DOCUMENTATION."""
    return [
        {
            "name": str(variables[host]["q8s_node_name"]),
            "started_at": str(variables[host].get("emulated_worker_started_at") or ""),
        }
        for host in hosts
    ]


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"awaited_nodes": awaited_nodes}
