# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Ansible's base class has no annotations.
# mypy: disable-error-code="no-untyped-call"
"""Inventory of a Q8S cluster: its servers, and the guests behind them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: openstack
short_description: Servers of a Q8S cluster and their guests
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Lists the servers of a cluster in an OpenStack project, with the variables that are needed to log in. Host keys are checked from the first login.
  - The cluster comes from the extra variable C(q8s_cluster_file), else from extra variables that hold a cluster file's fields, else from O(cluster_file).
  - Groups are C(control_plane), C(control_plane_initial), C(worker_hosts), C(emulated_workers) (the guests), C(type_<type>), C(arch_<architecture>),
    C(zone_<zone>) where the type has a zone, C(server_error) for servers in C(ERROR) (C(q8s_fault) has the cloud's reason), and C(surplus) for servers that
    the file no longer asks for.
  - C(q8s_missing_servers) lists the servers that the file asks for and the cloud does not have, C(q8s_created_servers) those that Q8S created.
  - The user's SSH configuration is not used for servers and guests. With C(access) of the type C(bastion), they are reached through it. Only the login
    there reads the user's ssh configuration, which has its host key and the user's key. With C(floating_ip), the initial control plane is reached by
    its floating IP, and all others through it; its host key is checked on the way.
  - In C(control_plane_initial) is the control plane that the others join. It is the initial instance, or one that took its place after it was deleted.
  - The variables of all hosts (C(q8s_cluster), C(q8s_state_dir), C(q8s_expected_nodes), C(q8s_workers) ...) are set even if no server exists, or the
    cloud does not answer.
  - C(q8s_state_dir) is the cluster's folder below O(state_dir), one for each cloud, project and cluster. Without the cloud's answer it is there only
    if these credentials deployed the cluster from this machine. C(q8s_state_record) is the text of the file C(cluster.json) in it.
  - A state folder of an earlier layout, directly below O(state_dir), is moved if its key is the one that the cloud has for the cluster. In check mode
    it is used where it is.
  - A cloud that does not answer gives a warning, and C(q8s_cloud_problem) with the same text.
  - A cluster file with mistakes gives a warning with all of them, C(q8s_cluster_problems) with the same text, and no C(q8s_cluster).
requirements:
  - openstacksdk
  - PyYAML
notes:
  - The cloud is asked once each time that the inventory is read. With O(cache=true) it is not asked while the cache is fresh; the action
    C(refresh_inventory) of M(ansible.builtin.meta) always asks, and renews the cache. The cache has what the cloud's API returns about the cluster's
    servers, and no secrets.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Name of this plugin.
    required: true
    choices: [q8s.emu.openstack, q8s_openstack]
  cloud:
    description: A cloud of C(clouds.yaml). Without it, the C(OS_*) variables select the cloud.
    type: str
    env:
      - name: OS_CLOUD
  cluster_file:
    description: The cluster file, if no extra variable names one. A relative path starts at the folder of the inventory file.
    type: str
    env:
      - name: Q8S_CLUSTER_FILE
  state_dir:
    description: Local state of all clusters. By default C(q8s) below the user's state directory (XDG).
    type: str
    env:
      - name: Q8S_STATE
"""

EXAMPLES = r"""
# inventory/cluster.q8s.yml
plugin: q8s.emu.openstack
cluster_file: ../examples/demo.yaml

# With groups by the cloud's availability zone, and one of large guests; the cloud's answer is kept for a minute
---
plugin: q8s.emu.openstack
cluster_file: ../examples/demo.yaml
keyed_groups:
  - key: q8s_availability_zone
    prefix: az
groups:
  large_guests: q8s_vm is defined and q8s_vm.ram_mb >= 4096
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/q8s/inventory
cache_timeout: 60
"""

