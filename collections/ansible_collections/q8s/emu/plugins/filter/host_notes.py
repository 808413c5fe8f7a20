# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user should know of a host that can be a control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _host_check

DOCUMENTATION = r"""
name: host_notes
short_description: List the peculiarities of a host that can be a control plane
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Judges what C(survey.sh) of the role C(k8s_common) printed on a host.
options:
  _input:
    description: Result of the task that ran the script.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is special about the host
  ansible.builtin.debug:
    msg: "{{ survey | q8s.emu.host_notes | join('; ') }}"
"""

RETURN = r"""
_value:
  description: The notes, empty if there is none.
  type: list
  elements: str
  sample: ["swap is on (/dev/zram0): the kubelet accepts it, pods do not use it (NoSwap)"]
"""


def host_notes(result: Mapping[str, Any]) -> list[str]:
    """Return the notes. See DOCUMENTATION."""
    return _host_check.host_notes(str(result.get("stdout", "")).splitlines())


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"host_notes": host_notes}
