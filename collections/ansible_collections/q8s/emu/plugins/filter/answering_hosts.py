# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the control planes whose API server answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: answering_hosts
short_description: List the control planes whose API server answered
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Lists those whose registered answer has the exit code 0. A host that was not asked, or that SSH did not reach, has not answered.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them. C(q8s_api_answer) is the registered answer of a host, if it was asked.
    type: dict
    required: true
  hosts:
    description: Names of hosts, in the order in which they are returned. Each is returned once.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: List the control planes that answered
  ansible.builtin.set_fact:
    q8s_answering: "{{ hostvars | q8s.emu.answering_hosts(groups.control_plane) }}"
"""

RETURN = r"""
_value:
  description: Names of hosts.
  type: list
  elements: str
  sample: [demo-control-plane]
"""


def answering_hosts(variables: Mapping[str, Mapping[str, Any]], hosts: Iterable[str]) -> list[str]:
    """Return the hosts. See DOCUMENTATION."""
    return [host for host in dict.fromkeys(hosts) if variables[host].get("q8s_api_answer", {}).get("rc") == 0]


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"answering_hosts": answering_hosts}
