# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a cluster, their groups and their variables, from the cluster file and the servers that exist."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects, _hostkeys, _spec, _state
from ansible_collections.q8s.emu.plugins.module_utils._limit import group_word
from ansible_collections.q8s.emu.plugins.module_utils._login import (
    gateway,
    is_this_machine,
    private_key,
    route,
    server_key,
    ssh_arguments,
    ssh_control,
)


@dataclass(frozen=True)
class LocalState:
    """The state folder of a cluster, and what was read with the servers.

    That is the project, the id of the server with the cluster's CA and etcd, and the id of the user who is logged in.
    """

    folder: str
    project: _state.Project
    etcd_server: str = ""
    user_id: str = ""


def cluster_variables(cluster: _spec.Cluster, state: LocalState | None) -> dict[str, Any]:
    """Return the variables of all hosts."""
    specs = cluster.servers()
    api = f"{cluster.cluster_name}-api"
    networks = (cluster.remote_ip_prefix, cluster.guest_ip_prefix, cluster.pod_cidr, cluster.service_cidr)
    inside = ("localhost", "127.0.0.1", api, ".svc", ".cluster.local", *networks)
    return {
        "q8s_cluster": cluster.to_mapping(),
        **_state_variables(cluster, state),
        "q8s_artifact_port": _spec.ARTIFACT_PORT,
        "q8s_api_name": api,
        # An image may give every login proxies (/etc/environment): what a cluster's machines say to each other goes past them.
        "q8s_environment": dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(inside)),
        "q8s_expected_nodes": [spec.node for spec in specs],
        "q8s_workers": [
            {"name": spec.node, "type": spec.vm_type.name, "architecture": spec.vm_type.architecture}
            for spec in specs
            if spec.vm_type
        ],
        "q8s_node_labels": {
            spec.node: {
                "labels": node_labels(spec.vm_type),
                "taints": [node_taint(taint) for taint in spec.vm_type.taints],
            }
            for spec in specs
            if spec.vm_type
        },
    }


def _state_variables(cluster: _spec.Cluster, state: LocalState | None) -> dict[str, str]:
    if state is None:
        return {}
    record = _state.record_text(state.folder, state.project, cluster.cluster_name)
    return {
        "q8s_state_dir": state.folder,
        "q8s_state_record": record,
        "q8s_private_key": private_key(cluster, state.folder),
    }


def presence_variables(cluster: _spec.Cluster, servers: list[_cloud_objects.Server]) -> dict[str, Any]:
    """Return the names of the file's servers that the cloud lacks, and of those that Q8S created, as variables of all hosts."""
    present = {server.name for server in servers}
    created = {server.name for server in servers if _cloud_objects.is_ours(server, cluster.cluster_name)}
    wanted = [spec.name for spec in cluster.servers()]
    return {
        "q8s_missing_servers": [name for name in wanted if name not in present],
        "q8s_created_servers": [name for name in wanted if name in created],
    }


def other_users(cluster: _spec.Cluster, servers: list[_cloud_objects.Server], user_id: str) -> list[str]:
    """Return the ids of other users who created servers of the cluster: two users may choose the same name in one project."""
    creators = {server.user_id for server in servers if _cloud_objects.is_ours(server, cluster.cluster_name)}
    return sorted(creators - {user_id, ""}) if user_id else []


class Host:
    """One host of the inventory."""

    def __init__(self, name: str, groups: list[str], variables: dict[str, Any]) -> None:
        self.name = name
        self.groups = groups
        self.variables = variables


def hosts(
    cluster: _spec.Cluster, servers: list[_cloud_objects.Server], state: str, etcd_server: str = ""
) -> list[Host]:
    """Return every server of the cluster that exists, and the guest behind each worker's host.

    :param etcd_server: id of the server that is recorded to have the cluster's CA and etcd. An additional control plane
        is that one after the initial one was deleted, and takes its place in the group ``control_plane_initial``
    """
    result: list[Host] = []
    path, through = route(cluster, servers, state), gateway(cluster, servers)
    foreign = _cloud_objects.foreign_initial(cluster, servers)[0]
    ours = [server for server in servers if _cloud_objects.is_ours(server, cluster.cluster_name)]
    # An interrupted run may have left two of a name. The first in the order of choice has to be the last entry of a dict.
    ours.sort(key=lambda server: _cloud_objects.order_of_choice(server, etcd_server), reverse=True)
    by_name = {server.name: server for server in ours}
    specs = cluster.servers()
    first = next(
        (s for s in specs if s.name in by_name and by_name[s.name].id == etcd_server and not s.vm_type), specs[0]
    )
    for spec in specs:
        server = foreign if spec.initial and foreign else by_name.pop(spec.name, None)
        if server is None:
            continue
        # A server with a floating IP needs no way through itself.
        direct = server is through
        variables = _server_variables(cluster, server, state, "" if direct else path, server is foreign)
        if direct and "ansible_host" in variables:
            variables["ansible_host"] = server.floating[0]
        variables["q8s_node_name"] = spec.node
        error = ["server_error"] if server.status == "ERROR" else []
        if spec.vm_type is None:
            groups = ["control_plane", "control_plane_initial"] if spec is first else ["control_plane"]
            result.append(Host(spec.name, groups + error, variables))
            continue
        kind = [f"type_{group_word(spec.vm_type.name)}", f"arch_{spec.vm_type.architecture}"]
        kind += [f"zone_{group_word(spec.vm_type.zone)}"] if spec.vm_type.zone else []
        address = server.address(cluster.remote_ip_prefix)
        if address:
            variables["q8s_vm"] = vm_variables(cluster, spec, address)
        result.append(Host(spec.name, ["worker_hosts", *kind, *error], variables))
        if address and not error:
            guest = {
                "ansible_host": address,
                "ansible_port": _spec.GUEST_SSH_PORT,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": private_key(cluster, state),
                "ansible_ssh_common_args": ssh_arguments(cluster, server, state, _hostkeys.GUEST) + path,
                **ssh_control(server, state, _hostkeys.GUEST),
                "q8s_host": spec.name,
                "q8s_node_name": spec.node,
                "q8s_vm": variables["q8s_vm"],
            }
            result.append(Host(spec.node, ["emulated_workers", *kind], guest))
    return result + [_surplus(cluster, server, state, path) for server in by_name.values()]


