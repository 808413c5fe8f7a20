# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute what each guest shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _links_cluster, _links_node
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import reading

DOCUMENTATION = r"""
name: node_links
short_description: Compute what each guest shapes
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - A guest shapes what it sends to other nodes, and what it receives from control planes.
  - Directions to and from servers that do not exist yet are left out.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them. C(q8s_private_ip) of a server is its node's address.
    type: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  overrides:
    description: Links that apply instead of the cluster file's until the guest boots, in the cluster file's form.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Compute what each guest shapes
  ansible.builtin.set_fact:
    q8s_links: "{{ hostvars | q8s.emu.node_links(q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description: >-
    For each worker's node, C(kept) (the links of the cluster file) and C(now) (those with O(overrides)). Both have C(outgoing) and C(incoming),
    impairments by the other node's address, and C(exempt).
  type: dict
"""


def node_links(
    hosts: Mapping[str, Mapping[str, Any]], cluster: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return what each guest shapes. See DOCUMENTATION."""
    with reading("links"):
        known = _links_cluster.read_cluster(hosts, cluster, overrides)
    nothing = _links_node.NodeLinks(exempt=known.cluster.links.exempt)
    kept = _links_node.node_links(known.cluster, known.addresses)
    now = _links_node.node_links(known.cluster, known.addresses, known.overrides) if known.overrides else kept
    return {
        node: {"kept": kept.get(node, nothing).to_mapping(), "now": now.get(node, nothing).to_mapping()}
        for node in sorted(known.guests)
    }


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"node_links": node_links}
