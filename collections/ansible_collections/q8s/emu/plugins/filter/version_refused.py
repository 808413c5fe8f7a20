# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say why a cluster does not get the cluster file's version of Kubernetes in this run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _upgrade

DOCUMENTATION = r"""
name: version_refused
short_description: Say why a cluster does not get the cluster file's version of Kubernetes
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Compares the version that the cluster has with the cluster file's.
options:
  _input:
    description: The version of the initial control plane's bundle, and the version that an upgrade which has not ended goes to. Empty without a cluster.
    type: list
    elements: str
    required: true
  wanted:
    description: The version of the cluster file.
    type: str
    required: true
  upgrades:
    description: Whether the run is an upgrade.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show why a deploy does not change the version
  ansible.builtin.debug:
    msg: "{{ ['v1.35.4'] | q8s.emu.version_refused('1.36.3') }}"
"""

RETURN = r"""
_value:
  description: The reason and what to do, empty if nothing is in the way.
  type: str
  sample: ""
"""


def version_refused(found: Sequence[str], wanted: str, upgrades: bool = False) -> str:
    """Return the reason. See DOCUMENTATION."""
    if not found:
        return ""
    target = found[1] if len(found) > 1 else ""
    return _upgrade.unfinished(found[0], wanted, target, upgrades=bool(upgrades)) or ""


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"version_refused": version_refused}
