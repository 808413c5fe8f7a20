# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change in the cloud: pure functions from what is wanted and what exists.

Check mode, diff and the change itself all read the same plan, so that they cannot disagree: a module applies the very
changes that it announces.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._spec import (
    ARTIFACT_PORT,
    REQUIRED_SECURITY_GROUP,
    Cluster,
    ServerSpec,
)

GROUP = REQUIRED_SECURITY_GROUP
META_CLUSTER = "q8s_cluster"
META_ROLE = "q8s_role"
META_NODE = "q8s_node"
META_TYPE = "q8s_type"
META_HOST_KEY = "q8s_host_key"
META_GUEST_KEY = "q8s_guest_key"

# Kinds of what a cluster has in a cloud
KEYPAIR = "key pair"
SECURITY_GROUP = "security group"
RULE = "rule"
MEMBER = "member"
PORT = "port"
SERVER_GROUP = "server group"
SERVER = "server"
FLOATING_IP = "floating IP"
SPREAD = "soft-anti-affinity"

SURPLUS_HINT = "q8s-run deploy --yes, or ansible-playbook -e q8s_remove_surplus=true, drains and removes it"
_WORKING = ("ACTIVE", "BUILD", "REBOOT", "HARD_REBOOT", "PASSWORD", "REBUILD")


@dataclass(frozen=True)
class Change:
    """One change of the cloud. ``before`` and ``after`` are a line each, empty where there is nothing.

    ``subject`` is what the change is made with: what a plan knows of the thing, for the code that applies it.
    """

    kind: str
    action: str  # create, delete, replace, start or attach
    name: str
    before: str = ""
    after: str = ""
    subject: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.name}"

    def to_mapping(self) -> dict[str, str]:
        """The change without its subject, fit for JSON."""
        return {
            "kind": self.kind,
            "action": self.action,
            "name": self.name,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True)
