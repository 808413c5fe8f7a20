"""How long earlier runs took, and from that how long one will take: a file of times per cluster, and pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from q8s_wrapper.events import BUILD, State

_FILE: Final = "history.jsonl"
_KEPT: Final = 50
_SIMILAR: Final = 2.0  # a run of up to this many times the size, or the inverse, says something
_RUNS_OF_ESTIMATE: Final = 3


@dataclass(frozen=True)
class Run:
    """A run that ended well. ``servers`` were in the plan, ``made`` of them new; stages: their start in seconds."""

    what: str
    servers: int
    made: int
    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """What a run is likely to take beside the build, in seconds, by the run in the middle of those most like it."""

    seconds: float
    stages: Mapping[str, float]
    runs: int

    def left(self, state: State, now: float) -> float:
        """Seconds that are left, ``now`` seconds after the start, counted from the start of the newest stage."""
        known = [stage for stage in state.stages if stage.name in self.stages]
        offset = max(known, key=lambda stage: stage.start) if known else None
        if offset is None:
            return max(self.seconds - (now - building(state, now)), 0.0)
        spent = now - offset.start - building(state, now, since=offset.start)
        return max(self.seconds - self.stages[offset.name] - spent, 0.0)


def building(state: State, now: float, since: float = 0.0) -> float:
    """How many seconds the build took, or takes so far, where it began ``since`` then."""
    for stage in state.stages:
        if stage.name == BUILD and stage.start >= since:
            return (now if BUILD in state.active else stage.end) - stage.start
    return 0.0


def of(what: str, servers: int, made: int, state: State) -> Run:
    """What to remember of a run."""
    built = building(state, state.seconds)
    begin = min((stage.start for stage in state.stages if stage.name == BUILD), default=state.seconds)
    stages = {
        stage.name: round(stage.start - (built if stage.start > begin else 0.0), 1)
        for stage in state.stages
        if stage.name != BUILD
    }
    return Run(what, servers, made, round(state.seconds - built, 1), stages)


def estimate(runs: Iterable[Run], what: str, servers: int, made: int) -> Estimate | None:
    """From earlier runs of the same command and a similar size, or None when there are none.

    A run that makes servers is compared by these, any other by all servers that the cluster has.
    """

    def size(servers: int, made: int) -> int:
        return made or servers

    wanted = size(servers, made)
    alike = []
    for number, run in enumerate(runs):
        have = size(run.servers, run.made)
        if run.what == what and bool(run.made) == bool(made) and wanted and have:
            ratio = max(wanted / have, have / wanted)
            if ratio <= _SIMILAR:
                alike.append((ratio, -number, run))
    # The newest of those that are nearest in size; the file has them from old to new.
    nearest = sorted(alike, key=lambda found: found[:2])[:_RUNS_OF_ESTIMATE]
    if not nearest:
        return None
    by_time = sorted((run for _, _, run in nearest), key=lambda run: run.seconds)
    middle = by_time[len(by_time) // 2]
    return Estimate(middle.seconds, middle.stages, len(by_time))


def read(root: Path) -> list[Run]:
    """The runs of all clusters, each cluster's from old to new; lines that cannot be read are left out."""
    runs = []
    for file in sorted([*root.glob(f"*/{_FILE}"), *root.glob(f"*/*/{_FILE}")]):
        with suppress(OSError):
            for line in file.read_text().splitlines():
                with suppress(ValueError, TypeError):
                    runs.append(Run(**json.loads(line)))
    return runs


def remember(folder: Path, run: Run) -> None:
    """Add a run to its cluster's file."""
    file = folder / _FILE
    lines = file.read_text().splitlines() if file.exists() else []
    file.write_text("\n".join([*lines[-(_KEPT - 1) :], json.dumps(asdict(run))]) + "\n")


def words(seconds: float) -> str:
    """A time for people: ``45 s``, ``2 min 40 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
