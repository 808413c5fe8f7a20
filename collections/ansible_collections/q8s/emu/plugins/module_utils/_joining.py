# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes need a bootstrap token. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _guest_changes, _status
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import Effect

# A kubelet renews its client certificate at least 36 days before it ends. The certificate of one that has reported since is valid.
AWAY_DAYS = 30


def joining_nodes(
    cluster: Cluster,
    hosts: Mapping[str, Mapping[str, Any]],
    answer: Mapping[str, Any],
    servers: Iterable[str],
    now: datetime,
) -> list[str]:
    """Return the nodes that have no valid client certificate, or may have none, in the file's order.

    These are nodes that Kubernetes does not have, nodes that have not reported for 30 days, and those whose guest is created
    or recreated in this run. If the API server does not answer, or a host was not asked, its nodes are among them.

    :param hosts: variables of the inventory's hosts; those that were asked have the fact ``emulated_worker_found``
    :param answer: what ``kubectl get nodes -o json`` returned on the initial control plane, as Ansible's result
    :param servers: names of the servers that the run is for
    """
    selected = frozenset(servers)
    nodes, _why = _status.kubernetes_nodes([answer])
    found = []
    for spec in cluster.servers():
        if spec.initial or spec.name not in selected:
            continue
        node = (nodes or {}).get(spec.node)
        if node is None or _is_away(node, now) or (spec.vm_type and _is_new(cluster, spec, hosts)):
            found.append(spec.node)
    return found


def unready_nodes(answer: Mapping[str, Any], expected: Iterable[str]) -> list[str]:
    """Return the expected nodes that are not Ready, or not there.

    :param answer: what ``kubectl get nodes -o json`` returned, as Ansible's result
    """
    nodes, _why = _status.kubernetes_nodes([answer])
    return [name for name in expected if name not in (nodes or {}) or _ready((nodes or {})[name])["status"] != "True"]


def _is_new(cluster: Cluster, spec: Any, hosts: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a worker's guest is created or recreated in this run, or may be."""
    guest = hosts.get(spec.name, {}).get(_guest_changes.FOUND)
    if not guest or guest.get("state", "none") == "none":
        return True
    change = _guest_changes.node_change(cluster, spec, guest)
    return change is not None and change.action is Effect.RECREATE


def _ready(node: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = node["status"].get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == "Ready"), {"status": "Unknown"})


def _is_away(node: Mapping[str, Any], now: datetime) -> bool:
    """Return whether the node's kubelet has not reported for so long that its certificate may have ended."""
    try:
        text = str(_ready(node).get("lastHeartbeatTime") or "")
        reported = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return False
    return (now - reported).days >= AWAY_DAYS
