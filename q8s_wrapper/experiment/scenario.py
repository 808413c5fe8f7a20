"""Records of scenarios in the cluster's state folder, and what is printed of them.

A record is a file of JSON Lines: ``begin``, an ``action`` each time that a fault begins or ends, ``node`` when a node
becomes Ready or NotReady, ``unwatched`` when no control plane has answered for a while, ``watched`` when one answers
again, ``back`` when a guest answers after a fault, ``ping`` for each answer of a ping, and ``end``.
While a scenario runs, ``scenario.json`` names its record; a run that was killed leaves it.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO, TypedDict

from q8s_wrapper import damage, text_layout
from q8s_wrapper.errors import WrapperError
from q8s_wrapper.private_file import write_private

_MARKER: Final = "scenario.json"
_RECORDS: Final = "scenarios"
_RECORDS_KEPT: Final = 50
_BEGIN: Final = "begin"

Line = dict[str, Any]


class _Event(TypedDict):
    """What every line of a record has. Lines of other events than those below are not read."""

    event: str


class _Begin(_Event):
    time: str
    seed: int | None


class _Fault(_Event):
    what: str
    kind: str
    undo: bool
    planned: float
    begun: float
    done: float


class _Action(_Fault, total=False):
    error: str


class _NodeState(_Event):
    node: str
    state: str
    at: float


class _Unwatched(_Event):
    since: float
    at: float
    error: str


class _Back(_Event):
    node: str
    at: float


class _End(_Event):
    result: str


# "from" is no name of a class's field.
_Ping = TypedDict("_Ping", {"from": str, "to": str, "at": float, "ms": float})
_SHAPES: Final[Mapping[str, Any]] = {
    "begin": _Begin,
    "action": _Action,
    "node": _NodeState,
    "unwatched": _Unwatched,
    "watched": _Back,
    "back": _Back,
    "ping": _Ping,
    "end": _End,
}


def stamp() -> str:
    """Return the time in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Left:
    """A scenario that has not ended: when it began, and the workers that it stops, None if they are not known."""

    since: str
    nodes: tuple[str, ...] | None


def find_left(folder: Path) -> Left | None:
    """Return the scenario that runs, or was killed."""
    try:
        with damage.explained() as read:
            left: Left = read.json_file(folder / _MARKER, Left)
            return left
    except FileNotFoundError:
        return None
    except damage.DamagedError:
        return Left("an unknown time", None)


def forget(folder: Path) -> None:
    """Record that no scenario is left to restore."""
    (folder / _MARKER).unlink(missing_ok=True)


class Record:
    """A record that is written. Several threads may write."""

    def __init__(self, folder: Path, nodes: Sequence[str], show: Callable[[Line], None]) -> None:
        records = folder / _RECORDS
        records.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(records.glob("*.jsonl"))[: -(_RECORDS_KEPT - 1)]:
            old.unlink()
        self.path = records / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.jsonl"
        self._stream: TextIO = self.path.open("w", encoding="utf-8")
        self.path.chmod(0o600)
        self._lock = threading.Lock()
        self._show = show
        self._begin = time.monotonic()
        self.begun = False
        # First, so that a run that is killed leaves no fault that nobody knows of.
        left = {"since": stamp(), "nodes": list(nodes), "record": self.path.name}
        write_private(folder / _MARKER, json.dumps(left) + "\n")

    def start(self) -> None:
        """Begin to count the scenario's time."""
        self._begin = time.monotonic()

    @property
    def now(self) -> float:
        """Return the scenario's time in seconds."""
        return time.monotonic() - self._begin

    def write(self, event: str, **values: Any) -> None:
        """Append a line with a time stamp."""
        self.begun = self.begun or event == _BEGIN
        line = {"event": event, "time": stamp(), **values}
        with self._lock:
            if not self._stream.closed:
                self._stream.write(json.dumps(line) + "\n")
                self._stream.flush()
                self._show(line)

    def close(self) -> None:
        """Write no more lines, and remove the record of a scenario that has not begun."""
        with self._lock:
            self._stream.close()
            if not self.begun:
                self.path.unlink(missing_ok=True)


def read_record(folder: Path) -> tuple[Path, list[Line]]:
    """Return the path and the lines of the newest record of a scenario that has begun, else of the newest one.

    :raises WrapperError: there is none, or it is damaged
    """
    newest: tuple[Path, list[Line]] | None = None
    for path in sorted((folder / _RECORDS).glob("*.jsonl"), reverse=True):
        lines = _read_lines(path)
        if any(line["event"] == _BEGIN for line in lines):
            return path, lines
        newest = newest or (path, lines)
    if newest is None:
        raise WrapperError("Failed to find a record: no scenario of this cluster was run from this machine")
    return newest


