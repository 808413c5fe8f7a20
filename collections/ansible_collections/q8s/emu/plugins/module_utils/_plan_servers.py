# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change of a cluster's servers, and of what belongs to them: pure functions from what is wanted and what exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import (
    FloatingIp,
    Port,
    Server,
    ServerGroup,
    foreign_initial,
    initial_server,
    is_control_plane,
    is_ours,
    keypair_name,
    order_of_choice,
)
from ansible_collections.q8s.emu.plugins.module_utils._plan import FLOATING_IP, PORT, SERVER, SERVER_GROUP, Change, Plan
from ansible_collections.q8s.emu.plugins.module_utils._plan_notes import Resources, floating_ip_notes, server_notes
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec
from ansible_collections.q8s.emu.plugins.module_utils._text import join_names

SPREAD = "soft-anti-affinity"
SURPLUS_HINT = "q8s-run deploy --yes, or ansible-playbook -e q8s_remove_surplus=true, drains and removes it"
_LOSS = "everything that was created in Kubernetes is lost: the new control plane has another CA and an empty etcd"
# ACTIVE, or on the way to it without anybody's help.
_WORKING = ("ACTIVE", "BUILD", "REBOOT", "HARD_REBOOT", "PASSWORD", "REBUILD", "MIGRATING", "RESIZE")
# The subcommand of openstack server that brings a server back to ACTIVE, by its status.
RECOVERY_COMMANDS = {
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
class Existing:
    """What the cloud has of servers and what belongs to them. All but the servers carry the cluster's mark.

    ``etcd_server`` is the id of the server that the cluster's CA and etcd were created on, empty if there was none yet.
    ``resources`` is what the notes compare with the file, with ports that have no mark.
    """

    servers: Sequence[Server] = ()
    ports: Sequence[Port] = ()
    group: Optional[ServerGroup] = None
    floating: Sequence[FloatingIp] = ()
    flavors: Mapping[str, str] = field(default_factory=dict)  # names by id, where a file may have given ids
    etcd_server: str = ""
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class ServersPlan(Plan):
    """A plan that also names the servers that must be there in the end, beside an initial instance of others.

    ``unusable`` has the reason for each of them that neither works nor can be brought to work by Q8S, by name.
    """

    wanted: tuple[ServerSpec, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replacement:
    """What is wanted, and the server that goes for it."""

    old: Server
    spec: ServerSpec


@dataclass(frozen=True)
class Options:
    """What a run asks of the plan of the servers, beside the cluster file.

    :param own_ports: each server that is created gets a port of Q8S's, which chooses the subnet
    :param remove_surplus: servers that the file no longer asks for are deleted: their nodes have been drained
    :param keep_surplus: names of those that stay nevertheless
    :param replace_control_plane: the data of a lost control plane is given up: all servers are replaced
    :param replace_nodes: Kubernetes nodes whose servers are replaced, whatever their state
    :param survivors: names of control planes that were seen to have the cluster's CA and a working etcd
    :param patience: seconds after which a server in BUILD is replaced
    :param limit: names of the servers that the run is for: of the others, none is replaced. None for all
    """

    own_ports: bool = False
    remove_surplus: bool = False
    keep_surplus: Collection[str] = ()
    replace_control_plane: bool = False
    replace_nodes: Collection[str] = ()
    survivors: Sequence[str] = ()
    patience: float = 600.0
    limit: Optional[Collection[str]] = None


_DEFAULTS = Options()


def plan_servers(cluster: Cluster, existing: Existing, options: Options = _DEFAULTS) -> ServersPlan:
    """Return what has to be created, replaced, removed and started so that exactly the cluster's servers run.

    A server that is in ERROR, is being deleted, or is in BUILD for longer than ``patience`` seconds is replaced. Servers
    that the file no longer asks for stay, with a note, unless ``remove_surplus``: their nodes have to be drained before.
    A server that somebody has paused, or the like, is left out with a note, unless the cluster cannot do without it.
    No control plane is replaced that etcd needs for its majority.
    The server that holds the cluster's CA and etcd is never replaced, unless ``replace_control_plane``: then all servers
    are, because none of them can join another CA. If it was deleted, and others have the same, a new one joins them.
    """
    servers, ports = existing.servers, existing.ports
    if unseen := _unseen_servers(existing):
        return ServersPlan(problems=(unseen_problem(unseen),))
    foreign, found = foreign_initial(cluster, servers)
    draft = _Draft(problems=list(found))
    ours = [s for s in servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"]
    _plan_foreign(cluster, foreign, draft.changes, draft.kept, draft.problems)
    holder = surviving_holder(cluster, existing, options.survivors)
    joins = holder is not None and holder.id != existing.etcd_server
    loss = "" if joins else _control_plane_loss(cluster, existing, foreign, options.patience)
    draft.problems.extend([loss] if loss and not options.replace_control_plane else [])
    draft.notes.extend([_LOSS] if loss and options.replace_control_plane else [])
    draft.notes.extend(_joins(cluster, holder) if holder and joins else [])
    wanted = [spec for spec in cluster.servers() if not (spec.initial and (foreign or draft.problems))]
    names = {spec.name for spec in wanted}
    _plan_surplus(draft, [server for server in ours if server.name not in names], options)
    for spec in wanted:
        candidates = _servers_of_name(existing, ours, spec.name)
        if not candidates and any(s.name == spec.name for s in servers):
            draft.problems.append(
                f"a server called {spec.name} exists and does not belong to the cluster {cluster.cluster_name}"
            )
            continue
        _plan_wanted(draft, existing, spec, candidates, options, anew=bool(loss) or spec.node in options.replace_nodes)
    draft.problems.extend([] if loss else _majority_problems(cluster, existing, foreign, draft.created))
    new_ports = [change.name for change in draft.created] if options.own_ports else []
    draft.changes.extend(_plan_ports(ports, draft.staying, new_ports, draft.kept))
    draft.changes.extend(_plan_server_group(cluster, existing.group, bool(draft.created), draft.kept, draft.problems))
    draft.changes.extend(draft.created)
    draft.changes.extend(_plan_floating_ip(cluster, existing, foreign, draft.kept))
    draft.notes.extend(_difference_notes(cluster, existing, draft))
    return ServersPlan(
        tuple(draft.changes),
        tuple(draft.kept),
        (*draft.notes, *draft.unusable.values()),
        (*draft.problems, *_locked_problems(draft.changes)),
        tuple(spec for spec in wanted if spec.name not in draft.left_out),
        draft.unusable,
    )


@dataclass(frozen=True)
class _Draft:
    """What is known of a plan while it is made.

    ``created`` are the changes that create or replace a server, ``staying`` the names of servers that exist and stay,
    ``compared`` those of them that the file asks for and that are not broken, and ``left_out`` the names of broken ones
    that the run is not for.
    """

    changes: list[Change] = field(default_factory=list)
    created: list[Change] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    staying: set[str] = field(default_factory=set)
    compared: list[tuple[ServerSpec, Server]] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)


def _plan_surplus(draft: _Draft, surplus: Sequence[Server], options: Options) -> None:
    """Plan servers that the file no longer asks for."""
    for server in surplus:
        if options.remove_surplus and server.name not in options.keep_surplus:
            draft.changes.append(Change(SERVER, "delete", server.name, str(server), "", server))
        else:
            draft.kept.append(str(server))
            draft.staying.add(server.name)
    draft.notes.extend(
        f"the file no longer asks for the server {name}; it stays ({SURPLUS_HINT})" for name in sorted(draft.staying)
    )


def _plan_wanted(
    draft: _Draft, existing: Existing, spec: ServerSpec, candidates: Sequence[Server], options: Options, *, anew: bool
) -> None:
    """Plan one server that the file asks for.

    :param candidates: the servers of its name, with the one to use first
    :param anew: whether it is replaced, whatever its state
    """
    usable = [s for s in candidates if not anew and not _is_broken(s, options.patience)]
    broken = [s for s in candidates if s not in usable]
    if broken and not usable and not anew and options.limit is not None and spec.name not in options.limit:
        draft.staying.add(spec.name)
        draft.left_out.add(spec.name)
        draft.kept.append(str(broken[0]))
        draft.notes.append(f"the server {spec.name} is {broken[0].status}, and stays so: this run is not for it")
        return
    # What an interrupted run may have made twice, or left behind broken.
    for extra in usable[1:] + (broken if usable else broken[1:]):
        draft.changes.append(Change(SERVER, "delete", spec.name, str(extra), "", extra))
    if not usable:
        draft.created.append(_create(spec, broken))
        return
    server = usable[0]
    draft.staying.add(spec.name)
    draft.compared.append((spec, server))
    if server.status == "SHUTOFF":
        draft.changes.append(_start(server))
    elif server.status in _WORKING:
        draft.kept.append(str(server))
    elif spec.initial or server.id == existing.etcd_server:
        draft.problems.append(_unusable(server))
    else:
        draft.kept.append(str(server))
        draft.unusable[spec.name] = _unusable(server)


def _unseen_servers(existing: Existing) -> int:
    """Return how many servers Nova lists without saying what they are: the cell that has them is down."""
    recorded = existing.etcd_server
    return sum(not s.name or (s.status == "UNKNOWN" and s.id == recorded) for s in existing.servers)


def unseen_problem(number: int) -> str:
    """Return the message for servers whose cell is down. To a plan, they would look like deleted ones."""
    what = f"{number} servers of this project" if number > 1 else "one server of this project"
    return f"the cloud cannot show {what} at the moment (status UNKNOWN: a Nova cell is down); try again later"


def _locked_problems(changes: Sequence[Change]) -> list[str]:
    """Return the servers that have to be deleted and are locked: Nova refuses to delete them."""
    going = [
        c.subject.old if c.action == "replace" else c.subject for c in changes if c.action in ("delete", "replace")
    ]
    return [
        f"the server {server.name} has to be deleted, and is locked; unlock it first (openstack server unlock {server.id})"
        for server in going
        if isinstance(server, Server) and server.locked
    ]


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


def creates_initial(cluster: Cluster, existing: Existing, plan: Plan, survivors: Sequence[str] = ()) -> bool:
    """Return whether the plan creates the server of an initial control plane that has no other to join: it gets a new CA."""
    created = {change.name for change in plan.of(SERVER, "create", "replace")}
    return cluster.name_of_initial_instance in created and surviving_holder(cluster, existing, survivors) is None


def _servers_of_name(existing: Existing, ours: Sequence[Server], name: str) -> list[Server]:
    """Return the cluster's servers of one name, with the one to use first."""
    named = [server for server in ours if server.name == name]
    return sorted(named, key=lambda server: order_of_choice(server, existing.etcd_server))


def _joins(cluster: Cluster, holder: Server) -> list[str]:
    name = cluster.name_of_initial_instance
    return [f"the control plane {name} was deleted: a new one joins {holder.name}, which has the cluster's CA and etcd"]


_RESTORE = (
    "If etcd has no leader there, because a majority of its members is lost for good: q8s-run deploy FILE -- -e q8s_restore_etcd=true "
    "(ansible-playbook: -e q8s_restore_etcd=true) goes on with the data that is there. "
)


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
    remedy = ""
    if holder is not None:
        if foreign or not _is_broken(holder, patience) or (holder.deleting and not others):
            return ""
        state = "is being deleted" if holder.deleting else f"is {holder.status}"
        state += f" ({holder.fault})" if holder.fault else ""
        remedy = (
            "" if holder.deleting else f"Its disk may be intact: try openstack server reboot --hard {holder.id} first. "
        )
    elif not recorded or not others or (same and not foreign):
        return ""
    else:
        state = f"was deleted (its id was {recorded}"
        state += f"; the server of that name is another one, {foreign.id})" if foreign else ")"
    copies = [s.name for s in others if is_control_plane(s)]
    if copies:
        remedy += f"A copy of etcd is on {', '.join(copies)}: save from there what you need first. "
        gone = f"delete the server (openstack server delete {holder.id}), and" if holder else "repair it:"
        remedy += (
            f"If the API server answers there, {gone} deploy joins a new {name} to the others. " if not foreign else ""
        )
        remedy += "" if holder or foreign else _RESTORE + _gateway_hint(cluster, existing, copies)
    return (
        f"the server {name}, which has the cluster's CA and etcd, {state}. Everything that was created in Kubernetes is lost with "
        f"it, and no other server of the cluster can join a new control plane. {remedy}To give the data up: `q8s-run deploy FILE "
        f"--replace-control-plane` (ansible-playbook: -e q8s_replace_control_plane=true) deletes all servers of the cluster "
        f"({join_names([s.name for s in ours], 5)}), and creates them again, with a new CA and an empty Kubernetes"
    )


def _majority_problems(
    cluster: Cluster, existing: Existing, foreign: Optional[Server], created: Sequence[Change]
) -> list[str]:
    """Return the control planes that must not be replaced, because etcd would be left without a majority of its members.

    Nova also says ERROR of servers that still run. One that never ran is no member; one that was deleted still is.
    """
    names = [spec.name for spec in cluster.servers() if spec.vm_type is None and not (spec.initial and foreign)]
    replaced = {c.name: c.subject.old for c in created if c.action == "replace" and c.name in names}
    going = [server for server in replaced.values() if server.launched and not server.deleting]
    if not going:
        return []
    by_name = {s.name: s for s in existing.servers if is_ours(s, cluster.cluster_name) and s.status != "DELETED"}
    working = [name for name in names if name in by_name and name not in replaced]
    members = len(names) - sum(not server.launched for server in replaced.values()) + bool(foreign)
    if len(working) + bool(foreign) > members // 2:
        return []
    states = join_names([f"{server.name} is {server.status}" for server in going], 5)
    commands = "; ".join(f"openstack server reboot --hard {server.id}" for server in going)
    return [
        f"{states}: to replace it would leave etcd without a majority, and Kubernetes without an API. Bring it back ({commands}). "
        "A server that never joined the cluster may be deleted (openstack server delete): the next deploy creates it again"
    ]


def _gateway_hint(cluster: Cluster, existing: Existing, copies: Sequence[str]) -> str:
    """Return what to do where the lost server's floating IP was the way to those that have copies; empty if it was not."""
    there = {a for s in existing.servers if s.name in copies for a in s.addresses}
    if cluster.access.type != "floating_ip" or any(item.fixed in there for item in existing.floating):
        return ""
    address = next((item.address for item in existing.floating), "ADDRESS")
    return (
        f"Nobody can ask there now, because all servers were reached through the lost one. Move the floating IP first "
        f"(openstack server add floating ip {copies[0]} {address}), and deploy again: it reaches the others through "
        f"{copies[0]}, and moves the address back. "
    )


def _create(spec: ServerSpec, old: Sequence[Server]) -> Change:
    after = f"server {spec.name} ACTIVE"
    if old:
        return Change(SERVER, "replace", spec.name, str(old[0]), after, Replacement(old[0], spec))
    return Change(SERVER, "create", spec.name, "", after, spec)


def _difference_notes(cluster: Cluster, existing: Existing, draft: _Draft) -> list[str]:
    """Return notes on edits of the file that existing servers, and the floating IP, are not changed for."""
    released = [change.subject for change in draft.changes if change.kind == FLOATING_IP and change.action == "delete"]
    return [
        *server_notes(cluster, draft.compared, existing.resources, existing.flavors, existing.group),
        *floating_ip_notes(cluster, [ip for ip in existing.floating if ip not in released], existing.resources),
    ]


def _unusable(server: Server) -> str:
    return f"the server {server.name} is {server.status}; {_recovery(server)}"


def _start(server: Server) -> Change:
    return Change(SERVER, "start", server.name, str(server), f"server {server.name} ACTIVE", server)


def _recovery(server: Server) -> str:
    command = RECOVERY_COMMANDS.get(server.status)
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


def _is_broken(server: Server, patience: float) -> bool:
    return server.status == "ERROR" or server.deleting or (server.status == "BUILD" and server.age > patience)


def _plan_ports(ports: Sequence[Port], staying: set[str], wanted: Sequence[str], kept: list[str]) -> list[Change]:
    """Plan Q8S's ports: a server that is created gets the one that waits for it, or a new one; unused ones are deleted."""
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
    cluster: Cluster, group: Optional[ServerGroup], creates: bool, kept: list[str], problems: list[str]
) -> list[Change]:
    """Plan the server group. A server joins one only when it is created: without new servers it would stay empty."""
    name = keypair_name(cluster.cluster_name)
    if group is not None:
        kept.append(f"server group {name} {group.policy}")
        if cluster.server_group not in ("none", group.policy):
            problems.append(f"the server group {name} has the policy {group.policy}; remove it, or choose another name")
    elif cluster.server_group != "none" and creates:
        return [Change(SERVER_GROUP, "create", name, "", f"server group {name} {cluster.server_group}")]
    return []


def _plan_floating_ip(cluster: Cluster, existing: Existing, foreign: Optional[Server], kept: list[str]) -> list[Change]:
    """Plan the floating IP of the initial control plane, through which the others are reached."""
    name = cluster.name_of_initial_instance
    line = f"floating IP of {name}"
    floating = list(existing.floating)
    if cluster.access.type != "floating_ip" or (foreign is not None and foreign.floating and not floating):
        return [Change(FLOATING_IP, "delete", name, line, "", item) for item in floating]
    server = initial_server(cluster, existing.servers, existing.etcd_server)
    there = set(server.addresses) if server and not server.deleting else set()
    if not floating:
        return [Change(FLOATING_IP, "create", name, "", line)]
    first = next((item for item in floating if item.fixed in there), floating[0])
    changes = [Change(FLOATING_IP, "delete", name, line, "", item) for item in floating if item is not first]
    if first.fixed in there:
        kept.append(line)
    else:
        changes.append(Change(FLOATING_IP, "attach", name, "unassigned floating IP", line, first))
    return changes


def plan_foreign_started(cluster: Cluster, existing: Existing) -> Plan:
    """Return what has to change so that an initial instance that Q8S did not create runs."""
    foreign = foreign_initial(cluster, existing.servers)[0]
    return Plan((_start(foreign),)) if foreign and foreign.status == "SHUTOFF" else Plan()


def plan_servers_absent(cluster: Cluster, existing: Existing, nodes: Optional[Sequence[str]] = None) -> Plan:
    """Return what has to be deleted so that no server of the cluster is left, and nothing that belongs to one.

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
        return Plan((*servers, *ports), problems=tuple(_locked_problems(servers)))
    if unseen := _unseen_servers(existing):
        return Plan(problems=(unseen_problem(unseen),))
    initial = cluster.name_of_initial_instance
    changes = [
        Change(FLOATING_IP, "delete", initial, f"floating IP of {initial}", "", item) for item in existing.floating
    ]
    changes += [Change(SERVER, "delete", s.name, str(s), "", s) for s in ours]
    changes += [Change(PORT, "delete", port.name, str(port), "", port) for port in existing.ports]
    if existing.group is not None and existing.group.policy == SPREAD:
        name = existing.group.name
        changes.append(Change(SERVER_GROUP, "delete", name, f"server group {name} {SPREAD}", "", existing.group))
    return Plan(tuple(changes), problems=tuple(_locked_problems(changes)))
