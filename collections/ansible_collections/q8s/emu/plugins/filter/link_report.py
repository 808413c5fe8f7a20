# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the links of a cluster with what guests answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _links_cluster, _links_node, _links_report
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import reading

DOCUMENTATION = r"""
name: link_report
short_description: Compare the links of a cluster with what guests answered
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Shows which links are in force, and what was measured.
options:
  _input:
    description:
      - Variables of all hosts, as C(hostvars) has them. Of each guest, C(emulated_worker_links_found) is what the role
        C(emulated_worker) read (C(links_read)), and C(q8s_link_measured) the output of the command of P(q8s.emu.link_commands#filter).
    type: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  overrides:
    description: Links that apply instead of the cluster file's, in the cluster file's form.
    type: list
    elements: dict
    default: []
  measured:
    description: Whether the guests measured the links.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the links
  ansible.builtin.debug:
    msg: "{{ hostvars | q8s.emu.link_report(q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description:
    - C(links) has rows with C(from), C(to) (lists of nodes), C(impairment) and C(state) in words, and C(in_force).
    - C(findings) has a row for each promise, where links were measured.
    - C(broken) is the number of links that are not in force, and of promises that the measurement does not find kept.
  type: dict
  sample:
    links: [{from: [arm-mid-1], to: [x86-small-1], impairment: delay 40 ms, state: in force, in_force: true}]
    findings:
      - {from: arm-mid-1, to: x86-small-1, what: delay, unit: ms, promised: 40.0, measured: 40.2, low: 40.0, high: 40.4, kept: true, note: ""}
    broken: 0
"""


def link_report(
    hosts: Mapping[str, Mapping[str, Any]],
    cluster: Mapping[str, Any],
    overrides: Sequence[Mapping[str, Any]] = (),
    measured: bool = False,
) -> dict[str, Any]:
    """Return the report. See DOCUMENTATION."""
    with reading("links"):
        known = _links_cluster.read_cluster(hosts, cluster, overrides)

    def printed(variable: str) -> dict[str, str]:
        """Return what a command that a variable of the guests registers has printed."""
        guests = [guest for guest in sorted(known.guests) if guest in hosts]
        return {guest: str((hosts[guest].get(variable) or {}).get("stdout", "")) for guest in guests}

    found = {}
    for guest, text in printed("emulated_worker_links_found").items():
        with suppress(ValueError):  # it did not answer
            found[guest] = _links_node.read_found(text)
    return _links_report.report(known, found, printed("q8s_link_measured") if measured else None)


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"link_report": link_report}
