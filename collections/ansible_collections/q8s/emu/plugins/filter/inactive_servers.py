# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the servers of a run that the cloud does not have, or that are not ACTIVE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: inactive_servers
short_description: List the servers of a run that the cloud does not have, or that are not ACTIVE
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns what the module M(q8s.emu.servers) would create or start, or wait for, in a run that leaves it out.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them. Of each server, C(q8s_status) is its status in the cloud. One without it is C(ACTIVE).
    type: dict
    required: true
  servers:
    description: Names of the servers that the run is for.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show which servers do not run
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.inactive_servers(q8s_servers) }}"
"""

RETURN = r"""
_value:
  description: The status of each such server by its name, in the order in which they were given; C(missing) for one that is not in the inventory.
  type: dict
  sample: {"demo-arm-mid-1": "missing", "demo-arm-mid-2": "SHUTOFF"}
"""


def inactive_servers(variables: Mapping[str, Mapping[str, Any]], servers: Iterable[str]) -> dict[str, str]:
    """Return the status of each server. See DOCUMENTATION."""
    found = {name: variables[name].get("q8s_status", "ACTIVE") if name in variables else "missing" for name in servers}
    return {name: status for name, status in found.items() if status != "ACTIVE"}


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"inactive_servers": inactive_servers}