def _read_lines(path: Path) -> list[Line]:
    """Return the lines of a record.

    :raises WrapperError: it is damaged
    """
    lines: list[Line] = []
    with damage.explained("fix it, or move it away: the report is then that of the scenario before") as read:
        for place, data in read.json_lines(path):
            line = read.parse(_Event, data, place)
            lines.append(read.parse(_SHAPES.get(line["event"], _Event), line, place))
    return lines


def schedule_lines(actions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the actions of a schedule."""
    if not actions:
        return ["nothing happens"]
    rows = [{"at": f"{action['at']:.3f} s", "what": action["what"]} for action in actions]
    return text_layout.table(rows).splitlines()


def line_text(line: Line) -> str:
    """Format a line of a record that is shown while the scenario runs; empty for none."""
    kind = line["event"]
    if kind == "action":
        late = f", planned {line['planned']:.3f} s"
        failed = f": FAILED: {line['error']}" if line.get("error") else ""
        return f"{line['begun']:9.3f} s  {line['what']} (done {line['done']:.3f} s{late}){failed}"
    if kind == "node":
        return f"{line['at']:9.3f} s  {line['node']} is {line['state']}"
    if kind == "back":
        return f"{line['at']:9.3f} s  {line['node']} answers again"
    if kind == "watched":
        return f"{line['at']:9.3f} s  control plane {line['node']} answers, and nodes are watched again"
    return ""


def report_lines(path: Path, lines: Sequence[Line]) -> list[str]:
    """Format a record: the actions, then when nodes were not Ready."""
    data = report_data(path, lines)
    rows = [
        {
            "planned": f"{one['planned']:.3f} s",
            "begun": f"{one['begun']:.3f} s",
            "done": f"{one['done']:.3f} s",
            "what": one["what"],
            "result": one.get("error") or "done",
        }
        for one in data["actions"]
    ]
    result = [f"scenario of {data['begin']}, seed {data['seed']}: {data['result']}", ""]
    result += text_layout.table(rows).splitlines() if rows else ["nothing happened"]
    for one in data["unwatched"]:
        until = f"{one['to']:.3f} s" if one["to"] is not None else "the end"
        result.append(f"no control plane answered from {one['from']:.3f} s to {until}: {one['error']}")
    for one in data["not_ready"]:
        until = f"{one['to']:.3f} s" if one["to"] is not None else "the end"
        result.append(f"{one['node']} was {one['state']} from {one['from']:.3f} s to {until}")
    for one in data["back"]:
        result.append(f"{one['node']} answered again at {one['at']:.3f} s")
    return [*result, *_ping_lines(data["pings"]), f"record: {path}"]


def _ping_lines(pings: Sequence[Line]) -> list[str]:
    """Format the round trips that were measured: how many, and their quartiles."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for one in pings:
        pairs.setdefault((one["from"], one["to"]), []).append(one["ms"])
    rows = []
    for (source, target), times in pairs.items():
        low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        quartiles = f"{low:.1f} / {middle:.1f} / {high:.1f} ms"
        rows.append({"from": source, "to": target, "answers": str(len(times)), "round trip, quartiles": quartiles})
    return ["", *text_layout.table(rows).splitlines(), ""] if rows else []


def report_data(path: Path, lines: Sequence[Line]) -> dict[str, Any]:
    """Return what a record says, for programs."""
    begin = next((line for line in lines if line["event"] == "begin"), {})
    end = next((line for line in lines if line["event"] == "end"), {"result": "killed, or running"})
    intervals: list[dict[str, Any]] = []
    unwatched: list[dict[str, Any]] = []
    for line in lines:
        if line["event"] == "unwatched":
            unwatched.append({"from": line["since"], "to": None, "error": line["error"]})
        if line["event"] == "watched" and unwatched:
            unwatched[-1]["to"] = line["at"]
        if line["event"] != "node":
            continue
        for one in intervals:
            if one["node"] == line["node"] and one["to"] is None:
                one["to"] = line["at"]
        if line["state"] != "Ready":
            intervals.append({"node": line["node"], "state": line["state"], "from": line["at"], "to": None})
    return {
        "record": str(path),
        "begin": begin.get("time", ""),
        "seed": begin.get("seed"),
        "result": end["result"],
        # They were recorded as they ended.
        "actions": sorted((line for line in lines if line["event"] == "action"), key=lambda line: line["begun"]),
        "not_ready": intervals,
        "unwatched": unwatched,
        "back": [line for line in lines if line["event"] == "back"],
        "pings": [line for line in lines if line["event"] == "ping"],
    }
