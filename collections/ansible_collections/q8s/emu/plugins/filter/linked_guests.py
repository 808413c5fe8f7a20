# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the guests whose links a run looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: linked_guests
short_description: List the guests whose links a run looks at
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - These are the guests of a cluster that has links, and guests that still have links of an earlier cluster file.
options:
  _input:
    description:
      - Variables of all hosts, as C(hostvars) has them. C(emulated_worker_found) of a worker's host tells whether its guest has links, and
        C(q8s_cluster) whether the cluster has some.
    type: dict
    required: true
  hosts:
    description: Names of the servers that the run is for.
    type: list
    elements: str
    required: true
  every:
    description: Whether to list the guests of all these servers, with links or without.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Apply the links between nodes
  hosts: "{{ hostvars | q8s.emu.linked_guests(groups.booted) }}"
"""

RETURN = r"""
_value:
  description: A pattern for hosts. It matches no host if there is no such guest.
  type: str
  sample: arm-mid-1,x86-small-1
"""


def linked_guests(variables: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], every: bool = False) -> str:
    """Return the pattern. See DOCUMENTATION."""
    chosen = []
    for host in hosts:
        known = variables[host]
        found = known.get("emulated_worker_found") or {}
        if "q8s_vm" in known and (every or found.get("links") or known["q8s_cluster"].get("network")):
            chosen.append(str(known["q8s_vm"]["name"]))
    return ",".join(chosen) or "!all"


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"linked_guests": linked_guests}
