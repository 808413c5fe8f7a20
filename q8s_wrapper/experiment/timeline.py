"""The timeline of a deploy, from its record: the stages of each host, the critical path, and who worked when.

All times are seconds since the start of the deploy. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from q8s_wrapper.experiment.critical_path import critical_path
from q8s_wrapper.experiment.task_log import Task
from q8s_wrapper.experiment.timeline_record import Guest, guests_of, tasks_of


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
