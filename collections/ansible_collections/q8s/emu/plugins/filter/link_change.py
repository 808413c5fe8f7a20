# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute the shell command that changes the links of a guest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _links_node

DOCUMENTATION = r"""
name: link_change
short_description: Compute the shell command that changes the links of a guest
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Links that stay keep their packets. Only another list of exempt traffic sets all of them anew.
options:
  _input:
    description: What the guest has, as the role C(emulated_worker) reads it (C(links_read)).
    type: str
    required: true
  links:
    description: What the guest shall shape, as P(q8s.emu.node_links#filter) returns it for its node.
    type: dict
    required: true
  program:
    description: Text of the program that loads the links.
    type: str
    required: true
  unit:
    description: Text of the unit that runs it when the guest boots.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Compute what changes
  ansible.builtin.set_fact:
    change: "{{ found.stdout | q8s.emu.link_change(wanted, program, unit) }}"
"""

RETURN = r"""
_value:
  description:
    - C(command) is the shell command, empty if the guest has what it shall have, and C(text) says what it does.
    - C(has_links) tells whether the guest has links afterwards, and C(installed) whether the command gives it some.
  type: dict
  sample: {command: "set -e; ...", text: 2 links, has_links: true, installed: true}
"""


def link_change(found: str, links: Mapping[str, Any], program: str, unit: str) -> dict[str, Any]:
    """Return the change. See DOCUMENTATION."""
    kept, now = (_links_node.from_mapping(links[name]) for name in ("kept", "now"))
    try:
        change = _links_node.change(_links_node.read_found(found), kept, now, program, unit)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    return {**asdict(change), "installed": change.installed}


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"link_change": link_change}
