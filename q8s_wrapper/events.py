"""Reducer of ansible-runner's events: computes the state of a run. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from q8s_wrapper.failure_reason import failure_reason, task_location
from q8s_wrapper.run_state import (
    BUILDS,
    PLAYS_OF_ROLES,
    TASK_RESULTS,
    BuildProgress,
    Failure,
    RunningTask,
    Stage,
    State,
)
from q8s_wrapper.terminal import without_colours

# Prefixes of the names of tasks that refuse the cluster file or the command.
_REFUSAL_PREFIXES: Final = ("Refuse edits", "Refuse tags", "Refuse to remove or replace servers")


def reduce(state: State, event: Mapping[str, Any]) -> State:
    """Return the state after an event. Irrelevant events return the state unchanged.

    :param event: an event of ansible-runner
    """
    kind = event.get("event", "")
    data = event.get("event_data") or {}
    state = _with_time(state, event)
    host = str(data.get("host", ""))
    if kind == "playbook_on_play_start" or (kind.startswith("runner_on_") and data.get("play")):
        state = _with_play(state, data)
        state = replace(state, play=_numbered(state, data, str(data.get("play", ""))))
    if kind == "runner_on_start":
        state = _with_stage(_with_title(state, data), data)
        running = RunningTask(_stage_name(state, data), str(data.get("task", "")), state.seconds)
        failed_items = {name: reason for name, reason in state.failed_items.items() if name != host}
        return replace(state, current={**state.current, host: running}, failed_items=failed_items)
    if kind == "runner_item_on_failed" and host not in state.failed_items:
        # The task's own result only says that some items failed.
        result = data.get("res") or {}
        label = str(result.get("_ansible_item_label", ""))
        reason = failure_reason(result, str(event.get("stdout") or ""))
        labelled = f"{label}: {reason}" if label and label not in reason else reason
        return replace(state, failed_items={**state.failed_items, host: labelled})
    if kind == "runner_retry" and host in state.current:
        running = state.current[host]
        return replace(state, current={**state.current, host: replace(running, tries=running.tries + 1)})
    if kind in TASK_RESULTS:
        return _with_result(state, kind, data, str(event.get("stdout") or ""))
    if kind == "verbose":
        return _with_build_progress(state, str(event.get("stdout") or ""))
    if kind in {"warning", "deprecated"}:
        return _with_warnings(state, [event.get("stdout", "")])
    if kind == "playbook_on_stats":
        changed = sum(int(count) for count in (data.get("changed") or {}).values())
        return replace(state, changed=changed, finished=True, current={})
    return state


def _with_build_progress(state: State, text: str) -> State:
    """Return the state with the progress of a build, or of tests. The progress is a line of JSON among the output."""
    if '"q8s_progress"' not in text:
        return state
    try:
        progress = json.loads(without_colours(text))["q8s_progress"]
        if progress["event"] == "line":
            return replace(state, lines=(*state.lines, str(progress["text"])))
        name, number, total = str(progress["artifact"]), int(progress["number"]), int(progress["total"])
        event, message = str(progress["event"]), str(progress["text"])
    except (ValueError, KeyError, TypeError):
        return state
    others = {artifact: build for artifact, build in state.builds.items() if artifact != name}
    if event == "built":
        built = {**state.built, name: float(progress.get("seconds") or 0.0)}
        return replace(state, builds=others, built=built)
    if event == "uploaded":
        return replace(state, builds=others, uploaded={**state.uploaded, name: message})
    before = state.builds.get(name) or BuildProgress(name, number, total, "", state.seconds)
    if event == "step":
        now = replace(before, step=str(progress.get("step") or ""), since=state.seconds, text="")
    elif event == "note":
        now = replace(before, text=message)
    else:
        now = before
    return replace(state, builds={**others, name: now})


def _clean_warning(text: object) -> str:
    """Return a warning without colours, label, and Ansible's line breaks for a terminal of 80 columns."""
    return " ".join(without_colours(str(text)).split()).removeprefix("[WARNING]: ")


def _with_time(state: State, event: Mapping[str, Any]) -> State:
    """Return the state with the time of an event."""
    created = event.get("created")
    if not created:
        return state
    now = datetime.fromisoformat(str(created))
    if state.started is None:
        return replace(state, started=now)
    return replace(state, seconds=max(state.seconds, (now - state.started).total_seconds()))


def _with_play(state: State, data: Mapping[str, Any]) -> State:
    """Return the state with the number of a play."""
    name, identity = str(data.get("play") or ""), _play_id(data)
    if not identity or identity in state.plays:
        return state
    number = 1 + sum(known == name for known, _number in state.plays.values())
    return replace(state, plays={**state.plays, identity: (name, number)})


def _play_id(data: Mapping[str, Any]) -> str:
    """Return Ansible's id of a play. For a later batch of a play with ``serial``, ansible-runner appends a number."""
    return str(data.get("play_uuid") or "").partition("_")[0]


