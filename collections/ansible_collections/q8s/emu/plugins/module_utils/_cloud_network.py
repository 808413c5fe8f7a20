# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks, ports and floating IPs of a project. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects
from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import CloudError, doing
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Network, Subnet
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import FloatingIp, Port
from ansible_collections.q8s.emu.plugins.module_utils._cloud_requests import map_concurrently, raise_first
from ansible_collections.q8s.emu.plugins.module_utils._cloud_servers import Servers
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster


class Networks:
    """The networks that the project can use.

    The methods raise openstacksdk's errors: their callers name what they read the networks for.
    """

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def find_networks(self, name: str) -> list[Network]:
        """Return the network of this id, the one of the subnet of this id, or every one of this name."""
        network = self._os.network
        found = list(network.networks(id=name))
        chosen = [] if found else list(network.subnets(id=name))
        if not found and not chosen:
            found = list(network.networks(name=name))
        if not found and not chosen:
            chosen = list(network.subnets(name=name))
        result = [
            Network(
                item.id,
                item.name,
                _subnets(network.subnets(network_id=item.id, ip_version=4)),
                secured=item.is_port_security_enabled is not False,
                mtu=int(item.mtu or 0),
                closed=self._is_closed(item),
            )
            for item in found
        ]
        if len(chosen) == 1:
            # Servers need the network of the subnet.
            (item,) = chosen
            owner = network.find_network(item.network_id, ignore_missing=True)
            result.append(
                Network(
                    item.network_id,
                    item.name,
                    _subnets([item]),
                    chosen=True,
                    secured=owner is None or owner.is_port_security_enabled is not False,
                    mtu=int(owner.mtu or 0) if owner else 0,
                    closed=owner is not None and self._is_closed(owner),
                )
            )
        else:
            # If several subnets have the name, an error has to list their ids.
            result += [Network(item.id, item.name, _subnets([item]), chosen=True) for item in chosen]
        return result

    def _is_closed(self, network: Any) -> bool:
        """Return whether Nova refuses to attach this user's servers: its policy network:attach_external_network."""
        if not network.is_router_external or network.is_shared:
            return False
        session = self._os.session
        return "admin" not in (session.auth.get_access(session).role_names or ())

    def count_addresses(self, networks: list[Network]) -> list[Network]:
        """Return the networks; a single one with the number of addresses in use.

        In a network that several projects share, a project sees its own ports only.
        """
        if len(networks) != 1:
            return networks
        network = networks[0]
        taken = [
            fixed.get("subnet_id") for port in self._os.network.ports(network_id=network.id) for fixed in port.fixed_ips
        ]
        return [replace(network, subnets=tuple(replace(s, used=taken.count(s.id)) for s in network.subnets))]

    def list_external_ids(self, name: str) -> list[str]:
        """Return the ids of the external networks of this id, or else of this name."""
        network = self._os.network
        by_id = [item.id for item in network.networks(id=name, is_router_external=True)]
        return by_id or [item.id for item in network.networks(name=name, is_router_external=True)]

    def describe_networks(self) -> list[dict[str, Any]]:
        """Return the networks with their subnets, for a first cluster file."""
        subnets: dict[str, list[dict[str, Any]]] = {}
        for found in self._os.network.subnets():
            subnets.setdefault(found.network_id, []).append({"id": found.id, "cidr": found.cidr})
        return [
            {
                "id": found.id,
                "name": found.name,
                "subnets": subnets.get(found.id, []),
                "external": bool(found.is_router_external),
                "shared": bool(found.is_shared) and found.project_id != str(self._os.current_project_id),
            }
            for found in self._os.network.networks()
        ]


