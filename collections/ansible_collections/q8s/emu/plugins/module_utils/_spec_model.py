# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a checked cluster is: plain data, and what follows from it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint, Impairment, Rule, link_matrix
from ansible_collections.q8s.emu.plugins.module_utils._scenario import Scenario
from ansible_collections.q8s.emu.plugins.module_utils._spec_links import Links
from ansible_collections.q8s.emu.plugins.module_utils._spec_scenario import scenario_mapping
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import Problem


@dataclass(frozen=True)
class VmType:
    """What an emulated worker is: one entry of ``vm_types.types``."""

    name: str
    architecture: str  # as the kernel says it: x86_64, aarch64
    num_cpus: int
    cpu_model: str
    machine_model: str  # QEMU's name: q35 where the file says virt for x86_64
    ram_mb: int
    storage_gb: int
    openstack_flavor: str
    qemu_args: str
    labels: tuple[tuple[str, str], ...]
    taints: tuple[str, ...]  # in Kubernetes' form: key=value:Effect or key:Effect
    zone: str  # the node's label topology.kubernetes.io/zone, if any
    accel: str  # tcg, kvm, or auto: kvm where the host has it and the architectures are the same
    tb_cache_mb: Optional[int]  # of translated code; None leaves it to QEMU


@dataclass(frozen=True)
class Access:
    """How the machine that runs Q8S reaches the servers.

    ``floating_network`` is set for floating_ip, ``host`` for bastion; an empty ``user`` leaves it to ssh. From
    ``allowed_prefixes`` the floating IP may be reached.
    """

    type: str = "direct"  # direct, floating_ip or bastion
    floating_network: str = ""
    host: str = ""
    user: str = ""
    port: int = 22
    allowed_prefixes: tuple[str, ...] = ("0.0.0.0/0",)