def _numbered(state: State, data: Mapping[str, Any], name: str) -> str:
    """Return the name of a play or stage with the number of its play, unless it is the first of its name."""
    number = state.plays.get(_play_id(data), ("", 1))[1]
    return f"{name} ({number})" if name and number > 1 else name


def _with_title(state: State, data: Mapping[str, Any]) -> State:
    """Return the state with the title of a role that a host starts: the name of the task that includes it.

    A role keeps its first title, because its handlers run after the host has included other roles.
    A part of a role that is included by a file of tasks gives no title, and is no stage.
    """
    host, role = str(data.get("host", "")), _find_role(data)
    if str(data.get("task_action") or "").endswith("include_role"):
        part = "/playbooks/tasks/" in str(data.get("task_path") or "")
        return replace(state, includes={**state.includes, host: "" if part else str(data.get("task", ""))})
    if role and role not in state.titles and state.includes.get(host):
        return replace(state, titles={**state.titles, role: state.includes[host]})
    return state


def _find_role(data: Mapping[str, Any]) -> str:
    """Return the role of a task in a play whose roles are stages, or "" for a task outside of roles.

    The place of the task decides: its event may name the role of another host's task.
    """
    path, action = str(data.get("task_path") or ""), str(data.get("task_action") or "")
    # A role's first task validates its arguments; Ansible reports the including task as its place.
    outside = path and "/roles/" not in path and not action.endswith("validate_argument_spec")
    in_roles = str(data.get("play") or "") in PLAYS_OF_ROLES
    return str(data.get("role") or "").rsplit(".", 1)[-1] if in_roles and not outside else ""


def _stage_name(state: State, data: Mapping[str, Any]) -> str:
    """Return the stage of an event, or "" for a task outside of roles in a play whose roles are stages."""
    play = str(data.get("play") or "")
    role = _find_role(data)
    if play not in PLAYS_OF_ROLES:
        return _numbered(state, data, play)
    part = state.includes.get(str(data.get("host", ""))) == ""
    return "" if part else _numbered(state, data, state.titles.get(role, role))


def _with_stage(state: State, data: Mapping[str, Any], *hosts: str) -> State:
    """Return the state with the stage of an event, and with hosts that ran a task in it."""
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


def _with_result(state: State, kind: str, data: Mapping[str, Any], stdout: str) -> State:
    """Return the state after a host's task has ended."""
    host = str(data.get("host", ""))
    current = {name: running for name, running in state.current.items() if name != host}
    hosts = () if kind == "runner_on_skipped" else (host,)
    # A build play has one task that builds, so its end is the end of all builds.
    builds = {} if data.get("play") in BUILDS else state.builds
    state = replace(_with_stage(state, data, *hosts), current=current, builds=builds)
    result = data.get("res") or {}
    state = _with_warnings(state, result.get("warnings") or [])
    # With ignore_unreachable, the result has a skip_reason, or, in newer ansible-core, only the printed text says so.
    ignored = "skip_reason" in result or without_colours(stdout).rstrip().endswith("...ignoring")
    unreachable = kind == "runner_on_unreachable" and not ignored
    if unreachable or (kind == "runner_on_failed" and not data.get("ignore_errors")):
        reason = state.failed_items.get(host) or failure_reason(result, stdout)
        task = str(data.get("task", ""))
        failure = Failure(
            host, task, reason, task_location(data), bool(result.get("refused")) or task.startswith(_REFUSAL_PREFIXES)
        )
        return replace(state, failures=(*state.failures, failure))
    if kind == "runner_on_ok" and str(data.get("task_action", "")).endswith("debug"):
        return _with_debug_output(state, result)
    return state


def _with_warnings(state: State, texts: Iterable[object]) -> State:
    """Return the state with warnings: from Ansible's warning events, or from a module's result."""
    # Ansible repeats warnings each time it reads the inventory.
    return replace(state, warnings=tuple(dict.fromkeys((*state.warnings, *map(_clean_warning, texts)))))


def _with_debug_output(state: State, result: Mapping[str, Any]) -> State:
    """Return the state with the output of a debug task.

    Messages become notes, ``q8s_*`` variables results, the lines of ``q8s_warnings`` warnings, and ``q8s_progress`` a
    line that is shown at once.
    """
    items = result["results"] if isinstance(result.get("results"), list) else [result]
    notes, results = list(state.notes), dict(state.results)
    for item in items:
        if "msg" in item and isinstance(item["msg"], str) and "stdout_lines" not in item:
            notes.append(item["msg"])
        for name, value in item.items():
            if name == "q8s_progress":
                state = replace(state, lines=(*state.lines, str(value)))
            elif name.startswith("q8s_"):
                results[name] = value
                if name == "q8s_warnings":
                    state = _with_warnings(state, value)
                elif isinstance(value, list) and all(isinstance(line, str) for line in value):
                    notes.extend(value)
    return replace(state, notes=tuple(notes), results=results)
