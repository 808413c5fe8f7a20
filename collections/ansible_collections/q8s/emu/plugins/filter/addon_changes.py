# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the add-ons that a cluster has with those that it shall have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

DOCUMENTATION = r"""
name: addon_changes
short_description: Compare the add-ons of a cluster with the cluster file
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns which add-ons are to be removed, and which cannot be installed because somebody else has.
  - An add-on's Deployment has its name, with hyphens, and the label C(q8s.io/addon).
options:
  _input:
    description: The Deployments of kube-system, as C(kubectl get --output=json) prints them.
    type: str
    required: true
  wanted:
    description: Names of the add-ons that the cluster shall have.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show which add-ons are removed
  ansible.builtin.debug:
    msg: "{{ (deployments.stdout | q8s.emu.addon_changes(['metrics_server'])).removed }}"
"""

RETURN = r"""
_value:
  description: Names of add-ons, C(removed) and C(foreign).
  type: dict
  sample: {"removed": ["metrics_server"], "foreign": []}
"""

LABEL = "q8s.io/addon"


def addon_changes(text: str, wanted: Iterable[str]) -> dict[str, list[str]]:
    """Return the changes. See DOCUMENTATION."""
    names = set(wanted)
    found = [item["metadata"] for item in json.loads(text)["items"]]
    ours = {item["labels"][LABEL] for item in found if LABEL in item.get("labels", {})}
    others = {item["name"].replace("-", "_") for item in found if LABEL not in item.get("labels", {})}
    return {"removed": sorted(ours - names), "foreign": sorted(others & names)}


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"addon_changes": addon_changes}
