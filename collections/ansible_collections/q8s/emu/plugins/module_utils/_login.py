# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How ssh reaches the servers and guests of a cluster, with which key, and what it trusts."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects, _hostkeys, _spec, _ssh, _state


def private_key(cluster: _spec.Cluster, state: str) -> str:
    """Return the key file that logs in to servers and guests: the user's own, or the one that Q8S generated."""
    return os.path.expanduser(cluster.ssh_private_key) or os.path.join(state, _state.KEY)


def server_key(cluster: _spec.Cluster, state: str, foreign: bool) -> str:
    """Return the key file that logs in to a server; an initial instance that Q8S did not create may have one of its own."""
    own = os.path.expanduser(cluster.initial_instance_private_key) if foreign else ""
    return own or private_key(cluster, state)


def route(cluster: _spec.Cluster, servers: list[_cloud_objects.Server], state: str) -> str:
    """Return the option that leads ssh to servers which it cannot reach directly, or nothing."""
    access = cluster.access
    if access.type == "bastion":
        shared = _socket(state, "bastion", repr(access))
        return f" {_ssh.through_bastion(access.host, access.user, access.port, shared)}"
    through = gateway(cluster, servers)
    if through is None:
        return ""
    foreign = not _cloud_objects.is_ours(through, cluster.cluster_name)
    user = cluster.initial_instance_user if foreign else _hostkeys.USER
    destination = f"{user}@{through.floating[0]}"
    options = ssh_arguments(cluster, through, state, _hostkeys.HOST, foreign)
    shared = _socket(state, through.id, _authority(through), destination)
    return f" {_ssh.through_server(options, server_key(cluster, state, foreign), destination, shared)}"


def gateway(cluster: _spec.Cluster, servers: list[_cloud_objects.Server]) -> _cloud_objects.Server | None:
    """Return the server with a floating IP, through which the others are reached, or None if there is none.

    It is the initial control plane. After its loss, it is an additional one that somebody gave the floating IP.
    """
    if cluster.access.type != "floating_ip":
        return None
    others = {spec.name for spec in cluster.servers() if not spec.vm_type}
    candidates = [
        _cloud_objects.initial_server(cluster, servers),
        *(s for s in servers if s.name in others and _cloud_objects.is_ours(s, cluster.cluster_name)),
    ]
    return next((server for server in candidates if server is not None and server.floating), None)


def ssh_arguments(
    cluster: _spec.Cluster, server: _cloud_objects.Server, state: str, purpose: str, foreign: bool = False
) -> str:
    """Return the options of ssh for a server or its guest, without the route to it.

    :param purpose: what its host key is signed for; nothing is signed on a server of others
    """
    known = _ssh.foreign_host(state) if foreign else _ssh.known_host(_authority(server), purpose)
    users_own = cluster.ssh_private_key or (foreign and cluster.initial_instance_private_key)
    return f"{_ssh.own_options(not users_own)} {known}"


def ssh_control(server: _cloud_objects.Server, state: str, purpose: str) -> dict[str, str]:
    """Return the variables that name the socket by which Ansible shares one connection among all tasks of a host."""
    folder = _ssh.socket_folder(state)
    if not folder:
        return {"ansible_control_path": "none"}
    name = _ssh.socket_name(state, purpose, server.id, _authority(server))
    return {"ansible_control_path_dir": folder, "ansible_control_path": f"%(directory)s/{name}"}


def _socket(state: str, *identity: str) -> str:
    """Return the socket of the connection to a jump host, or nothing where connections cannot be shared."""
    folder = _ssh.socket_folder(state)
    return os.path.join(folder, _ssh.socket_name(state, "jump", *identity)) if folder else ""


def _authority(server: _cloud_objects.Server) -> str:
    return server.metadata.get(_cloud_objects.META_HOST_CA, "")


# Where cloud-init keeps the id of the server that it runs on; everybody may read them.
_INSTANCE_IDS = ("/run/cloud-init/.instance-id", "/var/lib/cloud/data/instance-id")
_PRODUCT_UUID = "/sys/class/dmi/id/product_uuid"  # Nova's id of the server; root alone may read it


def is_this_machine(server_id: str, address: str) -> bool:
    """Return whether a server is this machine.

    The address must be one of this machine's: only then can a socket be bound to it. Private addresses are many machines',
    so the id of the server must be the one that cloud-init or the firmware has.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return any(_first_line(path).lower() == server_id.lower() for path in (*_INSTANCE_IDS, _PRODUCT_UUID))


_OUTSIDE = "198.51.100.1"  # of a network that nobody uses (RFC 5737): only the default route leads there
_ROUTES = "/proc/net/route"  # Linux's main routing table: an address is a number in the machine's byte order


def has_route(prefix: str) -> bool:
    """Return whether this machine has a route to a network besides its default one.

    That is an address in it, a router, or a VPN. If there is none, the default route may lead there nevertheless.

    :param prefix: such as 10.254.1.0/24
    """
    network = ipaddress.IPv4Network(prefix)
    # A default route is also written as two halves.
    if any(route.prefixlen > 1 and route.overlaps(network) for route in _routes()):
        return True
    # Systems other than Linux, and the tables of VPNs.
    source = _source_address(str(network[1]))
    return source != "" and (ipaddress.IPv4Address(source) in network or source != _source_address(_OUTSIDE))


def _routes() -> list[ipaddress.IPv4Network]:
    """Return the networks of the main routing table; none on other systems than Linux."""
    try:
        with open(_ROUTES, encoding="ascii") as stream:
            rows = [line.split() for line in stream][1:]
    except OSError:
        return []
    columns = [[int(row[index], 16).to_bytes(4, sys.byteorder) for index in (1, 7)] for row in rows]
    return [ipaddress.IPv4Network((address, socket.inet_ntoa(mask))) for address, mask in columns]


def _source_address(address: str) -> str:
    """Return the address from which this machine sends to another, empty if it has no route. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _first_line(path: str) -> str:
    """Return the first line of a file, empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""