import contextlib
import difflib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible import context
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.vars import load_extra_vars
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _hostkeys, _spec, _ssh, _state


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Lists a cluster. ``meta: refresh_inventory`` sees servers that were just made, whatever is cached."""

    NAME = "q8s.emu.openstack"

    def verify_file(self, path: str) -> bool:
        """Whether the file is an inventory of ours."""
        return bool(super().verify_file(path)) and path.endswith((".q8s.yml", ".q8s.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory. A cluster file with mistakes gives a warning with all of them, and ``q8s_cluster_problems``."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            cluster = self._cluster(load_extra_vars(loader), path)
        except (_spec.SpecError, OSError) as error:
            # No exception: Ansible would only warn too, then try other plugins on this file and print each one's failure.
            problems = explain(error)
            self.display.warning(problems)
            inventory.set_variable("all", "q8s_cluster_problems", problems)
            return
        if cluster is None:
            self.display.warning("No cluster file: the inventory is empty. Pass -e q8s_cluster_file=FILE")
            return
        for warning in cluster.warnings:
            self.display.warning(str(warning))
        problem, servers, found = self._ask(cluster, path, cache)
        for key, value in cluster_variables(cluster, found).items():
            inventory.set_variable("all", key, value)
        for group in (
            "control_plane",
            "control_plane_initial",
            "worker_hosts",
            "emulated_workers",
            "reached",
            "booted",
            "changing",
        ):
            inventory.add_group(group)
        if problem or found is None:
            self.display.warning(f"{problem}\nThe inventory has no servers.")
            inventory.set_variable("all", "q8s_cloud_problem", problem)
            return
        for key, value in presence_variables(cluster, servers).items():
            inventory.set_variable("all", key, value)
        for host in hosts(cluster, servers, found.folder, found.etcd_server):
            self._add(inventory, host)

    def _add(self, inventory: Any, host: Host) -> None:
        inventory.add_host(host.name)
        for group in host.groups:
            inventory.add_group(group)
            inventory.add_host(host.name, group=group)
        for key, value in host.variables.items():
            inventory.set_variable(host.name, key, value)
        strict = self.get_option("strict")
        known = {**inventory.groups["all"].get_vars(), **inventory.get_host(host.name).get_vars()}
        self._set_composite_vars(self.get_option("compose"), known, host.name, strict=strict)
        known = {**known, **inventory.get_host(host.name).get_vars()}
        self._add_host_to_composed_groups(self.get_option("groups"), known, host.name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), known, host.name, strict=strict)

    def _ask(
        self, cluster: _spec.Cluster, path: str, cache: bool
    ) -> tuple[str, list[_cloud_objects.Server], LocalState | None]:
        """Return what is wrong with the cloud, the servers that it has under the cluster's names, and the local state."""
        root = os.path.abspath(os.path.expanduser(self.get_option("state_dir") or _default_state()))
        try:
            login = _cloud.login(self.get_option("cloud"))
        except _cloud.CloudError as error:
            return str(error), [], None
        try:
            return "", *self._servers(cluster, path, cache, root, login)
        except _state.StateError as error:
            return str(error), [], None
        except _cloud.CloudError as error:
            project = _state.known_project(root, cluster.cluster_name, login)
            known = LocalState(_state.folder(root, project, cluster.cluster_name), project) if project else None
            return str(error), [], known

    def _servers(
        self, cluster: _spec.Cluster, path: str, cache: bool, root: str, login: str
    ) -> tuple[list[_cloud_objects.Server], LocalState]:
        """Return what the cloud has under the cluster's names, from the cache where that is wanted and fresh."""
        cloud, name = self.get_option("cloud"), cluster.cluster_name
        wanted = bool(self.get_option("cache"))
        key = f"{self.get_cache_key(path)}_{name}_{login}"
        if wanted and cache:
            with contextlib.suppress(KeyError, TypeError):  # nothing there, or nothing fresh, or of an earlier version
                kept = self._cache[key]
                project = _state.Project(**kept["project"])
                servers = [_server_of(item) for item in kept["servers"]]
                return servers, LocalState(_state.folder(root, project, name), project, kept["etcd_server"])
        names = {spec.name for spec in cluster.servers()}
        connection = _cloud.connect(cloud)
        project = connection.project()
        place = _state.settle(
            root,
            project,
            name,
            lambda: connection.keypairs.find_public_key(_cloud_objects.keypair_name(name)),
            move=not context.CLIARGS.get("check", False),
        )
        if place.note:
            (self.display.vv if place.moved else self.display.warning)(place.note)
        servers = [
            server
            for server in connection.servers.list_servers()
            if server.name in names or _cloud_objects.is_ours(server, name)
        ]
        if cluster.access.type == "floating_ip":
            servers = with_floating(servers, connection.floating_ips.list_floating_ips(name))
        # With one control plane, there is nothing to choose from.
        several = sum(map(_cloud_objects.is_control_plane, servers)) > 1 or cluster.number_additional_master_nodes
        etcd_server = _cloud_objects.etcd_server(connection.security_groups.find_tags(name)[1]) if several else ""
        if wanted:
            listed = [asdict(server) for server in servers]
            self._cache[key] = {"project": asdict(project), "servers": listed, "etcd_server": etcd_server}
        return servers, LocalState(place.folder, project, etcd_server)

    def _cluster(self, extra: Mapping[str, Any], path: str) -> _spec.Cluster | None:
        named = extra.get("q8s_cluster_file")
        if named:
            return _spec.load_file(os.path.abspath(os.path.expanduser(str(named))))
        # Two fields that no other variable file is likely to have.
        if "cluster_definition" in extra or "vm_types" in extra:
            return _spec.load_mapping(cluster_fields(extra), "the extra variables")
        named = self.get_option("cluster_file")
        if named:
            folder = os.path.dirname(os.path.abspath(path))
            return _spec.load_file(os.path.join(folder, os.path.expanduser(str(named))))
        return None


