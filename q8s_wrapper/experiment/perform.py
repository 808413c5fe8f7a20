"""Perform the schedule of a scenario: change links in guests, and stop guests on their hosts, through ssh.

Every command waits in a thread of its own: a slow machine does not delay the others.
"""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from q8s_wrapper import messages
from q8s_wrapper.errors import WrapperError
from q8s_wrapper.experiment.machines import CommandError, Machines, read_quota
from q8s_wrapper.experiment.scenario import Record
from q8s_wrapper.experiment.shaping import Shaping

_KUBECTL: Final = "/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
# Of its own API server: the name of the Kubernetes API may lead to another one, which is off.
_WATCH_NODES: Final = (
    f"exec 3<&0; NO_PROXY='*' no_proxy='*' {_KUBECTL} --server=https://ADDRESS:6443 get nodes --watch --no-headers "
    "-o custom-columns='N:.metadata.name,R:.status.conditions[?(@.type==\"Ready\")].status' & p=$!; "
    "{ cat <&3; kill $p; } >/dev/null 2>&1 & wait $p"
)
_STATES: Final = {"True": "Ready", "False": "NotReady"}
_BACK_SECONDS: Final = 900
_PAUSE: Final = 2  # seconds before the next control plane is asked
_UNWATCHED_SECONDS: Final = 30  # after which it is recorded that no control plane answers


@dataclass
class _Guest:
    """A guest: the locks of its links and of its CPUs' limit, and the fault for which it is away."""

    lock: threading.Lock
    limit: threading.Lock
    away: Any = None


class Performer:
    """Performs the actions of a schedule. ``failure`` is the first error; ``stopped`` is set then."""

    def __init__(self, cluster: Any, machines: Machines, record: Record) -> None:
        from ansible_collections.q8s.emu.plugins.module_utils import _scenario

        self._scenario = _scenario
        self.machines = machines
        self._record = record
        self._shaping = Shaping(cluster, machines)
        self._guests = {name: _Guest(threading.Lock(), threading.Lock()) for name in self._shaping.guests}
        self._active: list[Any] = []
        self._wanted = self._shaping.wanted()
        self._pool = ThreadPoolExecutor(16 + 4 * len(self._guests))
        self._waiting: list[Future[None]] = []
        self.stopped = threading.Event()
        self.failure = ""
        self._watch: subprocess.Popen[str] | None = None
        self._states: dict[str, str] = {}  # of nodes, as the API server tells

    def prepare(self, faults: Sequence[Any]) -> None:
        """Connect to every machine that the faults concern, and read the links of the guests.

        :raises WrapperError: a machine does not answer
        """
        nodes = {fault.node for fault in faults if fault.node}
        shaped = set(self._guests) if any(fault.rule is not None for fault in faults) else set()
        slower = {fault.node for fault in faults if fault.kind == self._scenario.CPU}

        def connect(node: str) -> None:
            host = self.machines.host_of(node)
            if node in slower:
                self.machines.sudo(host, read_quota(node))
            if node in shaped:
                self._shaping.mark(node)
                self._shaping.read(node)
            else:
                self.machines.sudo(host, "true")

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
            self._wanted = self._shaping.wanted(rules)
            changed = [name for name in self._guests if before[name] != self._wanted[name]]
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

    def _converge(self, name: str) -> None:
        """Apply the links that a guest shall have now."""
        guest = self._guests[name]
        with guest.lock:
            try:
                self._shaping.apply(name, self._wanted[name])
            except CommandError:
                if guest.away is None:
                    raise

    def _begin(self, fault: Any) -> None:
        """Begin a fault at a node."""
        if fault.kind == self._scenario.CPU:
            self._slow_down(fault)
            return
        guest = self._guests[fault.node]
        guest.away = fault
        self.machines.sudo(self.machines.host_of(fault.node), self.machines.begin_command(fault))
        self.machines.close(fault.node)
        if fault.kind == self._scenario.REBOOT:
            self._waiting.append(self._pool.submit(self._await, fault))

    def _slow_down(self, fault: Any) -> None:
        """Limit a guest's CPUs once its node is Ready.

        :raises CommandError: it is not Ready before the fault's end
        """
        guest, host, end = self._guests[fault.node], self.machines.host_of(fault.node), fault.end / 1000
        while not self.stopped.is_set():
            state = self._states.get(fault.node, "Unknown")
            if state == "Ready":
                with guest.limit:  # not after the fault's end, which waits for the lock too
                    if self._record.now < end:
                        self.machines.sudo(host, self.machines.begin_command(fault))
                        return
            if self._record.now >= end:
                raise CommandError(f"{fault.node} is {state}; only a node that is Ready is slowed down")
            self.stopped.wait(0.1)

    def _end(self, fault: Any) -> None:
        """End a fault at a node."""
        with self._guests[fault.node].limit:
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
                    self._shaping.read(fault.node, 20)
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
        """Record when nodes are Ready, as the API server of a control plane tells. The next one is asked if it ends."""
        planes = self.machines.control_planes()
        silent, since, unwatched = 0, time.monotonic(), False
        for name, address in itertools.cycle(planes.items()):
            if self.stopped.is_set():
                return
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
                self._watch = self.machines.open_root(name, _WATCH_NODES.replace("ADDRESS", address), errors)
                silent += 1
                for line in self._watch.stdout or ():
                    if unwatched:
                        self._record.write("watched", node=name, at=self._moment())
                    silent, unwatched = 0, False
                    self._note_state(line)
                self._watch.wait()
                errors.seek(0)
                reason = f"{name}: {(errors.read().strip() or 'no message').splitlines()[-1]}"
            seconds = time.monotonic() - since
            if not silent:
                since = time.monotonic()
            elif silent >= len(planes) and seconds >= _UNWATCHED_SECONDS and not (unwatched or self.stopped.is_set()):
                unwatched = True
                at = self._moment()
                self._record.write("unwatched", at=at, since=round(max(0.0, at - seconds), 3), error=reason)
                lacks = "so the record lacks when nodes are Ready"
                messages.warning(f"no control plane has answered for {seconds:.0f} s, {lacks}: {reason}")
            self.stopped.wait(_PAUSE)

    def _note_state(self, line: str) -> None:
        """Record a node's state if it has changed."""
        node, _, status = line.strip().partition(" ")
        state = _STATES.get(status.strip(), "Unknown")
        if self._states.get(node) != state:
            if node in self._states or state != "Ready":
                self._record.write("node", node=node, state=state, at=self._moment())
            self._states[node] = state

    def _moment(self) -> float:
        """Return the scenario's time for the record. The watch starts before the scenario."""
        return round(max(0.0, self._record.now), 3)

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
