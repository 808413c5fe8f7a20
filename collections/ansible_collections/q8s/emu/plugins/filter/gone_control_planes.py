# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the additional control planes that Kubernetes still has, while neither the file nor the cloud has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import ready_by_node
from ansible_collections.q8s.emu.plugins.module_utils._spec import is_additional_control_plane

DOCUMENTATION = r"""
name: gone_control_planes
short_description: List additional control planes that neither the cluster file nor the cloud has any more
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Somebody deleted the server of an additional control plane, and the cluster file asks for fewer than before. Its member of etcd still counts
    for etcd's quorum.
  - Lists nodes that have the name of an additional control plane, are not Ready, and belong to no host.
options:
  _input:
    description:
      - Variables of all hosts, as C(hostvars) has them. Of each host, C(q8s_node_name) is the name of its node.
    type: dict
    required: true
  kubernetes:
    description: A line for each node that Kubernetes has, with its name and the status of its condition Ready. Empty if the API server does not answer.
    type: str
    required: true
  cluster:
    description: Name of the cluster. Names of additional control planes begin with it.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the control planes that are gone
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.gone_control_planes('demo-control-plane True\ndemo-control-plane-2 Unknown', 'demo') }}"
"""

RETURN = r"""
_value:
  description: Names of the nodes.
  type: list
  elements: str
  sample: [demo-control-plane-2]
"""


def gone_control_planes(variables: Mapping[str, Mapping[str, Any]], kubernetes: str, cluster: str) -> list[str]:
    """Return the nodes. See DOCUMENTATION."""
    known = {str(of_host.get("q8s_node_name") or name) for name, of_host in variables.items()}
    return [
        name
        for name, is_ready in ready_by_node(kubernetes).items()
        if is_additional_control_plane(cluster, name) and not is_ready and name not in known
    ]


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"gone_control_planes": gone_control_planes}
