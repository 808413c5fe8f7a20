"""The interface with the cluster's address, which may differ from the one with the default route."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.filter.interface_of import interface_of

# As the setup module reports a host with two NICs, an alias address and libvirt's bridge.
FACTS: dict[str, Any] = {
    "default_ipv4": {"address": "203.0.113.7", "interface": "ens3", "mtu": 1500, "netmask": "255.255.255.0"},
    "interfaces": ["lo", "ens3", "enp7s0", "virbr0", "dummy-0"],
    "lo": {"device": "lo", "mtu": 65536, "ipv4": {"address": "127.0.0.1", "netmask": "255.0.0.0"}},
    "ens3": {"device": "ens3", "mtu": 1500, "ipv4": {"address": "203.0.113.7", "netmask": "255.255.255.0"}},
    "enp7s0": {
        "device": "enp7s0",
        "mtu": 9000,
        "ipv4": {"address": "10.254.16.9", "netmask": "255.255.0.0"},
        "ipv4_secondaries": [{"address": "10.9.9.17", "netmask": "255.255.255.240"}],
    },
    "virbr0": {"device": "virbr0", "mtu": 9000, "ipv4": {"address": "192.168.16.1", "netmask": "255.255.255.0"}},
    "dummy_0": {"device": "dummy-0", "mtu": 1500},
    "virtualization_type": "kvm",
}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.254.16.9", {"device": "enp7s0", "mtu": 9000, "network": "10.254.0.0/16"}),
        ("10.9.9.17", {"device": "enp7s0", "mtu": 9000, "network": "10.9.9.16/28"}),
        ("203.0.113.7", {"device": "ens3", "mtu": 1500, "network": "203.0.113.0/24"}),
    ],
)
def test_the_interface_is_the_one_with_the_address(address: str, found: dict[str, Any]) -> None:
    assert interface_of(FACTS, address) == found


def test_an_address_that_the_host_does_not_have_is_an_error_with_those_that_it_has() -> None:
    with pytest.raises(AnsibleFilterError, match=r"10\.254\.16\.10; the host has .*10\.254\.16\.9 on enp7s0"):
        interface_of(FACTS, "10.254.16.10")
