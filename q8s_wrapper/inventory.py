"""The existing hosts and guests of a cluster and their ssh commands, as the inventory plugin has them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from q8s_wrapper import environment, messages, state
from q8s_wrapper.config import INVENTORY, PLAYBOOKS, cluster_variable
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.invocation import Invocation

Hosts = dict[str, dict[str, Any]]


def read(cluster: Any) -> Hosts:
    """Return the variables of a cluster's existing hosts and guests, by name.

    They are those of the inventory plugin, without the variables of all hosts. Ansible is not asked: it takes seconds.

    :raises WrapperError: the cloud does not answer, or the state folder is not usable
    """
    root = state.create_root()
    cloud = state.connect()
    from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cluster_servers, _inventory, _state

    try:
        found = _cluster_servers.find(cloud, cluster, str(root), move=True)
    except (_cloud.CloudError, _state.StateError) as error:
        raise WrapperError(str(error)) from None
    if found.note:
        (messages.info if found.moved else messages.warning)(found.note)
    listed = _inventory.hosts(cluster, found.servers, found.state.folder, found.state.etcd_server)
    return {host.name: host.variables for host in listed}


def select(file: str, pattern: str) -> Hosts:
    """Return the variables of existing hosts and guests, by name, as ansible-inventory lists them.

    :param file: path of the cluster file
    :param pattern: an Ansible pattern
    :raises WrapperError: ansible-inventory failed, or the cloud did not answer
    """
    command = [
        str(Path(sys.executable).parent / "ansible-inventory"),
        "-i",
        str(INVENTORY),
        "--list",
        "--export",  # include the variables of groups
        # otherwise Ansible reads group_vars and host_vars of the current folder
        *("--playbook-dir", str(PLAYBOOKS)),
        *cluster_variable(Path(file)),
        *("--limit", pattern),
    ]
    state.create_root()
    variables = environment.ansible_environment(os.environ)
    completed = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", env=variables, check=False
    )
    if completed.returncode != 0:
        raise WrapperError(f"Failed to read the inventory: {completed.stderr.strip()}")
    output = json.loads(completed.stdout, object_hook=_unwrap_unsafe)
    problem = output.get("all", {}).get("vars", {}).get("q8s_cloud_problem")
    if problem:
        raise WrapperError(str(problem))
    hosts: Hosts = output["_meta"]["hostvars"]
    return hosts


def list_servers(cluster: Any) -> list[str]:
    """Return the names of the existing servers that Q8S created for the cluster."""
    return created_servers(read(cluster))


def created_servers(hosts: Hosts) -> list[str]:
    """Return the names of the servers among these that Q8S created."""
    return sorted(name for name, v in hosts.items() if "q8s_host" not in v and not v.get("q8s_foreign"))


def _unwrap_unsafe(value: dict[str, Any]) -> Any:
    """Unwrap a value that Ansible marks as unsafe to template (``__ansible_unsafe``)."""
    return value["__ansible_unsafe"] if set(value) == {"__ansible_unsafe"} else value


def find(hosts: Hosts, name: str, invocation: Invocation) -> dict[str, Any]:
    """Return the variables of a node or host.

    :param name: name of the server, the guest, or the Kubernetes node
    :raises WrapperError: no host or guest has this name
    """
    variables = hosts.get(name)
    if variables is None:
        # a control plane's node name may differ from its server's
        variables = next((v for v in hosts.values() if v.get("q8s_node_name") == name), None)
    if variables is None:
        if not hosts:
            raise WrapperError(
                f"Failed to find {name}: the cloud has no server of this cluster", invocation.command("deploy")
            )
        raise WrapperError(f"Failed to find {name}; known are: {', '.join(sorted(hosts))}", code=ExitCode.WRONG_INPUT)
    return variables


def ssh_command(variables: Mapping[str, Any], command: Sequence[str]) -> list[str]:
    """Return the command that logs in to a host and runs a command there.

    :param variables: the host's variables of the inventory
    :param command: the command; empty for a login shell
    :raises WrapperError: the SSH key of the cluster is not on this machine
    """
    if variables.get("ansible_connection") == "local":
        # As with ssh, a single argument may be a whole command line.
        return ["sh", "-c", command[0]] if len(command) == 1 else list(command) or [os.environ.get("SHELL", "/bin/sh")]
    key = Path(str(variables.get("ansible_ssh_private_key_file", "")))
    if not key.exists():
        raise missing_key_error(key)
    return [
        "ssh",
        *shlex.split(variables.get("ansible_ssh_common_args", "")),
        *("-o", "ConnectTimeout=30"),
        "-i",
        str(key).replace("%", "%%"),  # ssh expands tokens such as %h
        "-p",
        str(variables.get("ansible_port", 22)),
        f"{variables['ansible_user']}@{variables['ansible_host']}",
        # As with ssh, a single argument may be a whole command line.
        *([shlex.join(command)] if len(command) > 1 else command),
    ]


def missing_key_error(key: Path) -> WrapperError:
    """Return the error for a missing SSH key: without it, nobody can log in to the servers."""
    return WrapperError(
        f"Failed to log in: the SSH key {key} does not exist, and the servers accept no other key",
        "restore the file from the machine that deployed the cluster, or destroy the cluster and deploy it again. "
        "With ssh_private_key in the cluster file, Q8S uses your own key",
    )
