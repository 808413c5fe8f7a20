# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the network interface that has an address, among a host's facts."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: interface_of
short_description: Find the network interface of a host that has an address
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - A host with several network interfaces has its cluster's address on one of them, which need not be the one with the default route.
options:
  _input:
    description: The host's C(ansible_facts), with the subset C(network).
    type: dict
    required: true
  address:
    description: An IPv4 address of the host.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the MTU that the cluster's network has on this host
  ansible.builtin.debug:
    msg: "{{ (ansible_facts | q8s.emu.interface_of(q8s_private_ip)).mtu }}"
"""

RETURN = r"""
_value:
  description: The interface's name, its MTU, and the network that the address is in.
  type: dict
  sample: {device: ens3, mtu: 1450, network: 10.254.1.0/24}
"""


def interface_of(facts: Mapping[str, Any], address: str) -> dict[str, Any]:
    """Return the interface that has the address. See DOCUMENTATION."""
    found = list(_addresses(facts))
    for interface, entry in found:
        if entry["address"] == address:
            network = ipaddress.IPv4Interface(f"{address}/{entry.get('netmask', '255.255.255.255')}").network
            return {"device": str(interface["device"]), "mtu": int(interface["mtu"]), "network": str(network)}
    present = ", ".join(f"{entry['address']} on {interface['device']}" for interface, entry in found) or "none"
    raise AnsibleFilterError(f"Failed to find the network interface with the address {address}; the host has {present}")


def _addresses(facts: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each IPv4 address of each interface; facts have an interface under its name, with _ for other characters."""
    for fact in facts.values():
        if isinstance(fact, Mapping) and "device" in fact:
            entries = [fact["ipv4"]] if isinstance(fact.get("ipv4"), Mapping) else []
            for entry in entries + list(fact.get("ipv4_secondaries", [])):
                if "address" in entry:
                    yield fact, entry


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"interface_of": interface_of}
