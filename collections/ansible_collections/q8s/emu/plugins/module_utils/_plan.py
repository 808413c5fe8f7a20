# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change in the cloud: pure functions from what is wanted and what exists.

Check mode, diff and the change itself all read the same plan, so that they cannot disagree: a module applies the very
changes that it announces.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._spec import (
    ARTIFACT_PORT,
    ETCD_PORTS,
    REQUIRED_SECURITY_GROUP,
    VXLAN_PORT,
    Cluster,
    ServerSpec,
)

GROUP = REQUIRED_SECURITY_GROUP
META_CLUSTER = "q8s_cluster"
META_ROLE = "q8s_role"
META_TYPE = "q8s_type"
META_HOST_CA = "q8s_host_ca"

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
_LOSS = "everything that was created in Kubernetes is lost: the new control plane has another CA and an empty etcd"
_WORKING = ("ACTIVE", "BUILD", "REBOOT", "HARD_REBOOT", "PASSWORD", "REBUILD")
# The subcommand of openstack server that brings a server back to ACTIVE, by its status.
_RECOVERY_COMMANDS = {
    "PAUSED": "unpause",
    "SUSPENDED": "resume",
    "SHELVED": "unshelve",
    "SHELVED_OFFLOADED": "unshelve",
    "RESCUE": "unrescue",
    "VERIFY_RESIZE": "resize confirm",
    "SOFT_DELETED": "restore",
    "ERROR": "reboot --hard",
}


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
    launched: bool = True  # it has run, so it may hold data

    def address(self, prefix: str) -> Optional[str]:
        """The first address in a network such as 10.254.1.0/24."""
        network = ipaddress.IPv4Network(prefix)
        return next((a for a in self.addresses if ipaddress.IPv4Address(a) in network), None)

    def __str__(self) -> str:
        return f"server {self.name} {'deleting' if self.deleting else self.status}"


@dataclass(frozen=True)
class Port:
    """A port that the cloud has.

    ``server_id`` is empty while no server uses it. ``ours``: it carries a cluster's mark. ``secured``: Neutron applies
    security groups to it, which ``port_security_enabled: false`` switches off.
    """

    id: str
    name: str
    server_id: str = ""
    groups: tuple[str, ...] = ()
    address: str = ""
    ours: bool = False
    secured: bool = True

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
    """An ingress rule for IPv4. An empty ``protocol`` is any; ``source`` is a network, or empty for the group's own members."""

    protocol: str
    port_min: Optional[int]
    port_max: Optional[int]
    source: str

    def __str__(self) -> str:
        ports = "" if self.port_min is None else f" {self.port_min}"
        if self.port_max != self.port_min:
            ports += f"-{self.port_max}"
        return f"{self.protocol or 'any protocol'}{ports} from {self.source or 'the group itself'}"


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
            others.append(f"{who} started a run on this cluster {minutes} min ago")
    kept = [tag for tag in tags if not tag.startswith(_CLAIM)]
    return (*kept, f"{_CLAIM}{now}:{owner}"), "; ".join(others)


_ETCD = "q8s-etcd:"


def etcd_server(tags: Sequence[str]) -> str:
    """Return the id of the server that holds the cluster's CA and etcd, as the group's tags record it; empty if none does."""
    return next((tag[len(_ETCD) :] for tag in tags if tag.startswith(_ETCD)), "")


def record_etcd_server(tags: Sequence[str], server_id: str) -> tuple[str, ...]:
    """Return the group's tags with another record of the server that holds the cluster's CA and etcd; empty for none."""
    kept = [tag for tag in tags if not tag.startswith(_ETCD)]
    return (*kept, *([_ETCD + server_id] if server_id else []))


def mark(cluster_name: str) -> str:
    """What everything of a cluster carries that has no metadata: as description, or as the comment of its key."""
    return f"Q8S cluster {cluster_name}"


@dataclass(frozen=True)
class FoundCluster:
    """A cluster that a project has: how many servers in which status, and whether its security group is there."""

    name: str
    servers: Mapping[str, int]
    security_group: bool


