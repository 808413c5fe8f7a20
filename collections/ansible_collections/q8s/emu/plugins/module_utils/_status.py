# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the table of a cluster's nodes: what is wrong with each, and which command fixes it. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _certificates, _host_state, _ssh_errors
from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import condition, epoch, reason
from ansible_collections.q8s.emu.plugins.module_utils._plan_servers import RECOVERY_COMMANDS
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec, is_additional_control_plane

# FILE is replaced by the cluster file's name where the hint is shown.
_DEPLOY = "q8s-run deploy FILE"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # Kubernetes' words, and the kernel's
_CONTROL_PLANES = "x86_64"
_VIRSH = "sudo virsh --connect qemu:///system"
_RESUMED_BY = {"paused": "resume", "pmsuspended": "dompmwakeup"}
# Conditions other than Ready that say something when they are true.
_PRESSURES = ("DiskPressure", "MemoryPressure", "PIDPressure", "NetworkUnavailable")
_JOIN_SECONDS = 300  # a guest that has run this long has joined, or will not by itself


class Gateway(NamedTuple):
    """The control plane with the floating IP, through which the others are reached, and why it is not reachable itself."""

    name: str
    problem: str
    hint: str


class Guest(NamedTuple):
    """What a worker's host says of its guest. Times are seconds of Unix time, 0 if unknown; ``reason`` is libvirt's."""

    state: str
    reason: str = ""
    started: int = 0
    now: int = 0


