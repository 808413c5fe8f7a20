# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve the limit of a run to the servers that it selects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _limit, _spec

DOCUMENTATION = r"""
name: limited_servers
short_description: Resolve the limit of a run to the servers that it selects
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns the names of the servers that a limit selects, whether they exist or not. The initial control plane is always among them, because
    every other host needs what it has.
  - Fails if a name is not known, and lists those that are.
options:
  _input:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  limit:
    description:
      - Names of servers, of nodes and of the inventory's groups, as a list or with commas between them. Wildcards of a shell are allowed, and
        a name after C(!) is left out. An empty list selects all servers; a text without a name is refused.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Show which servers the run is for
  ansible.builtin.debug:
    msg: "{{ q8s_cluster | q8s.emu.limited_servers('arm-mid-1') }}"
"""

RETURN = r"""
_value:
  description: Names of the servers.
  type: list
  elements: str
  sample: [demo-control-plane, demo-arm-mid-1]
"""


def limited_servers(cluster: Mapping[str, Any], limit: Any) -> list[str]:
    """Return the names of the servers. See DOCUMENTATION."""
    try:
        return _limit.limited_servers(_spec.load_mapping(cluster, "cluster"), limit)
    except (_spec.SpecError, _limit.LimitError) as error:
        raise AnsibleFilterError(f"Failed to read the limit: {error}") from error


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"limited_servers": limited_servers}
