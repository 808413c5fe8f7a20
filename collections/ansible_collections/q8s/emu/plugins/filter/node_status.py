# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the node status table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _spec, _status
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import reading, variables_of

DOCUMENTATION = r"""
name: node_status
short_description: Show the state of each node of a cluster, and how to fix it
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Compares what the cluster asks for with the state of the cloud, the hosts, their guests and Kubernetes.
  - Reads of each host C(q8s_status), C(q8s_private_ip) and C(q8s_server_id) as the inventory has them, C(q8s_domain), the output of C(virsh domstate) on
    a worker's host, and C(q8s_kubernetes), the output of C(kubectl get nodes -o json) on a control plane.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them.
    type: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the state of each node
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.node_status(q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description:
    - A row for each node that the cluster asks for, then for each server or node that it does not. C(problem) and C(hint) are empty for a node
      without a problem.
  type: list
  elements: dict
  sample:
    - node: arm-mid-1
      host: demo-arm-mid-1
      architecture: aarch64
      address: 10.254.1.17
      server: SHUTOFF
      guest: unknown
      kubernetes: NotReady
      version: v1.36.3
      problem: the server demo-arm-mid-1 is switched off
      hint: "start the server: deploy again"
"""


def node_status(hosts: Mapping[str, Mapping[str, Any]], cluster: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row for each node. See DOCUMENTATION."""
    with reading("cluster"):
        return _status.node_rows(_spec.load_mapping(cluster, "cluster"), variables_of(hosts))


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"node_status": node_status}
