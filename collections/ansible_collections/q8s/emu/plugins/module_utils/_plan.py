# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change in the cloud: pure functions from what is wanted and what exists.

Check mode, diff and the change itself all read the same plan, so that they cannot disagree.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._spec import ARTIFACT_PORT, Cluster, ServerSpec

META_CLUSTER = "q8s_cluster"
META_ROLE = "q8s_role"
META_NODE = "q8s_node"
META_TYPE = "q8s_type"
META_HOST_KEY = "q8s_host_key"
META_GUEST_KEY = "q8s_guest_key"


@dataclass(frozen=True)
class Server:
    """A server that the cloud has. ``addresses`` are fixed IPv4 addresses, ``fault`` is Nova's reason for ERROR."""

    id: str
    name: str
    status: str
    addresses: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""

    def address(self, prefix: str) -> Optional[str]:
        """The first address in a network such as 10.254.1.0/24."""
        network = ipaddress.IPv4Network(prefix)
        return next((a for a in self.addresses if ipaddress.IPv4Address(a) in network), None)


@dataclass(frozen=True, order=True)
class Rule:
    """An ingress rule for IPv4. ``source`` is a network, or empty for members of the group itself."""

    protocol: str
    port_min: Optional[int]
    port_max: Optional[int]
    source: str

    def __str__(self) -> str:
        ports = "" if self.port_min is None else f" {self.port_min}"
        if self.port_max != self.port_min:
            ports += f"-{self.port_max}"
        return f"{self.protocol}{ports} from {self.source or 'the group itself'}"


@dataclass(frozen=True)
class ServersPlan:
    """What ``servers`` has to do. ``foreign`` is an initial instance that Q8S did not make and never removes."""

    create: tuple[ServerSpec, ...] = ()
    delete: tuple[Server, ...] = ()
    start: tuple[Server, ...] = ()
    keep: tuple[Server, ...] = ()
    surplus: tuple[Server, ...] = ()
    foreign: Optional[Server] = None
    problems: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the cloud differs from what is wanted."""
        return bool(self.create or self.delete or self.start)


def group_description(cluster_name: str) -> str:
    """Marks the security group of a cluster: two clusters of a project both have a group q8s-cluster."""
    return f"Q8S cluster {cluster_name}"


def keypair_name(cluster_name: str) -> str:
    """Name of a cluster's key pair in the cloud."""
    return f"q8s-{cluster_name}"


def is_ours(server: Server, cluster_name: str) -> bool:
    """Whether Q8S made the server for that cluster."""
    return server.metadata.get(META_CLUSTER) == cluster_name


def foreign_initial(cluster: Cluster, servers: Iterable[Server]) -> tuple[Optional[Server], tuple[str, ...]]:
    """The initial instance, if it is a server that Q8S did not make, and why it cannot be used."""
    name = cluster.name_of_initial_instance
    named = [s for s in servers if s.name == name]
    if any(is_ours(s, cluster.cluster_name) for s in named):
        return None, ()
    others = sorted({s.metadata[META_CLUSTER] for s in named if META_CLUSTER in s.metadata})
    if others:
        return None, (f"the server {name} belongs to the Q8S cluster {', '.join(others)}; choose another name",)
    if len(named) > 1:
        return None, (f"{len(named)} servers are called {name}; name_of_initial_instance must be one of them only",)
    return (named[0], ()) if named else (None, ())


