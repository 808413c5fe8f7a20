# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the nodes that may have to join, for which a run needs a bootstrap token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import ready_by_node

DOCUMENTATION = r"""
name: joining_nodes
short_description: List the nodes that may have to join in this run
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Lists nodes that Kubernetes does not have, and those whose guests get a new root disk.
  - Kubernetes keeps the node of a server that was deleted. Therefore lists those, too, whose guest does not exist or was not inspected, and those whose guest
    runs and is not Ready.
options:
  _input:
    description:
      - Variables of all hosts, as C(hostvars) has them. Of each host, C(q8s_node_name) is the name of its node, C(q8s_vm) is set for a worker, and
        C(emulated_worker_found) is what the role C(emulated_worker) found of its guest before servers were created.
    type: dict
    required: true
  hosts:
    description: Names of the hosts of this run.
    type: list
    elements: str
    required: true
  kubernetes:
    description: A line for each node that Kubernetes has, with its name and the status of its condition Ready. Empty if the API server does not answer.
    type: str
    required: true
  recreated:
    description: Names of the nodes whose guests get a new root disk in this run.
    type: list
    elements: str
    default: []
  inspected:
    description: Whether guests were inspected in this run. If not, as with some tags, only what Kubernetes reports counts.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Show which nodes join
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.joining_nodes(groups.reached, 'arm-mid-1 False') }}"
"""

RETURN = r"""
_value:
  description: Names of the nodes.
  type: list
  elements: str
  sample: [arm-mid-1]
"""


def joining_nodes(
    variables: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    kubernetes: str,
    recreated: Iterable[str] = (),
    inspected: bool = True,
) -> list[str]:
    """Return the nodes. See DOCUMENTATION."""
    ready = ready_by_node(kubernetes)
    leaving = set(recreated)
    joining = []
    for host in hosts:
        of_host = variables[host]
        node = str(of_host["q8s_node_name"])
        guest = (of_host.get("emulated_worker_found") or {"state": "none"})["state"]
        # not Ready: Kubernetes may have the node of an earlier guest, and this one has not joined
        has_to = guest == "none" or (guest == "running" and not ready.get(node))
        if node not in ready or node in leaving or (inspected and "q8s_vm" in of_host and has_to):
            joining.append(node)
    return joining


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"joining_nodes": joining_nodes}
