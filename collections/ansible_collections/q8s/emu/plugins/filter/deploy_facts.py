# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy has made, from what the hosts printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _deploy_facts
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import variables_of

DOCUMENTATION = r"""
name: deploy_facts
short_description: Collect when guests started, what runs where, and what is installed
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Reads of each host C(q8s_power_on) on a worker's host, C(q8s_journal) in a guest, and C(q8s_objects) and C(q8s_installed) on a control plane, which
    the playbook C(q8s.emu.record) registers.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what was deployed
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.deploy_facts }}"
"""

RETURN = r"""
_value:
  description:
    - C(guests) has of each guest its milestones in seconds since the epoch, or null. C(nodes) has each node and its conditions. C(pods) has each pod's
      node and latencies in milliseconds. C(events) has events of nodes and pods. C(installed) has the bundle's manifest and the artifacts' checksums.
  type: dict
"""


def deploy_facts(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts. See DOCUMENTATION."""
    return _deploy_facts.deploy_facts(variables_of(hosts))


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"deploy_facts": deploy_facts}
