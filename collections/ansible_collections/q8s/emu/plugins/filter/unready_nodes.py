# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List expected nodes that are not Ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _joining

DOCUMENTATION = r"""
name: unready_nodes
short_description: List expected nodes that are not Ready
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns those of the expected nodes that Kubernetes does not have, or that are not Ready.
options:
  _input:
    description: Result of the task that ran C(kubectl get nodes -o json).
    type: dict
    required: true
  expected:
    description: Names of the expected nodes.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show which nodes are not Ready
  ansible.builtin.debug:
    msg: "{{ nodes | q8s.emu.unready_nodes(q8s_expected_nodes) }}"
"""

RETURN = r"""
_value:
  description: Names of the nodes, in the order in which they are expected.
  type: list
  elements: str
  sample: [arm-mid-1]
"""


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"unready_nodes": _joining.unready_nodes}