def node_rows(cluster: Cluster, hosts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a row for each node that the file asks for, then for each server or node that it does not.

    A row has the keys node, host, architecture, address, server, guest, kubernetes, version, problem and hint; the last two
    are empty where all is well.

    :param hosts: variables of the inventory's hosts. Where they were asked, ``q8s_domain`` of a worker's host is what
        ``guest_state.sh`` printed; ``q8s_kubernetes`` of a control plane what ``kubectl get nodes,leases -o json`` printed.
        Both may have the lines of ``host_state.sh`` before. ``control_plane_certificates`` is what its certificates need
    """
    answers = [given for given in (hosts[name].get("q8s_kubernetes") for name in hosts) if given]
    nodes, why = kubernetes_nodes(answers)
    specs = cluster.servers()
    kubectl = _kubectl(hosts, next(spec.name for spec in specs if spec.initial))
    gateway = _gateway(cluster, hosts)
    rows = [_row(spec, hosts.get(spec.name), nodes, why, kubectl=kubectl, gateway=gateway) for spec in specs]
    named = {spec.name for spec in specs} | {spec.node for spec in specs}
    for name, variables in hosts.items():
        if name not in named and "q8s_server_id" in variables:
            row = _surplus_server(name, variables, nodes)
            named.add(row["node"])
            rows.append(row)
    for name, node in (nodes or {}).items():
        if name not in named:
            rows.append(_surplus_node(cluster.cluster_name, name, node, kubectl))
    return rows


def _kubectl(hosts: Mapping[str, Mapping[str, Any]], initial: str) -> str:
    """Return the command that runs kubectl on a control plane that answers: the initial one, whose root has a kubeconfig, if it does."""
    asked = {name: hosts[name].get("q8s_kubernetes") for name in hosts}
    answering = [name for name, answer in asked.items() if answer and not _api_problem(answer)]
    if not answering or initial in answering:
        return f"q8s-run ssh FILE {initial} -- sudo kubectl"
    return f"q8s-run ssh FILE {answering[0]} -- sudo kubectl --kubeconfig=/etc/kubernetes/admin.conf"


def kubernetes_nodes(answers: Iterable[Mapping[str, Any]]) -> tuple[Optional[dict[str, Any]], str]:
    """Return the nodes by name from the first API server that answered, or None and why none did.

    A node's ``renewed`` is when its kubelet last renewed its lease, where leases were asked for.
    """
    why = "there is no control plane"
    for answer in answers:
        problem = _api_problem(answer)
        if problem:
            why = problem
            continue
        items = json.loads(_host_state.split(answer["stdout"])[1])["items"]
        nodes = {item["metadata"]["name"]: item for item in items if item.get("kind", "Node") == "Node"}
        for item in items:
            if item.get("kind") == "Lease" and item["metadata"]["name"] in nodes:
                nodes[item["metadata"]["name"]]["renewed"] = item.get("spec", {}).get("renewTime", "")
        return nodes, ""
    return None, why


def _api_problem(answer: Mapping[str, Any]) -> str:
    """Return why a control plane's answer is of no use, empty if it is of use."""
    if answer.get("unreachable"):
        return "no control plane can be reached by ssh"
    if _sudo_problem(answer):
        return "no control plane lets its user run sudo"
    if answer.get("rc") == 127:  # the shell's word for a program that is not there
        return "the control plane has no Kubernetes yet"
    try:
        # kubectl prints an empty list, too, when it fails
        if answer.get("rc") == 0 and "items" in json.loads(_host_state.split(answer.get("stdout") or "")[1]):
            return ""
    except ValueError:
        pass
    lines = [line for line in str(answer.get("stderr") or "").splitlines() if line.strip()]
    return f"the API server does not answer ({lines[-1].strip()})" if lines else "the API server does not answer"


def _row(
    spec: ServerSpec,
    variables: Optional[Mapping[str, Any]],
    nodes: Optional[Mapping[str, Any]],
    why: str,
    *,
    kubectl: str,
    gateway: Optional[Gateway],
) -> dict[str, str]:
    node = (nodes or {}).get(spec.node)
    architecture = spec.vm_type.architecture if spec.vm_type else _CONTROL_PLANES
    guest = Guest("")
    if spec.vm_type is not None:
        guest = _guest((variables or {}).get("q8s_domain") or {})
    row = {
        "node": spec.node,
        "host": spec.name,
        "architecture": _machine(node) or architecture,
        "address": str((variables or {}).get("q8s_private_ip", "")),
        "server": str(variables["q8s_status"]) if variables else "absent",
        "guest": guest.state,
        "kubernetes": "unknown" if nodes is None else _readiness(node, guest),
        "version": node["status"]["nodeInfo"]["kubeletVersion"] if node else "",
    }
    problem, hint = (
        _server_problem(spec, row, variables or {})
        or _way_problem(spec, variables or {}, gateway)
        or _login_problem(spec, row, variables or {})
        or _machine_problem(spec, row, variables or {}, guest)
        or _api_server_problem(spec, row, variables or {}, why)
        or _kubernetes_problem(spec.node, row, node, guest, kubectl)
    )
    return {**row, "problem": problem, "hint": hint}


def _machine(node: Optional[Mapping[str, Any]]) -> str:
    architecture = node["status"]["nodeInfo"]["architecture"] if node else ""
    return _MACHINES.get(architecture, architecture)


def _guest(answer: Mapping[str, Any]) -> Guest:
    """Return what a host said of its guest."""
    if answer.get("unreachable") or not answer:
        return Guest("unknown")
    _state, text = _host_state.split(str(answer.get("stdout") or ""))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    facts = dict(line.split(" ", 1) for line in lines if re.fullmatch(r"(started|now) \d+", line))
    started, now = int(facts.get("started", 0)), int(facts.get("now", 0))
    if answer.get("rc") == 0:
        state, _bracket, reason = (lines[0] if lines else "unknown").partition(" (")
        return Guest(state, reason.rstrip(")"), started, now)
    if "failed to get domain" in str(answer.get("stderr") or ""):
        return Guest("absent")
    # libvirt was not asked, or does not answer; QEMU may run without it
    return Guest("running" if "qemu" in lines else "unknown", "", started, now)


def _readiness(node: Optional[Mapping[str, Any]], guest: Guest) -> str:
    if node is None:
        return "absent"
    state = {"True": "Ready", "False": "NotReady"}.get(str(condition(node)["status"]), "Unknown")
    if state == "Ready" and _is_stale(node, guest):
        return "stale"
    return ", ".join([state, *(kind for kind in _PRESSURES if condition(node, kind)["status"] == "True")])


def _is_stale(node: Mapping[str, Any], guest: Guest) -> bool:
    """Return whether the node has not reported since its guest was started.

    Kubernetes calls a node Ready for 40 s after its machine has ended.
    """
    times = [epoch(node.get("renewed")), epoch(condition(node).get("lastHeartbeatTime"))]
    known = [moment for moment in times if moment is not None]
    return bool(guest.started) and bool(known) and max(known) < guest.started


def _server_problem(
    spec: ServerSpec, row: Mapping[str, str], variables: Mapping[str, Any]
) -> Optional[tuple[str, str]]:
    name, status = spec.name, row["server"]
    if status == "ACTIVE":
        return None
    if status == "absent":
        lost = ", or see what would be lost with the old one" if spec.initial else ""
        return f"the cloud has no server {name}", f"create the server{lost}: {_DEPLOY}"
    if status == "ERROR":
        fault = str(variables.get("q8s_fault") or "")
        reason = f": {fault}" if fault else ""
        fix = f"replace the server: {_DEPLOY} --yes"
        if spec.vm_type is None:
            fix = f"openstack server reboot --hard {name}; if that fails, see what would be lost with it: {_DEPLOY}"
        return f"the server {name} is in ERROR{reason}", fix
    if status == "SHUTOFF":
        return f"the server {name} is switched off", f"start the server: {_DEPLOY}"
    if status in RECOVERY_COMMANDS:
        return f"the server {name} is {status}", f"openstack server {RECOVERY_COMMANDS[status]} {name}"
    return f"the server {name} is {status}", "wait until it is ACTIVE: q8s-run status FILE"


def _gateway(cluster: Cluster, hosts: Mapping[str, Mapping[str, Any]]) -> Optional[Gateway]:
    """Return the control plane that leads to the others, None if no server of the cluster does."""
    planes = [spec for spec in cluster.servers() if not spec.vm_type and spec.name in hosts]
    direct = [s for s in planes if "ProxyCommand" not in str(hosts[s.name].get("ansible_ssh_common_args") or "")]
    if cluster.access.type != "floating_ip" or not direct:
        return None
    spec, variables = direct[0], hosts[direct[0].name]
    row = {"server": str(variables["q8s_status"]), "address": str(variables.get("q8s_private_ip", ""))}
    found = _server_problem(spec, row, variables)
    if not found and _answer(spec, variables).get("unreachable"):
        found = _login_problem(spec, row, variables)
    return Gateway(spec.name, *(found or ("", "")))


def _way_problem(
    spec: ServerSpec, variables: Mapping[str, Any], gateway: Optional[Gateway]
) -> Optional[tuple[str, str]]:
    """Return what is wrong with the jump host through which the host is asked, which says nothing of the host itself."""
    asked = _answer(spec, variables)
    if not asked.get("unreachable"):
        return None
    jump = _ssh_errors.jump_failure(str(asked.get("msg") or ""))
    behind = gateway if gateway and gateway.name != spec.name else None
    # A connection through a control plane that has just failed is shared until it times out, and has no message of its own.
    if behind and behind.problem:
        through, cause = (jump.destination, jump.reason) if jump else (behind.name, behind.problem)
        return f"the way to {spec.name} through {through} fails: {cause}", f"fix {behind.name} first: {behind.hint}"
    if jump:
        hint = "try again: q8s-run status FILE" if behind else jump.hint
        return f"the way to {spec.name} through {jump.destination} fails: {jump.reason}", hint
    return None


def _answer(spec: ServerSpec, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a host answered, empty if it was not asked."""
    return variables.get("q8s_domain" if spec.vm_type else "q8s_kubernetes") or {}


def _login_problem(spec: ServerSpec, row: Mapping[str, str], variables: Mapping[str, Any]) -> Optional[tuple[str, str]]:
    """Return what keeps Ansible from asking the host."""
    name = spec.name
    replace = f"q8s-run replace FILE {spec.node}" if spec.vm_type else ""
    asked = _answer(spec, variables)
    if not asked:
        return None
    user = str(variables.get("ansible_user") or "its user")
    if not asked.get("unreachable"):
        if not _sudo_problem(asked):
            return None
        fix = f"q8s-run ssh FILE {name} -- su --command=\"echo '{user} ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/q8s\""
        return f"{user} may not use sudo on the host {name} without a password", replace or fix
    message = str(asked.get("msg") or "").strip()
    reason = f": {_ssh_errors.failure_reason(message)}" if message else ""
    if _ssh_errors.is_refused(message):
        key = str(variables.get("ansible_ssh_private_key_file") or "of the cluster")
        remedy = f"restore the key {key} that the cluster was deployed with"
        return (
            f"the host {name} refuses the login of {user}{reason}",
            f"{remedy}; if it is there: {replace}" if replace else remedy,
        )
    if _ssh_errors.is_other_host(message):
        address = row["address"]
        known = (
            f"ssh-keygen -R {address} -f {variables.get('q8s_state_dir') or '~/.local/state/q8s/CLUSTER'}/known_hosts"
        )
        fix = known if variables.get("q8s_foreign") else replace or f"openstack server show {name}"
        return (
            f"the machine at {address} does not have the host key of {name}: it is another machine, or the server was rebuilt",
            f"if it was rebuilt: {fix}",
        )
    return (
        f"the host {name} does not answer ssh{reason}",
        f"openstack server reboot {name}; its messages: openstack console log show {name}",
    )


def _sudo_problem(answer: Mapping[str, Any]) -> bool:
    text = " ".join(str(answer.get(key) or "") for key in ("stderr", "stdout", "msg"))
    return answer.get("rc") != 0 and bool(
        re.search(r"sudo: |Missing sudo password|not in the sudoers|may not run sudo", text)
    )


def _machine_problem(
    spec: ServerSpec, row: Mapping[str, str], variables: Mapping[str, Any], guest: Guest
) -> Optional[tuple[str, str]]:
    """Return what is wrong with the guest, and what of Q8S is not in force on its host or on a control plane."""
    of_guest = _guest_problem(spec, guest, variables)
    answer = _answer(spec, variables)
    ended = (variables.get("control_plane_certificates") or {}).get("ended")
    # Nothing is installed yet; or a kubelet whose credentials have ended does not run, and a deploy does not renew them.
    if answer.get("rc") == 127 or ended:
        return of_guest
    state, _rest = _host_state.split(str(answer.get("stdout") or ""))
    found = _host_state.problems(state, spec.name, spec.node)
    # A guest that boots has no kubelet yet, and its node has not reported since.
    if state.kubelet_refuses and (row["kubernetes"].startswith("Ready") or _age(guest) > _JOIN_SECONDS):
        found.append(f"the kubelet of {spec.node} does not run, though its guest does")
    if not found:
        return of_guest
    limit = f" --limit {spec.node}" if spec.vm_type else ""
    space = f"{_free_space(spec)}, then " if _is_out_of_space(guest) else ""
    return "; ".join([*(of_guest or ())[:1], *found]), f"{space}repair that: {_DEPLOY}{limit}"


def _is_out_of_space(guest: Guest) -> bool:
    return guest.state in _RESUMED_BY and guest.reason in ("I/O error", "ioerror")


def _free_space(spec: ServerSpec) -> str:
    return f"free space (q8s-run ssh FILE {spec.name} -- df -h)"


def _age(guest: Guest) -> int:
    """Return how many seconds ago the guest was started, 0 if unknown."""
    return guest.now - guest.started if guest.started else 0


def _guest_problem(spec: ServerSpec, guest: Guest, variables: Mapping[str, Any]) -> Optional[tuple[str, str]]:
    answer = variables.get("q8s_domain") or {}
    if spec.vm_type is None or not answer:
        return None
    limited = f"{_DEPLOY} --limit {spec.node}"
    if answer.get("rc") == 127:
        return f"the host {spec.name} has no libvirt yet", f"install it: {limited}"
    if answer.get("rc") != 0 and guest.state != "absent":
        runs = "; the guest runs on without it" if guest.state == "running" else ""
        return f"libvirt on the host {spec.name} does not answer{runs}", f"start libvirt: {limited}"
    if guest.state == "absent":
        return f"the host {spec.name} has no guest", f"create the guest: {limited}"
    if guest.state in _RESUMED_BY:
        command = f"q8s-run ssh FILE {spec.name} -- {_VIRSH} {_RESUMED_BY[guest.state]} {spec.node}"
        full = _is_out_of_space(guest)
        reason = ", since its host's disk failed or is full" if full else ""
        space = f"{_free_space(spec)}, then " if full else ""
        return f"the guest {spec.node} is {guest.state}{reason}", f"{space}{command}"
    if guest.state not in ("running", "unknown"):
        return f"the guest {spec.node} is {guest.state}", f"start the guest: {limited}"
    return None


def _api_server_problem(
    spec: ServerSpec, row: Mapping[str, str], variables: Mapping[str, Any], why: str
) -> Optional[tuple[str, str]]:
    """Return what is wrong with a control plane's API server, or why nothing is known of any node."""
    own = variables.get("q8s_kubernetes") if spec.vm_type is None else None
    problem = _api_problem(own) if own else ""
    if own and own.get("rc") == 127:
        return f"{spec.node} has no Kubernetes yet", f"install it: {_DEPLOY}"
    ended = str((variables.get("control_plane_certificates") or {}).get("ended") or "")
    if ended:
        return ended, _certificates.RENEW
    if problem:
        restart = f"q8s-run ssh FILE {spec.name} -- sudo systemctl restart q8s-containerd kubelet"
        return problem, f"{restart}; its messages: q8s-run logs FILE {spec.node}"
    if row["kubernetes"] == "unknown":
        return f"its state in Kubernetes is not known: {why}", "fix the control plane first: q8s-run status FILE"
    return None


def _kubernetes_problem(
    name: str, row: Mapping[str, str], node: Optional[Mapping[str, Any]], guest: Guest, kubectl: str
) -> tuple[str, str]:
    limited = f"{_DEPLOY} --limit {name}"
    logs = f"q8s-run logs FILE {name}"
    age = _age(guest)
    if node is None:
        if guest.state == "running" and age > _JOIN_SECONDS:
            restart = f"q8s-run ssh FILE {name} -- systemctl restart kubelet"
            return f"{name} is not in the cluster, though its guest runs", f"{restart}; its messages: {logs}"
        return f"{name} has not joined the cluster", f"{limited}; its messages: {logs}"
    if row["kubernetes"] == "stale":
        return (
            f"the guest was started {age} s ago, and {name} has not reported since: Kubernetes still has its earlier state",
            "it boots; a minute later: q8s-run status FILE",
        )
    ready = condition(node)
    if str(ready["status"]) != "True":
        return f"Kubernetes reports it as {row['kubernetes']}: {reason(ready)}", f"{limited}; its messages: {logs}"
    for kind in _PRESSURES:
        found = condition(node, kind)
        if found["status"] == "True":
            show = {"DiskPressure": "df -h", "MemoryPressure": "free -m"}.get(kind, "journalctl -u kubelet -n 20")
            return f"{name} has {kind}: {reason(found)}", f"q8s-run ssh FILE {name} -- {show}"
    if node["spec"].get("unschedulable"):
        return (
            f"{name} takes no new pods: it is cordoned",
            f"{kubectl} uncordon {name}",
        )
    return "", ""


def _surplus_server(name: str, variables: Mapping[str, Any], nodes: Optional[Mapping[str, Any]]) -> dict[str, str]:
    surplus = variables.get("q8s_surplus") or {}
    node_name = str(surplus.get("name") or variables.get("q8s_node_name") or name)
    node = (nodes or {}).get(node_name)
    return {
        "node": node_name,
        "host": name,
        "architecture": _machine(node),
        "address": str(variables.get("q8s_private_ip", "")),
        "server": str(variables.get("q8s_status", "")),
        "guest": "",
        "kubernetes": "" if node is None else _readiness(node, Guest("")),
        "version": node["status"]["nodeInfo"]["kubeletVersion"] if node else "",
        "problem": f"the cluster file does not ask for the server {name}",
        "hint": f"add it to the file again, or drain and remove it: {_DEPLOY} --yes",
    }


def _surplus_node(cluster: str, name: str, node: Mapping[str, Any], kubectl: str) -> dict[str, str]:
    # deploy removes it, and etcd's member of this name
    gone = is_additional_control_plane(cluster, name) and condition(node)["status"] != "True"
    return {
        "node": name,
        "host": "",
        "architecture": _machine(node),
        "address": "",
        "server": "absent",
        "guest": "",
        "kubernetes": _readiness(node, Guest("")),
        "version": node["status"]["nodeInfo"]["kubeletVersion"],
        "problem": f"Kubernetes has a node {name} that the cluster file does not ask for, and no server for it",
        "hint": _DEPLOY if gone else f"{kubectl} delete node {name}",
    }
