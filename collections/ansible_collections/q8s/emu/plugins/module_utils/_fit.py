# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a cluster fits into a cloud: image, flavors, network, free addresses and quota. Pure, as the plan is.

All that does not fit is reported at once, before anything is created. What is only suspicious is a note.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils import _spec_qemu
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server
from ansible_collections.q8s.emu.plugins.module_utils._plan import (
    FLOATING_IP,
    KEYPAIR,
    RULE,
    SECURITY_GROUP,
    SERVER,
    SERVER_GROUP,
    Change,
    Plan,
)
from ansible_collections.q8s.emu.plugins.module_utils._plan_servers import ServersPlan
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec, VmType

# Memory of a host, in MB, besides its guest's.
# QEMU's cache of translated code, where tb_cache does not bound it: a 1/8 of the host's memory, at most 1 GiB
# (size_code_gen_buffer in QEMU's tcg/region.c, since 5.2).
TB_CACHE_SHARE = 8
TB_CACHE_MOST_MB = 1024
# QEMU itself: program, libraries, devices, disk caches; and for each vCPU its thread and software TLB. With a full cache,
# a guest of 2048 MB and 2 vCPUs had 2.6 GB resident after an hour.
QEMU_MB = 64
QEMU_VCPU_MB = 16
# The host's system with libvirtd, sshd and the journal: what it needs to run at all, and what it uses in practice.
SYSTEM_LEAST_MB = 256
SYSTEM_MB = 384

# What kubeadm asks of a control plane (its preflight checks NumCPU and Mem).
CONTROL_PLANE_CPUS = 2
CONTROL_PLANE_MB = 1700

# Disk of a server, in GB. The system of a cloud image with QEMU and libvirt, or with Kubernetes, installed: 3. What a guest is
# made from (root image, bundle, kernel, initrd: 0.29 GB measured) and the first that it writes (0.11 GB): 1. A control plane
# has its archive and the images in it (0.77 GB), etcd, and in the initial one what guests of every architecture are made from: 2.
SYSTEM_GB = 3
GUEST_FILES_GB = 1
CONTROL_PLANE_FILES_GB = 2

X86_64_NAMES = ("", "x86_64", "amd64")  # as Glance's property architecture has them; images may lack it
MTU_LEAST, MTU_MOST = 1280, 9000
MTU_COMMON = 1400  # an overlay network's MTU is seldom less; Flannel's VXLAN takes 50 of it


@dataclass(frozen=True)
class Flavor:
    """What a flavor gives: memory in MB, disk in GB (0: its servers boot from a volume)."""

    name: str
    vcpus: int
    ram: int
    disk: int = 0


@dataclass(frozen=True)
class Image:
    """An image: what it asks of a flavor (memory in MB, disk in GB), and what its properties say of it.

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
        """The system's key in _spec_qemu.HOST_SYSTEMS, empty if nothing says it."""
        return _spec_qemu.host_system_of_image(self.distribution, self.version, self.name)


@dataclass(frozen=True)
class Subnet:
    """An IPv4 subnet; ``size`` counts the addresses that Neutron gives away, ``used`` those that this project sees in use."""

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
    """What ``private_network_id`` can mean: a network, and when it is the id of a subnet, that one of its subnets."""

    id: str
    name: str
    subnets: tuple[Subnet, ...] = ()
    chosen: bool = False  # private_network_id named a subnet, the only one in subnets
    secured: bool = True  # new ports take security groups: port_security_enabled
    mtu: int = 0  # 0: not known

    def subnet(self, prefix: str) -> Optional[Subnet]:
        """The first subnet inside a prefix such as 10.254.1.0/24."""
        return next((subnet for subnet in self.subnets if _inside(subnet.cidr, prefix)), None)

    @property
    def own_ports(self) -> bool:
        """Whether servers need ports of Q8S's: Neutron would choose among the subnets of a network as it likes."""
        return self.chosen or len(self.subnets) > 1


@dataclass(frozen=True)
class Usage:
    """One quota; a limit of -1 is none."""

    limit: int
    used: int


@dataclass(frozen=True)
class Findings:
    """What the cloud said of everything that a cluster file names, and the quota by name."""

    images: tuple[Image, ...]
    flavors: Mapping[str, Flavor]
    networks: tuple[Network, ...]
    groups: Mapping[str, int]  # how many the cloud has of each name or id in security_groups
    quota: Mapping[str, Usage]
    floating_networks: int = 1  # external ones of the name in access.floating_network


# What is counted: the quota's name in a message, and its unit
_QUOTAS = {
    "instances": "servers",
    "cores": "vCPUs",
    "ram": "MB of memory",
    "ports": "ports",
    "security_groups": "security groups",
    "security_group_rules": "security group rules",
    "key_pairs": "key pairs",
    "server_groups": "server groups",
    "server_group_members": "servers in a server group",
    "floating_ips": "floating IPs",
}