class Ports:
    """The ports of the project."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def list_ports(self, cluster_name: str) -> list[Port]:
        """Return every port of the project; those with the cluster's mark are marked as Q8S's."""
        with doing("list the ports"):
            project_id = str(self._os.current_project_id)
            return [_port(found, cluster_name) for found in self._os.network.ports(project_id=project_id)]

    def create_ports(
        self, cluster: Cluster, network: Network, groups: Sequence[str], names: Sequence[str]
    ) -> dict[str, str]:
        """Create a port for each server of these names, in the subnet that the cluster uses. Return the ids by name.

        :param groups: ids of the security groups of the ports
        """
        subnet = network.subnet(cluster.remote_ip_prefix)
        if not names or subnet is None:
            return {}
        with doing(f"create {len(names)} ports in the subnet {subnet.cidr}"):
            created = self._os.network.create_ports(
                [
                    {
                        "name": name,
                        "description": _cloud_objects.mark(cluster.cluster_name),
                        "network_id": subnet.network_id,
                        "fixed_ips": [{"subnet_id": subnet.id}],
                        "security_groups": list(groups),
                    }
                    for name in names
                ]
            )
            return {port.name: port.id for port in created}

    def delete_ports(self, ports: Iterable[Port]) -> None:
        """Delete ports. A port that no longer exists is no error."""

        def delete(port: Port) -> None:
            with doing(f"remove the port {port.name}"):
                self._os.network.delete_port(port.id, ignore_missing=True)

        raise_first(map_concurrently(delete, ports))


class FloatingIps:
    """The floating IPs of the project."""

    def __init__(self, connection: Any, networks: Networks, ports: Ports, servers: Servers) -> None:
        """Use an openstacksdk connection, and the resources that a floating IP is associated with."""
        self._os = connection
        self._networks = networks
        self._ports = ports
        self._servers = servers

    def list_floating_ips(self, cluster_name: str) -> list[FloatingIp]:
        """Return the floating IPs with the cluster's mark; none if the cloud has no routers."""
        from openstack.exceptions import ForbiddenException, NotFoundException

        with doing("list the floating IPs"):
            try:
                listed = _cloud_objects.list_marked(self._os, self._os.network.ips, cluster_name)
            except (ForbiddenException, NotFoundException):
                return []
            return [
                FloatingIp(ip.id, ip.floating_ip_address, ip.fixed_ip_address or "", str(ip.floating_network_id or ""))
                for ip in listed
            ]

    def list_addresses(self, server_id: str) -> tuple[str, ...]:
        """Return the floating IPs of a server, also those without the cluster's mark; none if the cloud has no routers."""
        from openstack.exceptions import ForbiddenException, NotFoundException

        with doing("list the floating IPs"):
            try:
                ports = {port.id for port in self._os.network.ports(device_id=server_id)}
                listed = list(self._os.network.ips(project_id=str(self._os.current_project_id)))
            except (ForbiddenException, NotFoundException):
                return ()
            return tuple(ip.floating_ip_address for ip in listed if ip.port_id in ports)

    def associate_floating_ip(self, cluster: Cluster, existing: Optional[FloatingIp], etcd_server: str) -> None:
        """Associate a floating IP with the initial control plane: the existing one, or a new one.

        :param etcd_server: id of the server that is recorded to have the cluster's CA and etcd
        :raises CloudError: the server has no port in the cluster's subnet, or the external network is not unique
        """
        name = cluster.name_of_initial_instance
        with doing(f"assign a floating IP to {name}"):
            servers = [s for s in self._servers.list_servers() if s.address(cluster.remote_ip_prefix)]
            server = _cloud_objects.initial_server(cluster, servers, etcd_server)
            address = server.address(cluster.remote_ip_prefix) if server else None
            ports = self._ports.list_ports(cluster.cluster_name) if server else []
            port = next((p for p in ports if server and p.server_id == server.id and address in p.addresses), None)
            if port is None:
                raise CloudError(
                    f"Failed to assign a floating IP to {name}: it has no port with an address in {cluster.remote_ip_prefix}"
                )
            if existing is not None:
                self._os.network.update_ip(existing.id, port_id=port.id, fixed_ip_address=address)
                return
            networks = self._networks.list_external_ids(cluster.access.floating_network)
            if len(networks) != 1:
                raise CloudError(
                    f"Failed to assign a floating IP to {name}: {len(networks)} external networks are called "
                    f"{cluster.access.floating_network}\nhint: set access.floating_network to the id of one"
                )
            self._os.network.create_ip(
                floating_network_id=networks[0],
                port_id=port.id,
                fixed_ip_address=address,  # a port may have several
                description=_cloud_objects.mark(cluster.cluster_name),
            )

    def delete_floating_ips(self, floating: Iterable[FloatingIp]) -> None:
        """Release floating IPs. One that no longer exists is no error."""
        for item in floating:
            with doing(f"release the floating IP {item.address}"):
                self._os.network.delete_ip(item.id, ignore_missing=True)


def _subnets(listed: Iterable[Any]) -> tuple[Subnet, ...]:
    return tuple(
        Subnet(
            item.id,
            item.network_id,
            item.cidr,
            sum(
                int(ipaddress.IPv4Address(pool["end"])) - int(ipaddress.IPv4Address(pool["start"])) + 1
                for pool in item.allocation_pools
            ),
            dhcp=item.is_dhcp_enabled is not False,
            gateway=item.gateway_ip or "",
            dns=bool(item.dns_nameservers),
        )
        for item in listed
        if item.ip_version == 4
    )


def _port(found: Any, cluster_name: str) -> Port:
    return Port(
        found.id,
        found.name or found.id,
        found.device_id or "",
        tuple(found.security_group_ids or ()),
        tuple(str(fixed["ip_address"]) for fixed in found.fixed_ips or () if fixed.get("ip_address")),
        found.description == _cloud_objects.mark(cluster_name),
        found.is_port_security_enabled is not False,
        str(found.network_id or ""),
        tuple(str(fixed["subnet_id"]) for fixed in found.fixed_ips or () if fixed.get("subnet_id")),
    )
