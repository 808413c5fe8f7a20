# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change of a cluster's key pair and security group: pure functions from what is wanted and what exists."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import (
    GROUP,
    Group,
    Port,
    Rule,
    Server,
    foreign_initial,
    is_ours,
    keypair_name,
    mark,
)
from ansible_collections.q8s.emu.plugins.module_utils._plan import KEYPAIR, MEMBER, RULE, SECURITY_GROUP, Change, Plan
from ansible_collections.q8s.emu.plugins.module_utils._spec import ARTIFACT_PORT, ETCD_PORTS, VXLAN_PORT, Cluster

KEYPAIR_HINT = (
    "deploy from the machine, or with the ssh_private_key, that created this cluster; "
    "or remove that key pair; or choose another cluster_name"
)


def key_of(public_key: Optional[str]) -> tuple[str, ...]:
    """Return type and key, without the comment, which is no part of the key."""
    return tuple((public_key or "").split()[:2])


def marked_key(cluster_name: str, public_key: str) -> str:
    """Return the public key with the cluster's mark as its comment: a key pair has no other place for one."""
    return " ".join((*key_of(public_key), mark(cluster_name)))


def plan_keypair(cluster_name: str, existing: Optional[str], wanted: Optional[str]) -> Plan:
    """Return what has to change so that the cloud knows the key, or has none of the cluster.

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
    """Return what has to change so that the group has the cluster's rules, and the cluster's servers are in it.

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
    return (
        port.secured
        or not port.addresses
        or any(ipaddress.ip_address(address) in network for address in port.addresses)
    )


def plan_group_absent(
    cluster: Cluster, group: Optional[Group], servers: Sequence[Server], ports: Sequence[Port]
) -> Plan:
    """Return what has to change so that the group is gone. It takes its rules with it."""
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
