# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host can be a control plane: pure functions on what ``survey.sh`` of the role k8s_common prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _ssh_errors
from ansible_collections.q8s.emu.plugins.module_utils._packet_filters import Drop, iptables_drops, nftables_drops
from ansible_collections.q8s.emu.plugins.module_utils._survey import Survey

MIN_MEMORY_MB = 1700  # kubeadm's own minimum
MIN_CPUS = 2  # kubeadm's own minimum
MIN_DISK_MB = 2000
MIN_PYTHON = (3, 9)
# What listens on a control plane.
_PORTS = {
    2379: "etcd",
    2380: "etcd",
    6443: "the API server",
    10248: "the kubelet",
    10250: "the kubelet",
    10256: "kube-proxy",
    10257: "the controller manager",
    10259: "the scheduler",
}
_OTHER_KUBERNETES = ("k3s", "k3s-agent", "rke2-server", "rke2-agent", "k0scontroller", "snap.microk8s.daemon-kubelite")
_RUNTIMES = {
    "docker": "sudo apt-get purge docker.io docker-ce containerd containerd.io",
    "containerd": "sudo apt-get purge docker.io docker-ce containerd containerd.io",
    "crio": "sudo apt-get purge cri-o",
}
_FIREWALLS = {"ufw": "sudo ufw disable", "firewalld": "sudo systemctl disable --now firewalld"}
_NOT_REACHED = re.compile(r"timed out|No route to host|Connection refused|unreachable|resolve", re.IGNORECASE)


@dataclass(frozen=True)
class Login:
    """How a server is reached, for messages."""

    name: str
    status: str
    address: str
    prefix: str
    user: str
    key_file: str
    public_key: str


def first_contact(result: Mapping[str, Any], login: Login) -> str:
    """Return why a server could not be surveyed at all, empty if it was.

    :param result: of the task that ran survey.sh, with ``ignore_unreachable``; empty if it did not run
    """
    return (
        status_problem(login.name, login.status, login.address, login.prefix)
        or login_problem(result, login.address, login.user, login.key_file, login.public_key)
        or _no_survey(result, login)
    )


def _no_survey(result: Mapping[str, Any], login: Login) -> str:
    output = str(result.get("stdout", "")).strip()
    if Survey(output.splitlines()).get("user"):
        return ""
    # Ubuntu and others answer root's login with a sentence that names the right user.
    said = output or str(result.get("stderr", "")).strip() or str(result.get("msg", "")).strip() or "nothing"
    return f"it runs no commands for {login.user}@{login.address} and answers: {said}: name another user with initial_instance_user"


def host_problems(lines: Iterable[str], api_name: str = "", artifact_port: Optional[int] = None) -> list[str]:
    """Return why a host cannot be a control plane, each with the command that helps; empty if it can.

    :param lines: what survey.sh printed on the host
    :param api_name: the cluster's API name; a host that carries another cluster is refused. Empty: any Q8S cluster is accepted.
    :param artifact_port: the port of the artifact server, if this host will have it
    """
    survey = Survey(lines)
    result = [*_system(survey), *_login(survey)]
    carried = survey.get("api_name")
    if carried and api_name and carried != api_name:
        return [
            *result,
            f"it is a control plane of another Q8S cluster, whose API is {carried}: destroy that cluster first, or choose another server",
        ]
    # Of a cluster that runs here nothing but a new firewall is in the way; of one that was begun, what it left is no problem.
    if not carried:
        result += _other_software(survey)
    result += _firewall(survey)
    return result if survey.get("q8s") else [*result, *_ports(survey, artifact_port)]


def host_notes(lines: Iterable[str]) -> list[str]:
    """Return what a user should know of a host that can be a control plane."""
    swap = Survey(lines).all("swap")
    if not swap:
        return []
    return [f"swap is on ({', '.join(swap)}): the kubelet accepts it, pods do not use it (NoSwap)"]


def login_problem(result: Mapping[str, Any], address: str, user: str, key_file: str, public_key: str) -> str:
    """Return why the first login to a host failed and what to do, empty if it did not fail.

    :param result: of a task with ``ignore_unreachable``
    """
    if not result.get("unreachable"):
        return ""
    message = str(result.get("msg", "")).strip()
    jump = _ssh_errors.jump_failure(message)
    if jump:
        return f"the way to {address} through {jump.destination} fails: {jump.reason.rstrip('.')}: {jump.hint}"
    reason = _ssh_errors.failure_reason(message) or "no reason given"
    if _ssh_errors.is_refused(message):
        return (
            f"ssh to {user}@{address} is refused with the key {key_file}: name its user with initial_instance_user, "
            f"or add this line to ~{user}/.ssh/authorized_keys there: {public_key}"
        )
    if _ssh_errors.is_other_host(message):
        return (
            f"{address} has another ssh host key than at the last run. If the server was rebuilt, "
            f"remove {address} from the file known_hosts in the cluster's state folder"
        )
    if _NOT_REACHED.search(message):
        return f"ssh to {address} port 22 does not answer ({reason}): check its security groups, its firewall and access in the cluster file"
    return f"ssh to {user}@{address} fails: {reason}"


