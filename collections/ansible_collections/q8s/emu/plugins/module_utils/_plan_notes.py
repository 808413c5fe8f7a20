# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How existing servers differ from the cluster file, where a deploy reports it and changes nothing. Pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils import _identity
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import (
    GROUP,
    FloatingIp,
    Port,
    Server,
    ServerGroup,
    keypair_name,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec
from ansible_collections.q8s.emu.plugins.module_utils._text import join_names

_MOST_NAMES = 5
_PLURALS = {"has": "have", "is": "are", "was": "were"}


@dataclass(frozen=True)
class Resources:
    """The ports of a cluster's servers, and the ids of the resources that the names in its file stand for.

    ``ports`` are those in the cluster's network, by the server's id. Ids are empty if nobody had to look them up, and if
    the cloud has no such resource.
    """

    ports: Mapping[str, Sequence[Port]] = field(default_factory=dict)
    images: Collection[str] = ()
    networks: Collection[str] = ()  # or subnets, where the file names one
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)
    external_networks: Collection[str] = ()


@dataclass(frozen=True)
class _Difference:
    """What a server has and the file says otherwise, and a command besides a replacement that changes it.

    ``text`` follows the server's name and begins with a verb. ``command`` has SERVER in the place of the server's id.
    """

    text: str
    command: str = ""


def server_notes(
    cluster: Cluster,
    staying: Iterable[tuple[ServerSpec, Server]],
    resources: Resources,
    flavors: Mapping[str, str],
    group: Optional[ServerGroup],
) -> list[str]:
    """Return a note on each difference between servers that stay and the file. Servers with the same one share it.

    :param staying: what the file asks for, and the server that exists
    :param flavors: names by id, where the file may have given ids
    :param group: the cluster's server group
    """
    found: dict[_Difference, list[tuple[ServerSpec, Server]]] = {}
    for spec, server in staying:
        ports = resources.ports.get(server.id, ())
        for difference in (
            *_flavor(spec, server, flavors),
            *_image(cluster, server, resources),
            *_network(cluster, server, ports, resources),
            *_security_groups(cluster, ports, resources),
            *_server_group(cluster, server, group),
        ):
            found.setdefault(difference, []).append((spec, server))
    return [_note(difference, servers) for difference, servers in found.items()]


def floating_ip_notes(cluster: Cluster, staying: Iterable[FloatingIp], resources: Resources) -> list[str]:
    """Return a note on each floating IP that stays although the file names another external network."""
    name = cluster.access.floating_network
    return [
        f"the floating IP {item.address} of {cluster.name_of_initial_instance} is of another network than {name}; it "
        f"stays (`openstack floating ip delete {item.address}` releases it, and the next deploy assigns another one)"
        for item in staying
        if item.network and item.network != name and item.network not in resources.external_networks
    ]


def needs_image_lookup(cluster: Cluster, server: Server) -> bool:
    """Return whether only the cloud's images tell if a server was created from the file's image.

    A server that was booted from a volume has no image. If a server records the file's name, the file was not edited,
    whatever image has that name now.
    """
    return bool(server.image) and cluster.default_image_name not in (server.image, _identity.recorded_image(server))


def needs_network_lookup(cluster: Cluster, server: Server, ports: Iterable[Port]) -> bool:
    """Return whether only the cloud's networks tell if a server is in the file's network.

    :param ports: those of the server
    """
    ids = _networks_of(ports)
    return bool(ids) and cluster.private_network_id not in {*ids, *server.networks}


def ports_by_server(cluster: Cluster, servers: Iterable[Server], ports: Iterable[Port]) -> dict[str, list[Port]]:
    """Return the ports of servers by the server's id. Those in another network than the cluster's are left out."""
    network = ipaddress.IPv4Network(cluster.remote_ip_prefix)
    found: dict[str, list[Port]] = {server.id: [] for server in servers}
    for port in ports:
        inside = not port.addresses or any(ipaddress.ip_address(address) in network for address in port.addresses)
        if inside and port.server_id in found:
            found[port.server_id].append(port)
    return found


def _networks_of(ports: Iterable[Port]) -> set[str]:
    """Return the ids of the networks and subnets of ports."""
    return {network for port in ports for network in (port.network, *port.subnets) if network}


def _flavor(spec: ServerSpec, server: Server, flavors: Mapping[str, str]) -> Iterable[_Difference]:
    flavor = flavors.get(spec.flavor, spec.flavor)
    if server.flavor and server.flavor != flavor:
        yield _Difference(f"has the flavor {server.flavor}, not {flavor}")


def _image(cluster: Cluster, server: Server, resources: Resources) -> Iterable[_Difference]:
    if not needs_image_lookup(cluster, server) or server.image in resources.images:
        return
    wanted, recorded = cluster.default_image_name, _identity.recorded_image(server)
    if recorded:
        yield _Difference(f"has the image {recorded}, not {wanted}")
    elif resources.images:
        # An earlier release recorded no name: the file may have changed, or the image behind its name.
        yield _Difference(f"was created from another image than {wanted} is now")
    else:
        yield _Difference(f"was created from another image than {wanted}, which the cloud does not have")


def _network(cluster: Cluster, server: Server, ports: Sequence[Port], resources: Resources) -> Iterable[_Difference]:
    if needs_network_lookup(cluster, server, ports) and not _networks_of(ports) & set(resources.networks):
        yield _Difference(f"is in another network than {cluster.private_network_id}")


def _security_groups(cluster: Cluster, ports: Iterable[Port], resources: Resources) -> Iterable[_Difference]:
    """Yield the file's groups that a server lacks. The plan of the security group has the cluster's own.

    Further groups of a server may have been added by hand, and are not reported.
    """
    secured = [port for port in ports if port.secured]
    has = {group for port in secured for group in port.groups}
    for name in cluster.security_groups:
        if secured and name != GROUP and not has & {name, *resources.groups.get(name, ())}:
            command = f"`openstack server add security group SERVER {name}` adds the group"
            yield _Difference(f"has no security group {name}", command)


def _server_group(cluster: Cluster, server: Server, group: Optional[ServerGroup]) -> Iterable[_Difference]:
    name = keypair_name(cluster.cluster_name)
    inside = group is not None and server.id in group.members
    if cluster.server_group == "none" and inside:
        yield _Difference(f"is in the server group {name}, which the file no longer asks for")
    elif cluster.server_group != "none" and not inside:
        yield _Difference(f"is not in the server group {name}")


def _note(difference: _Difference, servers: Sequence[tuple[ServerSpec, Server]]) -> str:
    """Return the note on one difference of one server or several. Only servers of workers can be replaced."""
    (spec, server), *others = servers
    workers = any(spec.vm_type for spec, _server in servers)
    if others:
        verb, rest = difference.text.split(" ", 1)
        names = join_names([server.name for _spec, server in servers], _MOST_NAMES)
        what = f"the servers {names} {_PLURALS[verb]} {rest}; they stay"
        again = "`q8s-run replace FILE NODE` creates the server of a worker again"
    else:
        what = f"the server {server.name} {difference.text}; it stays"
        again = f"`q8s-run replace FILE {spec.node}` creates it again"
    command = difference.command if others else difference.command.replace("SERVER", server.id, 1)
    ways = ", ".join([*([again] if workers else []), *([command] if command else [])])
    return f"{what} ({ways})" if ways else what
