# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return the address of each node of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Optional

DOCUMENTATION = r"""
name: node_addresses
short_description: Return the address of each node
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns the address of each node that has a server, by the node's name. A node has the address of its server.
options:
  _input:
    description:
      - Variables of all hosts, as C(hostvars) has them. Of each host, C(q8s_private_ip) is its address, and C(q8s_node_name) the name of its node,
        or C(q8s_surplus.name) for a server that the cluster file does not ask for.
    type: dict
    required: true
  hosts:
    description: Names of the hosts. By default, all.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show the addresses
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.node_addresses(groups.worker_hosts) }}"
"""

RETURN = r"""
_value:
  description: Addresses by the names of the nodes.
  type: dict
  sample: {"arm-mid-1": "10.254.1.3"}
"""


def node_addresses(variables: Mapping[str, Mapping[str, Any]], hosts: Optional[Iterable[str]] = None) -> dict[str, str]:
    """Return the addresses. See DOCUMENTATION."""
    found = {}
    for host in variables if hosts is None else hosts:
        of_host = variables[host]
        node = of_host.get("q8s_node_name") or (of_host.get("q8s_surplus") or {}).get("name")
        if node and of_host.get("q8s_private_ip"):
            found[str(node)] = str(of_host["q8s_private_ip"])
    return found


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"node_addresses": node_addresses}