class Plan:
    """What has to be done, in this order.

    ``kept`` are the lines of what is there and stays. ``notes`` say what is left alone although it is not as the file
    says. ``problems`` say why nothing can be done.
    """

    changes: tuple[Change, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the cloud differs from what is wanted."""
        return bool(self.changes)

    def of(self, kind: str, *actions: str) -> list[Change]:
        """The changes of one kind; of some actions only, when these are given."""
        return [c for c in self.changes if c.kind == kind and (not actions or c.action in actions)]

    def diff(self) -> dict[str, str]:
        """Before and after, in lines that are sorted."""
        before = [*self.kept, *(change.before for change in self.changes)]
        after = [*self.kept, *(change.after for change in self.changes)]
        return {"before": _lines(before), "after": _lines(after)}

    def to_mapping(self) -> dict[str, Any]:
        """What every module returns of its plan, in check mode and after the change alike."""
        return {
            "changed": self.changed,
            "changes": [change.to_mapping() for change in self.changes],
            "notes": list(self.notes),
            "diff": self.diff(),
        }


def joined(plans: Iterable[Plan]) -> Plan:
    """Several plans as one, in their order."""
    parts = list(plans)
    return Plan(
        tuple(change for plan in parts for change in plan.changes),
        tuple(line for plan in parts for line in plan.kept),
        tuple(note for plan in parts for note in plan.notes),
        tuple(problem for plan in parts for problem in plan.problems),
    )


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in sorted(lines) if line)


@dataclass(frozen=True)
class Server:
    """A server that the cloud has.

    ``addresses`` are fixed IPv4 addresses, ``fault`` is Nova's reason for ERROR, ``age`` is in seconds. ``deleting``:
    somebody has asked for its removal, whatever its status still says.
    """

    id: str
    name: str
    status: str
    addresses: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    age: float = 0.0
    deleting: bool = False
    floating: tuple[str, ...] = ()
    zone: str = ""
    vcpus: int = 0
    ram: int = 0
    flavor: str = ""  # its name

    def address(self, prefix: str) -> Optional[str]:
        """The first address in a network such as 10.254.1.0/24."""
        network = ipaddress.IPv4Network(prefix)
        return next((a for a in self.addresses if ipaddress.IPv4Address(a) in network), None)

    def __str__(self) -> str:
        return f"server {self.name} {'deleting' if self.deleting else self.status}"


@dataclass(frozen=True)
class Port:
    """A port that the cloud has. ``server_id`` is empty while no server uses it; ``ours``: it carries a cluster's mark."""

    id: str
    name: str
    server_id: str = ""
    groups: tuple[str, ...] = ()
    address: str = ""
    ours: bool = False

    def __str__(self) -> str:
        return f"port {self.name}"


@dataclass(frozen=True)
class ServerGroup:
    """A server group that the cloud has. ``policy`` says how Nova spreads its servers."""

    id: str
    name: str
    policy: str


@dataclass(frozen=True)
class FloatingIp:
    """A floating IP that carries the cluster's mark; ``fixed`` is the server's own address, empty while it has none."""

    id: str
    address: str
    fixed: str = ""


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
class GroupRule:
    """A rule that a group has; text where it has a form that Q8S never makes. ``ours``: it carries the cluster's mark."""

    id: str
    rule: Union[Rule, str]
    ours: bool


@dataclass(frozen=True)
class Group:
    """The cluster's security group as the cloud has it."""

    id: str
    rules: tuple[GroupRule, ...] = ()
    tags: tuple[str, ...] = ()


_CLAIM = "q8s-run:"
_CLAIM_SECONDS = 3600


def claim(tags: Sequence[str], owner: str, now: int) -> tuple[tuple[str, ...], str]:
    """The group's tags when a run begins, and who else began one within the last hour, in words, if anybody.

    A cloud offers no lock, so this tells and does not hinder. The tags of others stay as they are.

    :param owner: who begins, such as user@host
    :param now: seconds since 1970
    """
    owner = owner[:40]  # a tag has at most 60 characters, in older releases of Neutron
    others = []
    for tag in tags:
        when, _colon, who = tag.removeprefix(_CLAIM).partition(":")
        if tag.startswith(_CLAIM) and when.isdigit() and who != owner and now - int(when) < _CLAIM_SECONDS:
            minutes = max(now - int(when), 0) // 60
            others.append(f"{who} began a run on this cluster {minutes} min ago")
    kept = [tag for tag in tags if not tag.startswith(_CLAIM)]
    return (*kept, f"{_CLAIM}{now}:{owner}"), "; ".join(others)


def mark(cluster_name: str) -> str:
    """What everything of a cluster carries that has no metadata: as description, or as the comment of its key."""
    return f"Q8S cluster {cluster_name}"


def keypair_name(cluster_name: str) -> str:
    """Name of a cluster's key pair in the cloud, and of its server group: these have no place for a mark."""
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


# -- key pair --

KEYPAIR_HINT = (
    "deploy from the machine, or with the ssh_private_key, that made this cluster; "
    "or remove that key pair; or choose another cluster_name"
)


def key_of(public_key: Optional[str]) -> tuple[str, ...]:
    """Type and key, without the comment, which is no part of the key."""
    return tuple((public_key or "").split()[:2])


def marked_key(cluster_name: str, public_key: str) -> str:
    """The public key with the cluster's mark as its comment: a key pair has no other place for one."""
    return " ".join((*key_of(public_key), mark(cluster_name)))


def plan_keypair(cluster_name: str, existing: Optional[str], wanted: Optional[str]) -> Plan:
    """What has to change so that the cloud knows the key, or has none of the cluster.

    :param existing: the public key that the cloud has under the cluster's name
    :param wanted: the public key that must be there, or None for none
    """
    name = keypair_name(cluster_name)
    ours = existing is not None and existing.split(None, 2)[2:] == [mark(cluster_name)]
    line = "" if existing is None else f"key pair {name} {' '.join(key_of(existing))}"
    if wanted is None:
        if existing is None:
            return Plan()
        if not ours:
            note = f"the key pair {name} is not this cluster's (it has no comment {mark(cluster_name)!r}); it is left"
            return Plan(kept=(line,), notes=(note,))
        return Plan((Change(KEYPAIR, "delete", name, line),))
    after = f"key pair {name} {' '.join(key_of(wanted))}"
    if existing is None:
        return Plan((Change(KEYPAIR, "create", name, "", after, marked_key(cluster_name, wanted)),))
    if key_of(existing) != key_of(wanted):
        who = "this cluster was deployed with another key" if ours else "it is somebody else's"
        problem = f"the cloud has another key under the name {name}, and Q8S does not replace it ({who})"
        return Plan(kept=(line,), problems=(problem,))
    return Plan(kept=(line,))


# -- security group --


def wanted_rules(cluster: Cluster) -> frozenset[Rule]:
    """The rules of the cluster's security group: the file's ports, node ports, ping, and the artifact server."""
    source = cluster.remote_ip_prefix
    rules = {Rule("tcp", port, port, source) for port in cluster.required_tcp_ports}
    rules |= {Rule("udp", port, port, source) for port in cluster.required_udp_ports}
    low, high = cluster.worker_port_range_min, cluster.worker_port_range_max
    rules |= {Rule(protocol, low, high, source) for protocol in ("tcp", "udp")}
    rules |= {Rule("icmp", None, None, source), Rule("tcp", ARTIFACT_PORT, ARTIFACT_PORT, "")}
    if cluster.access.type == "floating_ip":
        # Only the initial control plane has a floating IP: what comes in there is ssh, on to all others, and the API.
        rules |= {Rule("tcp", port, port, prefix) for prefix in cluster.access.allowed_prefixes for port in (22, 6443)}
    return frozenset(rules)


def plan_group(cluster: Cluster, group: Optional[Group], servers: Sequence[Server], ports: Sequence[Port]) -> Plan:
    """What has to change so that the group has the cluster's rules, and the cluster's servers are in it.

    Rules that are missing come first, so that no traffic is refused in between. A rule that others made stays.
    """
    foreign, problems = foreign_initial(cluster, servers)
    if problems:
        return Plan(problems=problems)
    wanted = wanted_rules(cluster)
    rules = group.rules if group else ()
    there = {item.rule for item in rules}
    # One that others made and that does what is wanted is as good: Neutron has no two that are the same.
    changes = [] if group else [Change(SECURITY_GROUP, "create", GROUP, "", f"security group {GROUP}")]
    changes += [_rule_change("create", rule, rule) for rule in sorted(wanted - there, key=str)]
    changes += [_rule_change("delete", item.rule, item) for item in rules if item.ours and item.rule not in wanted]
    staying = [item for item in rules if not item.ours or item.rule in wanted]
    kept = [f"rule {item.rule}" for item in staying] + ([f"security group {GROUP}"] if group else [])
    notes = [f"the rule {item.rule} in {GROUP} is not Q8S's; it is left" for item in staying if item.rule not in wanted]
    for server in servers:
        if server is not foreign and not is_ours(server, cluster.cluster_name):
            continue
        theirs = [port for port in ports if port.server_id == server.id]
        outside = [port for port in theirs if group is None or group.id not in port.groups]
        if outside:
            changes.append(Change(MEMBER, "create", server.name, "", f"member {server.name}", tuple(outside)))
        elif theirs:
            kept.append(f"member {server.name}")
    return Plan(tuple(changes), tuple(kept), tuple(notes))


def plan_group_absent(
    cluster: Cluster, group: Optional[Group], servers: Sequence[Server], ports: Sequence[Port]
) -> Plan:
    """What has to change so that the group is gone. It takes its rules with it."""
    if group is None:
        return Plan()
    foreign = foreign_initial(cluster, servers)[0]
    changes = []
    if foreign is not None:
        inside = tuple(port for port in ports if port.server_id == foreign.id and group.id in port.groups)
        if inside:
            changes.append(Change(MEMBER, "delete", foreign.name, f"member {foreign.name}", "", inside))
    changes += [_rule_change("delete", item.rule, item) for item in group.rules]
    changes.append(Change(SECURITY_GROUP, "delete", GROUP, f"security group {GROUP}"))
    return Plan(tuple(changes))


def _rule_change(action: str, rule: Union[Rule, str], subject: Any) -> Change:
    line = f"rule {rule}"
    return Change(
        RULE, action, str(rule), "" if action == "create" else line, line if action == "create" else "", subject
    )


# -- servers --


@dataclass(frozen=True)
class Existing:
    """What the cloud has of servers and what belongs to them. All but the servers carry the cluster's mark."""

    servers: Sequence[Server] = ()
    ports: Sequence[Port] = ()
    group: Optional[ServerGroup] = None
    floating: Sequence[FloatingIp] = ()
    flavors: Mapping[str, str] = field(default_factory=dict)  # names by id, where a file may have given ids


@dataclass(frozen=True)
class ServersPlan(Plan):
    """A plan that also names the servers that must be there in the end, beside an initial instance of others."""

    wanted: tuple[ServerSpec, ...] = ()


@dataclass(frozen=True)
class Replacement:
    """What is wanted, and the server that goes for it."""

    old: Server
    spec: ServerSpec


def plan_servers(
    cluster: Cluster,
    existing: Existing,
    *,
    own_ports: bool = False,
    remove_surplus: bool = False,
    patience: float = 600.0,
) -> ServersPlan:
    """What has to be made, replaced, removed and started so that exactly the cluster's servers run.

    A server that is in ERROR, is being deleted, or is in BUILD for longer than ``patience`` seconds is replaced. Servers
    that the file no longer asks for stay, with a note, unless ``remove_surplus``: their nodes have to be drained before.

    :param own_ports: each server that is made gets a port of Q8S's, which chooses the subnet
    """
    servers, ports = existing.servers, existing.ports
    foreign, found = foreign_initial(cluster, servers)
    problems = list(found)
    ours = [s for s in servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"]
    changes: list[Change] = []
    kept = [str(foreign)] if foreign else []
    notes: list[str] = []
    wanted = [spec for spec in cluster.servers() if not (spec.initial and (foreign or problems))]
    names = {spec.name for spec in wanted}
    staying: set[str] = set()
    for server in ours:
        if server.name in names:
            continue
        if remove_surplus:
            changes.append(Change(SERVER, "delete", server.name, str(server), "", server))
        else:
            kept.append(str(server))
            staying.add(server.name)
            notes.append(f"the file no longer asks for the server {server.name}; it stays ({SURPLUS_HINT})")
    coming: list[Change] = []
    for spec in wanted:
        candidates = [s for s in ours if s.name == spec.name]
        usable = [s for s in candidates if not _is_broken(s, patience)]
        broken = [s for s in candidates if _is_broken(s, patience)]
        if not candidates and any(s.name == spec.name for s in servers):
            problems.append(f"a server called {spec.name} exists and is not of the cluster {cluster.cluster_name}")
            continue
        after = f"server {spec.name} ACTIVE"
        # What an interrupted run may have made twice, or left behind broken.
        for extra in usable[1:] + (broken if usable else broken[1:]):
            changes.append(Change(SERVER, "delete", spec.name, str(extra), "", extra))
        if usable:
            staying.add(spec.name)
            server = usable[0]
            flavor = existing.flavors.get(spec.flavor, spec.flavor)
            if server.flavor and server.flavor != flavor:
                again = f" (q8s-run replace FILE {spec.node} makes it anew)" if spec.vm_type else ""
                notes.append(f"the server {server.name} has the flavor {server.flavor}, not {flavor}; it stays{again}")
            if server.status == "SHUTOFF":
                changes.append(Change(SERVER, "start", spec.name, str(server), after, server))
            elif server.status in _WORKING:
                kept.append(str(server))
            else:
                problems.append(f"the server {spec.name} is {server.status}; bring it to ACTIVE first")
        elif broken:
            coming.append(Change(SERVER, "replace", spec.name, str(broken[0]), after, Replacement(broken[0], spec)))
        else:
            coming.append(Change(SERVER, "create", spec.name, "", after, spec))
    changes += _plan_ports(ports, staying, [change.name for change in coming] if own_ports else [], kept)
    changes += _plan_server_group(cluster, existing.group, bool(coming), kept, problems)
    changes += coming
    changes += _plan_floating_ip(cluster, existing, foreign, kept)
    return ServersPlan(tuple(changes), tuple(kept), tuple(notes), tuple(problems), tuple(wanted))


def _is_broken(server: Server, patience: float) -> bool:
    return server.status == "ERROR" or server.deleting or (server.status == "BUILD" and server.age > patience)


def _plan_ports(ports: Sequence[Port], staying: set[str], wanted: Sequence[str], kept: list[str]) -> list[Change]:
    """Ports of Q8S's: a server that comes gets the one that waits for it, or a new one; those of nobody go."""
    changes = []
    there = set()
    for port in ports:
        if port.name not in there and (port.name in staying or port.name in wanted):
            there.add(port.name)
            kept.append(str(port))
        else:
            changes.append(Change(PORT, "delete", port.name, str(port), "", port))
    changes += [Change(PORT, "create", name, "", f"port {name}") for name in wanted if name not in there]
    return changes


def _plan_server_group(
    cluster: Cluster, group: Optional[ServerGroup], coming: bool, kept: list[str], problems: list[str]
) -> list[Change]:
    """A server can join a group only when it is made: a group for those that are there already would stay empty."""
    name = keypair_name(cluster.cluster_name)
    if group is not None:
        kept.append(f"server group {name} {group.policy}")
        if cluster.server_group not in ("none", group.policy):
            problems.append(f"the server group {name} has the policy {group.policy}; remove it, or choose another name")
    elif cluster.server_group != "none" and coming:
        return [Change(SERVER_GROUP, "create", name, "", f"server group {name} {cluster.server_group}")]
    return []


def _plan_floating_ip(cluster: Cluster, existing: Existing, foreign: Optional[Server], kept: list[str]) -> list[Change]:
    """One for the initial control plane, through which the others are reached."""
    name = cluster.name_of_initial_instance
    line = f"floating IP of {name}"
    floating = list(existing.floating)
    if cluster.access.type != "floating_ip" or (foreign is not None and foreign.floating and not floating):
        return [Change(FLOATING_IP, "delete", name, line, "", item) for item in floating]
    there = {a for s in existing.servers if s.name == name and not s.deleting for a in s.addresses}
    if not floating:
        return [Change(FLOATING_IP, "create", name, "", line)]
    first = next((item for item in floating if item.fixed in there), floating[0])
    changes = [Change(FLOATING_IP, "delete", name, line, "", item) for item in floating if item is not first]
    if first.fixed in there:
        kept.append(line)
    else:
        changes.append(Change(FLOATING_IP, "attach", name, "floating IP of nobody", line, first))
    return changes


def plan_servers_absent(cluster: Cluster, existing: Existing, nodes: Optional[Sequence[str]] = None) -> Plan:
    """What has to go so that no server of the cluster is left, and nothing that belongs to one.

    :param nodes: Kubernetes nodes whose servers alone have to go, each with its port; the rest is not touched then
    """
    ours = [s for s in existing.servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"]
    if nodes is not None:
        names = {spec.node: spec.name for spec in cluster.servers()}
        unknown = [node for node in nodes if node not in names]
        if unknown:
            return Plan(problems=(f"the cluster has no node {', '.join(unknown)}",))
        going = {names[node] for node in nodes}
        servers = [Change(SERVER, "delete", s.name, str(s), "", s) for s in ours if s.name in going]
        ports = [Change(PORT, "delete", p.name, str(p), "", p) for p in existing.ports if p.name in going]
        return Plan((*servers, *ports))
    initial = cluster.name_of_initial_instance
    changes = [
        Change(FLOATING_IP, "delete", initial, f"floating IP of {initial}", "", item) for item in existing.floating
    ]
    changes += [Change(SERVER, "delete", s.name, str(s), "", s) for s in ours]
    changes += [Change(PORT, "delete", port.name, str(port), "", port) for port in existing.ports]
    if existing.group is not None and existing.group.policy == SPREAD:
        name = existing.group.name
        changes.append(Change(SERVER_GROUP, "delete", name, f"server group {name} {SPREAD}", "", existing.group))
    return Plan(tuple(changes))


# -- preflight --


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
