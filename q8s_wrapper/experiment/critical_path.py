"""The critical path of a deploy: the chain of work that determined how long it took. Pure functions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from q8s_wrapper.experiment.task_log import Task
from q8s_wrapper.experiment.timeline_record import MILESTONES, PHASES, RESOLUTION, Guest
from q8s_wrapper.run_state import PLAYS_OF_ROLES

_READY: Final = "q8s.emu.nodes_ready"
_SLACK: Final = 0.05  # seconds by which a task may end after its successor has started, as events have it
_SHORT: Final = 0.5  # seconds; a shorter hole in the critical path is not shown


@dataclass(frozen=True)
class Segment:
    """A part of the critical path.

    :param host: the host or the guest; empty between stages
    :param what: the longest task, or the phase of the boot
    :param kind: ``work``, ``wait``, ``ansible`` or ``boot``
    """

    start: float
    end: float
    host: str
    stage: str
    what: str
    kind: str

    @property
    def seconds(self) -> float:
        """Return the duration in seconds."""
        return self.end - self.start


def critical_path(tasks: Sequence[Task], guests: Sequence[Guest], seconds: float) -> list[Segment]:
    """Return the chain of work that determined the duration of the deploy, in order of time and without holes.

    It is followed back from the last task. What a task waited for is the host's previous task in a play whose hosts do
    not wait for one another, else the task that ended last before it. The wait for Ready nodes leads to the guest that
    was Ready last, through its boot, to the task that started it.
    """
    segments: list[Segment] = []
    longest = 0.0
    for step in _without_holes(_steps_back(tasks, guests), seconds):
        last = segments[-1] if segments else None
        if last and step.kind != "boot" and last.kind != "boot" and (last.host, last.stage) == (step.host, step.stage):
            name, kind = (step.what, step.kind) if step.seconds > longest else (last.what, last.kind)
            segments[-1] = replace(last, end=step.end, what=name, kind=kind)
        else:
            segments.append(step)
            longest = 0.0
        longest = max(longest, step.seconds)
    return segments


def _without_holes(steps: Sequence[Segment], seconds: float) -> list[Segment]:
    """Return steps that follow one another from the start to the end of the deploy.

    A hole, or a task that Ansible runs itself, becomes a step of Ansible, or belongs to the next step if it is short.
    """
    found: list[Segment] = []
    at = 0.0
    for step in [*(step for step in steps if step.kind != "ansible"), Segment(seconds, seconds, "", "", "", "ansible")]:
        if step.start - at >= _SHORT:
            found.append(Segment(at, step.start, "", "", "Ansible, between tasks", "ansible"))
            at = step.start
        if step.kind != "ansible":
            found.append(replace(step, start=at))
            at = step.end
        elif found:
            found[-1] = replace(found[-1], end=seconds)
    return found


def _steps_back(tasks: Sequence[Task], guests: Sequence[Guest]) -> list[Segment]:
    """Return the steps of the critical path in order of time, with holes where no task ran."""
    chains = _Chains(tasks)
    steps: list[Segment] = []
    task = chains.last_before(float("inf"))
    until = task.end if task else 0.0
    while task is not None:
        guest = _awaited(task, guests, until)
        starter = chains.running(guest.host, guest.times["power_on"]) if guest else None
        if guest and starter and starter.start < task.start:
            if until > guest.times["ready"]:
                steps.append(Segment(guest.times["ready"], until, task.host, task.stage, task.task, "wait"))
            steps += reversed(_boot(guest))
            task, until = starter, guest.times["power_on"]
        steps.append(
            Segment(task.start, max(until, task.start), task.host, task.stage or task.play, task.task, task.kind)
        )
        previous = chains.before(task)
        until = min(previous.end, task.start) if previous else 0.0
        task = previous
    return steps[::-1]


def _awaited(task: Task, guests: Sequence[Guest], until: float) -> Guest | None:
    """Return the guest that a wait for Ready nodes has waited for last, or None."""
    if task.action != _READY:
        return None
    late = [
        guest
        for guest in guests
        if "power_on" in guest.times and task.start < guest.times.get("ready", 0.0) <= until + RESOLUTION
    ]
    return max(late, key=lambda guest: guest.times["ready"], default=None)


def _boot(guest: Guest) -> list[Segment]:
    """Return the phases of a guest's boot."""
    known = [name for name in MILESTONES if name in guest.times]
    return [
        Segment(guest.times[before], guest.times[name], guest.node, "Guest", PHASES[name], "boot")
        for before, name in pairwise(known)
    ]


class _Chains:
    """Finds the task before another one."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._by_end = sorted(tasks, key=lambda task: task.end)
        self._ends = [task.end for task in self._by_end]
        self._hosts: dict[str, list[Task]] = {}
        for task in self._by_end:
            self._hosts.setdefault(task.host, []).append(task)

    def last_before(self, moment: float, than: float = float("inf")) -> Task | None:
        """Return the task that ended last before a moment, of those that started before another one."""
        for task in reversed(self._by_end[: bisect_right(self._ends, moment)]):
            if task.start < than:
                return task
        return None

    def before(self, task: Task) -> Task | None:
        """Return the task that a task has waited for, or None."""
        if task.play in PLAYS_OF_ROLES:
            own = [
                one
                for one in self._hosts[task.host]
                if one.play == task.play and one.end <= task.start + _SLACK and one.start < task.start
            ]
            if own:
                return own[-1]
        return self.last_before(task.start + _SLACK, than=task.start)

    def running(self, host: str, moment: float) -> Task | None:
        """Return the host's task that ran at a moment, else its next one."""
        later = [task for task in self._hosts.get(host, []) if task.end >= moment]
        return later[0] if later else None