def needed_quota(plans: Sequence[Plan], flavors: Mapping[str, Flavor]) -> dict[str, int]:
    """What changes take of each quota, beyond what they give back."""
    needs = dict.fromkeys(_QUOTAS, 0)
    kinds = {
        KEYPAIR: "key_pairs",
        SECURITY_GROUP: "security_groups",
        RULE: "security_group_rules",
        SERVER_GROUP: "server_groups",
        SERVER: "instances",
        FLOATING_IP: "floating_ips",
    }
    for change in [change for plan in plans for change in plan.changes]:
        sign = {"create": 1, "delete": -1}.get(change.action, 0)
        if change.kind == RULE and sign < 0:
            continue  # new rules are created before old ones are deleted
        if change.kind in kinds:
            needs[kinds[change.kind]] += sign
        if change.kind == SECURITY_GROUP:
            # Neutron gives every new group two rules, for what goes out.
            needs["security_group_rules"] += 2 * sign
        if change.kind == SERVER:
            needs["ports"] += sign
            old, spec = _sides(change)
            flavor = flavors.get(spec.flavor) if spec else None
            needs["cores"] += (flavor.vcpus if flavor else 0) - (old.vcpus if old else 0)
            needs["ram"] += (flavor.ram if flavor else 0) - (old.ram if old else 0)
    plan = next((plan for plan in plans if isinstance(plan, ServersPlan)), None)
    if plan is not None and any("server group" in line for line in (*plan.kept, *(str(c) for c in plan.changes))):
        needs["server_group_members"] = len(plan.wanted)
    return {key: max(need, 0) for key, need in needs.items()}


def _sides(change: Change) -> tuple[Optional[Server], Optional[ServerSpec]]:
    """The server that goes with a change, and what comes."""
    if change.action == "replace":
        return change.subject.old, change.subject.spec
    if change.action == "create":
        return None, change.subject
    return (change.subject, None) if change.action == "delete" else (None, None)


def quota_table(findings: Findings, plans: Sequence[Plan]) -> dict[str, dict[str, int]]:
    """What the changes need of each quota that the cloud told, what is used, and the limit."""
    needs = needed_quota(plans, findings.flavors)
    return {
        key: {"needed": needs[key], "used": usage.used, "limit": usage.limit} for key, usage in findings.quota.items()
    }


def preflight_problems(cluster: Cluster, findings: Findings, plans: Sequence[Plan]) -> list[str]:
    """Return everything that stands against the cluster in this cloud, all at once."""
    return [
        *_image_problems(cluster, findings),
        *_model_problems(cluster, findings),
        *_network_problems(cluster, findings, plans),
        *_group_problems(findings),
        *_flavor_problems(cluster, findings),
        *_access_problems(cluster, findings),
        *_quota_problems(findings, needed_quota(plans, findings.flavors)),
    ]


def preflight_notes(cluster: Cluster, findings: Findings) -> list[str]:
    """Return what may go wrong in this cloud, and stops nothing."""
    return [
        *_host_system_notes(cluster, findings),
        *_network_notes(cluster, findings),
        *_flavor_notes(cluster, findings),
    ]


def _image_problems(cluster: Cluster, findings: Findings) -> list[str]:
    name = repr(cluster.default_image_name)
    if not findings.images:
        return [f"default_image_name: there is no image called {name}"]
    if len(findings.images) > 1:
        ids = ", ".join(sorted(image.id for image in findings.images))
        return [f"default_image_name: {len(findings.images)} images are called {name}; give the id of one: {ids}"]
    image, problems = findings.images[0], []
    if image.status != "active":
        problems.append(
            f"default_image_name: the image {name} is {image.status}, and servers can only use an active one"
        )
    if image.architecture.lower() not in X86_64_NAMES:
        problems.append(f"default_image_name: the image {name} is for {image.architecture}; hosts are x86_64")
    return problems


def _host_system(cluster: Cluster, findings: Findings) -> str:
    """Return the system of the hosts as the file or the image says it, empty if neither does."""
    if cluster.host_os != "auto":
        return cluster.host_os
    return findings.images[0].host_system if len(findings.images) == 1 else ""


def _model_problems(cluster: Cluster, findings: Findings) -> list[str]:
    """Return the CPU and machine models that the hosts' QEMU does not have."""
    system = _host_system(cluster, findings)
    problems = []
    for vm_type in _used_types(cluster) if system else ():
        for what, model in (("cpu_model", vm_type.cpu_model), ("machine_model", vm_type.machine_model)):
            problem = _spec_qemu.model_problem(system, what, model, vm_type.architecture)
            if problem:
                problems.append(f"vm_types.types.{vm_type.name}.{what}: {problem}")
    return problems


