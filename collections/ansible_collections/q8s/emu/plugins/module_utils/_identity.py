# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster was created with and cannot change while it exists. Pure functions.

Every server carries these values as metadata, so that each controller can compare a cluster file with them, from the
cloud alone and before anything is changed. It also records its image's name, which Nova does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects, _spec_fields, _upgrade
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, is_additional_control_plane

# Fields of the cluster file whose edits are refused, in the file's order.
FIELDS = (
    "remote_ip_prefix",
    "name_of_initial_instance",
    "worker_port_range_min",
    "worker_port_range_max",
    "guest_ip_prefix",
    "pod_cidr",
    "service_cidr",
    "kubernetes_version",
)
_PREFIX = "q8s_"
_VERSION = "kubernetes_version"
_IMAGE = _PREFIX + "default_image_name"
# The version that an upgrade has begun and not ended with; empty or missing if there is none.
_UPGRADING = _PREFIX + "upgrading"


def metadata(cluster: Cluster) -> dict[str, str]:
    """Return the metadata that records on a new server what it and its cluster are created with."""
    values = {_PREFIX + field: str(getattr(cluster, field)) for field in FIELDS}
    return {**values, _IMAGE: cluster.default_image_name}


def recorded_image(server: Server) -> str:
    """Return the file's name of the image that a server was created from; empty for one of an earlier release."""
    return server.metadata.get(_IMAGE, "")


def refused_edits(cluster: Cluster, servers: Iterable[Server], *, upgrades: bool = False) -> tuple[str, ...]:
    """Return why the cluster file does not fit the cluster that exists; empty if it does, or none exists.

    :param servers: all servers of the project
    :param upgrades: whether this run is an upgrade of Kubernetes
    """
    everything = list(servers)
    ours = [s for s in everything if _cloud_objects.is_ours(s, cluster.cluster_name) and not s.deleting]
    recorded = _recorded(ours)
    refused = [
        refusal(field, has, str(getattr(cluster, field)))
        for field, has in recorded.items()
        if field != _VERSION and has != str(getattr(cluster, field))
    ]
    if _VERSION in recorded:
        target = next((s.metadata[_UPGRADING] for s in ours if s.metadata.get(_UPGRADING)), "")
        has, wanted = recorded[_VERSION], cluster.kubernetes_version
        refused += filter(None, [_upgrade.unfinished(has, wanted, target, upgrades=upgrades)])
    if "name_of_initial_instance" not in recorded:
        former = _former_initial(cluster, ours)
        if former:
            refused.append(refusal("name_of_initial_instance", former, cluster.name_of_initial_instance))
    if "remote_ip_prefix" not in recorded:
        outside = next((s for s in ours if s.addresses and s.address(cluster.remote_ip_prefix) is None), None)
        if outside:
            has = f"another one: the server {outside.name} has the address {outside.addresses[0]}"
            refused.append(refusal("remote_ip_prefix", has, cluster.remote_ip_prefix))
    return tuple(refused)


def refusal(field: str, has: str, wanted: str) -> str:
    """Return the message about a field whose edit is refused: both values, the reason and what to do."""
    edit = _spec_fields.CLUSTER.edit(field)
    value = has.split(": ", 1)[0]
    back = f"Set it back to {value}" if value == has else "Set it back"
    return (
        f"{field} is {wanted} in the cluster file, but the cluster has {has}. "
        f"It cannot be changed while the cluster exists: {edit.text}. {back}, or {edit.remedy}."
    )


def _recorded(ours: Iterable[Server]) -> dict[str, str]:
    """Return what the servers record, by field. A later server may record a newer version of Kubernetes."""
    found: dict[str, str] = {}
    for server in ours:
        for field in FIELDS:
            value = server.metadata.get(_PREFIX + field)
            if value and (field not in found or (field == _VERSION and _later(value, found[field]))):
                found[field] = value
    return {field: found[field] for field in FIELDS if field in found}


def _later(version: str, other: str) -> bool:
    return _upgrade.number(version) > _upgrade.number(other)


def outdated(cluster: Cluster, servers: Iterable[Server], metadata: Mapping[str, str]) -> tuple[Server, ...]:
    """Return the cluster's servers that record something else. A value that is empty may be missing."""
    return tuple(
        server
        for server in servers
        if _cloud_objects.is_ours(server, cluster.cluster_name)
        and not server.deleting
        and any(server.metadata.get(key, "") != value for key, value in metadata.items())
    )


def version_metadata(cluster: Cluster, *, begins: bool = False) -> dict[str, str]:
    """Return the metadata that records the cluster's version of Kubernetes, or that an upgrade to it begins."""
    if begins:
        return {_UPGRADING: cluster.kubernetes_version}
    return {_PREFIX + _VERSION: cluster.kubernetes_version, _UPGRADING: ""}


def _former_initial(cluster: Cluster, ours: Iterable[Server]) -> Optional[str]:
    """Return the initial control plane of a cluster whose servers do not record its name, if the file names another one."""
    planes = [s.name for s in ours if _cloud_objects.is_control_plane(s)]
    if cluster.name_of_initial_instance in planes:
        return None
    return next((name for name in planes if not is_additional_control_plane(cluster.cluster_name, name)), None)
