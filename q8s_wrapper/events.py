"""From the events of ansible-runner to what a person wants to know: a pure reducer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

_RESULTS: Final = frozenset({"runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"})
_ANSI: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
# What command says when it has nothing to say, of ansible-core before and since 2.20.
_EMPTY_REASONS: Final = frozenset({"non-zero return code", "The command exited with a non-zero return code."})
_ERROR: Final = re.compile(r"^\[ERROR\]: (.*)$", re.MULTILINE)
_HIDDEN: Final = "the task's output may hold secrets, so it is in no log (no_log)"
# How the name of a task begins that fails because the cluster file or the command asks for something that is not done.
_REFUSES: Final = "Refuse edits"
# The play that builds bundles and guest images. It takes minutes or nothing, whatever is deployed.
BUILDS: Final = frozenset({"Build node bundles and guest images", "Build on the initial control plane"})
# Plays in which hosts run several roles side by side. Each role is a stage, named like the task that includes it; every
# other play is one stage.
_PLAYS_OF_ROLES: Final = frozenset({"Start the control plane, and boot guests"})


@dataclass(frozen=True)
class Stage:
    """A play, or a role of a play whose roles run side by side.

    Times are in seconds since the start of the run; ``hosts`` had a task that ran, ``play`` is the play's name.
    """

    name: str
    start: float
    end: float
    hosts: frozenset[str] = frozenset()
    play: str = ""

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Doing:
    """What a host does now, ``since`` so many seconds after the start of the run; ``tries`` that were not yet good."""

    stage: str
    task: str
    since: float
    tries: int = 0


@dataclass(frozen=True)
class Work:
    """The build of one artifact: which one it is of how many, its step now, and since when (seconds of the run)."""

    artifact: str
    number: int
    total: int
    step: str
    since: float
    text: str = ""


@dataclass(frozen=True)
class Failure:
    """A task that failed. ``refused``: the cluster file or the command asks for something that is not done."""

    host: str
    task: str
    reason: str
    place: str
    refused: bool = False


@dataclass(frozen=True)
class State:
    """All that is known of a run so far.

    ``includes`` has the task by which each host last included a role, ``titles`` that of each role.
    ``builds`` are the artifacts that are being built or uploaded. ``built`` are those that were built, with the seconds
    that each took. ``uploaded`` are those that were uploaded, with their size, time and rate in words.
    """

    started: datetime | None = None
    seconds: float = 0.0
    stages: tuple[Stage, ...] = ()
    current: Mapping[str, Doing] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    changed: int = 0
    finished: bool = False
    play: str = ""
    includes: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    failed_items: Mapping[str, str] = field(default_factory=dict)
    builds: Mapping[str, Work] = field(default_factory=dict)
    built: Mapping[str, float] = field(default_factory=dict)
    uploaded: Mapping[str, str] = field(default_factory=dict)

    @property
    def active(self) -> frozenset[str]:
        """Names of the stages in which a host does something now."""
        return frozenset(doing.stage for doing in self.current.values())

    def ended(self, stage: Stage) -> bool:
        """Whether a stage cannot go on: its play has ended. Until then, another host may still begin it."""
        return self.finished or stage.play != self.play

    def hosts(self, stage: Stage) -> frozenset[str]:
        """The hosts of a stage: those that had something to do in it, and those that are in it now."""
        return stage.hosts | {host for host, doing in self.current.items() if doing.stage == stage.name}

    @property
    def busy(self) -> tuple[Stage, ...]:
        """The stages without those in which every host skipped every task."""
        return tuple(stage for stage in self.stages if self.hosts(stage))

    def took(self, stage: Stage) -> float:
        """Seconds that a stage took, up to now when a host is still in it."""
        return self.seconds - stage.start if stage.name in self.active else stage.seconds

    @property
    def refused(self) -> bool:
        """Whether the run failed only because what was asked for is not done."""
        return bool(self.failures) and all(failure.refused for failure in self.failures)

    @property
    def failed(self) -> frozenset[str]:
        """Hosts that failed."""
        return frozenset(failure.host for failure in self.failures)


def reduce(state: State, event: Mapping[str, Any]) -> State:
    """The state after one more event; an event of no interest leaves it as it is."""
    kind = event.get("event", "")
    data = event.get("event_data") or {}
    state = _clock(state, event)
    host = str(data.get("host", ""))
    if kind == "playbook_on_play_start" or (kind.startswith("runner_on_") and data.get("play")):
        state = replace(state, play=str(data.get("play", "")))
    if kind == "runner_on_start":
        state = _stage(_titled(state, data), data)
        doing = Doing(_stage_name(state, data), str(data.get("task", "")), state.seconds)
        failed_items = {name: reason for name, reason in state.failed_items.items() if name != host}
        return replace(state, current={**state.current, host: doing}, failed_items=failed_items)
    if kind == "runner_item_on_failed" and host not in state.failed_items:
        # The result of the whole task says of its items only that some failed.
        result = data.get("res") or {}
        label = str(result.get("_ansible_item_label", ""))
        reason = _reason(result, str(event.get("stdout") or ""))
        named = f"{label}: {reason}" if label and label not in reason else reason
        return replace(state, failed_items={**state.failed_items, host: named})
    if kind == "runner_retry" and host in state.current:
        doing = state.current[host]
        return replace(state, current={**state.current, host: replace(doing, tries=doing.tries + 1)})
    if kind in _RESULTS:
        return _result(state, kind, data, str(event.get("stdout") or ""))
    if kind == "verbose":
        return _progress(state, str(event.get("stdout") or ""))
    if kind in {"warning", "deprecated"}:
        return _warned(state, [event.get("stdout", "")])
    if kind == "playbook_on_stats":
        changed = sum(int(count) for count in (data.get("changed") or {}).values())
        return replace(state, changed=changed, finished=True, current={})
    return state


def _progress(state: State, text: str) -> State:
    """With the progress of a build, which is a line of JSON among the output."""
    if '"q8s_progress"' not in text:
        return state
    try:
        progress = json.loads(without_colours(text))["q8s_progress"]
        name, number, total = str(progress["artifact"]), int(progress["number"]), int(progress["total"])
        event, told = str(progress["event"]), str(progress["text"])
    except (ValueError, KeyError, TypeError):
        return state
    others = {artifact: work for artifact, work in state.builds.items() if artifact != name}
    if event == "built":
        built = {**state.built, name: float(progress.get("seconds") or 0.0)}
        return replace(state, builds=others, built=built)
    if event == "uploaded":
        return replace(state, builds=others, uploaded={**state.uploaded, name: told})
    before = state.builds.get(name) or Work(name, number, total, "", state.seconds)
    if event == "step":
        now = replace(before, step=str(progress.get("step") or ""), since=state.seconds, text="")
    elif event == "note":
        now = replace(before, text=told)
    else:
        now = before
    return replace(state, builds={**others, name: now})


def without_colours(text: str) -> str:
    """Text of a terminal as plain text: without colours, and what else moves a cursor."""
    return _ANSI.sub("", text).replace("\r", "")


def _words(text: object) -> str:
    """A warning without its colours, its label, and the line breaks that Ansible put in for an 80 column terminal."""
    return " ".join(without_colours(str(text)).split()).removeprefix("[WARNING]: ")


def _clock(state: State, event: Mapping[str, Any]) -> State:
    created = event.get("created")
    if not created:
        return state
    now = datetime.fromisoformat(str(created))
    if state.started is None:
        return replace(state, started=now)
    return replace(state, seconds=max(state.seconds, (now - state.started).total_seconds()))


def _titled(state: State, data: Mapping[str, Any]) -> State:
    """Return the state with the title of a role that a host begins: the name of the task that includes it.

    The role keeps it: its handlers run when the host has included other roles.
    """
    host, role = str(data.get("host", "")), _role(data)
    if str(data.get("task_action") or "").endswith("include_role"):
        return replace(state, includes={**state.includes, host: str(data.get("task", ""))})
    if role and role not in state.titles and host in state.includes:
        return replace(state, titles={**state.titles, role: state.includes[host]})
    return state


def _role(data: Mapping[str, Any]) -> str:
    """Return the role of a task in a play whose roles are stages, or nothing for a task that stands between the roles.

    The event of such a task may name the role of another host's task.
    """
    path, action = str(data.get("task_path") or ""), str(data.get("task_action") or "")
    # A role's first task checks its arguments; its place is where the role is included.
    outside = path and "/roles/" not in path and not action.endswith("validate_argument_spec")
    in_roles = str(data.get("play") or "") in _PLAYS_OF_ROLES
    return str(data.get("role") or "").rsplit(".", 1)[-1] if in_roles and not outside else ""


def _stage_name(state: State, data: Mapping[str, Any]) -> str:
    """Return the stage of an event, or nothing for a task that stands between the roles of a play."""
    play = str(data.get("play") or "")
    role = _role(data)
    return state.titles.get(role, role) if play in _PLAYS_OF_ROLES else play


def _stage(state: State, data: Mapping[str, Any], *hosts: str) -> State:
    """With the stage of an event, and the hosts that had something to do in it."""
    name = _stage_name(state, data)
    if not name:
        return state
    stages = list(state.stages)
    for index, stage in enumerate(stages):
        if stage.name == name:
            stages[index] = replace(stage, end=state.seconds, hosts=stage.hosts | {*hosts}, play=state.play)
            break
    else:
        stages.append(Stage(name, state.seconds, state.seconds, frozenset(hosts), state.play))
    return replace(state, stages=tuple(stages))


def _result(state: State, kind: str, data: Mapping[str, Any], stdout: str) -> State:
    host = str(data.get("host", ""))
    current = {name: doing for name, doing in state.current.items() if name != host}
    hosts = () if kind == "runner_on_skipped" else (host,)
    # Only one task of the play builds.
    builds = {} if data.get("play") in BUILDS else state.builds
    state = replace(_stage(state, data, *hosts), current=current, builds=builds)
    result = data.get("res") or {}
    state = _warned(state, result.get("warnings") or [])
    # Ansible says skip_reason of a host that cannot be reached where the task has ignore_unreachable.
    unreachable = kind == "runner_on_unreachable" and "skip_reason" not in result
    if unreachable or (kind == "runner_on_failed" and not data.get("ignore_errors")):
        reason = state.failed_items.get(host) or _reason(result, stdout)
        task = str(data.get("task", ""))
        failure = Failure(host, task, reason, _place(data), bool(result.get("refused")) or task.startswith(_REFUSES))
        return replace(state, failures=(*state.failures, failure))
    if kind == "runner_on_ok" and str(data.get("task_action", "")).endswith("debug"):
        return _noted(state, result)
    return state


def _warned(state: State, texts: Iterable[object]) -> State:
    """Warnings of Ansible's, which have events of their own, or of a module, which are in its result."""
    # Each reading of the inventory says the same again.
    return replace(state, warnings=tuple(dict.fromkeys((*state.warnings, *map(_words, texts)))))


