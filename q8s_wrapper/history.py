"""Durations of earlier runs, kept in one file per cluster, and estimates computed from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.private_file import write_private
from q8s_wrapper.run_state import State, is_build

_FILE: Final = "history.jsonl"
_KEPT: Final = 50
_SIMILAR: Final = 2.0  # runs whose sizes differ by at most this factor are comparable
_RUNS_OF_ESTIMATE: Final = 3


@dataclass(frozen=True)
class Run:
    """A successful run.

    :param what: the command
    :param servers: number of servers in the plan
    :param made: number of servers that the run created
    :param seconds: duration without builds
    :param stages: start of each stage, in seconds since the start of the run, without builds
    """

    what: str
    servers: int
    made: int
    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """The estimated duration of a run without builds, from the median of the most similar earlier runs.

    :param seconds: estimated duration
    :param stages: start of each stage in the median run, in seconds since its start
    :param runs: number of runs that the estimate is based on
    """

    seconds: float
    stages: Mapping[str, float]
    runs: int

    def left(self, state: State, now: float) -> float:
        """Return the seconds that are left, measured from the start of the newest stage.

        :param now: seconds since the start of the run
        """
        known = [stage for stage in state.stages if stage.name in self.stages]
        offset = max(known, key=lambda stage: stage.start) if known else None
        if offset is None:
            return max(self.seconds - (now - building(state, now)), 0.0)
        spent = now - offset.start - building(state, now, since=offset.start)
        return max(self.seconds - self.stages[offset.name] - spent, 0.0)


def building(state: State, now: float, since: float = 0.0) -> float:
    """Return the seconds spent in builds.

    :param now: seconds since the start of the run, the end of a build that still runs
    :param since: count only builds that started at or after this second of the run
    """
    return sum(
        (now if stage.name in state.active else stage.end) - stage.start
        for stage in state.stages
        if is_build(stage.name) and stage.start >= since
    )


def summarize_run(what: str, servers: int, made: int, state: State) -> Run:
    """Summarize a finished run for the history.

    :param what: the command
    :param servers: number of servers in the plan
    :param made: number of servers that the run created
    """
    built = building(state, state.seconds)
    builds = [stage for stage in state.stages if is_build(stage.name)]
    stages = {
        stage.name: round(stage.start - sum(build.seconds for build in builds if build.start < stage.start), 1)
        for stage in state.stages
        if stage not in builds
    }
    return Run(what, servers, made, round(state.seconds - built, 1), stages)


def estimate(runs: Iterable[Run], what: str, servers: int, made: int) -> Estimate | None:
    """Estimate the duration of a run from earlier runs of the same command and a similar size.

    The size of a run is the number of servers that it creates; if it creates none, the number of all servers.

    :param runs: earlier runs, each cluster's from old to new
    :param what: the command
    :param servers: number of servers in the plan
    :param made: number of servers that the run creates
    :returns: the estimate, or None without comparable runs
    """

    def size(servers: int, made: int) -> int:
        return made or servers

    target_size = size(servers, made)
    similar = []
    for number, run in enumerate(runs):
        run_size = size(run.servers, run.made)
        if run.what == what and bool(run.made) == bool(made) and target_size and run_size:
            ratio = max(target_size / run_size, run_size / target_size)
            if ratio <= _SIMILAR:
                similar.append((ratio, -number, run))
    # Prefer the nearest size, then the newest run: runs are ordered from old to new.
    nearest = sorted(similar, key=lambda found: found[:2])[:_RUNS_OF_ESTIMATE]
    if not nearest:
        return None
    by_time = sorted((run for _, _, run in nearest), key=lambda run: run.seconds)
    middle = by_time[len(by_time) // 2]
    return Estimate(middle.seconds, middle.stages, len(by_time))


def read(root: Path) -> list[Run]:
    """Return the recorded runs of all clusters, each cluster's from old to new. Skip what cannot be read.

    :param root: folder with the state of all clusters
    """
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _read

    files = sorted([*root.glob(f"*/{_FILE}"), *root.glob(f"*/*/{_FILE}")])
    return [run for file in files for run in _read.readable_lines(file, Run)]


def append_run(folder: Path, run: Run) -> None:
    """Append a run to the cluster's history, which keeps the newest runs.

    :raises OSError: the file cannot be written
    """
    file = folder / _FILE
    # One that is not UTF-8 text stays a line, which cannot be parsed.
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    write_private(file, "\n".join([*lines[-(_KEPT - 1) :], json.dumps(asdict(run))]) + "\n")


def format_duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``2 min 40 s``."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