def plan_servers(cluster: Cluster, servers: Sequence[Server], present: bool) -> ServersPlan:
    """What has to be made, removed and started so that exactly the cluster's servers run, or none is left.

    A server in ERROR is replaced. Servers that the file no longer asks for are ``surplus`` and stay: their nodes have to
    be drained before.
    """
    ours = [s for s in servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"]
    if not present:
        return ServersPlan(delete=tuple(ours))
    foreign, found = foreign_initial(cluster, servers)
    problems = list(found)
    create: list[ServerSpec] = []
    delete: list[Server] = []
    start: list[Server] = []
    keep: list[Server] = []
    wanted = [spec for spec in cluster.servers() if not (spec.initial and (foreign or problems))]
    for spec in wanted:
        candidates = [s for s in ours if s.name == spec.name]
        usable = [s for s in candidates if s.status != "ERROR"]
        strangers = [s for s in servers if s.name == spec.name and not is_ours(s, cluster.cluster_name)]
        if strangers and not usable:
            problems.append(f"a server called {spec.name} exists and is not of the cluster {cluster.cluster_name}")
            continue
        # What an interrupted run may have made twice, or left in ERROR.
        delete.extend([s for s in candidates if s.status == "ERROR"] + usable[1:])
        if not usable:
            create.append(spec)
        elif usable[0].status == "SHUTOFF":
            start.append(usable[0])
        elif usable[0].status in ("ACTIVE", "BUILD", "REBOOT", "HARD_REBOOT", "PASSWORD", "REBUILD"):
            keep.append(usable[0])
        else:
            problems.append(f"the server {spec.name} is {usable[0].status}; bring it to ACTIVE first")
    names = {spec.name for spec in wanted}
    surplus = [s for s in ours if s.name not in names]
    return ServersPlan(
        tuple(create), tuple(delete), tuple(start), tuple(keep), tuple(surplus), foreign, tuple(problems)
    )


def servers_diff(plan: ServersPlan) -> dict[str, str]:
    """Before and after, one server a line."""
    staying = [(s.name, f"{s.name} {s.status}") for s in (*plan.keep, *plan.surplus)]
    before = staying + [(s.name, f"{s.name} {s.status}") for s in (*plan.delete, *plan.start)]
    coming = [spec.name for spec in plan.create] + [server.name for server in plan.start]
    after = staying + [(name, f"{name} ACTIVE") for name in coming]
    return {"before": _lines(before), "after": _lines(after)}


def wanted_rules(cluster: Cluster) -> frozenset[Rule]:
    """The rules of the cluster's security group: the file's ports, node ports, ping, and the artifact server."""
    source = cluster.remote_ip_prefix
    rules = {Rule("tcp", port, port, source) for port in cluster.required_tcp_ports}
    rules |= {Rule("udp", port, port, source) for port in cluster.required_udp_ports}
    low, high = cluster.worker_port_range_min, cluster.worker_port_range_max
    rules |= {Rule(protocol, low, high, source) for protocol in ("tcp", "udp")}
    rules |= {Rule("icmp", None, None, source), Rule("tcp", ARTIFACT_PORT, ARTIFACT_PORT, "")}
    return frozenset(rules)


@dataclass(frozen=True)
class RulesPlan:
    """What has to change in a security group. ``remove`` holds the ids of rules."""

    make_group: bool
    add: tuple[Rule, ...]
    remove: tuple[str, ...]
    before: tuple[Rule, ...]

    @property
    def changed(self) -> bool:
        """Whether the group differs from what is wanted."""
        return bool(self.make_group or self.add or self.remove)


def plan_rules(wanted: frozenset[Rule], existing: Optional[Mapping[str, Union[Rule, str]]]) -> RulesPlan:
    """What has to change.

    :param existing: rules by id, or None when there is no group; text for a rule that is none of ours in form
    """
    if existing is None:
        return RulesPlan(True, tuple(sorted(wanted, key=str)), (), ())
    seen: set[Rule] = set()
    remove = []
    for key, rule in existing.items():
        if isinstance(rule, Rule) and rule in wanted and rule not in seen:
            seen.add(rule)
        else:
            remove.append(key)
    before = tuple(sorted((r for r in existing.values() if isinstance(r, Rule)), key=str))
    return RulesPlan(False, tuple(sorted(wanted - seen, key=str)), tuple(remove), before)


def rules_diff(wanted: frozenset[Rule], existing: Optional[Mapping[str, Union[Rule, str]]]) -> dict[str, str]:
    """Before and after, one rule a line."""
    before = [str(rule) for rule in (existing or {}).values()]
    return {"before": _lines((t, t) for t in before), "after": _lines((str(r), str(r)) for r in wanted)}


@dataclass(frozen=True)
class Flavor:
    """What a flavor gives; memory in MB."""

    name: str
    vcpus: int
    ram: int


@dataclass(frozen=True)
class Findings:
    """What the cloud said of everything that a cluster file names. A shortfall by name is text; limits of -1 are none."""

    images: int
    flavors: Mapping[str, Flavor]
    networks: int
    subnets: tuple[str, ...]
    missing_groups: tuple[str, ...]
    limits: Mapping[str, int]
    used: Mapping[str, int]


def preflight_problems(cluster: Cluster, findings: Findings, create: Sequence[ServerSpec]) -> list[str]:
    """Everything that stands against the cluster in this cloud, all at once."""
    problems = []
    if findings.images != 1:
        what = "there is no image" if not findings.images else f"{findings.images} images are"
        problems.append(f"default_image_name: {what} called {cluster.default_image_name!r}")
    if findings.networks != 1:
        what = "there is no network or subnet" if not findings.networks else f"{findings.networks} networks are"
        problems.append(f"private_network_id: {what} called {cluster.private_network_id!r}")
    elif not any(_inside(subnet, cluster.remote_ip_prefix) for subnet in findings.subnets):
        have = ", ".join(findings.subnets) or "no IPv4 subnet"
        problems.append(
            f"remote_ip_prefix: is {cluster.remote_ip_prefix}; the network {cluster.private_network_id} has {have}"
        )
    for name in findings.missing_groups:
        problems.append(f"security_groups: there is no group called {name!r}")
    wanted = {spec.flavor for spec in cluster.servers()}
    for name in sorted(wanted - set(findings.flavors)):
        problems.append(f"there is no flavor called {name!r} (or it is not visible to this project)")
    for name, count in cluster.workers:
        vm_type = cluster.vm_type(name)
        flavor = findings.flavors.get(vm_type.openstack_flavor)
        if count and flavor is not None and flavor.ram <= vm_type.ram_mb:
            path = f"vm_types.types.{name}.openstack_flavor"
            problems.append(
                f"{path}: {flavor.name} has {flavor.ram} MB, no more than the {vm_type.ram_mb} MB of its guest"
            )
    needs = {"instances": len(create), "cores": 0, "ram": 0}
    for spec in create:
        flavor = findings.flavors.get(spec.flavor)
        if flavor is not None:
            needs["cores"] += flavor.vcpus
            needs["ram"] += flavor.ram
    words = {"instances": "servers", "cores": "vCPUs", "ram": "MB of memory"}
    for key, needed in needs.items():
        limit, used = findings.limits.get(key, -1), findings.used.get(key, 0)
        if limit >= 0 and needed > limit - used:
            free = max(limit - used, 0)
            problems.append(f"quota: {needed} {words[key]} are needed, {free} of {limit} are free")
    return problems


def _inside(subnet: str, prefix: str) -> bool:
    return ipaddress.IPv4Network(subnet).subnet_of(ipaddress.IPv4Network(prefix))


def _lines(named: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{line}\n" for _, line in sorted(named))