@dataclass(frozen=True)
class LocalState:
    """The state folder of a cluster, the project that it is for, and the id of the server with the cluster's CA and etcd."""

    folder: str
    project: _state.Project
    etcd_server: str = ""


def _server_of(item: Mapping[str, Any]) -> _cloud_objects.Server:
    """A server as the cache keeps it: JSON has lists only."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return _cloud_objects.Server(**values)


def with_floating(
    servers: list[_cloud_objects.Server], floating: list[_cloud_objects.FloatingIp]
) -> list[_cloud_objects.Server]:
    """Servers with the floating IPs of the cluster: what Nova says of them comes late."""
    by_fixed = {item.fixed: item.address for item in floating if item.fixed}
    return [
        replace(server, floating=tuple(by_fixed[a] for a in server.addresses if a in by_fixed) or server.floating)
        for server in servers
    ]


def explain(error: _spec.SpecError | OSError) -> str:
    """Why a cluster file could not be read, with every mistake and its place."""
    if isinstance(error, _spec.SpecError):
        return f"Failed to read the cluster file:\n{error.text()}"
    hint = "hint: examples/demo.yaml shows what a cluster file looks like"
    return f"Failed to read the cluster file {error.filename}: {error.strerror}\n{hint}"


def cluster_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The cluster's fields among extra variables, and those that look like a field with a typing error."""

    def close(name: str) -> bool:
        return bool(difflib.get_close_matches(name, _spec.FIELDS, 1, 0.85))

    return {str(key): value for key, value in extra.items() if key in _spec.FIELDS or close(str(key))}


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
    return {"q8s_state_dir": state.folder, "q8s_state_record": record}


def presence_variables(cluster: _spec.Cluster, servers: list[_cloud_objects.Server]) -> dict[str, Any]:
    """Return the names of the file's servers that the cloud lacks, and of those that Q8S created, as variables of all hosts."""
    present = {server.name for server in servers}
    created = {server.name for server in servers if _cloud_objects.is_ours(server, cluster.cluster_name)}
    wanted = [spec.name for spec in cluster.servers()]
    return {
        "q8s_missing_servers": [name for name in wanted if name not in present],
        "q8s_created_servers": [name for name in wanted if name in created],
    }


class Host:
    """One host of the inventory."""

    def __init__(self, name: str, groups: list[str], variables: dict[str, Any]) -> None:
        self.name = name
        self.groups = groups
        self.variables = variables


