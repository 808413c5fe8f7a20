# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return the record of the artifacts that a cluster serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: artifact_record
short_description: Return the record of the artifacts that a cluster serves
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns what the initial control plane keeps beside the artifacts, for controllers that have not built them.
options:
  _input:
    description: What the module M(q8s.emu.bundle) returned.
    type: dict
    required: true
seealso:
  - plugin: q8s.emu.recorded_artifacts
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the record
  ansible.builtin.debug:
    msg: "{{ q8s_built | q8s.emu.artifact_record }}"
"""

RETURN = r"""
_value:
  description: The record, as JSON. It has no paths and nothing else of the controller, so it is the same from every controller.
  type: str
"""

_OF_THE_CONTROLLER = ("changed", "missing", "obstacles")


def artifact_record(built: Mapping[str, Any]) -> str:
    """Return the record. See DOCUMENTATION."""
    record = {key: value for key, value in built["bundle"].items() if key not in _OF_THE_CONTROLLER}
    record["artifacts"] = {
        kind: {key: artifact[key] for key in ("name", "sha256", "size")}
        for kind, artifact in record["artifacts"].items()
    }
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"artifact_record": artifact_record}
