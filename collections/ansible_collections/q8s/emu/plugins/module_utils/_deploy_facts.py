# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read from raw output when guests started, what runs where, and what is installed. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import condition, epoch

_UNITS = {"q8s-containerd.service": "containerd", "kubelet.service": "kubelet"}
# Latencies of a pod, with the names that kube-burner gives them, and the conditions that end them.
_LATENCIES = {
    "schedulingLatency": "PodScheduled",
    "initializedLatency": "Initialized",
    "containersReadyLatency": "ContainersReady",
    "podReadyLatency": "Ready",
}
_INVOLVED = ("Node", "Pod")


def deploy_facts(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of a cluster from its hosts' variables. What was not read or cannot be parsed is left out."""
    items = _objects(hosts)
    nodes = {item["metadata"]["name"]: item for item in items if item["kind"] == "Node"}
    controls = [variables for _name, variables in sorted(hosts.items()) if "q8s_installed" in variables]
    installed = next((found for found in map(_installed, controls) if found), {})
    return {
        "guests": [
            {"node": name, "host": variables["q8s_host"], **_milestones(variables, hosts, nodes.get(name))}
            for name, variables in sorted(hosts.items())
            if "q8s_host" in variables
        ],
        "nodes": [_node(item) for item in nodes.values()],
        "pods": [_pod(item) for item in items if item["kind"] == "Pod"],
        "events": [
            _event(item)
            for item in items
            if item["kind"] == "Event" and item["involvedObject"].get("kind") in _INVOLVED
        ],
        "installed": installed,
        "hosts": [
            {"name": name, **_versions(_output(variables, "q8s_host_versions"))}
            for name, variables in sorted(hosts.items())
            if _output(variables, "q8s_host_versions")
        ],
    }


def _versions(output: str) -> dict[str, Any]:
    """Return system, kernel, processor and installed packages of a host."""
    lines = [line.partition(" ")[::2] for line in output.splitlines()]
    found: dict[str, Any] = {key: value.strip() for key, value in lines if key in ("system", "kernel", "cpu")}
    packages = [value.split() for key, value in lines if key == "ii"]
    return {**found, "packages": {words[0]: words[1] for words in packages if len(words) == 2}}


def _output(variables: Mapping[str, Any], name: str) -> str:
    """Return the output of a registered task, or nothing."""
    registered = variables.get(name)
    return str(registered.get("stdout") or "") if isinstance(registered, Mapping) else ""


def _objects(hosts: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return nodes, pods and events, as the first API server that answered has them."""
    for _name, variables in sorted(hosts.items()):
        try:
            found: list[Mapping[str, Any]] = json.loads(_output(variables, "q8s_objects"))["items"]
        except (ValueError, KeyError, TypeError):
            continue
        return found
    return []


def _milestones(
    variables: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]], node: Optional[Mapping[str, Any]]
) -> dict[str, Optional[float]]:
    """Return the milestones of a guest's boot in seconds since the epoch.

    :param variables: the guest's variables
    :param node: its node as the API returns it
    """
    host = hosts.get(variables["q8s_host"], {})
    found: dict[str, Optional[float]] = dict.fromkeys(("power_on", "kernel", *_UNITS.values(), "registered", "ready"))
    found["power_on"] = _number(_output(host, "q8s_power_on").split()[-1:])
    lines = _output(variables, "q8s_journal").splitlines()
    now, uptime = _number(lines[0].split()[:1]) if lines else None, _number(lines[1].split()[:1]) if lines[1:] else None
    if now is not None and uptime is not None:
        found["kernel"] = round(now - uptime, 3)
    for line in lines[2:]:
        for unit, name in _UNITS.items():
            if f"Started {unit}" in line and found[name] is None:
                found[name] = _number(line.split()[:1])
    if node:
        found["registered"] = epoch(node["metadata"].get("creationTimestamp"))
        ready = condition(node)
        found["ready"] = epoch(ready.get("lastTransitionTime")) if ready["status"] == "True" else None
    return found


def _number(words: Sequence[str]) -> Optional[float]:
    """Return the first word as a number, or None."""
    try:
        return float(words[0])
    except (ValueError, IndexError):
        return None


def _node(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node: what it is, and its conditions."""
    return {
        "name": item["metadata"]["name"],
        "created": item["metadata"]["creationTimestamp"],
        "labels": item["metadata"].get("labels") or {},
        "taints": item["spec"].get("taints") or [],
        "capacity": item["status"].get("capacity") or {},
        "info": {
            key: value
            for key, value in (item["status"].get("nodeInfo") or {}).items()
            if "ID" not in key and "UUID" not in key
        },
        "conditions": item["status"].get("conditions") or [],
    }


def _pod(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a pod runs, and how long it took to get there. Nothing of its specification, which may hold secrets.

    The latencies are from the pod's creation, in milliseconds; Kubernetes' times have whole seconds.
    """
    created = epoch(item["metadata"]["creationTimestamp"])
    met = {
        one["type"]: epoch(one.get("lastTransitionTime"))
        for one in item["status"].get("conditions") or []
        if one["status"] == "True"
    }
    return {
        "namespace": item["metadata"]["namespace"],
        "name": item["metadata"]["name"],
        "nodeName": item["spec"].get("nodeName", ""),
        "schedulerName": item["spec"].get("schedulerName", ""),
        "phase": item["status"].get("phase", ""),
        "created": item["metadata"]["creationTimestamp"],
        **{
            name: round(1000 * (moment - created))
            for name, kind in _LATENCIES.items()
            for moment in [met.get(kind)]
            if moment is not None and created is not None
        },
    }


def _event(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of a node or pod."""
    involved = item["involvedObject"]
    return {
        "kind": involved["kind"],
        "namespace": involved.get("namespace", ""),
        "name": involved.get("name", ""),
        "type": item.get("type", ""),
        "reason": item.get("reason", ""),
        "message": item.get("message", ""),
        "first": item.get("firstTimestamp") or item.get("eventTime") or "",
        "last": item.get("lastTimestamp") or item.get("eventTime") or "",
        "count": item.get("count") or 1,
    }


def _installed(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of the control plane's bundle, and the artifacts that it serves with their SHA-256."""
    manifest_text, _line, sums = _output(variables, "q8s_installed").partition("\n---\n")
    try:
        manifest = json.loads(manifest_text)
    except ValueError:
        return {}
    artifacts = []
    for line in sums.splitlines():
        checksum, _spaces, name = line.partition("  ")
        if len(checksum) == 64 and name:
            artifacts.append({"name": name.rpartition("/")[2], "sha256": checksum})
    return {"manifest": manifest, "artifacts": artifacts}
