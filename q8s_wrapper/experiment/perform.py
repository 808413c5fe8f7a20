"""Perform the schedule of a scenario: change links in guests, and stop guests on their hosts, through ssh.

One connection to each machine is opened before the scenario begins and shared by all commands, so that a command takes
as long as its program. Every command waits in a thread of its own: a slow machine does not delay the others.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import environment, inventory
from q8s_wrapper.config import COLLECTIONS
from q8s_wrapper.errors import WrapperError
from q8s_wrapper.experiment.scenario import Record

_ROLE: Final = COLLECTIONS / "ansible_collections" / "q8s" / "emu" / "roles" / "emulated_worker"
_READ_LINKS: Final = (
    "for f in /etc/q8s/links.json /run/q8s/links.json; do base64 --wrap=0 $f 2>/dev/null || :; echo; done; "
    "cat /usr/local/sbin/q8s-links /etc/systemd/system/q8s-links.service 2>/dev/null | sha256sum; "
    "tc qdisc show | grep -c '^qdisc netem' || :"
)
_MARK: Final = "touch /var/lib/q8s-guest/links"  # as the role does: the guest has links
_VIRSH: Final = "virsh --quiet --connect qemu:///system"
_RULE: Final = "-m comment --comment q8s-scenario -j DROP"
_KUBECTL: Final = "/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
_WATCH_NODES: Final = (
    f"exec 3<&0; NO_PROXY='*' no_proxy='*' {_KUBECTL} get nodes --watch --no-headers "
    "-o custom-columns='N:.metadata.name,R:.status.conditions[?(@.type==\"Ready\")].status' & p=$!; "
    "{ cat <&3; kill $p; } >/dev/null 2>&1 & wait $p"
)
_STATES: Final = {"True": "Ready", "False": "NotReady"}
_PERIOD: Final = 100_000  # microseconds, Linux' own default
_NO_QUOTA: Final = -1
_COMMAND_SECONDS: Final = 60
_BACK_SECONDS: Final = 900


class CommandError(Exception):
    """A command on a machine failed."""


class Machines:
    """The hosts and guests of a cluster, with one connection to each."""

    def __init__(self, hosts: inventory.Hosts, sockets: Path) -> None:
        self.hosts = hosts
        self._sockets = sockets
        self._variables = environment.child_environment(os.environ)

    def _ssh(self, name: str, command: str) -> list[str]:
        words = inventory.ssh_command(self.hosts[name], ["sh", "-c", command])
        if words[0] != "ssh":
            return words
        socket = hashlib.sha256(f"scenario\0{self._sockets}\0{name}".encode()).hexdigest()[:16]
        shared = ("ControlMaster=auto", "ControlPersist=60", f"ControlPath={self._sockets / socket}".replace("%", "%%"))
        return ["ssh", *(word for option in shared for word in ("-o", option)), *words[1:]]

    def run(self, name: str, command: str, seconds: float = _COMMAND_SECONDS) -> str:
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
        if words[0] == "ssh":
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

    def open_root(self, name: str, command: str) -> subprocess.Popen[str]:
        """Start a shell command as root that ends when its standard input does."""
        return self.open(name, f"sudo sh -c {shlex.quote(command)}")

    def open(self, name: str, command: str) -> subprocess.Popen[str]:
        """Start a shell command whose output is read while it runs."""
        return subprocess.Popen(
            self._ssh(name, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
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

    def control_plane(self) -> str:
        """Return a control plane."""
        return next(n for n, v in self.hosts.items() if "q8s_vm" not in v and "q8s_node_name" in v)

    def begin_command(self, fault: Any) -> str:
        """Return the command that begins a fault, for the node's host."""
        kind, node = fault.kind, fault.node
        if kind == "cpu":
            return cpu_quota(node, fault.quota)
        if kind == "netdown":
            return " && ".join(f"iptables -w -I FORWARD 1 {side} {_RULE}" for side in self._sides(node))
        verb = {"stop": "destroy", "destroy": "destroy", "pause": "suspend", "reboot": "reset"}[kind]
        return f"{_VIRSH} {verb} {node}"

    def end_command(self, fault: Any) -> str:
        """Return the command that ends a fault, for the node's host."""
        kind, node = fault.kind, fault.node
        if kind == "cpu":
            return cpu_quota(node)
        if kind == "netdown":
            return " && ".join(f"iptables -w -D FORWARD {side} {_RULE}" for side in self._sides(node))
        return f"{_VIRSH} {'resume' if kind == 'pause' else 'start'} {node}"

    def restore_command(self, node: str) -> str:
        """Return the command that ends whatever fault the node has, for its host."""
        undo = "".join(
            f"while iptables -w -D FORWARD {side} {_RULE} 2>/dev/null; do :; done; " for side in self._sides(node)
        )
        return (
            f"{undo}case $({_VIRSH} domstate {node}) in paused) {_VIRSH} resume {node};; "
            f"'shut off') {_VIRSH} start {node};; esac; "
            # Where it cannot be read, none was set.
            f"! {_read_quota(node)} 2>/dev/null || {cpu_quota(node)}"
        )

    def _sides(self, node: str) -> tuple[str, str]:
        address = str(self.hosts[node]["q8s_vm"]["guest_ip"])
        return f"-s {address}", f"-d {address}"


