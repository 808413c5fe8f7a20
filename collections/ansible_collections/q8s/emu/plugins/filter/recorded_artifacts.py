# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return the artifacts that a cluster serves, in the place of a build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.plugin_utils._build import served

DOCUMENTATION = r"""
name: recorded_artifacts
short_description: Return the artifacts that a cluster serves, in the place of a build
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - A controller that has not built a cluster's artifacts, or no longer has them, uses those of the cluster, if they are of the same recipe.
options:
  _input:
    description: What the module M(q8s.emu.bundle) returned with O(q8s.emu.bundle#module:if_cached=true).
    type: dict
    required: true
  record:
    description: The record, as the filter P(q8s.emu.artifact_record#filter) returned it. Empty if the cluster has none.
    type: str
    required: true
  files:
    description: Names of the files beside the record.
    type: list
    elements: str
    required: true
seealso:
  - plugin: q8s.emu.artifact_record
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Use what the cluster serves
  ansible.builtin.set_fact:
    q8s_built: "{{ q8s_looked_up | q8s.emu.recorded_artifacts(record, files) or q8s_looked_up }}"
"""

RETURN = r"""
_value:
  description:
    - As the module M(q8s.emu.bundle) returns it after a build, with nothing to upload.
    - Empty if the record is of another recipe or cannot be read, or if one of its files is missing.
  type: dict
"""


def recorded_artifacts(looked_up: Mapping[str, Any], record: str, files: Iterable[str]) -> dict[str, Any]:
    """Return the artifacts. See DOCUMENTATION."""
    try:
        bundle = json.loads(record)
        same = bundle["recipe"] == looked_up["bundle"]["recipe"]
        found = served(bundle, elsewhere=True)
    except (ValueError, TypeError, KeyError, AttributeError):  # an interrupted deploy, or another version, wrote it
        return {}
    if not same or {artifact["name"] for artifact in found["artifacts"].values()} - set(files):
        return {}
    return {
        "bundle": {**bundle, "changed": False, "missing": [], "obstacles": []},
        **found,
        "on_cluster": False,
        "arguments": looked_up["arguments"],
    }


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"recorded_artifacts": recorded_artifacts}
