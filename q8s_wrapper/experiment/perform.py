"""Perform the schedule of a scenario: change links in guests, and stop guests on their hosts, through ssh.

Every command waits in a thread of its own: a slow machine does not delay the others.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from q8s_wrapper.errors import WrapperError
from q8s_wrapper.experiment.machines import CommandError, Machines, read_quota
from q8s_wrapper.experiment.node_watch import NodeWatch
from q8s_wrapper.experiment.scenario import Record
from q8s_wrapper.experiment.shaping import Shaping

_BACK_SECONDS: Final = 900


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
        self._watch = NodeWatch(machines, record, self.stopped)

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
        threading.Thread(target=self._watch.run, daemon=True).start()

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
            state = self._watch.state(fault.node)
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

    def close(self) -> None:
        """Perform nothing more. Commands that run are waited for."""
        self.stopped.set()
        self._watch.close()
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
