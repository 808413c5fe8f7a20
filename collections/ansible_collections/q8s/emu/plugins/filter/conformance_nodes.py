# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the nodes of a cluster whose conformance is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _conformance, _spec

DOCUMENTATION = r"""
name: conformance_nodes
short_description: List the nodes of a cluster, after checking that each is Ready
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Fails if a node that the cluster file asks for is not Ready, or if every worker has taints that keep pods away.
options:
  _input:
    description: Nodes of the cluster, as C(kubectl get nodes -o json) lists them.
    type: list
    elements: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  earlier:
    description:
      - What P(q8s.emu.conformance_report#module) returns of results that are resumed. Fails if they are of another cluster, version or nodes.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: List the nodes
  ansible.builtin.set_fact:
    q8s_nodes: "{{ (q8s_found.stdout | from_json)['items'] | q8s.emu.conformance_nodes(q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description: Name, kind and architecture of each node, and the keys of the taints that keep pods from it.
  type: list
  elements: dict
  sample: [{name: arm-mid-1, kind: arm-mid, architecture: aarch64, taints: [dedicated]}]
"""


_CONTROL_PLANE_TAINT: Final = "node-role.kubernetes.io/control-plane"


def conformance_nodes(
    items: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any], earlier: Optional[Mapping[str, Any]] = None
) -> list[dict[str, Any]]:
    """Return the cluster's nodes, after checking that they can be tested."""
    try:
        spec = _spec.load_mapping(cluster, "cluster")
        wanted = spec.servers()
        taints = {
            server.node: _conformance.blocking_taints(server.vm_type.taints) for server in wanted if server.vm_type
        }
        nodes = [
            {
                "name": server.node,
                "kind": server.kind,
                "architecture": server.architecture,
                "taints": taints.get(server.node, [_CONTROL_PLANE_TAINT]),
            }
            for server in wanted
        ]
        if earlier:
            kubernetes = f"v{spec.kubernetes_version}"
            about = {"cluster": spec.cluster_name, "kubernetes": kubernetes, "nodes": nodes}
            _conformance.check_same(earlier, about)
        _conformance.check_schedulable(taints)
        _conformance.check_ready(items, [server.node for server in wanted])
    except (_conformance.ConformanceError, _spec.SpecError) as error:
        raise AnsibleFilterError(f"Failed to test the cluster:\n{error}") from error
    return nodes


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"conformance_nodes": conformance_nodes}
