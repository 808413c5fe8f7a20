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
    C(q8s_other_users) has the ids of other users of the cloud who created some of them.
  - The user's SSH configuration is not used for servers and guests. With C(access) of the type C(bastion), they are reached through it. Only the login
    there reads the user's ssh configuration, which has its host key and the user's key. With C(floating_ip), the initial control plane is reached by
    its floating IP, and all others through it; its host key is checked on the way.
  - In C(control_plane_initial) is the control plane that the others join. It is the initial instance, or one that took its place after it was deleted.
  - The variables of all hosts (C(q8s_cluster), C(q8s_state_dir), C(q8s_expected_nodes), C(q8s_workers) ...) are set even if no server exists, or the
    cloud does not answer.
  - C(q8s_state_dir) is the cluster's folder below O(state_dir), one for each cloud, project and cluster. Without the cloud's answer it is there only
    if these credentials deployed the cluster from this machine. C(q8s_state_record) is the text of the file C(cluster.json) in it,
    C(q8s_private_key) the key that logs in to servers and guests.
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
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible import context
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.vars import load_extra_vars
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _cluster_servers, _spec, _state
from ansible_collections.q8s.emu.plugins.module_utils._inventory import (
    Host,
    LocalState,
    cluster_variables,
    hosts,
    other_users,
    presence_variables,
)


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Lists a cluster. ``meta: refresh_inventory`` sees servers that were just made, whatever is cached."""

    NAME = "q8s.emu.openstack"

    def verify_file(self, path: str) -> bool:
        """Return whether the file is an inventory of ours."""
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
            "started",
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
        inventory.set_variable("all", "q8s_other_users", other_users(cluster, servers, found.user_id))
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
                folder = _state.folder(root, project, name)
                return servers, LocalState(folder, project, kept["etcd_server"], kept["user_id"])
        found = _cluster_servers.find(
            _cloud.connect(cloud), cluster, root, move=not context.CLIARGS.get("check", False)
        )
        if found.note:
            (self.display.vv if found.moved else self.display.warning)(found.note)
        if wanted:
            listed = [asdict(server) for server in found.servers]
            state = found.state
            self._cache[key] = {
                "project": asdict(state.project),
                "servers": listed,
                "etcd_server": state.etcd_server,
                "user_id": state.user_id,
            }
        return found.servers, found.state

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


def _server_of(item: Mapping[str, Any]) -> _cloud_objects.Server:
    """Return a server from what the cache keeps of it: JSON has lists only."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return _cloud_objects.Server(**values)


def explain(error: _spec.SpecError | OSError) -> str:
    """Return why a cluster file could not be read, with every mistake and its place."""
    if isinstance(error, _spec.SpecError):
        return f"Failed to read the cluster file:\n{error.text()}"
    hint = "hint: `q8s-run init FILE` writes one from what your cloud offers"
    return f"Failed to read the cluster file {error.filename}: {error.strerror}\n{hint}"


def cluster_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cluster's fields among extra variables, and those that look like a field with a typing error."""

    def close(name: str) -> bool:
        return bool(difflib.get_close_matches(name, _spec.FIELDS, 1, 0.85))

    return {str(key): value for key, value in extra.items() if key in _spec.FIELDS or close(str(key))}


def _default_state() -> str:
    base = os.environ.get("XDG_STATE_HOME", "")
    # the XDG specification has relative paths ignored
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/state"), "q8s")
