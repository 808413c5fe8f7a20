"""The machines of a cluster in an experiment: commands on hosts and guests, through ssh, and those of each fault.

One connection to each machine is opened before an experiment begins and shared by all commands, so that a command takes
as long as its program.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TextIO

from q8s_wrapper import environment, inventory
from q8s_wrapper.errors import WrapperError

COMMAND_SECONDS: Final = 60
_VIRSH: Final = "virsh --quiet --connect qemu:///system"
# q8s-rules keeps its own rules first in the tables nat and filter: a rule ahead of them would not last.
_IPTABLES: Final = "iptables -w -t mangle"
_FILTER_IPTABLES: Final = "iptables -w"  # where earlier releases had the rules
_RULE: Final = "-m comment --comment q8s-scenario -j DROP"
_PERIOD: Final = 100_000  # microseconds, Linux' own default
_NO_QUOTA: Final = -1


class CommandError(Exception):
    """A command on a machine failed."""


class Machines:
    """The hosts and guests of a cluster, with one connection to each.

    :param sockets: path of the socket of each machine's connection; None where connections cannot be shared
    """

    def __init__(self, hosts: inventory.Hosts, sockets: Mapping[str, Path] | None) -> None:
        self.hosts = hosts
        self._sockets = sockets
        self._variables = environment.child_environment(os.environ)

    def _ssh(self, name: str, command: str) -> list[str]:
        words = inventory.ssh_command(self.hosts[name], ["sh", "-c", command])
        if words[0] != "ssh" or self._sockets is None:
            return words
        from ansible_collections.q8s.emu.plugins.module_utils import _ssh

        path = _ssh.path_option("ControlPath", str(self._sockets[name]))
        shared = ("ControlMaster=auto", "ControlPersist=60", path)
        return ["ssh", *(word for option in shared for word in ("-o", option)), *words[1:]]

    def is_open(self, name: str) -> bool:
        """Return whether a connection to a machine is open. The machine may be gone since."""
        return self._sockets is not None and self._sockets[name].exists()

    def run(self, name: str, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell command, and return its output.

        :raises CommandError: it failed, or took longer than ``seconds``
        """
        # A file: some versions of ssh leave stderr open in the process that keeps the connection.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
            try:
                done = subprocess.run(
                    self._ssh(name, command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                    env=self._variables,
                    start_new_session=True,  # Ctrl-C is for this process alone
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise CommandError(f"{name} did not answer within {seconds:g} s") from None
            stderr.seek(0)
            if done.returncode != 0:
                message = stderr.read().strip() or done.stdout.strip() or "no message"
                raise CommandError(f"{name}: {message[-300:]}")
        return done.stdout

    def sudo(self, name: str, command: str) -> str:
        """Run a shell command as root on a host."""
        return self.run(name, f"sudo sh -c {shlex.quote(command)}")

    def close(self, name: str) -> None:
        """Close the connection to a machine, which does not answer for a while."""
        words = self._ssh(name, "true")
        if words[0] == "ssh" and self._sockets is not None:
            command = [words[0], "-O", "exit", *words[1:-1]]
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=self._variables,
                    timeout=10,
                    check=False,
                )

    def open_root(self, name: str, command: str, errors: TextIO) -> subprocess.Popen[str]:
        """Start a shell command as root that ends when its standard input does.

        :param errors: the file that receives its messages
        """
        return self.open(name, f"sudo sh -c {shlex.quote(command)}", errors)

    def open(self, name: str, command: str, errors: TextIO | int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Start a shell command whose output is read while it runs."""
        return subprocess.Popen(
            self._ssh(name, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env=self._variables,
            start_new_session=True,
        )

    def host_of(self, node: str) -> str:
        """Return the host of a guest."""
        return str(self.hosts[node]["q8s_host"])

    def addresses(self) -> dict[str, str]:
        """Return the address of each node."""
        known = (v for v in self.hosts.values() if "q8s_private_ip" in v)
        return {str(v["q8s_node_name"]): str(v["q8s_private_ip"]) for v in known}

    def machine_of(self, node: str) -> str:
        """Return the machine that is a node: a guest, or a control plane, whose node name may differ."""
        return node if node in self.hosts else next(n for n, v in self.hosts.items() if v["q8s_node_name"] == node)

    def control_planes(self) -> dict[str, str]:
        """Return the address of each control plane."""
        known = {n: v for n, v in self.hosts.items() if "q8s_vm" not in v and "q8s_node_name" in v}
        return {name: str(values["q8s_private_ip"]) for name, values in known.items()}

    def begin_command(self, fault: Any) -> str:
        """Return the command that begins a fault, for the node's host."""
        kind, node = fault.kind, fault.node
        if kind == "cpu":
            return cpu_quota(node, fault.quota)
        if kind == "netdown":
            return " && ".join(f"{_IPTABLES} -I {packets} {_RULE}" for packets in self._packets(node))
        verb = {"stop": "destroy", "destroy": "destroy", "pause": "suspend", "reboot": "reset"}[kind]
        return f"{_VIRSH} {verb} {node}"

    def end_command(self, fault: Any) -> str:
        """Return the command that ends a fault, for the node's host."""
        kind, node = fault.kind, fault.node
        if kind == "cpu":
            return cpu_quota(node)
        if kind == "netdown":
            return " && ".join(f"{_IPTABLES} -D {packets} {_RULE}" for packets in self._packets(node))
        return f"{_VIRSH} {'resume' if kind == 'pause' else 'start'} {node}"

    def restore_command(self, node: str) -> str:
        """Return the command that ends whatever fault the node has, for its host."""
        undo = "".join(
            f"while {iptables} -D {packets} {_RULE} 2>/dev/null; do :; done; "
            for iptables in (_IPTABLES, _FILTER_IPTABLES)
            for packets in self._packets(node)
        )
        return (
            f"{undo}case $({_VIRSH} domstate {node}) in paused) {_VIRSH} resume {node};; "
            f"'shut off') {_VIRSH} start {node};; esac; "
            # Where it cannot be read, none was set.
            f"! {read_quota(node)} 2>/dev/null || {cpu_quota(node)}"
        )

    def _packets(self, node: str) -> tuple[str, ...]:
        """Return what a guest and others send each other, as a chain and a match: both directions.

        With several control planes, the host's proxy passes on the guest's connections to the Kubernetes API.
        """
        address = str(self.hosts[node]["q8s_vm"]["guest_ip"])
        return (
            f"FORWARD -s {address}",
            f"FORWARD -d {address}",
            f"INPUT -s {address} -p tcp --dport 6443",
            f"OUTPUT -d {address} -p tcp --sport 6443",
        )


def socket_paths(folder: Path, state_folder: Path, hosts: inventory.Hosts) -> dict[str, Path]:
    """Return the path of the socket of each machine's connection.

    Clusters may share the folder, and ssh joins an open connection without a look at the address and the host key. So
    the names of sockets depend on the cluster's state folder and the server, which for a guest is its host.
    """
    from ansible_collections.q8s.emu.plugins.module_utils import _ssh

    state = str(state_folder)
    servers = {name: str(hosts[values.get("q8s_host", name)]["q8s_server_id"]) for name, values in hosts.items()}
    return {name: folder / _ssh.socket_name(state, "scenario", server, name) for name, server in servers.items()}


def find(cluster: Any, state_folder: Path, deploy: str, *, all_needed: bool) -> Machines:
    """Find the machines of a cluster in the cloud.

    :param deploy: the command that makes them
    :param all_needed: whether a server that is missing is an error; otherwise, one is sufficient
    :raises WrapperError: servers are missing, or the cloud does not answer
    """
    hosts = inventory.read(cluster)
    present = {str(values.get("q8s_node_name")) for values in hosts.values()}
    missing = sorted({spec.node for spec in cluster.servers()} - present)
    if missing and (all_needed or not hosts):
        raise WrapperError(f"Failed to find the servers of {', '.join(missing)} in the cloud", deploy)
    from ansible_collections.q8s.emu.plugins.module_utils import _ssh

    folder = _ssh.socket_folder(str(state_folder))
    if not folder:
        return Machines(hosts, None)
    Path(folder).mkdir(mode=0o700, exist_ok=True)
    return Machines(hosts, socket_paths(Path(folder), state_folder, hosts))


def cpu_quota(node: str, percent: float | None = None) -> str:
    """Return the command that limits each CPU of a guest to a part of a CPU of its host, for the host.

    Without ``percent``, the command ends the limit; so does a start of the guest. libvirt needs the CPU controller of
    control groups for it.
    """
    quota = _NO_QUOTA if percent is None else round(percent / 100 * _PERIOD)
    return f"{_VIRSH} schedinfo {node} --live vcpu_period={_PERIOD} vcpu_quota={quota} >/dev/null"


def read_quota(node: str) -> str:
    """Return the command that fails where CPUs cannot be limited, for the guest's host."""
    return f"{_VIRSH} schedinfo {node} --live >/dev/null"
