# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the servers of a run that were not reached."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

DOCUMENTATION = r"""
name: unreached_servers
short_description: List the servers of a run that were not reached
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns the servers in the order in which they were given, which the filter P(ansible.builtin.difference#filter) does not keep.
options:
  _input:
    description: Names of the servers that the run is for.
    type: list
    elements: str
    required: true
  reached:
    description: Names of the servers that were reached.
    type: list
    elements: str
    required: true
  limit:
    description: Hosts of C(--limit), separated by commas. With them, no other server is listed.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show which servers were not checked
  ansible.builtin.debug:
    msg: "{{ q8s_servers | q8s.emu.unreached_servers(groups.reached, ansible_limit | default('')) }}"
"""

RETURN = r"""
_value:
  description: Names of the servers.
  type: list
  elements: str
  sample: [demo-arm-mid-1]
"""


def unreached_servers(servers: Iterable[str], reached: Collection[str], limit: str = "") -> list[str]:
    """Return the names of the servers. See DOCUMENTATION."""
    limited = limit.split(",") if limit else None
    return [name for name in servers if name not in reached and (limited is None or name in limited)]


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"unreached_servers": unreached_servers}