def cpu_quota(node: str, percent: float | None = None) -> str:
    """Return the command that limits each CPU of a guest to a part of a CPU of its host, for the host.

    Without ``percent``, the command ends the limit; so does a start of the guest. libvirt needs the CPU controller of
    control groups for it.
    """
    quota = _NO_QUOTA if percent is None else round(percent / 100 * _PERIOD)
    return f"{_VIRSH} schedinfo {node} --live vcpu_period={_PERIOD} vcpu_quota={quota} >/dev/null"


def _read_quota(node: str) -> str:
    return f"{_VIRSH} schedinfo {node} --live >/dev/null"


@dataclass
class _Guest:
    """A guest: the lock of its links, what it has, and the fault for which it is away."""

    lock: threading.Lock
    found: Any = None
    away: Any = None


class Performer:
    """Performs the actions of a schedule. ``failure`` is the first error; ``stopped`` is set then."""

    def __init__(self, cluster: Any, machines: Machines, record: Record) -> None:
        from ansible_collections.q8s.emu.plugins.module_utils import _links_node, _scenario

        self._links, self._scenario = _links_node, _scenario
        self._cluster = cluster
        self.machines = machines
        self._record = record
        self._addresses = machines.addresses()
        self._guests = {name: _Guest(threading.Lock()) for name, v in machines.hosts.items() if "q8s_host" in v}
        self._kept = _links_node.node_links(cluster, self._addresses)
        self._nothing = _links_node.NodeLinks(exempt=cluster.links.exempt)
        files = _ROLE / "files"
        self._program = (files / "q8s-links").read_text(encoding="utf-8")
        self._unit = (files / "q8s-links.service").read_text(encoding="utf-8")
        self._active: list[Any] = []
        self._wanted = self._kept
        self._pool = ThreadPoolExecutor(16 + 4 * len(self._guests))
        self._waiting: list[Future[None]] = []
        self.stopped = threading.Event()
        self.failure = ""
        self._watch: subprocess.Popen[str] | None = None

    def prepare(self, faults: Sequence[Any]) -> None:
        """Connect to every machine that the faults concern, and read the links of the guests.

        :raises WrapperError: a machine does not answer
        """
        nodes = {fault.node for fault in faults if fault.node}
        shaped = set(self._guests) if any(fault.rule is not None for fault in faults) else set()
        slower = {fault.node for fault in faults if fault.kind == self._scenario.CPU}

        def connect(node: str) -> None:
            host = self.machines.host_of(node)
            self.machines.sudo(host, _MARK if node in shaped else "true")
            if node in slower:
                self.machines.sudo(host, _read_quota(node))
            if node in shaped:
                self._read(node)

        errors = []
        for node, future in [(node, self._pool.submit(connect, node)) for node in sorted(nodes | shaped)]:
            try:
                future.result()
            except (CommandError, ValueError) as error:
                errors.append(f"{node}: {error}")
        if errors:
            raise WrapperError(f"Failed to prepare the scenario: {'; '.join(errors)}")
        threading.Thread(target=self._watch_nodes, daemon=True).start()

    def perform(self, actions: Sequence[Any], end: float) -> None:
        """Perform the actions at their times, then wait until ``end`` and until all guests answer."""
        for at, group in itertools.groupby(actions, key=lambda one: one.at):
            if self._sleep_until(at / 1000):
                return
            self._perform_group(list(group))
        if not self._sleep_until(end):
            while not all(one.done() for one in list(self._waiting)) and not self.stopped.wait(0.1):
                pass

    def _sleep_until(self, seconds: float) -> bool:
        """Wait for a moment of the scenario. Return whether an action has failed."""
        return self.stopped.wait(max(0.0, seconds - self._record.now))

    def _perform_group(self, group: Sequence[Any]) -> None:
        """Perform actions that are due at the same moment."""
        for action in group:
            if not action.fault.node:
                if action.undo:
                    self._active.remove(action.fault)
                else:
                    self._active.append(action.fault)
        links = [action for action in group if not action.fault.node]
        if links:
            before = self._wanted
            rules = self._scenario.active_rules(self._active)
            self._wanted = self._links.node_links(self._cluster, self._addresses, rules)
            changed = [
                name
                for name in self._guests
                if before.get(name, self._nothing) != self._wanted.get(name, self._nothing)
            ]
            present = [name for name in changed if self._guests[name].away is None]
            later = [name for name in changed if name not in present]
            self._submit(links, [(self._converge, name) for name in present], later)
        for action in group:
            if action.fault.node:
                self._submit([action], [(self._end if action.undo else self._begin, action.fault)])

    def _submit(
        self, actions: Sequence[Any], jobs: Sequence[tuple[Callable[[Any], None], Any]], later: Sequence[str] = ()
    ) -> None:
        """Run jobs at once, and record their actions when all of them are done."""
        begun = self._record.now
        futures = [self._pool.submit(job, argument) for job, argument in jobs]

        def finish() -> None:
            errors = []
            for future in futures:
                try:
                    future.result()
                except (CommandError, ValueError, OSError, WrapperError) as error:
                    errors.append(str(error))
            for action in actions:
                self._record.write(
                    "action",
                    what=action.text,
                    kind=action.fault.kind,
                    undo=action.undo,
                    planned=action.at / 1000,
                    begun=round(begun, 3),
                    done=round(self._record.now, 3),
                    **({"node": action.fault.node} if action.fault.node else {}),
                    **({"later": list(later)} if later else {}),
                    **({"error": "; ".join(errors)} if errors else {}),
                )
            if errors:
                self._fail(f"{actions[0].text}: {'; '.join(errors)}")

        self._waiting.append(self._pool.submit(finish))

    def _fail(self, text: str) -> None:
        self.failure = self.failure or text
        self.stopped.set()

    def _read(self, name: str, seconds: float = _COMMAND_SECONDS) -> None:
        self._guests[name].found = self._links.read_found(self.machines.run(name, _READ_LINKS, seconds))

    def _converge(self, name: str) -> None:
        """Apply the links that a guest shall have now."""
        guest = self._guests[name]
        with guest.lock:
            now = self._wanted.get(name, self._nothing)
            kept = self._kept.get(name, self._nothing)
            try:
                if guest.found is None:
                    self._read(name)
                change = self._links.change(guest.found, kept, now, self._program, self._unit)
                if change.command:
                    self.machines.run(name, change.command)
                guest.found = self._links.found_after(kept, now, self._program, self._unit)
            except CommandError:
                guest.found = None
                if guest.away is None:
                    raise

    def _begin(self, fault: Any) -> None:
        """Begin a fault at a node."""
        guest, slower = self._guests[fault.node], fault.kind == self._scenario.CPU
        if not slower:
            guest.away = fault
        self.machines.sudo(self.machines.host_of(fault.node), self.machines.begin_command(fault))
        if slower:
            return
        self.machines.close(fault.node)
        if fault.kind == self._scenario.REBOOT:
            self._waiting.append(self._pool.submit(self._await, fault))

    def _end(self, fault: Any) -> None:
        """End a fault at a node."""
        self.machines.sudo(self.machines.host_of(fault.node), self.machines.end_command(fault))
        if fault.kind != self._scenario.CPU:
            self._waiting.append(self._pool.submit(self._await, fault))

    def _await(self, fault: Any) -> None:
        """Wait until a guest answers, then apply its links. A further fault at the node ends this."""
        guest = self._guests[fault.node]
        if fault.kind == self._scenario.REBOOT:
            self.stopped.wait(5)  # it may still answer from before
        end = time.monotonic() + _BACK_SECONDS
        while guest.away is fault and not self.stopped.is_set():
            try:
                with guest.lock:
                    self._read(fault.node, 20)
                guest.away = None
                self._converge(fault.node)
            except (CommandError, ValueError) as error:
                self.machines.close(fault.node)
                if time.monotonic() > end:
                    self._fail(f"{fault.node} does not answer after {fault.text}: {error}")
                self.stopped.wait(1)
            else:
                self._record.write("back", node=fault.node, at=round(self._record.now, 3))

    def _watch_nodes(self) -> None:
        """Record when nodes are Ready, as the API server tells."""
        known: dict[str, str] = {}
        while not self.stopped.is_set():
            self._watch = self.machines.open_root(self.machines.control_plane(), _WATCH_NODES)
            for line in self._watch.stdout or ():
                node, _, status = line.strip().partition(" ")
                state = _STATES.get(status.strip(), "Unknown")
                if known.get(node) != state:
                    if node in known or state != "Ready":
                        self._record.write("node", node=node, state=state, at=round(max(0.0, self._record.now), 3))
                    known[node] = state
            self.stopped.wait(2)

    def close(self) -> None:
        """Perform nothing more. Commands that run are waited for."""
        self.stopped.set()
        if self._watch is not None and self._watch.stdin is not None:
            with suppress(OSError):
                self._watch.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._watch.wait(10)
        self._pool.shutdown(wait=True, cancel_futures=True)


def restore(machines: Machines, nodes: Iterable[str]) -> list[str]:
    """End the faults of all these nodes, and wait until their guests answer. Return the errors."""

    def restore_one(node: str) -> str:
        machines.close(node)
        end = time.monotonic() + _BACK_SECONDS
        try:
            machines.sudo(machines.host_of(node), machines.restore_command(node))
            while True:
                try:
                    machines.run(node, "true", 20)
                    return ""
                except CommandError as error:
                    machines.close(node)
                    if time.monotonic() > end:
                        raise CommandError(f"{node} does not answer: {error}") from None
                    time.sleep(1)
        except CommandError as error:
            return str(error)

    known: Mapping[str, Any] = machines.hosts
    present = [node for node in nodes if node in known]
    if not present:
        return []
    with ThreadPoolExecutor(len(present)) as pool:
        return [error for error in pool.map(restore_one, present) if error]
