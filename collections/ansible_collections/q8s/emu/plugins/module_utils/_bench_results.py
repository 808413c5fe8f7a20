# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the raw output of a benchmark into results: figures, load of nodes, medians and spreads. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Optional, TypedDict

from ansible_collections.q8s.emu.plugins.module_utils import _bench_parse, _bench_plan, _bench_resume
from ansible_collections.q8s.emu.plugins.module_utils._read import Place
from ansible_collections.q8s.emu.plugins.module_utils._results_folder import Kind

SCHEMA = "q8s-bench/1"
_TICKS_PER_SECOND = 100  # of /proc/PID/stat: USER_HZ, the same on every architecture that Q8S knows
_TIMED_OUT = (124, 143)  # of timeout(1), of coreutils and of busybox


class _Node(TypedDict):
    name: str
    kind: str
    architecture: str
    emulated: bool
    cpus: int


class _Session(TypedDict):
    started: str
    ended: str
    measured: int
    load_before: str
    load_after: str


class _Measurement(TypedDict):
    name: str
    group: str
    metric: str
    tool: str
    path: str
    protocol: str
    client: str
    server: str
    repetition: int
    argv: list[str]
    start: str
    end: str
    figures: Mapping[str, float]
    error: str
    load: Mapping[str, Mapping[str, float]]
    output: str


class _Stage(TypedDict):
    stage: str
    start_s: float
    seconds: float


class Results(TypedDict):
    """What is read of ``results.json`` to resume a benchmark."""

    schema: str
    complete: bool
    quick: bool
    groups: list[str]
    versions: Mapping[str, Any]
    nodes: list[_Node]
    sessions: list[_Session]
    measurements: list[_Measurement]
    idle: Mapping[str, Mapping[str, float]]
    deploy_stages: list[_Stage]


class Run(TypedDict):
    """What is read of a run that q8s-run recorded."""

    what: str
    servers: int
    made: int
    seconds: float
    stages: Mapping[str, float]


def _check(results: Results, place: Place) -> None:
    """Check that the nodes of every measurement are among those of the results.

    :raises ReadError: they are not
    """
    names = [node["name"] for node in results["nodes"]]
    for number, one in enumerate(results["measurements"]):
        ends = {"client": one["client"], **({"server": one["server"]} if one["path"] else {})}
        for side, node in ends.items():
            if node not in names:
                where = place.at("measurements").at(number).at(side)
                raise where.error(f"is {node!r}; must be a node of the results: {', '.join(names)}")


KIND = Kind(SCHEMA, Results, _check)


@dataclass(frozen=True)
class Sample:
    """Counters at a moment.

    :param at: seconds since the epoch
    :param busy: seconds of CPU time spent so far
    :param total: seconds of CPU time that have passed so far on all cores; 0 for a process
    :param memory_mib: memory in use
    """

    at: float
    busy: float
    total: float
    memory_mib: float


@dataclass(frozen=True)
class Session:
    """A session of a benchmark.

    :param started: when it began; empty for the time at which its results are written
    :param machine: the load of the control plane before and after
    :param history: recorded runs of q8s-run, from old to new
    """

    started: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()


_UNKNOWN_SESSION = Session()


def node_samples(text: str) -> list[Sample]:
    """Return the samples that a node's pod wrote, a line for each: time, /proc/stat's first line, two of /proc/meminfo.

    A line that is not complete is skipped: the pod may have been stopped while it wrote it.
    """
    found = []
    for line in text.splitlines():
        words = line.split()
        try:
            start, total, available = words.index("cpu"), words.index("MemTotal:"), words.index("MemAvailable:")
            ticks = [int(word) for word in words[start + 1 : start + 9]]  # guest time is part of user time
            idle = ticks[3] + ticks[4]
            used = int(words[total + 1]) - int(words[available + 1])
            everything = sum(ticks)
        except (ValueError, IndexError):
            continue
        found.append(
            Sample(
                float(words[0]),
                (everything - idle) / _TICKS_PER_SECOND,
                everything / _TICKS_PER_SECOND,
                used / 1024,
            )
        )
    return found


