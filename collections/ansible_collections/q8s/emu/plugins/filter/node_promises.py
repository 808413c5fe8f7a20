# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster file says of each worker, beside what the worker shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _links_promises, _promises, _spec
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import reading

DOCUMENTATION = r"""
name: node_promises
short_description: Compare each worker with what the cluster file says of it
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Compares architecture, CPU model, number of CPUs, memory and root disk with what the guest shows, and the storage of pods and of images, labels
    and taints with what Kubernetes and the kubelets report.
options:
  _input:
    description: The cluster's nodes, as C(kubectl get nodes -o json) lists them.
    type: list
    elements: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  answers:
    description: What the guests printed, by node, as the playbook C(verify) asks them. A guest without an answer was not reached.
    type: dict
    required: true
  wanted:
    description: Labels and taints by node, as the inventory has them in C(q8s_node_labels).
    type: dict
    required: true
  image_disks:
    description:
      - Sizes in bytes of the file systems of images and containers, by node, as the kubelets report them in C(/stats/summary). Without a node's size,
        the storage of images is not compared.
    type: dict
    default: {}
  links:
    description: Links and what was measured, as P(q8s.emu.link_report#filter) returns them. Their rows follow those of the workers.
    type: dict
    required: false
"""

EXAMPLES = r"""
- name: Compare the workers with the cluster file
  ansible.builtin.debug:
    msg: "{{ q8s_nodes | q8s.emu.node_promises(q8s_cluster, q8s_answers, q8s_node_labels, {'arm-mid-1': 10487689216}) }}"
"""

RETURN = r"""
_value:
  description:
    - A row for each promise of each worker, and for its links. Equal promises for links from a node to several share a row unless they are broken.
    - C(kept) is null where it cannot be compared. C(problem) is empty unless the promise is broken.
  type: list
  elements: dict
  sample:
    - {node: arm-mid-1, promise: memory, promised: 2048 MB, measured: 1972 MB, off: -3.7 %, kept: true, problem: ""}
"""


def node_promises(
    nodes: Sequence[Mapping[str, Any]],
    cluster: Mapping[str, Any],
    answers: Mapping[str, str],
    wanted: Mapping[str, Mapping[str, Any]],
    *,
    image_disks: Optional[Mapping[str, Optional[int]]] = None,
    links: Optional[Mapping[str, Any]] = None,
) -> list[dict[str, Any]]:
    """Return the rows. See DOCUMENTATION."""
    with reading("cluster"):
        specs = _spec.load_mapping(cluster, "cluster").servers()
    by_name = {str(node["metadata"]["name"]): node for node in nodes}
    rows: list[dict[str, Any]] = []
    for spec in specs:
        if spec.vm_type:
            own = wanted.get(spec.node, {})
            shown = _promises.Shown(
                str(answers.get(spec.node, "")), by_name.get(spec.node), (image_disks or {}).get(spec.node)
            )
            rows += _promises.rows(
                spec.node, spec.vm_type, shown, labels=own.get("labels", {}), taints=own.get("taints", [])
            )
    return rows + (_links_promises.rows(links) if links else [])


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"node_promises": node_promises}
