"""The timeline of a deploy: the tasks that ran, the stages of each host, the critical path, and who worked when.

All times are seconds since the start of the deploy. ``TaskLog`` records while Ansible runs. The rest, apart from
reading and writing a record, are pure functions.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from q8s_wrapper.events import PLAYS_OF_ROLES, State
from q8s_wrapper.private_file import write_private

SCHEMA: Final = "q8s-timeline/1"
CREATED: Final = "timeline.json"  # in the cluster's state folder: the last deploy that created servers
LAST: Final = "timeline-last.json"  # the last deploy
PAGE: Final = "timeline.html"  # in the folder of a deploy's log
MILESTONES: Final = ("power_on", "kernel", "containerd", "kubelet", "registered", "ready")
PHASES: Final = {  # the time up to each milestone
    "kernel": "firmware and kernel's start",
    "containerd": "guest boots to containerd",
    "kubelet": "containerd to kubelet",
    "registered": "kubelet to registration",
    "ready": "registration to Ready",
}
_SKIPPED: Final = "runner_on_skipped"
_ENDINGS: Final = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable", _SKIPPED)
# Actions that Ansible runs itself, without a module on a host.
_CONTROLLER: Final = frozenset(
    """add_host assert debug fail group_by import_role import_tasks include_role include_tasks include_vars meta
    set_fact set_stats validate_argument_spec""".split()
)
_WAITS: Final = frozenset({"wait_for", "wait_for_connection", "pause", "async_status", "q8s.emu.nodes_ready"})
_START: Final = "Start the guest"
_READY: Final = "q8s.emu.nodes_ready"
_SLACK: Final = 0.05  # seconds by which a task may end after its successor has started, as events have it
_SHORT: Final = 0.5  # seconds; a shorter hole in the critical path is not shown
_RESOLUTION: Final = 1.5  # seconds by which Kubernetes' times, of whole seconds, may be off


@dataclass(frozen=True)
class Task:
    """A task that ran on a host.

    :param action: name of the module, without ``ansible.builtin``
    :param result: ``ok``, ``failed``, ``unreachable``, or ``interrupted``
    """

    host: str
    stage: str
    play: str
    task: str
    action: str
    start: float
    end: float
    result: str = "ok"

    @property
    def kind(self) -> str:
        """Return who spends the task's time: ``work`` of a machine, ``wait``, or ``ansible`` itself."""
        if self.action in _CONTROLLER:
            return "ansible"
        return "wait" if self.action in _WAITS or self.task.startswith("Wait ") else "work"


@dataclass(frozen=True)
class Guest:
    """The milestones of a guest's boot, as far as they are known."""

    node: str
    host: str
    times: Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """What a host did in a stage.

    :param work: seconds of tasks other than waiting
    """

    host: str
    stage: str
    start: float
    end: float
    work: float


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


class TaskLog:
    """Records the tasks of a run from ansible-runner's events. Skipped tasks are left out."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._running: dict[str, Task] = {}

    def add(self, event: Mapping[str, Any], state: State) -> None:
        """Record an event.

        :param state: the state of the run after the event
        """
        kind, data = event.get("event"), event.get("event_data") or {}
        host = str(data.get("host", ""))
        if kind == "runner_on_start":
            action = str(data.get("task_action") or "").removeprefix("ansible.builtin.")
            stage = state.current[host].stage
            now = round(state.seconds, 3)
            self._running[host] = Task(host, stage, state.play, str(data.get("task", "")), action, now, now)
            return
        if kind not in _ENDINGS:
            return
        running = self._running.pop(host, None)
        if running and kind != _SKIPPED:
            result = str(kind).removeprefix("runner_on_")
            self.tasks.append(replace(running, end=round(state.seconds, 3), result=result))

    def finished(self, seconds: float) -> tuple[Task, ...]:
        """Return all tasks. Those that still run were interrupted.

        :param seconds: duration of the run
        """
        left = [replace(task, end=round(seconds, 3), result="interrupted") for task in self._running.values()]
        return tuple(sorted([*self.tasks, *left], key=lambda task: task.start))


def document(
    cluster: str,
    *,
    command: str,
    code: int,
    created: int,
    state: State,
    tasks: Sequence[Task],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the record of a deploy.

    :param created: number of servers that it created
    :param versions: versions of the programs that ran it
    """
    return {
        "schema": SCHEMA,
        "cluster": cluster,
        "command": command,
        "exit_code": int(code),
        "started": state.started.isoformat() if state.started else "",
        "seconds": round(state.seconds, 3),
        "servers_created": created,
        "changed": state.changed,
        "versions": dict(versions),
        "plan": state.results.get("q8s_plan"),
        "guests": [],
        "tasks": [asdict(task) for task in tasks],
    }


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of the last deploy to the cluster's state folder.

    :raises OSError: a file cannot be written
    """
    text = json.dumps(record) + "\n"
    write_private(folder / LAST, text)
    if record["servers_created"]:
        write_private(folder / CREATED, text)


def keep_guests(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record again, with the milestones of its guests.

    :raises OSError: a file cannot be written
    """
    for name in (CREATED, LAST):
        found = _read(folder / name)
        if found and found["started"] == record["started"]:
            write_private(folder / name, json.dumps(record) + "\n")