def status_problem(name: str, status: str, address: str, prefix: str) -> str:
    """Return why a server of the cloud cannot be logged in to, empty if it can."""
    cures = {
        "SHUTOFF": f"start it: openstack server start {name}",
        "PAUSED": f"unpause it: openstack server unpause {name}",
        "SUSPENDED": f"resume it: openstack server resume {name}",
        "SHELVED_OFFLOADED": f"unshelve it: openstack server unshelve {name}",
        "BUILD": "wait until it is ACTIVE",
    }
    if status != "ACTIVE":
        return f"it is {status}; {cures.get(status, f'see openstack server show {name}, or choose another server')}"
    if not address:
        return f"it has no address in remote_ip_prefix {prefix}: attach it to that network, or correct the prefix"
    return ""


def _system(survey: Survey) -> list[str]:
    result = []
    python = tuple(int(part) for part in survey.get("python").split(".") if part.isdecimal())
    if python < MIN_PYTHON:
        found = f"Python {survey.get('python')}" if python else "no Python 3"
        result.append(f"it has {found}; Ansible needs 3.9 or later: sudo apt-get install python3, or a newer image")
    if survey.get("init") != "systemd":
        result.append(f"its init is {survey.get('init') or 'not known'}; systemd is needed")
    if survey.get("architecture") != "x86_64":
        result.append(f"its architecture is {survey.get('architecture')}; a control plane needs x86_64")
    for key, least, unit, cure in (
        ("cpus", MIN_CPUS, "vCPUs", "choose a larger flavor"),
        ("memory_mb", MIN_MEMORY_MB, "MB of memory", "choose a larger flavor"),
        ("disk_free_mb", MIN_DISK_MB, "MB free in /var/lib", "free some space, or choose a larger disk"),
    ):
        number = survey.number(key)
        # On a host that is a control plane already, the disk holds what was asked for.
        if number is not None and number < least and not (key == "disk_free_mb" and survey.get("q8s")):
            result.append(f"it has {number} {unit}; a control plane needs {least}: {cure}")
    return result


def _login(survey: Survey) -> list[str]:
    if survey.get("root") == "yes":
        return []
    user = survey.get("user")
    return [
        f"the user {user} needs a password for sudo: as root, "
        f"echo '{user} ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/90-q8s, or name another user with initial_instance_user"
    ]


def _other_software(survey: Survey) -> list[str]:
    result = []
    units = survey.all("unit")
    runtimes = [unit for unit in units if unit in _RUNTIMES]
    if runtimes:
        cures = list(dict.fromkeys(_RUNTIMES[unit] for unit in runtimes))
        result.append(
            f"a container runtime is installed ({', '.join(runtimes)}), which uses the same socket or pod network as Q8S's: "
            f"remove it ({'; '.join(cures)}), or choose a server without it"
        )
    kubernetes = [unit for unit in units if unit in _OTHER_KUBERNETES]
    kubernetes += [f"the package {package}" for package in survey.all("package")]
    kubernetes += [] if survey.get("q8s") else survey.all("kubernetes")
    if kubernetes:
        result.append(
            f"Kubernetes is installed ({', '.join(kubernetes)}): "
            "remove it (sudo kubeadm reset; sudo apt-get purge kubeadm kubelet), or choose a server without it"
        )
    if survey.all("cni"):
        result.append(
            f"another pod network is configured ({', '.join(survey.all('cni'))}): remove these files, or choose a server without them"
        )
    return result


def _firewall(survey: Survey) -> list[str]:
    active = [unit for unit in survey.all("unit") if unit in _FIREWALLS]
    result = [
        f"the firewall {unit} is active and blocks the Kubernetes API and the pod network: {_FIREWALLS[unit]} (the security group stays in force)"
        for unit in active
    ]
    # Those of an active firewall go with it.
    return result if active else [*result, *_packet_filters(survey)]


def _packet_filters(survey: Survey) -> Iterator[str]:
    traffic = {"input": "incoming traffic", "forward": "the traffic of pods"}
    drops: list[Drop] = [*iptables_drops(survey.all("iptables")), *nftables_drops(survey.get("nftables"))]
    for drop in drops:
        yield (
            f"its packet filter drops {traffic[drop.hook]} ({drop.place}): {drop.remedy}, "
            "and disable what sets it at boot (the security group stays in force)"
        )


def _ports(survey: Survey, artifact_port: Optional[int]) -> list[str]:
    needed = dict(_PORTS)
    if artifact_port:
        needed[artifact_port] = "the artifact server"
    taken: dict[int, str] = {}
    for line in survey.all("port"):
        number, _space, program = line.partition(" ")
        if number.isdecimal() and int(number) in needed:
            taken.setdefault(int(number), program)
    if not taken:
        return []
    return [
        f"ports are in use that a control plane needs: {', '.join(_port(n, taken[n], needed[n]) for n in sorted(taken))}"
    ]


def _port(number: int, program: str, purpose: str) -> str:
    return f"{number} ({f'by {program}, ' if program else ''}for {purpose})"