def hosts(
    cluster: _spec.Cluster, servers: list[_cloud_objects.Server], state: str, etcd_server: str = ""
) -> list[Host]:
    """Every server of the cluster that exists, and the guest behind each worker's host.

    :param etcd_server: id of the server that is recorded to have the cluster's CA and etcd. An additional control plane
        is that one after the initial one was deleted, and takes its place in the group ``control_plane_initial``
    """
    result: list[Host] = []
    path = way(cluster, servers, state)
    foreign = _cloud_objects.foreign_initial(cluster, servers)[0]
    ours = [server for server in servers if _cloud_objects.is_ours(server, cluster.cluster_name)]
    # An ACTIVE one first, in case that an interrupted run left two of a name.
    by_name = {server.name: server for server in sorted(ours, key=lambda s: s.status == "ACTIVE")}
    specs = cluster.servers()
    first = next(
        (s for s in specs if s.name in by_name and by_name[s.name].id == etcd_server and not s.vm_type), specs[0]
    )
    for spec in specs:
        server = foreign if spec.initial and foreign else by_name.pop(spec.name, None)
        if server is None:
            continue
        # By its floating IP, if it has one, the initial control plane needs no way through itself.
        direct = spec.initial and cluster.access.type == "floating_ip"
        variables = _server_variables(cluster, server, state, "" if direct else path, server is foreign)
        if direct and server.floating and "ansible_host" in variables:
            variables["ansible_host"] = server.floating[0]
        variables["q8s_node_name"] = spec.node
        error = ["server_error"] if server.status == "ERROR" else []
        if spec.vm_type is None:
            groups = ["control_plane", "control_plane_initial"] if spec is first else ["control_plane"]
            result.append(Host(spec.name, groups + error, variables))
            continue
        kind = [f"type_{_word(spec.vm_type.name)}", f"arch_{spec.vm_type.architecture}"]
        kind += [f"zone_{_word(spec.vm_type.zone)}"] if spec.vm_type.zone else []
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
                "ansible_ssh_common_args": _arguments(cluster, server, state, _hostkeys.GUEST) + path,
                **_control(server, state, _hostkeys.GUEST),
                "q8s_host": spec.name,
                "q8s_node_name": spec.node,
                "q8s_vm": variables["q8s_vm"],
            }
            result.append(Host(spec.node, ["emulated_workers", *kind], guest))
    return result + [_surplus(cluster, server, state, path) for server in by_name.values()]


def _surplus(cluster: _spec.Cluster, server: _cloud_objects.Server, state: str, path: str) -> Host:
    """A server that the file no longer asks for, and what is needed to take its node out of Kubernetes."""
    control_plane = server.metadata.get(_cloud_objects.META_ROLE) == "control_plane"
    node = server.name if control_plane else _spec.worker_node(cluster.cluster_name, server.name)
    variables = _server_variables(cluster, server, state, path)
    variables["q8s_surplus"] = {"name": node, "control_plane_host": server.name if control_plane else ""}
    return Host(server.name, ["surplus"], variables)


def vm_variables(cluster: _spec.Cluster, spec: _spec.ServerSpec, address: str) -> dict[str, Any]:
    """What the roles need to know of the guest behind the host with that address."""
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
    """The labels of a type's nodes: Q8S's own, the zone, and the file's."""
    zone = {_spec.ZONE_LABEL: vm_type.zone} if vm_type.zone else {}
    return {"q8s.io/type": vm_type.name, "q8s.io/emulated": "true", **zone, **dict(vm_type.labels)}


def node_taint(text: str) -> dict[str, str]:
    """A taint such as ``key=value:Effect`` in the form of Kubernetes' API."""
    name, effect = text.rsplit(":", 1)
    key, value = (*name.split("=", 1), "")[:2]
    return {"key": key, "value": value, "effect": effect}


def private_key(cluster: _spec.Cluster, state: str) -> str:
    """The key file that logs in to servers and guests: the user's own, or the one that Q8S made."""
    return os.path.expanduser(cluster.ssh_private_key) or os.path.join(state, "id_ed25519")


def server_key(cluster: _spec.Cluster, state: str, foreign: bool) -> str:
    """Return the key file that logs in to a server; an initial instance that Q8S did not create may have one of its own."""
    own = os.path.expanduser(cluster.initial_instance_private_key) if foreign else ""
    return own or private_key(cluster, state)