def process_samples(text: str) -> list[Sample]:
    """Return the samples of a process, a line for each: time, ticks in user and in kernel mode, and VmRSS."""
    found = []
    for line in text.splitlines():
        words = line.split()
        try:
            at, user, kernel, memory = float(words[0]), int(words[1]), int(words[2]), int(words[4])
        except (ValueError, IndexError):
            continue
        found.append(Sample(at, (user + kernel) / _TICKS_PER_SECOND, 0.0, memory / 1024))
    return found


def load(samples: Sequence[Sample], since: float, until: float) -> Optional[dict[str, float]]:
    """Return CPU use and memory between two moments, or None without two samples there.

    CPU use is in percent of one core, as top shows it: two busy cores are 200. ``cpu_percent_of_node`` is in percent of
    all cores, as the paper has it.
    """
    inside = [sample for sample in samples if since <= sample.at <= until]
    if len(inside) < 2:
        return None
    first, last = inside[0], inside[-1]
    seconds = last.at - first.at
    if seconds <= 0:
        return None
    busy = last.busy - first.busy
    found = {
        "cpu_percent": 100 * busy / seconds,
        "memory_mib": statistics.median(sample.memory_mib for sample in inside),
        "seconds": seconds,
    }
    if last.total > first.total:
        found["cpu_percent_of_node"] = 100 * busy / (last.total - first.total)
    return found


