# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the nodes that need a bootstrap token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _joining, _spec

DOCUMENTATION = r"""
name: joining_nodes
short_description: List the nodes that need a bootstrap token
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns the nodes that have no valid client certificate, or may have none. These are nodes that Kubernetes does not have, nodes that have not
    reported for 30 days, and nodes whose guest is created or recreated.
  - Reads of each host the fact C(emulated_worker_found), which the entry point C(inspect) of the role P(q8s.emu.emulated_worker#role) sets.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them.
    type: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  answer:
    description: Result of the task that ran C(kubectl get nodes -o json).
    type: dict
    required: true
  servers:
    description: Names of the servers that the run is for.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show which nodes have to join
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.joining_nodes(q8s_cluster, nodes, groups.worker_hosts) }}"
"""

RETURN = r"""
_value:
  description: Names of the nodes, in the cluster file's order. The initial control plane, which does not join, is never among them.
  type: list
  elements: str
  sample: [arm-mid-1]
"""


def joining_nodes(
    hosts: Mapping[str, Mapping[str, Any]],
    cluster: Mapping[str, Any],
    answer: Mapping[str, Any],
    servers: Iterable[str],
) -> list[str]:
    """Return the nodes. See DOCUMENTATION."""
    try:
        spec = _spec.load_mapping(cluster, "cluster")
    except _spec.SpecError as error:
        raise AnsibleFilterError(f"Failed to read the cluster:\n{error}") from error
    selected = list(servers)
    # hostvars has no get(): asking it for a host that is not there is an error.
    known = {name: hosts[name] for name in selected if name in hosts}
    return _joining.joining_nodes(spec, known, answer, selected, datetime.now(timezone.utc))


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"joining_nodes": joining_nodes}
