# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare guests that exist with the cluster file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _guest_changes, _spec
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import reading, variables_of

DOCUMENTATION = r"""
name: node_plan
short_description: List what a deploy does to existing nodes
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Compares each guest that exists with the cluster file, and returns which nodes are restarted or recreated, and for which fields.
  - Reads of each host the fact C(emulated_worker_found), which the entry point C(inspect) of the role P(q8s.emu.emulated_worker#role) sets.
options:
  _input:
    description: Variables of hosts by name, as C(hostvars) has them.
    type: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  servers:
    description: Names of the servers that the run is for.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what a deploy does to existing nodes
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.node_plan(q8s_cluster, groups.worker_hosts) }}"
"""

RETURN = r"""
_value:
  description:
    - C(changes) has an entry for each node that is restarted or recreated, in the file's order.
    - C(refused) has messages about edits that these guests do not allow.
    - C(unknown) has the reason for each host that was not inspected, by its name.
    - C(notes) has messages about hosts whose disk is too small for all that their guests may store. It is there only if there are any.
  type: dict
  sample:
    changes:
      - node: arm-mid-1
        host: demo-arm-mid-1
        type: arm-mid
        action: restart
        stopped: false
        fields:
          - {field: ram, has: 2048 MB, wanted: 1536 MB}
    refused: []
    unknown: {demo-arm-mid-2: the server is SHUTOFF}
"""


def node_plan(
    hosts: Mapping[str, Mapping[str, Any]], cluster: Mapping[str, Any], servers: Iterable[str]
) -> dict[str, Any]:
    """Return the plan. See DOCUMENTATION."""
    selected = list(servers)
    known = variables_of(hosts, selected)
    with reading("cluster"):
        return _guest_changes.node_plan(_spec.load_mapping(cluster, "cluster"), known, selected).to_mapping()


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"node_plan": node_plan}