def measured(run: Mapping[str, Any], samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return the result of one measurement.

    :param run: Ansible's result of the command: ``item`` (the measurement), ``stdout``, ``stderr``, ``rc``, ``start``, ``end``
    :param samples: samples by ``node/NODE`` and ``qemu/NODE``
    """
    item = run["item"]
    parsed: dict[str, float] = {}
    error = ""
    text = str(run.get("stdout") or "")
    try:
        parsed = _bench_parse.parse(item["tool"], text)
    except _bench_parse.ParseError as problem:
        reason = str(run.get("stderr") or "").strip().splitlines()
        error = f"{problem} ({reason[-1]})" if reason else str(problem)
    if run.get("rc") in _TIMED_OUT:
        error = f"it had not ended after {_bench_plan.TIMEOUT} s"
    elif not error and run.get("rc") not in (0, None):
        error = f"exit code {run['rc']}: {str(run.get('stderr') or '').strip() or 'no message'}"
    since, until = (
        parsed.pop("from_epoch_s", _epoch(run.get("start"))),
        parsed.pop("until_epoch_s", _epoch(run.get("end"))),
    )
    loads = {}
    for node in dict.fromkeys(name for name in (item["client"], item["server"]) if name):
        for side in ("node", "qemu"):
            found = load(samples.get(f"{side}/{node}", ()), since, until)
            if found:
                loads[f"{side}/{node}"] = found
    names = ("name", "group", "metric", "tool", "path", "protocol", "client", "server", "repetition")
    return {
        **{name: item[name] for name in names},
        "argv": list(item["argv"]),
        "start": str(run.get("start") or ""),
        "end": str(run.get("end") or ""),
        "figures": {} if error else parsed,
        "error": error,
        "load": loads,
        "output": text,
    }


def _epoch(text: Any) -> float:
    """Return a time that Ansible's command module reports, in seconds since the epoch. The play sets the zone UTC."""
    try:
        return datetime.fromisoformat(str(text)).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return 0.0


def idle_load(samples: Mapping[str, Sequence[Sample]], since: float, until: float) -> dict[str, dict[str, float]]:
    """Return the load of every node and QEMU process between two moments."""
    found = {name: load(taken, since, until) for name, taken in samples.items()}
    return {name: figures for name, figures in found.items() if figures}


def summarize(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the median and the spread of each figure over the repetitions of its measurement."""
    values: dict[tuple[str, ...], list[float]] = {}
    keys = ("group", "metric", "path", "protocol", "client", "server")
    for result in results:
        for figure, value in result["figures"].items():
            values.setdefault((*(result[key] for key in keys), figure), []).append(value)
    return [
        {
            **dict(zip((*keys, "figure"), key)),
            "median": statistics.median(found),
            "minimum": min(found),
            "maximum": max(found),
            "count": len(found),
        }
        for key, found in values.items()
    ]


def newest_deploy(history: Sequence[Mapping[str, Any]]) -> Optional[Mapping[str, Any]]:
    """Return the newest recorded deploy that created all servers of its plan, else the newest that created some.

    :param history: recorded runs from old to new, as q8s-run writes them
    """
    deploys = [run for run in history if run.get("what") == "deploy" and run.get("made")]
    whole = [run for run in deploys if run["made"] == run["servers"]]
    found = whole or deploys
    return found[-1] if found else None


def deploy_stages(deploy: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages of a recorded deploy: the start of each, and the time to the next."""
    starts = sorted(deploy["stages"].items(), key=lambda entry: float(entry[1]))
    ends = [float(start) for _name, start in starts[1:]] + [float(deploy["seconds"])]
    return [
        {"stage": name, "start_s": float(start), "seconds": round(end - float(start), 1)}
        for (name, start), end in zip(starts, ends)
    ]


def document(
    plan: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[Sample]],
    *,
    cluster: str,
    versions: Mapping[str, Any],
    now: datetime,
    session: Session = _UNKNOWN_SESSION,
    before: Optional[Mapping[str, Any]] = None,
) -> dict[str, Any]:
    """Return the results of a benchmark, as ``results.json`` has them.

    :param plan: what was planned: ``nodes``, ``measurements``, ``effort``, ``quick``, ``groups``, ``topology``
    :param runs: Ansible's results of the commands that ran
    :param samples: samples by ``node/NODE`` and ``qemu/NODE``
    :param versions: versions of what was measured
    :param now: the time, in UTC
    :param before: the results so far, of this session and of earlier ones
    """
    written = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    earlier: Mapping[str, Any] = before or {"measurements": [], "idle": {}, "deploy_stages": [], "sessions": []}
    new = [measured(run, samples) for run in runs if isinstance(run.get("item"), Mapping)]
    planned = [one["name"] for one in plan["measurements"]]
    results = _bench_resume.merge(earlier["measurements"], new, planned)
    done = {result["name"] for result in results}
    missing = [name for name in planned if name not in done]
    idle = dict(earlier["idle"])
    for result in new:
        if result["group"] == "idle":
            idle = idle_load(samples, _epoch(result["start"]), _epoch(result["end"]))
    deploy = newest_deploy(session.history)
    sessions = _bench_resume.sessions(
        earlier["sessions"],
        started=session.started or written,
        now=written,
        measured=len(new),
        machine=session.machine,
    )
    return {
        "schema": SCHEMA,
        "cluster": cluster,
        "created": written,
        "complete": not missing and not any(result["error"] for result in results),
        "missing": missing,
        "quick": bool(plan["quick"]),
        "groups": list(plan["groups"]),
        "effort": dict(plan["effort"]),
        "versions": dict(versions),
        "machine": {"load_before": sessions[0]["load_before"], "load_after": sessions[-1]["load_after"]},
        "sessions": sessions,
        "nodes": list(plan["nodes"]),
        "topology": list(plan.get("topology", plan["nodes"])),
        "idle": idle,
        "measurements": results,
        "summary": summarize(results),
        "deploy_servers": {"created": deploy["made"], "all": deploy["servers"]}
        if deploy
        else dict(earlier.get("deploy_servers", {})),
        "deploy_stages": deploy_stages(deploy) if deploy else list(earlier["deploy_stages"]),
    }
