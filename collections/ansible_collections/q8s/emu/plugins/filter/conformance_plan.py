# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a run of Kubernetes' conformance tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _conformance

DOCUMENTATION = r"""
name: conformance_plan
short_description: Plan which conformance tests run, and in which order
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Chooses tests by their names, and divides them into batches, after each of which the results are written.
options:
  _input:
    description: What C(e2e.test --list-tests) prints.
    type: str
    required: true
  focus:
    description: A regular expression of names. Without one, the tests of the network, node, apps, storage and api-machinery groups.
    type: str
    default: ''
  skip:
    description: A regular expression of names to leave out.
    type: str
    default: ''
  parallel:
    description: How many tests run at a time.
    type: int
    default: 2
  earlier:
    description: What P(q8s.emu.conformance_report#module) returns of results that are resumed.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Plan the tests
  ansible.builtin.set_fact:
    q8s_conformance: "{{ q8s_listed.stdout | q8s.emu.conformance_plan(focus='DNS') }}"
"""

RETURN = r"""
_value:
  description:
    - C(specs) has the chosen tests, C(left) the names of those that are run, and C(batches) how.
  type: dict
"""


def conformance_plan(
    listing: str, focus: str = "", skip: str = "", parallel: int = 2, earlier: Optional[Mapping[str, Any]] = None
) -> dict[str, Any]:
    """Return the plan. See DOCUMENTATION."""
    done: Mapping[str, str] = earlier["done"] if earlier else {}
    if earlier:
        focus, skip = earlier["focus"], earlier["skip"]
    try:
        names = _conformance.choose(_conformance.read_specs(listing), focus, skip)
    except _conformance.ConformanceError as error:
        raise AnsibleFilterError(f"Failed to plan the conformance tests: {error}") from error
    return {"focus": focus, "skip": skip, **_conformance.plan(names, done, parallel=parallel)}


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"conformance_plan": conformance_plan}
