# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a project has of a cluster, over all resources. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects, _cloud_tags
from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import CloudError, doing
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Findings, Flavor, Network
from ansible_collections.q8s.emu.plugins.module_utils._cloud_images import Flavors, Images
from ansible_collections.q8s.emu.plugins.module_utils._cloud_network import FloatingIps, Networks, Ports
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import GROUP, FloatingIp, Port, Server
from ansible_collections.q8s.emu.plugins.module_utils._cloud_quota import Quota
from ansible_collections.q8s.emu.plugins.module_utils._cloud_requests import run_concurrently
from ansible_collections.q8s.emu.plugins.module_utils._cloud_security_groups import SecurityGroups
from ansible_collections.q8s.emu.plugins.module_utils._cloud_servers import Needs, ServerGroups, Servers
from ansible_collections.q8s.emu.plugins.module_utils._plan_notes import (
    Resources,
    needs_image_lookup,
    needs_network_lookup,
    ports_by_server,
)
from ansible_collections.q8s.emu.plugins.module_utils._plan_servers import Existing
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster


@dataclass(frozen=True)
class Clusters:
    """The clusters of the project, as its resources show them."""

    servers: Servers
    server_groups: ServerGroups
    images: Images
    flavors: Flavors
    networks: Networks
    ports: Ports
    security_groups: SecurityGroups
    floating_ips: FloatingIps
    quota: Quota

    def list_clusters(self) -> list[_cloud_objects.FoundCluster]:
        """Return the clusters that Q8S deployed in this project, as its servers and security groups show them."""
        with doing("list the servers and security groups"):
            servers, descriptions = run_concurrently(self.servers.list_servers, self.security_groups.list_descriptions)
            return _cloud_objects.found_clusters(servers, descriptions)

    def find_existing(self, cluster: Cluster) -> Existing:
        """Return everything that a plan of the servers depends on."""
        name = cluster.cluster_name
        servers, ports, group, floating, tags = run_concurrently(
            self.servers.list_servers,
            lambda: self.ports.list_ports(name),
            lambda: self.server_groups.find_server_group(_cloud_objects.keypair_name(name)),
            lambda: self.floating_ips.list_floating_ips(name),
            lambda: self.security_groups.find_tags(name)[1],
        )
        ours = [server for server in servers if _cloud_objects.is_ours(server, name)]
        return Existing(
            self.with_foreign_floating(cluster, servers),
            [port for port in ports if port.ours],
            group,
            floating,
            self._flavor_names(cluster, ours),
            _cloud_tags.etcd_server(tags),
            self._find_resources(cluster, ours, ports, floating),
        )

    def _find_resources(
        self, cluster: Cluster, servers: Sequence[Server], ports: Sequence[Port], floating: Sequence[FloatingIp]
    ) -> Resources:
        """Return what the notes compare existing servers with. Look up only what the listings do not tell.

        :param servers: those of the cluster
        """
        theirs = ports_by_server(cluster, servers, ports)
        images = any(needs_image_lookup(cluster, server) for server in servers)
        networks = any(needs_network_lookup(cluster, server, theirs[server.id]) for server in servers)
        groups = any(theirs.values()) and {*cluster.security_groups} != {GROUP}
        external = cluster.access.floating_network
        elsewhere = any(ip.network not in ("", external) for ip in floating) if external else False
        with doing("look up the image, networks and security groups"):
            found = run_concurrently(
                lambda: self.images.find_images(cluster.default_image_name) if images else [],
                lambda: self.networks.find_networks(cluster.private_network_id) if networks else [],
                lambda: self.security_groups.list_security_groups() if groups else [],
                lambda: self.networks.list_external_ids(external) if elsewhere else [],
            )
        return Resources(
            theirs,
            tuple(image.id for image in found[0]),
            tuple(item.id for network in found[1] for item in (network.subnets if network.chosen else [network])),
            {
                name: tuple(group.id for group in found[2] if name in (group.id, group.name))
                for name in cluster.security_groups
                if groups and name != GROUP
            },
            tuple(found[3]),
        )

    def with_foreign_floating(self, cluster: Cluster, servers: Sequence[Server]) -> list[Server]:
        """Return servers with the floating IPs of an initial instance that Q8S did not create: what Nova says of them comes late."""
        foreign = _cloud_objects.foreign_initial(cluster, servers)[0]
        if foreign is None or cluster.access.type != "floating_ip" or foreign.floating:
            return list(servers)
        addresses = self.floating_ips.list_addresses(foreign.id)
        return [replace(server, floating=addresses) if server is foreign else server for server in servers]

    def _flavor_names(self, cluster: Cluster, servers: Sequence[Server]) -> dict[str, str]:
        """Return the names of flavors by id; none if the cluster file uses only names, as the servers' flavors show."""
        if not servers or {spec.flavor for spec in cluster.servers()} <= {server.flavor for server in servers}:
            return {}
        with doing("list the flavors"):
            return {found.id: found.name for found in self.flavors.list_flavors()}

    def find_networks(self, cluster: Cluster) -> list[Network]:
        """Return the network of the cluster, or several if its name is not unique."""
        with doing(f"look up the network {cluster.private_network_id}"):
            return self.networks.find_networks(cluster.private_network_id)

    def find_requirements(self, cluster: Cluster) -> Findings:
        """Return what the cloud has of every resource that the cluster file names, and the quota."""
        external = cluster.access.floating_network
        with doing("look up the image, flavors, network and limits"):
            images, listed, all_groups, networks, quota, external_networks, tags = run_concurrently(
                lambda: self.images.find_images(cluster.default_image_name),
                self.flavors.list_flavors,
                self.security_groups.list_security_groups,
                lambda: self.networks.count_addresses(self.networks.find_networks(cluster.private_network_id)),
                self.quota.find_usage,
                lambda: len(self.networks.list_external_ids(external)) if external else 1,
                self.security_groups.has_tags,
            )
        wanted = {spec.flavor for spec in cluster.servers()}
        flavors = {
            key: Flavor(found.name, found.vcpus, found.ram, found.disk or 0)
            for found in listed
            for key in {found.name, found.id} & wanted
        }
        groups = [key for group in all_groups for key in (group.name, group.id)]
        return Findings(
            tuple(images),
            flavors,
            tuple(networks),
            {name: groups.count(name) for name in cluster.security_groups if name != GROUP},
            quota,
            external_networks,
            tags,
        )

    def find_needs(self, cluster: Cluster) -> Needs:
        """Return the ids of the resources that new servers use.

        :raises CloudError: a resource is missing or not unique
        """
        with doing("look up the image, flavors, network and security groups"):
            images, networks, listed, all_groups, group = run_concurrently(
                lambda: self.images.find_images(cluster.default_image_name),
                lambda: self.networks.find_networks(cluster.private_network_id),
                self.flavors.list_flavors,
                self.security_groups.list_security_groups,
                lambda: self.security_groups.find_security_group(cluster.cluster_name),
            )
        flavors = {key: flavor.id for flavor in listed for key in (flavor.id, flavor.name)}
        groups = {key: g.id for g in all_groups for key in (g.id, g.name)}
        images = [image for image in images if image.status == "active"]
        lacking = [f"the image {cluster.default_image_name}"] if len(images) != 1 else []
        lacking += [f"the network {cluster.private_network_id}"] if len(networks) != 1 else []
        lacking += [f"the flavor {name}" for name in sorted({s.flavor for s in cluster.servers()} - set(flavors))]
        others = [name for name in cluster.security_groups if name != GROUP]
        lacking += [f"the security group {name}" for name in others if name not in groups]
        lacking += [f"the security group {GROUP}"] if group is None else []
        if lacking or group is None:
            raise CloudError(
                f"Failed to create the servers: missing or not unique: {', '.join(lacking)}"
                "\nhint: run q8s.emu.cloud_preflight, which reports the details, and q8s.emu.security_group before q8s.emu.servers"
            )
        return Needs(images[0].id, networks[0], flavors, (group.id, *(groups[name] for name in others)))
