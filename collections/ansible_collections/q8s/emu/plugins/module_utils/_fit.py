# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a cluster fits into a cloud: image, flavors, network, free addresses and quota. Pure, as the plan is.

All that does not fit is told at once, before anything is made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils._plan import (
    FLOATING_IP,
    KEYPAIR,
    RULE,
    SECURITY_GROUP,
    SERVER,
    SERVER_GROUP,
    Change,
    Plan,
    Server,
    ServersPlan,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec


@dataclass(frozen=True)
class Flavor:
    """What a flavor gives: memory in MB, disk in GB (0: as large as the image)."""

    name: str
    vcpus: int
    ram: int
    disk: int = 0


@dataclass(frozen=True)
class Image:
    """What an image asks of a flavor: memory in MB, disk in GB."""

    id: str
    min_ram: int = 0
    min_disk: int = 0


@dataclass(frozen=True)
class Subnet:
    """An IPv4 subnet; ``size`` counts the addresses that Neutron gives away, ``used`` those that this project sees in use."""

    id: str
    network_id: str
    cidr: str
    size: int = 0
    used: int = 0


@dataclass(frozen=True)
class Network:
    """What ``private_network_id`` can mean: a network, and when it is the id of a subnet, that one of its subnets."""

    id: str
    name: str
    subnets: tuple[Subnet, ...] = ()
    chosen: bool = False  # private_network_id named a subnet, the only one in subnets

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
    """Everything that stands against the cluster in this cloud, all at once."""
    return [
        *_image_problems(cluster, findings),
        *_network_problems(cluster, findings, plans),
        *_group_problems(findings),
        *_flavor_problems(cluster, findings),
        *_access_problems(cluster, findings),
        *_quota_problems(findings, needed_quota(plans, findings.flavors)),
    ]


def _image_problems(cluster: Cluster, findings: Findings) -> list[str]:
    if len(findings.images) == 1:
        return []
    name = repr(cluster.default_image_name)
    if not findings.images:
        return [f"default_image_name: there is no image called {name}"]
    ids = ", ".join(sorted(image.id for image in findings.images))
    return [f"default_image_name: {len(findings.images)} images are called {name}; give the id of one: {ids}"]


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
        return [f"remote_ip_prefix: is {cluster.remote_ip_prefix}; {what} {cluster.private_network_id} has {have}"]
    needed = sum(len(plan.of(SERVER, "create")) for plan in plans)
    if needed > subnet.size - subnet.used:
        return [f"addresses in the subnet {subnet.cidr}: needs {needed}, {subnet.used} of {subnet.size} used"]
    return []


def _group_problems(findings: Findings) -> list[str]:
    problems = []
    for name, count in findings.groups.items():
        if not count:
            problems.append(f"security_groups: there is no group called {name!r}")
        elif count > 1:
            problems.append(f"security_groups: {count} groups are called {name!r}; give the id of one")
    return problems


def _flavor_problems(cluster: Cluster, findings: Findings) -> list[str]:
    wanted = {spec.flavor for spec in cluster.servers()}
    problems = [
        f"there is no flavor called {name!r} (or it is not visible to this project)"
        for name in sorted(wanted - set(findings.flavors))
    ]
    for name, count in cluster.workers:
        vm_type = cluster.vm_type(name)
        flavor = findings.flavors.get(vm_type.openstack_flavor)
        if not count or flavor is None:
            continue
        path = f"vm_types.types.{name}.openstack_flavor"
        if flavor.ram <= vm_type.ram_mb:
            problems.append(
                f"{path}: {flavor.name} has {flavor.ram} MB, no more than the {vm_type.ram_mb} MB of its guest"
            )
        if flavor.vcpus < vm_type.num_cpus:
            problems.append(
                f"{path}: {flavor.name} has {flavor.vcpus} vCPUs, fewer than the {vm_type.num_cpus} of its guest"
            )
        if flavor.disk and flavor.disk <= vm_type.storage_gb:
            problems.append(
                f"{path}: {flavor.name} has a disk of {flavor.disk} GB, no more than the {vm_type.storage_gb} GB of its guest"
            )
    if len(findings.images) == 1:
        image = findings.images[0]
        for name in sorted(wanted & set(findings.flavors)):
            flavor = findings.flavors[name]
            what = f"the image {cluster.default_image_name} needs"
            if flavor.ram < image.min_ram:
                problems.append(f"{what} {image.min_ram} MB of memory; the flavor {name} has {flavor.ram}")
            if flavor.disk and flavor.disk < image.min_disk:
                problems.append(f"{what} a disk of {image.min_disk} GB; the flavor {name} has {flavor.disk}")
    return problems


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