def _host_system_notes(cluster: Cluster, findings: Findings) -> list[str]:
    said, image = cluster.host_os, findings.images[0].host_system if len(findings.images) == 1 else ""
    if said == "auto" or not image or said == image:
        return []
    return [f"host_os is {said}, but the image {cluster.default_image_name!r} says that it is {image}"]


def _used_types(cluster: Cluster) -> list[VmType]:
    return [cluster.vm_type(name) for name, count in cluster.workers if count]


def _network_problems(cluster: Cluster, findings: Findings, plans: Sequence[Plan]) -> list[str]:
    name = repr(cluster.private_network_id)
    if not findings.networks:
        return [f"private_network_id: there is no network or subnet called {name}"]
    if len(findings.networks) > 1:
        ids = ", ".join(sorted(network.id for network in findings.networks))
        count = len(findings.networks)
        return [f"private_network_id: {count} networks or subnets are called {name}; give the id of one: {ids}"]
    network = findings.networks[0]
    subnet = network.subnet(cluster.remote_ip_prefix)
    if subnet is None:
        have = ", ".join(sorted(subnet.cidr for subnet in network.subnets)) or "no IPv4 subnet"
        what = "the subnet" if network.chosen else "the network"
        right = f"; write remote_ip_prefix: {have}" if len(network.subnets) == 1 else ""
        return [
            f"remote_ip_prefix: is {cluster.remote_ip_prefix}; {what} {cluster.private_network_id} has {have}{right}"
        ]
    problems = []
    if not network.secured:
        problems.append(
            f"private_network_id: the network {name} has port security off (port_security_enabled), so that its ports have no "
            "security group and are open; its owner can enable it (openstack network set --enable-port-security)"
        )
    needed = sum(len(plan.of(SERVER, "create")) for plan in plans)
    if needed > subnet.size - subnet.used:
        problems.append(f"addresses in the subnet {subnet.cidr}: needs {needed}, {subnet.used} of {subnet.size} used")
    return problems


def _network_notes(cluster: Cluster, findings: Findings) -> list[str]:
    network = findings.networks[0] if len(findings.networks) == 1 else None
    subnet = network.subnet(cluster.remote_ip_prefix) if network else None
    if network is None or subnet is None:
        return []
    notes = []
    if subnet.cidr != cluster.remote_ip_prefix:
        notes.append(
            f"remote_ip_prefix is {cluster.remote_ip_prefix}, more than the subnet, which is {subnet.cidr}: ports are open to "
            f"all of it; write remote_ip_prefix: {subnet.cidr}"
        )
    if not subnet.dhcp:
        notes.append(f"the subnet {subnet.cidr} has no DHCP: servers get a config drive, and their address from it")
    if not subnet.gateway and not (cluster.proxy.http_proxy or cluster.proxy.https_proxy):
        notes.append(
            f"the subnet {subnet.cidr} has no gateway: servers need a package mirror or a proxy (field proxy) inside it"
        )
    if not subnet.dns:
        notes.append(
            f"the subnet {subnet.cidr} names no DNS server: unless the cloud answers for it, servers find no package mirror"
        )
    if network.mtu and not MTU_LEAST <= network.mtu <= MTU_MOST:
        notes.append(f"the network's MTU is {network.mtu}; Q8S supports {MTU_LEAST} to {MTU_MOST}")
    elif network.mtu and network.mtu < MTU_COMMON:
        notes.append(
            f"the network's MTU is {network.mtu}: pods get 50 less, and small packets slow down emulated nodes"
        )
    return notes


def _group_problems(findings: Findings) -> list[str]:
    problems = []
    for name, count in findings.groups.items():
        if not count:
            problems.append(f"security_groups: there is no group called {name!r}")
        elif count > 1:
            problems.append(f"security_groups: {count} groups are called {name!r}; give the id of one")
    return problems