def found_clusters(servers: Iterable[Server], descriptions: Iterable[str]) -> list[FoundCluster]:
    """Return the clusters of a project, by name.

    :param descriptions: of its security groups
    """
    prefix = mark("")
    groups = {text[len(prefix) :] for text in descriptions if text.startswith(prefix)}
    by_cluster: dict[str, dict[str, int]] = {name: {} for name in groups if name}
    for server in servers:
        name = server.metadata.get(META_CLUSTER)
        if name:
            counted = by_cluster.setdefault(name, {})
            counted[server.status] = counted.get(server.status, 0) + 1
    return [FoundCluster(name, counted, name in groups) for name, counted in sorted(by_cluster.items())]


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


def running_initial(cluster: Cluster, servers: Iterable[Server]) -> str:
    """Return the id of the initial control plane if it is ACTIVE, else nothing."""
    foreign = foreign_initial(cluster, servers)[0]
    name = cluster.name_of_initial_instance
    mine = [s for s in servers if s.name == name and is_ours(s, cluster.cluster_name)]
    return next((s.id for s in ([foreign] if foreign else mine) if s.status == "ACTIVE" and not s.deleting), "")


# -- key pair --

KEYPAIR_HINT = (
    "deploy from the machine, or with the ssh_private_key, that created this cluster; "
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
            note = f"the key pair {name} does not belong to this cluster (it has no comment {mark(cluster_name)!r}); it is kept"
            return Plan(kept=(line,), notes=(note,))
        return Plan((Change(KEYPAIR, "delete", name, line),))
    after = f"key pair {name} {' '.join(key_of(wanted))}"
    if existing is None:
        return Plan((Change(KEYPAIR, "create", name, "", after, marked_key(cluster_name, wanted)),))
    if key_of(existing) != key_of(wanted):
        who = "this cluster was deployed with another key" if ours else "it belongs to someone else"
        problem = f"the cloud has another key under the name {name}, and Q8S does not replace it ({who})"
        return Plan(kept=(line,), problems=(problem,))
    return Plan(kept=(line,))


# -- security group --

# What no machine besides the cluster's servers has a reason to reach.
_MEMBERS_ONLY = frozenset({*(("tcp", port) for port in ETCD_PORTS), ("udp", VXLAN_PORT)})


def wanted_rules(cluster: Cluster) -> frozenset[Rule]:
    """Return the rules of the cluster's security group: the file's ports, node ports, ping, and what members may reach.

    etcd and VXLAN are for members only, whatever the file lists. Neutron compares the address of the sender with the
    members' ports: what guests send has their hosts' addresses, so guests count as their hosts.
    """
    source = cluster.remote_ip_prefix
    listed = {("tcp", port) for port in cluster.required_tcp_ports}
    listed |= {("udp", port) for port in cluster.required_udp_ports}
    rules = {Rule(protocol, port, port, source) for protocol, port in listed - _MEMBERS_ONLY}
    if cluster.inside == "all":
        rules.add(Rule("", None, None, ""))
    else:
        inside = {("tcp", ARTIFACT_PORT), *(listed & _MEMBERS_ONLY)}
        rules |= {Rule(protocol, port, port, "") for protocol, port in inside}
    low, high = cluster.worker_port_range_min, cluster.worker_port_range_max
    rules |= {
        Rule(protocol, first, last, source)
        for protocol in ("tcp", "udp")
        for first, last in _split(low, high, {port for kind, port in _MEMBERS_ONLY if kind == protocol})
    }
    rules.add(Rule("icmp", None, None, source))
    if cluster.access.type == "floating_ip":
        # Only the initial control plane has a floating IP: what comes in there is ssh, on to all others, and the API.
        rules |= {Rule("tcp", port, port, prefix) for prefix in cluster.access.allowed_prefixes for port in (22, 6443)}
    return frozenset(rules)


def _split(low: int, high: int, without: Collection[int]) -> list[tuple[int, int]]:
    """Return a range of ports as ranges that lack some ports."""
    parts = []
    for port in sorted(port for port in without if low <= port <= high):
        parts += [(low, port - 1)] if low < port else []
        low = port + 1
    return parts + ([(low, high)] if low <= high else [])


def plan_group(cluster: Cluster, group: Optional[Group], servers: Sequence[Server], ports: Sequence[Port]) -> Plan:
    """What has to change so that the group has the cluster's rules, and the cluster's servers are in it.

    Rules and members that are missing come before rules that go, so that no traffic is refused in between. A rule that
    others made stays.
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
    staying = [item for item in rules if not item.ours or item.rule in wanted]
    kept = [f"rule {item.rule}" for item in staying] + ([f"security group {GROUP}"] if group else [])
    notes = [
        f"the rule {item.rule} in {GROUP} was not created by Q8S; it is kept"
        for item in staying
        if item.rule not in wanted
    ]
    unsecured: list[str] = []
    for server in servers:
        if server is not foreign and not is_ours(server, cluster.cluster_name):
            continue
        theirs = [port for port in ports if port.server_id == server.id and _is_relevant(port, cluster)]
        outside = [port for port in theirs if group is None or group.id not in port.groups]
        unsecured += [
            f"the port {port.id} of the server {server.name} has port security off, and takes no security group; "
            f"the network's owner can enable it (openstack port set --enable-port-security {port.id})"
            for port in outside
            if not port.secured
        ]
        if outside:
            changes.append(Change(MEMBER, "create", server.name, "", f"member {server.name}", tuple(outside)))
        elif theirs:
            kept.append(f"member {server.name}")
        elif server is foreign:
            notes.append(
                f"the initial instance {server.name} is no member of {GROUP}: this project sees no port of it, so its owner has to "
                f"put it into the group"
            )
    changes += [_rule_change("delete", item.rule, item) for item in rules if item.ours and item.rule not in wanted]
    return Plan(tuple(changes), tuple(kept), tuple(notes), tuple(unsecured))


def _is_relevant(port: Port, cluster: Cluster) -> bool:
    """Return whether a port's security groups are Q8S's business: a second NIC elsewhere may have port security off."""
    network = ipaddress.IPv4Network(cluster.remote_ip_prefix)
    return port.secured or not port.address or ipaddress.IPv4Address(port.address) in network


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
    """What the cloud has of servers and what belongs to them. All but the servers carry the cluster's mark.

    ``etcd_server`` is the id of the server that the cluster's CA and etcd were created on, empty if there was none yet.
    """

    servers: Sequence[Server] = ()
    ports: Sequence[Port] = ()
    group: Optional[ServerGroup] = None
    floating: Sequence[FloatingIp] = ()
    flavors: Mapping[str, str] = field(default_factory=dict)  # names by id, where a file may have given ids
    etcd_server: str = ""


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
    replace_control_plane: bool = False,
    replace_nodes: Collection[str] = (),
    survivors: Sequence[str] = (),
    patience: float = 600.0,
) -> ServersPlan:
    """What has to be made, replaced, removed and started so that exactly the cluster's servers run.

    A server that is in ERROR, is being deleted, or is in BUILD for longer than ``patience`` seconds is replaced. Servers
    that the file no longer asks for stay, with a note, unless ``remove_surplus``: their nodes have to be drained before.
    The server that holds the cluster's CA and etcd is never replaced, unless ``replace_control_plane``: then all servers
    are, because none of them can join another CA. If it was deleted, and others have the same, a new one joins them.

    :param own_ports: each server that is made gets a port of Q8S's, which chooses the subnet
    :param replace_nodes: Kubernetes nodes whose servers are replaced, whatever their state
    :param survivors: names of control planes that were seen to have the cluster's CA and a working etcd
    """
    servers, ports = existing.servers, existing.ports
    foreign, found = foreign_initial(cluster, servers)
    problems = list(found)
    ours = [s for s in servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"]
    changes: list[Change] = []
    kept: list[str] = []
    _plan_foreign(cluster, foreign, changes, kept, problems)
    holder = surviving_holder(cluster, existing, survivors)
    joins = holder is not None and holder.id != existing.etcd_server
    loss = "" if joins else _control_plane_loss(cluster, existing, foreign, patience)
    problems += [loss] if loss and not replace_control_plane else []
    notes = [_LOSS] if loss and replace_control_plane else _joins(cluster, holder) if holder and joins else []
    wanted = [spec for spec in cluster.servers() if not (spec.initial and (foreign or problems))]
    names = {spec.name for spec in wanted}
    surplus = [server for server in ours if server.name not in names]
    if remove_surplus:
        changes += [Change(SERVER, "delete", server.name, str(server), "", server) for server in surplus]
    else:
        kept += [str(server) for server in surplus]
        notes += [f"the file no longer asks for the server {s.name}; it stays ({SURPLUS_HINT})" for s in surplus]
    staying = set() if remove_surplus else {server.name for server in surplus}
    coming: list[Change] = []
    for spec in wanted:
        # Of two, the one with the cluster's data counts.
        candidates = sorted((s for s in ours if s.name == spec.name), key=lambda s: s.id != existing.etcd_server)
        anew = bool(loss) or spec.node in replace_nodes
        usable = [s for s in candidates if not anew and not _is_broken(s, patience)]
        broken = [s for s in candidates if s not in usable]
        if not candidates and any(s.name == spec.name for s in servers):
            problems.append(
                f"a server called {spec.name} exists and does not belong to the cluster {cluster.cluster_name}"
            )
            continue
        # What an interrupted run may have made twice, or left behind broken.
        for extra in usable[1:] + (broken if usable else broken[1:]):
            changes.append(Change(SERVER, "delete", spec.name, str(extra), "", extra))
        if usable:
            staying.add(spec.name)
            server = usable[0]
            flavor = existing.flavors.get(spec.flavor, spec.flavor)
            if server.flavor and server.flavor != flavor:
                again = f" (`q8s-run replace FILE {spec.node}` creates it again)" if spec.vm_type else ""
                notes.append(f"the server {server.name} has the flavor {server.flavor}, not {flavor}; it stays{again}")
            if server.status == "SHUTOFF":
                changes.append(_start(server))
            elif server.status in _WORKING:
                kept.append(str(server))
            else:
                problems.append(f"the server {spec.name} is {server.status}; {_recovery(server)}")
        else:
            coming.append(_create(spec, broken))
    changes += _plan_ports(ports, staying, [change.name for change in coming] if own_ports else [], kept)
    changes += _plan_server_group(cluster, existing.group, bool(coming), kept, problems)
    changes += coming
    changes += _plan_floating_ip(cluster, existing, foreign, kept)
    return ServersPlan(tuple(changes), tuple(kept), tuple(notes), tuple(problems), tuple(wanted))


def surviving_holder(cluster: Cluster, existing: Existing, survivors: Sequence[str] = ()) -> Optional[Server]:
    """Return the additional control plane that stands in for a deleted initial one, or None.

    It is the one that is recorded, as long as it exists. Otherwise it is the first survivor, if the recorded server was
    deleted and there is no other initial instance.

    :param survivors: names of control planes that were seen to have the cluster's CA and a working etcd
    """
    initial = cluster.name_of_initial_instance
    there = [s for s in existing.servers if s.status != "DELETED" and not s.deleting]
    others = {
        s.name: s for s in there if is_ours(s, cluster.cluster_name) and is_control_plane(s) and s.name != initial
    }
    recorded = next((s for s in others.values() if s.id == existing.etcd_server), None)
    if recorded or not existing.etcd_server or any(s.name == initial or s.id == existing.etcd_server for s in there):
        return recorded
    return next((others[name] for name in survivors if name in others), None)


def _joins(cluster: Cluster, holder: Server) -> list[str]:
    name = cluster.name_of_initial_instance
    return [f"the control plane {name} was deleted: a new one joins {holder.name}, which has the cluster's CA and etcd"]


def is_control_plane(server: Server) -> bool:
    """Return whether a server was created as a control plane."""
    return server.metadata.get(META_ROLE) == "control_plane"


def _control_plane_loss(cluster: Cluster, existing: Existing, foreign: Optional[Server], patience: float) -> str:
    """Return what would be lost if the server with the cluster's CA and etcd were created now; empty if nothing would.

    Nothing is lost before it was created, nor where no other server of the cluster is left. A server that never ran has no data.
    """
    recorded = existing.etcd_server
    ours = [s for s in existing.servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"]
    name = next((s.name for s in ours if s.id == recorded), cluster.name_of_initial_instance)
    others = [s for s in ours if s.name != name and s.launched and not s.deleting]
    same = [foreign] if foreign and foreign.name == name else [s for s in ours if s.name == name]
    holder = next((s for s in same if s.id == recorded), None)
    if not recorded and not foreign and not any(not _is_broken(s, patience) for s in same):
        holder = next((s for s in same if s.launched), None)
    way = ""
    if holder is not None:
        if foreign or not _is_broken(holder, patience) or (holder.deleting and not others):
            return ""
        state = "is being deleted" if holder.deleting else f"is {holder.status}"
        state += f" ({holder.fault})" if holder.fault else ""
        way = (
            "" if holder.deleting else f"Its disk may be intact: try openstack server reboot --hard {holder.id} first. "
        )
    elif not recorded or not others or (same and not foreign):
        return ""
    else:
        state = f"was deleted (its id was {recorded}"
        state += f"; the server of that name is another one, {foreign.id})" if foreign else ")"
    copies = [s.name for s in others if is_control_plane(s)]
    if copies:
        way += f"A copy of etcd is on {', '.join(copies)}: save from there what you need first. "
        gone = f"delete the server (openstack server delete {holder.id}), and" if holder else "repair it:"
        way += (
            f"If the API server answers there, {gone} deploy joins a new {name} to the others. " if not foreign else ""
        )
    return (
        f"the server {name}, which has the cluster's CA and etcd, {state}. Everything that was created in Kubernetes is lost with "
        f"it, and no other server of the cluster can join a new control plane. {way}To give the data up: `q8s-run deploy FILE "
        f"--replace-control-plane` (ansible-playbook: -e q8s_replace_control_plane=true) deletes all servers of the cluster "
        f"({_listed([s.name for s in ours])}), and creates them again, with a new CA and an empty Kubernetes"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _create(spec: ServerSpec, old: Sequence[Server]) -> Change:
    after = f"server {spec.name} ACTIVE"
    if old:
        return Change(SERVER, "replace", spec.name, str(old[0]), after, Replacement(old[0], spec))
    return Change(SERVER, "create", spec.name, "", after, spec)


def _start(server: Server) -> Change:
    return Change(SERVER, "start", server.name, str(server), f"server {server.name} ACTIVE", server)


def _recovery(server: Server) -> str:
    command = _RECOVERY_COMMANDS.get(server.status)
    return "bring it to ACTIVE first" + (f" (openstack server {command} {server.id})" if command else "")


def _plan_foreign(
    cluster: Cluster, server: Optional[Server], changes: list[Change], kept: list[str], problems: list[str]
) -> None:
    """Plan an initial instance that Q8S did not create: it is started where it is off, and neither repaired nor replaced."""
    if server is None:
        return
    if server.status == "SHUTOFF":
        changes.append(_start(server))
    else:
        kept.append(str(server))
    what = f"the initial instance {server.name}, which Q8S did not create,"
    if server.deleting:
        problems.append(f"{what} is being deleted; wait until it is gone, or choose another name_of_initial_instance")
    elif server.status != "SHUTOFF" and server.status not in _WORKING:
        fault = f" ({server.fault})" if server.fault else ""
        problems.append(f"{what} is {server.status}{fault}; {_recovery(server)}")
    if server.status in ("ACTIVE", "SHUTOFF") and server.address(cluster.remote_ip_prefix) is None:
        have = ", ".join(server.addresses) or "no IPv4 address"
        problems.append(
            f"{what} has no address in remote_ip_prefix {cluster.remote_ip_prefix} (it has {have}); "
            "attach it to the network of private_network_id"
        )


@dataclass(frozen=True)
class Request:
    """Servers that are asked for in one call: one, or some that are numbered from 1 on."""

    specs: tuple[ServerSpec, ...]

    @property
    def name(self) -> str:
        """What the call has as name. Nova puts the number behind it, if the servers are several."""
        first = self.specs[0].name
        return first if len(self.specs) == 1 else first.rpartition("-")[0]

    def __str__(self) -> str:
        first, last = self.specs[0].name, self.specs[-1].name
        return f"server {first}" if len(self.specs) == 1 else f"{len(self.specs)} servers, {first} to {last}"

    def without(self, names: Collection[str]) -> list[Request]:
        """What is left to ask for when the servers of these names are there: all of it, or each other one alone."""
        left = [spec for spec in self.specs if spec.name not in names]
        return [self] if len(left) == len(self.specs) else [Request((spec,)) for spec in left]


def requests(specs: Iterable[ServerSpec]) -> list[Request]:
    """The fewest calls for these servers: one for all of a type that are numbered from 1 on, and one for each other.

    Servers of one call get the same user-data. A control plane shares none with another.
    """
    alone: list[Request] = []
    series: dict[str, list[ServerSpec]] = {}
    for spec in specs:
        kind = spec.vm_type.name if spec.vm_type else ""
        number = len(series.get(kind, ())) + 1
        if kind and spec.name.endswith(f"-{number}"):
            series.setdefault(kind, []).append(spec)
        else:
            alone.append(Request((spec,)))
    return alone + [Request(tuple(same)) for same in series.values()]


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
        changes.append(Change(FLOATING_IP, "attach", name, "unassigned floating IP", line, first))
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