def read(folder: Path, *, last: bool = False) -> dict[str, Any] | None:
    """Return the record of the last deploy that created servers, else of the last deploy, else None.

    :param last: whether to return that of the last deploy in any case
    """
    names = (LAST,) if last else (CREATED, LAST)
    return next((found for found in (_read(folder / name) for name in names) if found), None)


def _read(path: Path) -> dict[str, Any] | None:
    """Return a record, or None if there is none or it cannot be parsed."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == SCHEMA else None


def lacks_guests(record: Mapping[str, Any]) -> bool:
    """Return whether the deploy has started a guest, and not every milestone is known."""
    complete = all({*MILESTONES} <= {*guest["times"]} for guest in record["guests"])
    started = any(task["task"] == _START for task in record["tasks"])
    return started and not (record["guests"] and complete)


def tasks_of(record: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of a record."""
    names = [field.name for field in fields(Task)]
    return [Task(**{name: task[name] for name in names}) for task in record["tasks"]]


def guests_of(record: Mapping[str, Any]) -> list[Guest]:
    """Return the guests of a record."""
    return [Guest(guest["node"], guest["host"], guest["times"]) for guest in record["guests"]]


def with_guests(record: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a record with the milestones of the guests that the deploy has started.

    A milestone outside of the deploy belongs to a later boot, and is left out.

    :param facts: of each guest ``node``, ``host`` and its milestones in seconds since the epoch, or null
    """
    began = datetime.fromisoformat(record["started"]).timestamp()
    guests = []
    for fact in facts:
        since = {name: fact[name] - began for name in MILESTONES if fact.get(name) is not None}
        if not -_RESOLUTION <= since.get("power_on", -10.0) <= record["seconds"]:
            continue
        times: dict[str, float] = {}
        for name in MILESTONES:
            # Clocks of host, guest and control plane may differ by a second, and Kubernetes has whole seconds.
            if name in since and since[name] <= record["seconds"] + _RESOLUTION:
                earliest = max(times.values(), default=0.0)
                times[name] = round(min(max(since[name], earliest), record["seconds"]), 3)
        guests.append({"node": fact["node"], "host": fact["host"], "times": times})
    return {**record, "guests": guests}


def cells(tasks: Iterable[Task]) -> list[Cell]:
    """Return what each host did in each stage, in order of time. Ansible's own tasks do not count."""
    found: dict[tuple[str, str], Cell] = {}
    for task in tasks:
        if task.kind == "ansible":
            continue
        work = task.end - task.start if task.kind == "work" else 0.0
        key = (task.host, task.stage or task.play)
        before = found.get(key) or Cell(*key, task.start, task.end, 0.0)
        found[key] = replace(
            before, start=min(before.start, task.start), end=max(before.end, task.end), work=before.work + work
        )
    return sorted(found.values(), key=lambda cell: (cell.start, cell.host))


def shares(tasks: Iterable[Task], guests: Iterable[Guest], seconds: float) -> dict[str, float]:
    """Return for how many seconds who worked. Each moment counts once, for the first of these that applies:

    - ``machines``: a host runs a task that does not wait, or a guest is between power-on and Ready
    - ``local``: only this machine, or the cloud on its request, runs such a task
    - ``waiting``: every running task waits
    - ``ansible``: no task runs, or only tasks that Ansible runs itself

    The last two are the time in which no machine works. Connecting to a host and copying a module there count as the
    host's work, so their share is a lower bound.
    """
    order = ("machines", "local", "waiting", "ansible")
    spans = []
    for task in tasks:
        if task.kind != "ansible":
            who = "waiting" if task.kind == "wait" else "local" if task.host == "localhost" else "machines"
            spans.append((task.start, task.end, who))
    spans += [
        (g.times["power_on"], g.times["ready"], "machines") for g in guests if {"power_on", "ready"} <= {*g.times}
    ]
    changes = sorted([(start, 1, who) for start, _, who in spans] + [(end, -1, who) for _, end, who in spans])
    running = dict.fromkeys(order, 0)
    found = dict.fromkeys(order, 0.0)
    at = 0.0
    for moment, step, who in [*changes, (seconds, 0, "ansible")]:
        busiest = next((name for name in order if running[name]), "ansible")
        found[busiest] += max(min(moment, seconds) - at, 0.0)
        at = max(at, min(moment, seconds))
        running[who] += step
    return {name: round(spent, 3) for name, spent in found.items()}


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
        if "power_on" in guest.times and task.start < guest.times.get("ready", 0.0) <= until + _RESOLUTION
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


def analysis(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with what follows from it, for ``--json``: stages of each host, critical path and shares."""
    tasks, guests, seconds = tasks_of(record), guests_of(record), record["seconds"]
    spent = shares(tasks, guests, seconds)
    idle = spent["waiting"] + spent["ansible"]
    return {
        **{key: value for key, value in record.items() if key not in ("tasks", "plan")},
        "stages": [asdict(cell) for cell in cells(tasks)],
        "critical_path": [asdict(segment) for segment in critical_path(tasks, guests, seconds)],
        "shares": {**spent, "no_machine_percent": round(100 * idle / seconds, 1) if seconds else 0.0},
        "tasks": record["tasks"],
    }


def started_text(record: Mapping[str, Any]) -> str:
    """Return when the deploy began and ended, in UTC: ``2026-11-27 19:30:05 to 19:31:10 UTC``."""
    began = datetime.fromisoformat(record["started"])
    ended = began + timedelta(seconds=record["seconds"])
    return f"{began:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S} UTC"
