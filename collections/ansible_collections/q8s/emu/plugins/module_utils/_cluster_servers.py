# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud has of a cluster, and where its local state is: what the inventory and q8s-run list."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _cloud_tags, _spec, _state
from ansible_collections.q8s.emu.plugins.module_utils._inventory import LocalState, with_floating


@dataclass(frozen=True)
class ClusterServers:
    """The servers under a cluster's names, its local state, and what is to be said of the state folder.

    ``moved`` tells whether the note is about a folder that was moved; any other is a warning.
    """

    servers: list[_cloud_objects.Server]
    state: LocalState
    note: str = ""
    moved: bool = False


def find(cloud: _cloud.Cloud, cluster: _spec.Cluster, root: str, move: bool) -> ClusterServers:
    """Ask the cloud.

    :param root: folder with the state of all clusters
    :param move: whether state in the layout of an earlier version may be moved
    :raises CloudError: the cloud does not answer
    :raises StateError: the state folder belongs to another cluster
    """
    name = cluster.cluster_name
    names = {spec.name for spec in cluster.servers()}
    project = cloud.project()
    place = _state.settle(
        root,
        project,
        name,
        lambda: cloud.keypairs.find_public_key(_cloud_objects.keypair_name(name)),
        move=move,
    )
    servers = [
        server
        for server in cloud.servers.list_servers()
        if server.name in names or _cloud_objects.is_ours(server, name)
    ]
    if cluster.access.type == "floating_ip":
        servers = with_floating(servers, cloud.floating_ips.list_floating_ips(name))
        servers = cloud.clusters.with_foreign_floating(cluster, servers)
    # With one control plane, there is nothing to choose from.
    several = sum(map(_cloud_objects.is_control_plane, servers)) > 1 or cluster.number_additional_master_nodes
    etcd_server = _cloud_tags.etcd_server(cloud.security_groups.find_tags(name)[1]) if several else ""
    return ClusterServers(
        servers, LocalState(place.folder, project, etcd_server, cloud.user_id()), place.note, place.moved
    )
