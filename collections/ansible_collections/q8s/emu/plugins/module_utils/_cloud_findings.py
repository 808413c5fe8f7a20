# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud has of everything that a cluster file names: images, flavors, networks and quota."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils import _spec_qemu

TAG_EXTENSION = "standard-attr-tag"  # of Neutron, for tags of security groups


@dataclass(frozen=True)
class Flavor:
    """A flavor: memory in MB, disk in GB (0: its servers boot from a volume)."""

    name: str
    vcpus: int
    ram: int
    disk: int = 0


@dataclass(frozen=True)
class Image:
    """An image: what it needs of a flavor (memory in MB, disk in GB), and its properties.

    ``size`` is the size of its disk in GB, rounded up, 0 where Glance does not know it.
    """

    id: str
    min_ram: int = 0
    min_disk: int = 0
    size: int = 0
    status: str = "active"
    architecture: str = ""
    name: str = ""
    distribution: str = ""  # os_distro
    version: str = ""  # os_version

    @property
    def host_system(self) -> str:
        """Return the system's key in _spec_qemu.HOST_SYSTEMS, empty if nothing says it."""
        return _spec_qemu.host_system_of_image(self.distribution, self.version, self.name)


@dataclass(frozen=True)
class Subnet:
    """An IPv4 subnet; ``size`` counts the addresses that Neutron allocates, ``used`` those that this project sees in use."""

    id: str
    network_id: str
    cidr: str
    size: int = 0
    used: int = 0
    dhcp: bool = True
    gateway: str = "unknown"  # empty: it has none
    dns: bool = True


@dataclass(frozen=True)
class Network:
    """A network that ``private_network_id`` names; if it names a subnet, the network with that subnet only."""

    id: str
    name: str
    subnets: tuple[Subnet, ...] = ()
    chosen: bool = False  # private_network_id named a subnet, the only one in subnets
    secured: bool = True  # new ports take security groups: port_security_enabled
    mtu: int = 0  # 0: not known
    closed: bool = False  # external, and not shared: Nova lets only administrators attach servers

    def subnet(self, prefix: str) -> Optional[Subnet]:
        """Return the first subnet inside a prefix such as 10.254.1.0/24."""
        return next((subnet for subnet in self.subnets if _inside(subnet.cidr, prefix)), None)

    @property
    def own_ports(self) -> bool:
        """Return whether Q8S has to create the servers' ports: Neutron would choose any subnet of the network."""
        return self.chosen or len(self.subnets) > 1


@dataclass(frozen=True)
class Usage:
    """One quota; a limit of -1 is none."""

    limit: int
    used: int


@dataclass(frozen=True)
class Findings:
    """What the cloud has of everything that a cluster file names, and the quota by name."""

    images: tuple[Image, ...]
    flavors: Mapping[str, Flavor]
    networks: tuple[Network, ...]
    groups: Mapping[str, int]  # how many the cloud has of each name or id in security_groups
    quota: Mapping[str, Usage]
    floating_networks: int = 1  # external ones of the name in access.floating_network
    tags: bool = True  # Neutron has TAG_EXTENSION


def _inside(subnet: str, prefix: str) -> bool:
    return ipaddress.IPv4Network(subnet).subnet_of(ipaddress.IPv4Network(prefix))