def _server_variables(
    cluster: _spec.Cluster, server: _cloud_objects.Server, state: str, path: str, foreign: bool = False
) -> dict[str, Any]:
    variables: dict[str, Any] = {
        "q8s_server_id": server.id,
        "q8s_status": server.status,
        "q8s_availability_zone": server.zone,
    }
    address = server.address(cluster.remote_ip_prefix)
    if address:
        variables["q8s_private_ip"] = variables["ansible_host"] = address
    if server.fault:
        variables["q8s_fault"] = server.fault
    if foreign:
        variables["q8s_foreign"] = True
        if address and _is_here(server.id, address):
            variables["ansible_connection"] = "local"
            return variables
    variables["ansible_user"] = cluster.initial_instance_user if foreign else _hostkeys.USER
    variables["ansible_ssh_private_key_file"] = server_key(cluster, state, foreign)
    variables["ansible_ssh_common_args"] = _arguments(cluster, server, state, _hostkeys.HOST, foreign) + path
    variables |= _control(server, state, _hostkeys.HOST)
    return variables


def way(cluster: _spec.Cluster, servers: list[_cloud_objects.Server], state: str) -> str:
    """What leads ssh to servers that it cannot reach directly: an option, or nothing."""
    access = cluster.access
    if access.type == "bastion":
        shared = _socket(state, "bastion", repr(access))
        return f" {_ssh.through_bastion(access.host, access.user, access.port, shared)}"
    initial = _initial(cluster, servers)
    if access.type != "floating_ip" or initial is None or not initial.floating:
        return ""
    foreign = not _cloud_objects.is_ours(initial, cluster.cluster_name)
    user = cluster.initial_instance_user if foreign else _hostkeys.USER
    destination = f"{user}@{initial.floating[0]}"
    arguments = _arguments(cluster, initial, state, _hostkeys.HOST, foreign)
    shared = _socket(state, initial.id, _authority(initial), destination)
    return f" {_ssh.through_server(arguments, server_key(cluster, state, foreign), destination, shared)}"


def _socket(state: str, *identity: str) -> str:
    """The socket of the connection to a jump host, or nothing where connections cannot be shared."""
    folder = _ssh.socket_folder(state)
    return os.path.join(folder, _ssh.socket_name(state, "jump", *identity)) if folder else ""


def _initial(cluster: _spec.Cluster, servers: list[_cloud_objects.Server]) -> _cloud_objects.Server | None:
    """The initial control plane, if it is there."""
    foreign = _cloud_objects.foreign_initial(cluster, servers)[0]
    ours = [
        s
        for s in servers
        if _cloud_objects.is_ours(s, cluster.cluster_name) and s.name == cluster.name_of_initial_instance
    ]
    return foreign or next(iter(sorted(ours, key=lambda s: s.status != "ACTIVE")), None)


def _arguments(
    cluster: _spec.Cluster, server: _cloud_objects.Server, state: str, purpose: str, foreign: bool = False
) -> str:
    """Options of ssh for a server or its guest, without the way to it.

    :param purpose: what its host key is signed for; nothing is signed on a server of others
    """
    known = _ssh.foreign_host(state) if foreign else _ssh.known_host(_authority(server), purpose)
    users_own = cluster.ssh_private_key or (foreign and cluster.initial_instance_private_key)
    return f"{_ssh.own_options(not users_own)} {known}"


def _control(server: _cloud_objects.Server, state: str, purpose: str) -> dict[str, str]:
    """Variables that name the socket by which Ansible shares one connection among all tasks of a host."""
    folder = _ssh.socket_folder(state)
    if not folder:
        return {"ansible_control_path": "none"}
    name = _ssh.socket_name(state, purpose, server.id, _authority(server))
    return {"ansible_control_path_dir": folder, "ansible_control_path": f"%(directory)s/{name}"}


def _authority(server: _cloud_objects.Server) -> str:
    return server.metadata.get(_cloud_objects.META_HOST_CA, "")


def _word(name: str) -> str:
    """A name as a part of a group's name, which has no other characters."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


# Where cloud-init keeps the id of the server that it runs on; everybody may read them.
_INSTANCE_IDS = ("/run/cloud-init/.instance-id", "/var/lib/cloud/data/instance-id")
_PRODUCT_UUID = "/sys/class/dmi/id/product_uuid"  # Nova's id of the server; root alone may read it


def _is_here(server_id: str, address: str) -> bool:
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


def _first_line(path: str) -> str:
    """Return the first line of a file, empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""


def _default_state() -> str:
    base = os.environ.get("XDG_STATE_HOME", "")
    # the XDG specification has relative paths ignored
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/state"), "q8s")
