# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy has to do with guests that exist, since the cluster file was changed. Pure functions.

The hosts hold the truth: libvirt's XML of the running machine, its disk, and its data disk. So every controller sees the
same, and what an interrupted run left undone is seen again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _identity, _spec_fields, _upgrade
from ansible_collections.q8s.emu.plugins.module_utils._preflight_flavors import disk_shortage, least_memory
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec, VmType
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import Edit, Effect
from ansible_collections.q8s.emu.plugins.module_utils._text import join_names

FOUND = "emulated_worker_found"  # the fact that the role's inspection sets
_STOPPED = ("none", "shut off", "crashed")
_GROWS = frozenset({"ram", "num_cpus"})
_MOST_NAMES = 5
_UNITS = {"ram": " MB", "storage": " GB", "tb_cache": " MiB"}


@dataclass(frozen=True)
class Difference:
    """A field that a guest has another value of than the cluster file, and the class of its edits."""

    field: str
    has: str
    wanted: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.field} {self.has} -> {self.wanted}"


@dataclass(frozen=True)
class NodeChange:
    """What happens to one node, and why. ``stopped``: its guest does not run, so that nothing has to be drained."""

    node: str
    host: str
    type: str
    action: Effect  # RESTART or RECREATE
    differences: tuple[Difference, ...]
    stopped: bool = False

    def __str__(self) -> str:
        return f"{self.action.value} {self.node}: {', '.join(map(str, self.differences))}"

    def to_mapping(self) -> dict[str, Any]:
        """Return the change in a form that is fit for JSON."""
        return {
            "node": self.node,
            "host": self.host,
            "type": self.type,
            "action": self.action.value,
            "stopped": self.stopped,
            "fields": [{"field": d.field, "has": d.has, "wanted": d.wanted} for d in self.differences],
        }


