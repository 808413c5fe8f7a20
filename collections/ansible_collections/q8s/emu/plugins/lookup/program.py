# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Ansible's base class has no annotations.
# mypy: disable-error-code="no-untyped-call"
"""Path of a program that is installed beside Ansible, or on PATH."""

from __future__ import annotations

DOCUMENTATION = r"""
name: program
short_description: Path of a program that is installed beside Ansible, or on PATH
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns the absolute path of a program on the controller. The folder of Ansible's own Python interpreter comes first,
    where C(pip) and C(uv) install programs, then the folders of E(PATH).
options:
  _terms:
    description: Names of programs.
    required: true
    type: list
    elements: str
  hint:
    description:
      - What to do when a program is not found; the error message ends with it.
      - The default for C(q8s-run) says how it is installed.
    type: str
    required: false
"""

EXAMPLES = r"""
- name: Show where q8s-run is
  ansible.builtin.debug:
    msg: "{{ lookup('q8s.emu.program', 'q8s-run') }}"
"""

RETURN = r"""
_raw:
  description: Absolute paths, one for each name.
  type: list
  elements: str
"""

import os
import shutil
import sys
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

HINTS = {"q8s-run": "install the Python package q8s, which has it: uv tool install q8s-*.whl"}


class LookupModule(LookupBase):
    """Finds programs of the controller."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return the path of each program.

        :raises AnsibleError: one is not installed
        """
        self.set_options(var_options=variables, direct=kwargs)
        return [find_program(str(name), self.get_option("hint")) for name in terms]


def find_program(name: str, hint: str | None = None) -> str:
    """Return the absolute path of a program.

    :raises AnsibleError: it is not installed
    """
    beside = os.path.dirname(sys.executable)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH") or os.defpath]))
    if found is None:
        hint = hint or HINTS.get(name)
        reason = f"Failed to find the program {name}: it is neither in {beside} nor on PATH"
        raise AnsibleError(f"{reason}\nhint: {hint}" if hint else reason)
    return os.path.abspath(found)