@dataclass(frozen=True)
class Proxy:
    """Proxies for the installation of packages on hosts; empty: none."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


@dataclass(frozen=True)
class GuestImage:
    """A cloud image that the guests of an architecture are made from."""

    architecture: str
    url: str  # or the path of a file
    checksum: str  # sha256:HEX or sha512:HEX


@dataclass(frozen=True)
class ServerSpec:
    """A server that a cluster file asks for."""

    name: str
    node: str  # name of the Kubernetes node: the guest's where there is one
    role: str  # control_plane or worker_host
    flavor: str
    initial: bool = False
    vm_type: Optional[VmType] = None

    @property
    def kind(self) -> str:
        """The VM type of its node, or ``control-plane``."""
        return self.vm_type.name if self.vm_type else "control-plane"

    @property
    def architecture(self) -> str:
        """The architecture of its node. Control planes are not emulated."""
        return self.vm_type.architecture if self.vm_type else "x86_64"


@dataclass(frozen=True)
class GuestNetwork:
    """The network behind one host."""

    address: str
    gateway: str
    prefixlen: int


@dataclass(frozen=True)
class Cluster:
    """A checked and completed cluster file. The access token that ``git_url`` may hold is never kept."""

    private_network_id: str
    remote_ip_prefix: str
    default_image_name: str
    name_of_initial_instance: str
    security_groups: tuple[str, ...]
    required_tcp_ports: tuple[int, ...]
    required_udp_ports: tuple[int, ...]
    inside: str  # all or listed: what members of the security group may reach of one another
    worker_port_range_min: int
    worker_port_range_max: int
    master_node_flavor: str
    number_additional_master_nodes: int
    workers: tuple[tuple[str, int], ...]
    types: tuple[VmType, ...]
    cluster_name: str
    guest_ip_prefix: str
    pod_cidr: str
    service_cidr: str
    initial_instance_user: str
    initial_instance_private_key: str  # path; empty: the key of all other servers
    host_os: str  # auto, or a key of _spec_qemu.HOST_SYSTEMS
    guest_user: str
    ssh_private_key: str  # path, the public key beside it with .pub; empty: Q8S makes one
    access: Access
    proxy: Proxy
    server_group: str  # none or soft-anti-affinity
    kubernetes_version: str
    bundle_source: str  # auto, upstream or source
    guest_images: tuple[GuestImage, ...]  # of the architectures that have one
    addons: tuple[str, ...]
    links: Links
    scenario: Scenario
    warnings: tuple[Problem, ...] = field(default=(), compare=False, repr=False)

    def to_mapping(self) -> dict[str, Any]:
        """Return the completed cluster in the file's own form, fit for JSON; reading it returns an equal cluster."""
        return {
            "cluster_name": self.cluster_name,
            "private_network_id": self.private_network_id,
            "remote_ip_prefix": self.remote_ip_prefix,
            "default_image_name": self.default_image_name,
            "name_of_initial_instance": self.name_of_initial_instance,
            "host_os": self.host_os,
            "initial_instance_user": self.initial_instance_user,
            **(
                {"initial_instance_private_key": self.initial_instance_private_key}
                if self.initial_instance_private_key
                else {}
            ),
            "security_groups": list(self.security_groups),
            "required_tcp_ports": list(self.required_tcp_ports),
            "required_udp_ports": list(self.required_udp_ports),
            "inside": self.inside,
            "worker_port_range_min": self.worker_port_range_min,
            "worker_port_range_max": self.worker_port_range_max,
            "guest_ip_prefix": self.guest_ip_prefix,
            "pod_cidr": self.pod_cidr,
            "service_cidr": self.service_cidr,
            "guest_user": self.guest_user,
            **({"ssh_private_key": self.ssh_private_key} if self.ssh_private_key else {}),
            "access": {"type": self.access.type, **_given(self.access)},
            "proxy": _given(self.proxy),
            "server_group": self.server_group,
            "kubernetes_version": self.kubernetes_version,
            "bundle_source": self.bundle_source,
            "guest_images": {
                image.architecture: {"url": image.url, "checksum": image.checksum} for image in self.guest_images
            },
            **({"addons": list(self.addons)} if self.addons else {}),
            **({"network": self.links.to_mapping()} if self.links != Links() else {}),
            **({"scenario": scenario_mapping(self.scenario)} if self.scenario != Scenario() else {}),
            "cluster_definition": {
                "master_node_flavor": self.master_node_flavor,
                "number_additional_master_nodes": self.number_additional_master_nodes,
                "worker": dict(self.workers),
            },
            "vm_types": {
                "types": {
                    t.name: {
                        "architecture": t.architecture,
                        "num_cpus": t.num_cpus,
                        "cpu_model": t.cpu_model,
                        "machine_model": t.machine_model,
                        "ram": t.ram_mb,
                        "storage": t.storage_gb,
                        "openstack_flavor": t.openstack_flavor,
                        "qemu_args": t.qemu_args,
                        "labels": dict(t.labels),
                        "taints": list(t.taints),
                        **({"zone": t.zone} if t.zone else {}),
                        "accel": t.accel,
                        **({"tb_cache": t.tb_cache_mb} if t.tb_cache_mb else {}),
                    }
                    for t in self.types
                }
            },
        }

    def vm_type(self, name: str) -> VmType:
        """Return the type of that name.

        :raises KeyError: there is none
        """
        return {t.name: t for t in self.types}[name]

    def used_types(self) -> tuple[VmType, ...]:
        """Return the types that have workers."""
        return tuple(self.vm_type(name) for name, count in self.workers if count)

    def servers(self) -> tuple[ServerSpec, ...]:
        """Return every server that the file asks for: the initial instance, further control planes, hosts of workers."""
        types = {t.name: t for t in self.types}
        names = server_names(
            self.cluster_name, self.name_of_initial_instance, self.number_additional_master_nodes, dict(self.workers)
        )
        return tuple(
            ServerSpec(name, node, "worker_host", types[kind].openstack_flavor, False, types[kind])
            if kind
            else ServerSpec(name, node, "control_plane", self.master_node_flavor, initial=number == 0)
            for number, (name, node, kind) in enumerate(names)
        )

    def endpoints(self) -> list[Endpoint]:
        """Return the nodes as the links' selectors see them."""
        return [
            Endpoint(
                server.node,
                server.vm_type.name if server.vm_type else "",
                server.vm_type.zone if server.vm_type else "",
                control_plane=server.vm_type is None,
            )
            for server in self.servers()
        ]

    def link_matrix(self, overrides: Iterable[Rule] = ()) -> dict[tuple[str, str], Impairment]:
        """Return the impairment of every direction between two nodes that has one.

        :param overrides: rules that apply instead of the file's
        """
        return link_matrix(self.endpoints(), self.links.rules, self.links.default, overrides)

    def guest_network(self, host_address: str) -> GuestNetwork:
        """Return the network of the guest of the host with that address.

        :raises ValueError: the address is not one of ``remote_ip_prefix``
        """
        return guest_network(host_address, self.remote_ip_prefix, self.guest_ip_prefix)


