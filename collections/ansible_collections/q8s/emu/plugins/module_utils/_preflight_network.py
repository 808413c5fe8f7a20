# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the network, the security groups and the external network suit a cluster. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import TAG_EXTENSION, Findings
from ansible_collections.q8s.emu.plugins.module_utils._plan import SERVER, Plan
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster

MTU_LEAST, MTU_MOST = 1280, 9000
MTU_COMMON = 1400  # an overlay network's MTU is seldom less; Flannel's VXLAN takes 50 of it


def network_problems(cluster: Cluster, findings: Findings, plans: Sequence[Plan]) -> list[str]:
    """Return why the servers cannot be in the network: no subnet of the prefix, no port security, too few addresses."""
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
    if network.closed:
        problems.append(
            f"private_network_id: the network {name} is external and not shared, so that Nova attaches no server of this project to "
            "it; name a network of the project (openstack network list --internal), and reach its servers with the field access"
        )
    needed = sum(len(plan.of(SERVER, "create")) for plan in plans)
    if needed > subnet.size - subnet.used:
        problems.append(f"addresses in the subnet {subnet.cidr}: needs {needed}, {subnet.used} of {subnet.size} used")
    return problems


def network_notes(cluster: Cluster, findings: Findings) -> list[str]:
    """Return what the subnet lacks, and an MTU that is unusual."""
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


def group_problems(findings: Findings) -> list[str]:
    """Return the security groups of the file that are missing or not unique."""
    problems = []
    for name, count in findings.groups.items():
        if not count:
            problems.append(f"security_groups: there is no group called {name!r}")
        elif count > 1:
            problems.append(f"security_groups: {count} groups are called {name!r}; give the id of one")
    return problems


def group_notes(findings: Findings) -> list[str]:
    """Return a note if the security group cannot have tags, which record the server that has the CA and etcd."""
    if findings.tags:
        return []
    return [
        f"the cloud has no tags for security groups (Neutron's extension {TAG_EXTENSION}): Q8S cannot record which "
        "server has the cluster's CA and etcd. If that server was deleted, a deploy creates another CA and an empty "
        "etcd without asking; a run does not warn of other runs on the cluster"
    ]


def access_problems(cluster: Cluster, findings: Findings) -> list[str]:
    """Return a problem if floating IPs are asked for, and their network is missing or not unique."""
    if cluster.access.type != "floating_ip" or findings.floating_networks == 1:
        return []
    what = f"{findings.floating_networks} external networks are" if findings.floating_networks else "there is none"
    return [
        f"access.floating_network: must name one external network; {what} called {cluster.access.floating_network!r}"
    ]


def access_notes(cluster: Cluster, *, routed: bool) -> list[str]:
    """Return a note if the servers' own addresses are used, and this machine may not reach them.

    :param routed: whether this machine has a route to them besides its default one
    """
    if cluster.access.type != "direct" or routed:
        return []
    return [
        f"access is direct, so Q8S connects to the servers' addresses in {cluster.remote_ip_prefix}; this machine has "
        "no address there, and no route to it besides its default one. Unless a router or a VPN leads there, the "
        "deploy stops at `Wait for SSH`, when the servers exist: set access in the cluster file, to type floating_ip "
        "with floating_network (openstack network list --external), or to type bastion with host"
    ]
