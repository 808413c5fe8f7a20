# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute the shell commands that measure the links of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _links_cluster, _links_measure, _links_verify
from ansible_collections.q8s.emu.plugins.plugin_utils._filter import reading

DOCUMENTATION = r"""
name: link_commands
short_description: Compute the shell commands that measure the links of a cluster
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - A guest pings the nodes that it has a link to, and the control planes that have a link to it. Each guest begins with another node.
options:
  _input:
    description: Variables of all hosts, as C(hostvars) has them. C(q8s_private_ip) of a server is its node's address.
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
"""

EXAMPLES = r"""
- name: Compute how the links are measured
  ansible.builtin.set_fact:
    q8s_link_commands: "{{ hostvars | q8s.emu.link_commands(q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description: The command of each guest that measures something, by its node's name.
  type: dict
  sample: {arm-mid-1: "d=$(mktemp -d) && ..."}
"""


def link_commands(
    hosts: Mapping[str, Mapping[str, Any]], cluster: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Return the commands. See DOCUMENTATION."""
    with reading("links"):
        known = _links_cluster.read_cluster(hosts, cluster, overrides)
    probes = _links_verify.probes(known.matrix(), known.guests, known.addresses)
    guests = _links_verify.by_guest(probes)
    return {guest: _links_measure.shell_command(own, turn) for turn, (guest, own) in enumerate(guests.items())}


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"link_commands": link_commands}
