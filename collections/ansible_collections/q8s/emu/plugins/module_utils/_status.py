# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How each node of a cluster is, and what to do about it: pure functions from what was asked of cloud, hosts and Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec

_DEPLOY = "deploy again"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # Kubernetes' words, and the kernel's
_CONTROL_PLANES = "x86_64"


def node_rows(cluster: Cluster, hosts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each node that the file asks for, then for each server or node that it does not.

    A row has the keys node, host, architecture, address, server, guest, kubernetes, version, problem and hint; the last two
    are empty where all is well.

    :param hosts: variables of the inventory's hosts. Where they were asked, ``q8s_domain`` of a worker's host is what
        ``virsh domstate`` gave, ``q8s_kubernetes`` of a control plane what ``kubectl get nodes -o json`` gave
    """
    answers = [given for given in (hosts[name].get("q8s_kubernetes") for name in hosts) if given]
    nodes, why = kubernetes_nodes(answers)
    specs = cluster.servers()
    rows = [_row(spec, hosts.get(spec.name), nodes, why) for spec in specs]
    named = {spec.name for spec in specs} | {spec.node for spec in specs}
    for name, variables in hosts.items():
        if name not in named and "q8s_server_id" in variables:
            rows.append(_surplus_server(name, variables))
    for name, node in (nodes or {}).items():
        if name not in named:
            rows.append(_surplus_node(name, node))
    return rows


def kubernetes_nodes(answers: Iterable[Mapping[str, Any]]) -> tuple[Optional[dict[str, Any]], str]:
    """The cluster's nodes by name from the first control plane that answered, or None and why none did."""
    why = "no control plane was there to be asked"
    for answer in answers:
        if answer.get("unreachable"):
            why = "no control plane can be reached by ssh"
            continue
        try:
            items = json.loads(answer.get("stdout") or "")["items"]
        except (ValueError, KeyError):
            lines = str(answer.get("stderr") or "").strip().splitlines()
            if answer.get("rc") == 127:  # the shell's word for a program that is not there
                why = "the control plane has no kubectl yet; deploy again"
                continue
            why = f"the API server does not answer ({lines[-1]})" if lines else "the API server does not answer"
            continue
        return {item["metadata"]["name"]: item for item in items}, ""
    return None, why


def _row(
    spec: ServerSpec, variables: Optional[Mapping[str, Any]], nodes: Optional[Mapping[str, Any]], why: str
) -> dict[str, str]:
    node = (nodes or {}).get(spec.node)
    architecture = spec.vm_type.architecture if spec.vm_type else _CONTROL_PLANES
    row = {
        "node": spec.node,
        "host": spec.name,
        "architecture": _machine(node) or architecture,
        "address": str((variables or {}).get("q8s_private_ip", "")),
        "server": str(variables["q8s_status"]) if variables else "absent",
        "guest": "" if spec.vm_type is None else "unknown",
        "kubernetes": "unknown" if nodes is None else _readiness(node),
        "version": node["status"]["nodeInfo"]["kubeletVersion"] if node else "",
    }
    if spec.vm_type is not None and variables is not None:
        row["guest"] = _guest(variables.get("q8s_domain") or {})
    problem, hint = _problem(spec, row, variables or {}, node, why)
    return {**row, "problem": problem, "hint": hint}


def _machine(node: Optional[Mapping[str, Any]]) -> str:
    told = node["status"]["nodeInfo"]["architecture"] if node else ""
    return _MACHINES.get(told, told)


def _guest(answer: Mapping[str, Any]) -> str:
    if answer.get("unreachable") or not answer:
        return "unknown"
    if answer.get("rc") == 0:
        return str(answer.get("stdout", "")).strip() or "unknown"
    return "absent"


def _condition(node: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = [c for c in node["status"].get("conditions", []) if c["type"] == "Ready"]
    return conditions[0] if conditions else {"status": "Unknown"}


def _readiness(node: Optional[Mapping[str, Any]]) -> str:
    if node is None:
        return "absent"
    return {"True": "Ready", "False": "NotReady"}.get(str(_condition(node)["status"]), "Unknown")


def _problem(
    spec: ServerSpec, row: Mapping[str, str], variables: Mapping[str, Any], node: Optional[Mapping[str, Any]], why: str
) -> tuple[str, str]:
    """The first thing that is wrong, from the cloud inwards, and what to do: what is wrong further in follows from it."""
    name = spec.name
    if row["server"] == "absent":
        return f"the cloud has no server {name}", f"{_DEPLOY}: it makes the server"
    if row["server"] == "ERROR":
        fault = str(variables.get("q8s_fault") or "")
        reason = f": {fault}" if fault else ""
        return f"the server {name} is in ERROR{reason}", f"{_DEPLOY} with --yes: it makes the server anew"
    if row["server"] == "SHUTOFF":
        return f"the server {name} is switched off", f"{_DEPLOY}: it starts the server"
    if row["server"] != "ACTIVE":
        return f"the server {name} is {row['server']}", "wait, or bring it to ACTIVE; then deploy again"
    asked = variables.get("q8s_domain") if spec.vm_type else variables.get("q8s_kubernetes")
    if asked and asked.get("unreachable"):
        lines = str(asked.get("msg") or "").strip().splitlines()
        reason = f": {lines[-1]}" if lines else ""
        return f"the host {name} does not answer ssh{reason}", "openstack console log show, or reboot the server"
    if row["guest"] == "absent":
        return f"the host {name} has no guest", f"{_DEPLOY}: it makes the guest"
    if row["guest"] not in ("", "running", "unknown"):
        return f"the guest {spec.node} is {row['guest']}", f"{_DEPLOY}: it starts the guest"
    if row["kubernetes"] == "unknown":
        return f"what Kubernetes says is not known: {why}", f"q8s-run logs FILE {spec.node}" if spec.initial else ""
    return _kubernetes_problem(spec.node, row["kubernetes"], node)


def _kubernetes_problem(name: str, state: str, node: Optional[Mapping[str, Any]]) -> tuple[str, str]:
    if node is None:
        return f"{name} has not joined the cluster", f"q8s-run logs FILE {name}, or deploy again"
    if state != "Ready":
        told = _condition(node)
        reason = told.get("message") or told.get("reason") or "no reason given"
        return f"Kubernetes calls it {state}: {reason}", f"q8s-run logs FILE {name}; q8s-run replace FILE {name}"
    if node["spec"].get("unschedulable"):
        return f"{name} takes no new pods: it is cordoned", f"kubectl uncordon {name}"
    return "", ""


def _surplus_server(name: str, variables: Mapping[str, Any]) -> dict[str, str]:
    return {
        "node": str(variables.get("q8s_node_name") or name),
        "host": name,
        "architecture": "",
        "address": str(variables.get("q8s_private_ip", "")),
        "server": str(variables.get("q8s_status", "")),
        "guest": "",
        "kubernetes": "",
        "version": "",
        "problem": f"the cluster file does not ask for the server {name}",
        "hint": "deploy with --yes: it drains and removes it; or ask for it in the file again",
    }


def _surplus_node(name: str, node: Mapping[str, Any]) -> dict[str, str]:
    return {
        "node": name,
        "host": "",
        "architecture": _machine(node),
        "address": "",
        "server": "absent",
        "guest": "",
        "kubernetes": _readiness(node),
        "version": node["status"]["nodeInfo"]["kubeletVersion"],
        "problem": f"Kubernetes has a node {name} that the cluster file does not ask for",
        "hint": f"kubectl delete node {name}",
    }
