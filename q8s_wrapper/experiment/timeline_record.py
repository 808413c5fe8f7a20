"""The record of a deploy: its tasks, and the milestones of its guests. It is kept in the cluster's state folder.

All times are seconds since the start of the deploy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from q8s_wrapper import damage
from q8s_wrapper.experiment.task_log import Task
from q8s_wrapper.private_file import write_private
from q8s_wrapper.run_state import State

SCHEMA: Final = "q8s-timeline/1"
CREATED: Final = "timeline.json"  # in the cluster's state folder: the last deploy that created servers
LAST: Final = "timeline-last.json"  # the last deploy
MILESTONES: Final = ("power_on", "kernel", "containerd", "kubelet", "registered", "ready")
PHASES: Final = {  # the time up to each milestone
    "kernel": "firmware and kernel's start",
    "containerd": "guest boots to containerd",
    "kubelet": "containerd to kubelet",
    "registered": "kubelet to registration",
    "ready": "registration to Ready",
}
_START: Final = "Start the guest"
RESOLUTION: Final = 1.5  # seconds by which Kubernetes' times, of whole seconds, may be off


@dataclass(frozen=True)
class Guest:
    """The milestones of a guest's boot, as far as they are known."""

    node: str
    host: str
    times: Mapping[str, float]


class _Record(TypedDict):
    """What is read of a record."""

    schema: Literal["q8s-timeline/1"]
    cluster: str
    command: str
    exit_code: int
    started: str
    seconds: float
    servers_created: int
    guests: list[Guest]
    tasks: list[Task]


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
        found = None
        with suppress(damage.DamagedError):
            found = _read(folder / name)
        if found and found["started"] == record["started"]:
            write_private(folder / name, json.dumps(record) + "\n")


def read(folder: Path, *, last: bool = False) -> dict[str, Any] | None:
    """Return the record of the last deploy that created servers, else of the last deploy, else None.

    :param last: whether to return that of the last deploy in any case
    :raises WrapperError: the record is damaged
    """
    names = (LAST,) if last else (CREATED, LAST)
    return next((found for found in (_read(folder / name) for name in names) if found), None)


def _read(path: Path) -> dict[str, Any] | None:
    """Return a record, or None if there is none.

    :raises WrapperError: it is damaged
    """
    try:
        with damage.explained("move it away: the next deploy records its own") as read:
            place = read.Place(str(path))
            found: dict[str, Any] = read.json_data(read.text(path), place)
            read.parse(_Record, found, place)
            try:
                (datetime.fromisoformat(found["started"]) + timedelta(seconds=found["seconds"])).timestamp()
            except (ValueError, OverflowError) as error:
                raise place.error(f"started: is {found['started']!r}; must be a time ({error})") from None
            return found
    except FileNotFoundError:
        return None


def lacks_guests(record: Mapping[str, Any]) -> bool:
    """Return whether the deploy has started a guest, and not every milestone is known."""
    complete = all({*MILESTONES} <= {*guest["times"]} for guest in record["guests"])
    started = any(task["task"] == _START for task in record["tasks"])
    return started and not (record["guests"] and complete)


def tasks_of(record: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of a record."""
    names = [field.name for field in fields(Task)]
    return [Task(**{name: task[name] for name in names if name in task}) for task in record["tasks"]]


def guests_of(record: Mapping[str, Any]) -> list[Guest]:
    """Return the guests of a record."""
    return [Guest(guest["node"], guest["host"], guest["times"]) for guest in record["guests"]]


def with_guests(record: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a record with the milestones of the guests that the deploy has started.

    A milestone outside of the deploy belongs to a later boot, and is left out. Those that the record has already stay:
    later on, the guest has booted again or is gone.

    :param facts: of each guest ``node``, ``host`` and its milestones in seconds since the epoch, or null
    """
    began = datetime.fromisoformat(record["started"]).timestamp()
    guests = {guest["node"]: guest for guest in record["guests"]}
    for fact in facts:
        since = {name: fact[name] - began for name in MILESTONES if fact.get(name) is not None}
        if not -RESOLUTION <= since.get("power_on", -10.0) <= record["seconds"]:
            continue
        times: dict[str, float] = {}
        for name in MILESTONES:
            # Clocks of host, guest and control plane may differ by a second, and Kubernetes has whole seconds.
            if name in since and since[name] <= record["seconds"] + RESOLUTION:
                earliest = max(times.values(), default=0.0)
                times[name] = round(min(max(since[name], earliest), record["seconds"]), 3)
        times |= guests.get(fact["node"], {}).get("times", {})
        in_order = {name: times[name] for name in MILESTONES if name in times}
        guests[fact["node"]] = {"node": fact["node"], "host": fact["host"], "times": in_order}
    return {**record, "guests": list(guests.values())}