def _surplus(cluster: _spec.Cluster, server: _cloud_objects.Server, state: str, path: str) -> Host:
    """Return a server that the file no longer asks for, and what is needed to take its node out of Kubernetes."""
    control_plane = _cloud_objects.is_control_plane(server)
    node = server.name if control_plane else _spec.worker_node(cluster.cluster_name, server.name)
    variables = _server_variables(cluster, server, state, path)
    address = server.address(cluster.remote_ip_prefix) or ""
    surplus = {"name": node, "control_plane_host": server.name, "address": address}
    variables["q8s_surplus"] = surplus if control_plane else {"name": node, "control_plane_host": ""}
    return Host(server.name, ["surplus"], variables)


def _server_variables(
    cluster: _spec.Cluster, server: _cloud_objects.Server, state: str, path: str, foreign: bool = False
) -> dict[str, Any]:
    variables: dict[str, Any] = {
        "q8s_server_id": server.id,
        "q8s_status": server.status,
        "q8s_availability_zone": server.zone,
    }
    if server.ram:
        flavor = {"name": server.flavor, "ram": server.ram, "vcpus": server.vcpus, "disk": server.disk}
        variables["q8s_flavor"] = flavor
    address = server.address(cluster.remote_ip_prefix)
    if address:
        variables["q8s_private_ip"] = variables["ansible_host"] = address
    if server.fault:
        variables["q8s_fault"] = server.fault
    if foreign:
        variables["q8s_foreign"] = True
        if address and is_this_machine(server.id, address):
            variables["ansible_connection"] = "local"
            return variables
    variables["ansible_user"] = cluster.initial_instance_user if foreign else _hostkeys.USER
    variables["ansible_ssh_private_key_file"] = server_key(cluster, state, foreign)
    variables["ansible_ssh_common_args"] = ssh_arguments(cluster, server, state, _hostkeys.HOST, foreign) + path
    variables |= ssh_control(server, state, _hostkeys.HOST)
    return variables


def vm_variables(cluster: _spec.Cluster, spec: _spec.ServerSpec, address: str) -> dict[str, Any]:
    """Return what the roles need to know of the guest behind the host with that address."""
    if spec.vm_type is None:
        raise ValueError(f"{spec.name} is not the host of a worker")
    network = cluster.guest_network(address)
    return {
        "name": spec.node,
        "type": spec.vm_type.name,
        "architecture": spec.vm_type.architecture,
        "num_cpus": spec.vm_type.num_cpus,
        "cpu_model": spec.vm_type.cpu_model,
        "machine_model": spec.vm_type.machine_model,
        "ram_mb": spec.vm_type.ram_mb,
        "storage_gb": spec.vm_type.storage_gb,
        "qemu_args": spec.vm_type.qemu_args,
        "accel": spec.vm_type.accel,
        "tb_cache_mb": spec.vm_type.tb_cache_mb or 0,
        "labels": node_labels(spec.vm_type),
        "taints": [node_taint(taint) for taint in spec.vm_type.taints],
        "guest_ip": network.address,
        "guest_prefixlen": network.prefixlen,
        "guest_gateway": network.gateway,
        "mac": _spec.guest_mac(address),
    }


def node_labels(vm_type: _spec.VmType) -> dict[str, str]:
    """Return the labels of a type's nodes: Q8S's own, the zone, and the file's."""
    zone = {_spec.ZONE_LABEL: vm_type.zone} if vm_type.zone else {}
    return {"q8s.io/type": vm_type.name, "q8s.io/emulated": "true", **zone, **dict(vm_type.labels)}


def node_taint(text: str) -> dict[str, str]:
    """Return a taint such as ``key=value:Effect`` in the form of Kubernetes' API."""
    name, effect = text.rsplit(":", 1)
    key, value = (*name.split("=", 1), "")[:2]
    return {"key": key, "value": value, "effect": effect}


def with_floating(
    servers: list[_cloud_objects.Server], floating: list[_cloud_objects.FloatingIp]
) -> list[_cloud_objects.Server]:
    """Return servers with the floating IPs of the cluster: what Nova says of them comes late."""
    by_fixed = {item.fixed: item.address for item in floating if item.fixed}
    return [
        replace(server, floating=tuple(by_fixed[a] for a in server.addresses if a in by_fixed) or server.floating)
        for server in servers
    ]