@dataclass(frozen=True)
class NodePlan:
    """What happens to the nodes that exist.

    ``refused`` are messages about edits that these guests do not allow. ``unknown`` says of each host that was not asked
    why, by name. ``notes`` say what may go wrong later.
    """

    changes: tuple[NodeChange, ...] = ()
    refused: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """Return the plan in a form that is fit for JSON, with notes only if there are any."""
        return {
            "changes": [change.to_mapping() for change in self.changes],
            "refused": list(self.refused),
            "unknown": dict(self.unknown),
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def node_plan(cluster: Cluster, hosts: Mapping[str, Mapping[str, Any]], servers: Iterable[str]) -> NodePlan:
    """Return what happens to the nodes that exist.

    :param hosts: variables of the inventory's hosts; those that were asked have the fact ``emulated_worker_found``
    :param servers: the names of the servers that the run is for
    """
    selected = frozenset(servers)
    changes: list[NodeChange] = []
    refused: dict[str, None] = {}
    unknown: list[tuple[str, str]] = []
    small: dict[tuple[VmType, str, int], list[ServerSpec]] = {}
    for spec in cluster.servers():
        variables = hosts.get(spec.name)
        if spec.vm_type is None or variables is None or spec.name not in selected:
            continue
        found = variables.get(FOUND)
        if not found:
            unknown.append((spec.name, _why(variables)))
            continue
        change = node_change(cluster, spec, found)
        messages = list(_refused(cluster, spec, found, str(variables.get("q8s_private_ip", ""))))
        flavor = variables.get("q8s_flavor") or {}
        created = found.get("state", "none") == "none"
        fields = {d.field for d in change.differences} if change else set()
        if created or _GROWS & fields:
            messages += _too_small(spec, flavor)
        if (created or "storage" in fields) and disk_shortage(spec.vm_type, flavor.get("disk") or 0):
            small.setdefault((spec.vm_type, flavor["name"], flavor["disk"]), []).append(spec)
        refused.update(dict.fromkeys(messages))
        if change:
            changes.append(change)
    notes = [_small_disk(*of, specs) for of, specs in small.items()]
    return NodePlan(tuple(changes), tuple(refused), tuple(unknown), tuple(notes))


def _why(variables: Mapping[str, Any]) -> str:
    status = str(variables.get("q8s_status", ""))
    return f"the server is {status}" if status != "ACTIVE" else "the host was not inspected"


def node_change(cluster: Cluster, spec: ServerSpec, found: Mapping[str, Any]) -> Optional[NodeChange]:
    """Return what happens to the node of one worker; nothing if its guest is as the file says, or is not there.

    :param found: what the role's ``inspect_guest.py`` printed on its host
    """
    if spec.vm_type is None or found.get("state", "none") == "none":
        return None
    differences = tuple(_differences(cluster, spec.vm_type, found))
    if not differences:
        return None
    recreates = any(difference.effect is Effect.RECREATE for difference in differences)
    return NodeChange(
        spec.node,
        spec.name,
        spec.vm_type.name,
        Effect.RECREATE if recreates else Effect.RESTART,
        differences,
        found["state"] in _STOPPED,
    )


def _differences(cluster: Cluster, vm: Any, found: Mapping[str, Any]) -> Iterable[Difference]:
    node = found.get("node") or {}
    architecture = node.get("architecture") or found.get("architecture")
    kvm = found.get("accel") == "kvm"
    # Each field's value in the guest and in the file; None where the guest does not tell, or it makes no difference.
    values: dict[str, tuple[Any, Any]] = {
        "architecture": (architecture, vm.architecture),
        "num_cpus": (found.get("num_cpus"), vm.num_cpus),
        "cpu_model": (found.get("cpu_model"), vm.cpu_model),
        "machine_model": (_machine_alias(str(found.get("machine_model") or ""), vm.machine_model), vm.machine_model),
        "ram": (found.get("ram"), vm.ram_mb),
        "storage": (found.get("storage") or None, vm.storage_gb),
        "qemu_args": (" ".join(found.get("qemu_args") or ()), " ".join(vm.qemu_args.split())),
        "accel": (None if vm.accel == "auto" else found.get("accel"), vm.accel),
        "tb_cache": (None if kvm else found.get("tb_cache") or 0, vm.tb_cache_mb or 0),
    }
    for name, (has, wanted) in values.items():
        if has is not None and has != wanted:
            yield _difference(_spec_fields.VM_TYPE.edit(name), name, has, wanted)
    if "guest_user" in node and node["guest_user"] != cluster.guest_user:
        yield _difference(_spec_fields.CLUSTER.edit("guest_user"), "guest_user", node["guest_user"], cluster.guest_user)
    if "proxy" in node:
        wanted_proxy = cluster.to_mapping()["proxy"]
        for field in _spec_fields.PROXY.fields:
            has, wanted = node["proxy"].get(field.name, ""), wanted_proxy.get(field.name, "")
            if has != wanted:
                yield _difference(_spec_fields.PROXY.edit(field.name), f"proxy.{field.name}", has, wanted)
    if node:
        has = node.get("kubernetes_version") or _upgrade.UNRECORDED
        if has != cluster.kubernetes_version:
            yield Difference("kubernetes_version", has, cluster.kubernetes_version, Effect.RECREATE)
    if "guest_image" in node:
        wanted = guest_image(cluster, vm.architecture)
        if node["guest_image"] != wanted and architecture == vm.architecture:
            effect = _spec_fields.GUEST_IMAGE.edit("checksum").effect
            name = f"guest_images.{vm.architecture}.checksum"
            yield Difference(name, _short(node["guest_image"]), _short(wanted), effect)


def guest_image(cluster: Cluster, architecture: str) -> str:
    """Return the checksum of the image that the file names for an architecture; empty for Q8S's own image."""
    return next((image.checksum for image in cluster.guest_images if image.architecture == architecture), "")


def _short(checksum: str) -> str:
    return f"{checksum[:19]}..." if checksum else "Q8S's own image"


def _machine_alias(has: str, wanted: str) -> str:
    """Return the wanted machine model if libvirt has the machine under its versioned name, such as pc-q35-10.0 for q35."""
    names = {"pc": "pc-i440fx-", "q35": "pc-q35-", "virt": "virt-"}
    prefix = names.get(wanted)
    return wanted if prefix and has.startswith(prefix) else has


def _difference(edit: Edit, name: str, has: Any, wanted: Any) -> Difference:
    unit = _UNITS.get(name, "")
    return Difference(name, _shown(has, unit), _shown(wanted, unit), edit.effect)


def _shown(value: Any, unit: str) -> str:
    return f"{value}{unit}" if value not in ("", 0) else "none"


def _refused(cluster: Cluster, spec: ServerSpec, found: Mapping[str, Any], host_address: str) -> Sequence[str]:
    """Return the message about another guest_ip_prefix, for clusters whose servers do not record theirs, or about another address."""
    if not found.get("address") or not host_address:
        return ()
    wanted = cluster.guest_network(host_address)
    if (found["address"], found["prefixlen"]) == (wanted.address, wanted.prefixlen):
        return ()
    has = guest_prefix(host_address, cluster.remote_ip_prefix, str(found["address"]), int(found["prefixlen"]))
    if has == cluster.guest_ip_prefix:
        return (
            f"The server {spec.name} has another address than the one that its guest was made for. "
            f"Create it anew: `q8s-run replace FILE {spec.node}`",
        )
    return (_identity.refusal("guest_ip_prefix", has, cluster.guest_ip_prefix),)


def _too_small(spec: ServerSpec, flavor: Mapping[str, Any]) -> Sequence[str]:
    """Return the message about a host whose flavor is too small for the guest that the file asks for.

    :param flavor: the flavor that the host was created with; empty if it is not known
    """
    if spec.vm_type is None or not flavor:
        return ()
    least = least_memory(spec.vm_type)
    needs = [
        *([f"{least} MB of memory"] if int(flavor["ram"]) < least else []),
        *([f"{spec.vm_type.num_cpus} vCPUs"] if int(flavor["vcpus"]) < spec.vm_type.num_cpus else []),
    ]
    if not needs:
        return ()
    return (
        f"The host {spec.name} has the flavor {flavor['name']} ({flavor['ram']} MB, {flavor['vcpus']} vCPUs), and the guest of "
        f"vm_types.types.{spec.vm_type.name} needs {' and '.join(needs)} of its host. Choose a larger openstack_flavor, and create the "
        f"host again: `q8s-run replace FILE {spec.node}`",
    )


def _small_disk(vm_type: VmType, flavor: str, disk: int, specs: Sequence[ServerSpec]) -> str:
    """Return the note about hosts of one flavor and type whose disk is too small for all that the guest may store.

    :param disk: the flavor's disk in GB
    """
    names = join_names([spec.name for spec in specs], _MOST_NAMES)
    node = specs[0].node if len(specs) == 1 else "NODE"
    return (
        f"vm_types.types.{vm_type.name}.storage: the flavor {flavor} of {names} {disk_shortage(vm_type, disk)}. "
        f"Choose a larger openstack_flavor, and create the host again: `q8s-run replace FILE {node}`"
    )


def guest_prefix(host_address: str, remote_ip_prefix: str, guest_address: str, prefixlen: int) -> str:
    """Return the ``guest_ip_prefix`` that gave the guest behind a host its address."""
    remote = ipaddress.IPv4Network(remote_ip_prefix)
    length = prefixlen - (32 - remote.prefixlen)
    return str(ipaddress.IPv4Network(f"{guest_address}/{max(length, 0)}", strict=False))