def _given(group: Union[Access, Proxy]) -> dict[str, Any]:
    """Return the fields that are not at their default."""
    given = {f.name: getattr(group, f.name) for f in fields(group) if getattr(group, f.name) != f.default}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def server_names(
    cluster: str, initial: str, additional: int, workers: Mapping[str, int]
) -> Iterator[tuple[str, str, str]]:
    """Yield each server's name, its node's name, and the type of its guest (a control plane has none); the initial one first."""
    yield initial, initial, ""
    for number in range(2, additional + 2):
        name = f"{cluster}-control-plane-{number}"
        yield name, name, ""
    for kind, count in workers.items():
        for number in range(1, count + 1):
            yield f"{cluster}-{kind}-{number}", f"{kind}-{number}", kind


def is_additional_control_plane(cluster: str, name: str) -> bool:
    """Return whether a server or node has the name of an additional control plane: see ``server_names``."""
    return re.fullmatch(rf"{re.escape(cluster)}-control-plane-[0-9]+", name) is not None


def worker_node(cluster: str, server: str) -> str:
    """Return the node of a worker's server, by their names: see ``server_names``."""
    return server.removeprefix(f"{cluster}-")


def guest_network(host_address: str, remote_ip_prefix: str, guest_ip_prefix: str) -> GuestNetwork:
    """Return the network behind a host, from the host's address alone, so that no two hosts share one.

    The host's part of its address chooses the subnet of ``guest_ip_prefix`` and the guest's place in it:
    10.254.1.3/24 with 192.11.0.0/16 gives 192.11.3.3/24 behind the gateway 192.11.3.1.

    :raises ValueError: the address is not in ``remote_ip_prefix``, or the subnets would be smaller than a /29
    """
    remote = ipaddress.IPv4Network(remote_ip_prefix)
    guests = ipaddress.IPv4Network(guest_ip_prefix)
    host = ipaddress.IPv4Address(host_address)
    if host not in remote:
        raise ValueError(f"{host} is not in {remote}")
    length = guest_subnet_length(remote, guests)
    if length > 29:
        raise ValueError(f"{guests} cannot be divided among the hosts of {remote}")
    part = int(host) - int(remote.network_address)
    size = 1 << (32 - length)
    subnet = int(guests.network_address) + part * size
    offset = part % size
    if offset in (0, 1, size - 1):
        offset = 2
    return GuestNetwork(str(ipaddress.IPv4Address(subnet + offset)), str(ipaddress.IPv4Address(subnet + 1)), length)


def guest_subnet_length(remote: ipaddress.IPv4Network, guests: ipaddress.IPv4Network) -> int:
    """Return the prefix length of one guest's network, so that every address of ``remote`` has one; over 29 is too small."""
    return guests.prefixlen + 32 - remote.prefixlen


def guest_mac(host_address: str) -> str:
    """Return the MAC address of the guest of that host: QEMU's prefix and the last three bytes of the host's address."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(host_address).packed[1:])