def guest_memory(vm_type: VmType, host_ram: int, system: int = SYSTEM_MB, cache: bool = True) -> int:
    """Return the memory, in MB, that a host needs for its guest.

    :param host_ram: the host's memory, of which QEMU's cache of translated code is a share
    :param system: what the host's system needs
    :param cache: with a full cache of translated code
    """
    tb_cache = vm_type.tb_cache_mb or min(host_ram // TB_CACHE_SHARE, TB_CACHE_MOST_MB)
    if not cache or vm_type.accel == "kvm":
        tb_cache = 0
    return vm_type.ram_mb + QEMU_MB + vm_type.num_cpus * QEMU_VCPU_MB + tb_cache + system


def least_memory(vm_type: VmType) -> int:
    """Return the memory, in MB, below which a host runs out of it as soon as its guest has used its own."""
    return guest_memory(vm_type, 0, SYSTEM_LEAST_MB, cache=False)


def _flavor_problems(cluster: Cluster, findings: Findings) -> list[str]:
    wanted = {spec.flavor for spec in cluster.servers()}
    problems = [
        f"there is no flavor called {name!r} (or it is not visible to this project)"
        for name in sorted(wanted - set(findings.flavors))
    ]
    image = findings.images[0] if len(findings.images) == 1 else Image("")
    flavor = findings.flavors.get(cluster.master_node_flavor)
    if flavor is not None:
        path = "cluster_definition.master_node_flavor"
        if flavor.vcpus < CONTROL_PLANE_CPUS or flavor.ram < CONTROL_PLANE_MB:
            problems.append(
                f"{path}: {flavor.name} has {flavor.vcpus} vCPUs and {flavor.ram} MB; kubeadm asks for {CONTROL_PLANE_CPUS} "
                f"vCPUs and {CONTROL_PLANE_MB} MB"
            )
        problems += _disk_problems(path, flavor, image, SYSTEM_GB + CONTROL_PLANE_FILES_GB)
    for vm_type in _used_types(cluster):
        flavor = findings.flavors.get(vm_type.openstack_flavor)
        if flavor is None:
            continue
        path = f"vm_types.types.{vm_type.name}.openstack_flavor"
        if flavor.ram < least_memory(vm_type):
            problems.append(
                f"{path}: {flavor.name} has {flavor.ram} MB; the {vm_type.ram_mb} MB of its guest, QEMU and the host's system "
                f"need at least {least_memory(vm_type)} MB"
            )
        if flavor.vcpus < vm_type.num_cpus:
            problems.append(
                f"{path}: {flavor.name} has {flavor.vcpus} vCPUs, fewer than the {vm_type.num_cpus} of its guest"
            )
        problems += _disk_problems(path, flavor, image, SYSTEM_GB + GUEST_FILES_GB)
    for name in sorted(wanted & set(findings.flavors)):
        flavor = findings.flavors[name]
        what = f"the image {cluster.default_image_name} needs"
        if flavor.ram < image.min_ram:
            problems.append(f"{what} {image.min_ram} MB of memory; the flavor {name} has {flavor.ram}")
        least = max(image.min_disk, image.size)
        if flavor.disk and flavor.disk < least:
            problems.append(f"{what} a disk of {least} GB; the flavor {name} has {flavor.disk}")
    return problems


def _disk_problems(path: str, flavor: Flavor, image: Image, least: int) -> list[str]:
    if not flavor.disk:
        return [
            f"{path}: {flavor.name} has no disk (disk 0): its servers would boot from a volume, which Q8S does not create; "
            f"choose a flavor with a disk of at least {max(least, image.min_disk, image.size)} GB"
        ]
    if flavor.disk < least:
        return [f"{path}: {flavor.name} has a disk of {flavor.disk} GB; its server needs at least {least} GB"]
    return []


def _flavor_notes(cluster: Cluster, findings: Findings) -> list[str]:
    notes = []
    for vm_type in _used_types(cluster):
        flavor = findings.flavors.get(vm_type.openstack_flavor)
        if flavor is None:
            continue
        path = f"vm_types.types.{vm_type.name}.openstack_flavor"
        memory = guest_memory(vm_type, flavor.ram)
        if least_memory(vm_type) <= flavor.ram < memory:
            cache = "" if vm_type.tb_cache_mb or vm_type.accel == "kvm" else ", or bound QEMU's cache with tb_cache"
            notes.append(
                f"{path}: {flavor.name} has {flavor.ram} MB; its guest, QEMU with a full cache of translated code and the "
                f"host's system use {memory} MB: choose a larger flavor{cache}"
            )
        least = SYSTEM_GB + GUEST_FILES_GB
        full = least + vm_type.storage_gb
        if least <= flavor.disk < full:
            notes.append(
                f"{path}: {flavor.name} has a disk of {flavor.disk} GB; when the guest has filled its {vm_type.storage_gb} GB "
                f"the host needs {full} GB, and a full host stops its guest"
            )
    return notes


def _access_problems(cluster: Cluster, findings: Findings) -> list[str]:
    if cluster.access.type != "floating_ip" or findings.floating_networks == 1:
        return []
    what = f"{findings.floating_networks} external networks are" if findings.floating_networks else "there is none"
    return [
        f"access.floating_network: must name one external network; {what} called {cluster.access.floating_network!r}"
    ]


def _quota_problems(findings: Findings, needs: Mapping[str, int]) -> list[str]:
    problems = []
    for key, needed in needs.items():
        usage = findings.quota.get(key)
        if usage is not None and usage.limit >= 0 and needed and needed > usage.limit - usage.used:
            problems.append(f"quota of {_QUOTAS[key]}: needs {needed}, {usage.used} of {usage.limit} used")
    return problems


def _inside(subnet: str, prefix: str) -> bool:
    return ipaddress.IPv4Network(subnet).subnet_of(ipaddress.IPv4Network(prefix))