def _noted(state: State, result: Mapping[str, Any]) -> State:
    """What a debug task shows is what the playbook has to say: text becomes notes, data becomes a result."""
    items = result["results"] if isinstance(result.get("results"), list) else [result]
    notes, results = list(state.notes), dict(state.results)
    for item in items:
        if "msg" in item and isinstance(item["msg"], str) and "stdout_lines" not in item:
            notes.append(item["msg"])
        for name, value in item.items():
            if name.startswith("q8s_"):
                results[name] = value
                if isinstance(value, list) and all(isinstance(line, str) for line in value):
                    notes.extend(value)
    return replace(state, notes=tuple(notes), results=results)


def _reason(result: Mapping[str, Any], stdout: str = "") -> str:
    """Why a task failed. Of one whose output is hidden, Ansible itself still says in what way it failed."""
    if "censored" in result:
        found = _ERROR.search(without_colours(stdout))
        reason = found[1].strip() if found else ""
        for prefix in ("Task failed: ", "Module failed: ", "Action failed: "):
            reason = reason.removeprefix(prefix)
        return _HIDDEN if reason in ("", *_EMPTY_REASONS) else f"{reason} ({_HIDDEN})"
    failed_items = [item for item in result.get("results") or [] if isinstance(item, Mapping) and item.get("failed")]
    source = failed_items[0] if failed_items else result
    for key in ("stderr", "module_stderr", "msg", "stdout"):
        text = str(source.get(key) or "").strip()
        if text and text not in _EMPTY_REASONS:
            message = str(source.get("msg") or "").strip()
            if key != "msg" and message and message not in (*_EMPTY_REASONS, text) and "rc" not in source:
                return message
            return text
    return str(source.get("msg") or "no reason given")


def _place(data: Mapping[str, Any]) -> str:
    path = str(data.get("task_path") or "")
    for folder in ("roles/", "playbooks/"):
        _, found, inside = path.rpartition(f"/{folder}")
        if found:
            return folder + inside
    return path
