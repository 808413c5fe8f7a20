# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values in what a role's script printed about its host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._survey import Survey

DOCUMENTATION = r"""
name: survey
short_description: Return the values of a key in what a role's script printed
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - The scripts with which roles read a host print one C(key value) a line.
positional: key
options:
  _input:
    description: The lines that the script printed.
    type: list
    elements: str
    required: true
  key:
    description: The first word of the lines.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Start the units that do not run
  ansible.builtin.systemd_service:
    name: "{{ item }}"
    state: started
  loop: "{{ probe.stdout_lines | q8s.emu.survey('unit') }}"
"""

RETURN = r"""
_value:
  description: What follows the key in each line that begins with it, in order. Empty without such a line.
  type: list
  elements: str
  sample: [q8s-rules.service, libvirtd.service]
"""


def survey(lines: Iterable[str], key: str) -> list[str]:
    """Return the values. See DOCUMENTATION."""
    return Survey(lines).all(key)


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"survey": survey}
