# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a project has of clusters: servers, ports, groups and addresses, and what marks those of one cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._spec import REQUIRED_SECURITY_GROUP, Cluster

GROUP = REQUIRED_SECURITY_GROUP
META_CLUSTER = "q8s_cluster"
META_ROLE = "q8s_role"
META_TYPE = "q8s_type"
META_HOST_CA = "q8s_host_ca"


@dataclass(frozen=True)
class Server:
    """A server that the cloud has. Its name is empty, and its status UNKNOWN, while the Nova cell that has it is down.

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
    created: str = ""  # when, in ISO 8601
    locked: bool = False  # nobody but an administrator can delete, start or stop it
    user_id: str = ""  # who created it
    image: str = ""  # id of the image that it was created from; empty if it boots from a volume
    networks: tuple[str, ...] = ()  # names
    disk: int = 0  # of its flavor, in GB

    def address(self, prefix: str) -> Optional[str]:
        """Return the first address in a network such as 10.254.1.0/24."""
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
    addresses: tuple[str, ...] = ()  # IPv4 and IPv6
    ours: bool = False
    secured: bool = True
    network: str = ""  # its id
    subnets: tuple[str, ...] = ()  # ids

    def __str__(self) -> str:
        return f"port {self.name}"


@dataclass(frozen=True)
class ServerGroup:
    """A server group that the cloud has. ``policy`` says how Nova spreads its servers, ``members`` are their ids."""

    id: str
    name: str
    policy: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class FloatingIp:
    """A floating IP that carries the cluster's mark; ``fixed`` is the server's own address, empty while it has none.

    ``network`` is the id of its external network.
    """

    id: str
    address: str
    fixed: str = ""
    network: str = ""


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


def mark(cluster_name: str) -> str:
    """Return the mark of everything of a cluster that has no metadata: its description, or the comment of its key."""
    return f"Q8S cluster {cluster_name}"


def list_marked(
    connection: Any, list_objects: Callable[..., Iterable[Any]], cluster_name: str, **query: str
) -> list[Any]:
    """Return the objects of a kind that belong to the project and have the cluster's mark as description.

    The results are compared again: an administrator sees all projects, and a backend may ignore a filter that it does not know.

    :param list_objects: openstacksdk's method that lists the objects
    :param query: further filters
    """
    project = str(connection.current_project_id)
    description = mark(cluster_name)
    listed = list_objects(project_id=project, description=description, **query)
    return [found for found in listed if found.description == description and found.project_id == project]


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
    """Return the name of a cluster's key pair in the cloud, and of its server group: these have no place for a mark."""
    return f"q8s-{cluster_name}"


def is_ours(server: Server, cluster_name: str) -> bool:
    """Return whether Q8S created the server for that cluster."""
    return server.metadata.get(META_CLUSTER) == cluster_name


def foreign_initial(cluster: Cluster, servers: Iterable[Server]) -> tuple[Optional[Server], tuple[str, ...]]:
    """Return the initial instance, if it is a server that Q8S did not create, and why it cannot be used."""
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


def order_of_choice(server: Server, etcd_server: str = "") -> tuple[bool, bool, bool, str, str]:
    """Return a sort key: of several servers with one name, the first is the one to use. Plan and inventory must agree.

    The server with the cluster's CA and etcd comes first, then those that are ACTIVE, then the oldest.

    :param etcd_server: id of the server that is recorded to have the cluster's CA and etcd
    """
    lost = server.deleting or server.status in ("ERROR", "DELETED")
    return server.id != etcd_server, lost, server.status != "ACTIVE", server.created, server.id


def initial_server(cluster: Cluster, servers: Sequence[Server], etcd_server: str = "") -> Optional[Server]:
    """Return the server of the initial control plane, or None. If several have its name, return the one to use."""
    foreign = foreign_initial(cluster, servers)[0]
    name = cluster.name_of_initial_instance
    mine = [s for s in servers if s.name == name and is_ours(s, cluster.cluster_name)]
    return foreign or min(mine, key=lambda server: order_of_choice(server, etcd_server), default=None)


def running_initial(cluster: Cluster, servers: Sequence[Server]) -> str:
    """Return the id of the initial control plane if it is ACTIVE, else nothing."""
    server = initial_server(cluster, servers)
    return server.id if server and server.status == "ACTIVE" and not server.deleting else ""


def is_control_plane(server: Server) -> bool:
    """Return whether a server was created as a control plane."""
    return server.metadata.get(META_ROLE) == "control_plane"
