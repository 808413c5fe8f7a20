# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the networks of a running cluster that its file asks to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: changed_networks
short_description: Find the networks of a running cluster that its file asks to change
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Compares the pod and the Service network in kubeadm's configuration with those of the cluster file.
options:
  _input:
    description: kubeadm's configuration, or those of its lines that contain C(podSubnet) and C(serviceSubnet). Empty if there is no cluster yet.
    type: str
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show which networks differ
  ansible.builtin.debug:
    msg: "{{ kubeadm_configuration | q8s.emu.changed_networks(q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description: A dictionary for each network that differs, with the cluster file's field, its value there, and the value of the running cluster.
  type: list
  elements: dict
  sample: [{"field": "pod_cidr", "wanted": "10.245.0.0/16", "existing": "10.244.0.0/16"}]
"""

_FIELDS = {"pod_cidr": "podSubnet", "service_cidr": "serviceSubnet"}


def changed_networks(configuration: str, cluster: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the networks that differ. See DOCUMENTATION."""
    changed = []
    for field, key in _FIELDS.items():
        found = re.search(rf"^\s*{key}:\s*\"?([^\s\"]+)", configuration, re.MULTILINE)
        if found and found[1] != cluster[field]:
            changed.append({"field": field, "wanted": str(cluster[field]), "existing": found[1]})
    return changed


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"changed_networks": changed_networks}
