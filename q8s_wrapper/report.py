"""Format the plan and the result of a run: durations, failures, node table, next steps. Pure functions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from q8s_wrapper.errors import ExitCode
from q8s_wrapper.history import Estimate, format_duration
from q8s_wrapper.invocation import Invocation, add_option
from q8s_wrapper.run_state import Failure, State
from q8s_wrapper.text_layout import table, wrap

_REASON_LINES: Final = 10
_MESSAGE_LENGTH: Final = 2000  # characters
_LINK_NAMES: Final = 4  # nodes that a line of links names
_DESTRUCTIVE: Final = frozenset({"delete", "replace"})
_QUOTA_UNITS: Final = {"instances": "server", "cores": "vCPU", "ram": "MB of memory"}


@dataclass(frozen=True)
class End:
    """The end of a command.

    :param what: the command
    :param again: the command line that runs it again, quoted for a shell
    :param code: the exit code
    :param check: whether it ran in check mode
    :param continues: whether ``again`` keeps what this run has done, though it changes no cluster
    :param timeline: path of the page with the deploy's timeline; empty without one
    """

    what: str
    invocation: Invocation
    again: str
    code: int
    check: bool = False
    continues: bool = False
    timeline: str = ""


def plan(data: Mapping[str, Any], estimate: Estimate | None, width: int) -> list[str]:
    """Format the plan: changes in the cloud, quota, builds and estimated duration.

    :param data: the playbooks' variable ``q8s_plan``: changes, notes, quota and build
    :param estimate: the estimated duration, or None
    :param width: columns of the output
    """
    grouped: dict[tuple[str, str], list[str]] = {}
    for change in data.get("changes", []):
        grouped.setdefault((change["action"], change["kind"]), []).append(change["name"])
    lines = ["in the cloud:" if grouped else "in the cloud: nothing to change"]
    for (action, kind), names in grouped.items():
        what = f"{len(names)} {kind}s" if len(names) > 1 else kind
        named = _format_rules(names) if kind == "rule" else ", ".join(names)
        lines += _format_change(action, what, named, width)
    for note in data.get("notes", []):
        lines += textwrap.wrap(f"note: {note}", width, initial_indent="  ", subsequent_indent="    ")
    lines += [line for row in data.get("links", []) for line in _format_links(row, width)]
    quota = [
        _format_quota_usage(name, use)
        for name, use in (data.get("quota") or {}).items()
        if name in _QUOTA_UNITS and use["needed"]
    ]
    if quota:
        lines += textwrap.wrap(f"quota: needs {', '.join(quota)}", width, subsequent_indent="  ")
    lines += [line for text in _format_builds(data) for line in textwrap.wrap(text, width, subsequent_indent="  ")]
    if estimate:
        runs = "an earlier run" if estimate.runs == 1 else f"{estimate.runs} earlier runs"
        lines.append(f"time: about {format_duration(estimate.seconds)}, from {runs} of this size")
    return lines


def _format_change(action: str, what: str, text: str, width: int) -> list[str]:
    """Format a change as columns: the action, what changes, and a text that is wrapped."""
    first, *rest = textwrap.wrap(text, max(width - 30, 20), break_long_words=False, break_on_hyphens=False)
    return [f"  {action:<8} {what:<17} {first}", *(f"{'':<29}{line}" for line in rest)]


def _format_builds(data: Mapping[str, Any]) -> list[str]:
    """Format the builds of a plan: which artifacts, on which machine and why, and the size of the upload."""
    build = data.get("build") or {}
    lines = []
    if missing := build.get("missing"):
        where = "on the initial control plane" if build["on_cluster"] else "on this machine"
        reasons = "; ".join(build.get("obstacles") or [])
        if reasons:
            cannot = f"this machine cannot build: {reasons}"
            where += f" ({cannot})" if build["on_cluster"] else f", and {cannot}"
        lines.append(f"build: {', '.join(missing)}, {where}")
    if build.get("upload_bytes") and not build["on_cluster"]:
        cached = "" if not build.get("missing") else " and the new artifacts"
        lines.append(f"upload: {build['upload_bytes'] / 1e6:.0f} MB{cached}, to the initial control plane")
    return lines


def node_plan(data: Mapping[str, Any], width: int) -> list[str]:
    """Format the changes of existing nodes: the action, the node, and the old and new value of each field.

    :param data: the playbooks' variable ``q8s_node_plan``: changes, hosts that did not answer, and notes; may be empty
    :param width: columns of the output
    """
    lines = ["existing nodes:"] if data.get("changes") else []
    for change in data.get("changes", []):
        fields = ", ".join(f"{f['field']} {f['has']} -> {f['wanted']}" for f in change["fields"])
        lines += _format_change(change["action"], change["node"], fields, width)
    if data.get("unknown"):
        hosts = ", ".join(f"{host} ({why})" for host, why in data["unknown"].items())
        text = f"note: not compared with the file, as the host did not answer: {hosts}"
        lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    for note in data.get("notes", []):
        lines += textwrap.wrap(
            f"note: {note}", width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    return lines


def node_plan_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of existing nodes as data for ``--json``, with notes only if there are any."""
    notes = {"notes": data["notes"]} if data.get("notes") else {}
    return {"changes": data.get("changes", []), "unknown": data.get("unknown", {}), **notes}


def changed_nodes(state: State) -> list[str]:
    """Return the names of the nodes that the plan restarts or recreates."""
    return [change["node"] for change in (state.results.get("q8s_node_plan") or {}).get("changes", [])]


def _format_quota_usage(name: str, use: Mapping[str, int]) -> str:
    """Format the usage of a quota: ``2 servers (3 of 20 used)``."""
    plural = "s" if name != "ram" and use["needed"] != 1 else ""
    used = f"{use['used']} of {use['limit']} used" if use["limit"] >= 0 else f"{use['used']} used, no limit"
    return f"{use['needed']} {_QUOTA_UNITS[name]}{plural} ({used})"


def _format_rules(names: Sequence[str]) -> str:
    """Format security group rules, grouped by source: ``tcp 22, tcp 80 from 10.0.0.0/24``."""
    by_source: dict[str, list[str]] = {}
    for name in names:
        what, _, source = name.partition(" from ")
        by_source.setdefault(source, []).append(what)
    return "; ".join(f"{', '.join(what)} from {source}" for source, what in by_source.items())


def join_names(names: Sequence[str], most: int) -> str:
    """Join names, and count those after the first ones: ``a, b and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _format_links(row: Mapping[str, Any], width: int) -> list[str]:
    """Format the links that some nodes have to others."""
    ends = [join_names(names, _LINK_NAMES) for names in (row["from"], row["to"])]
    return textwrap.wrap(f"link: {ends[0]} -> {ends[1]}: {row['impairment']}", width, subsequent_indent="  ")


def plan_data(data: Mapping[str, Any], estimate: Estimate | None) -> dict[str, Any]:
    """Return the plan as data for ``--json``."""
    return {**data, "estimate_seconds": estimate.seconds if estimate else None}


def deleted_servers(data: Mapping[str, Any]) -> list[str]:
    """Return the names of the servers that a plan deletes or replaces."""
    changes = data.get("changes", [])
    return [c["name"] for c in changes if c["kind"] == "server" and c["action"] in _DESTRUCTIVE]


def count_created_servers(data: Mapping[str, Any]) -> int:
    """Return the number of servers that a plan creates, including replacements."""
    changes = data.get("changes", [])
    return sum(1 for c in changes if c["kind"] == "server" and c["action"] in ("create", "replace"))


def stage_table(state: State) -> str:
    """Format the start and duration of each stage (the paper's Table 5). Stages overlap: the sum exceeds the total."""
    rows: list[Mapping[str, Any]] = [
        {
            "stage": stage.name,
            "start": f"{stage.start:.1f} s",
            "took": f"{state.duration(stage):.1f} s",
            "hosts": len(state.hosts(stage)),
        }
        for stage in state.busy
    ]
    return table(rows)


def failures(state: State, invocation: Invocation, width: int) -> list[str]:
    """Format the failures, each with its hosts, task, reason and place. Equal failures of several hosts are grouped."""
    grouped: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in state.failures:
        grouped.setdefault((failure.task, failure.reason, failure.place), []).append(failure)
    lines = []
    for (task, reason, place), same in grouped.items():
        hosts = [failure.host for failure in same]
        where = "" if hosts == ["localhost"] else f"{join_names(hosts, 5)}: "
        lines += wrap(f"error: {where}{task}", width)
        lines += [f"  {line}" for line in _shorten_reason(invocation.adapt(reason), width - 2)]
        lines.append(f"  (in {place})")
    return lines


def _shorten_reason(reason: str, width: int) -> list[str]:
    """Wrap a text. Of a long one, keep the first and last lines: programs print the reason at the start or at the end.

    A few long lines are a message of Q8S, whose ways out may be anywhere in it.
    """
    whole = reason.strip()
    lines = [part for line in whole.splitlines() for part in wrap(line, width, indent="") or [""]]
    is_message = len(whole.splitlines()) <= _REASON_LINES and len(whole) <= _MESSAGE_LENGTH
    if len(lines) <= _REASON_LINES or is_message:
        return lines
    half = _REASON_LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more lines in the log …", *lines[-half:]]


def ending(end: End, state: State, *, log: str, exists: str, width: int, quiet: bool = False) -> list[str]:
    """Format the end of a run: stage table, failures, result, path of the log, and next steps.

    :param log: path of the log
    :param exists: the servers that an interrupted run leaves in the cloud, as text; may be empty
    :param width: columns of the output
    :param quiet: whether to return only failures, the result and hints
    """
    if quiet:
        hints = [step for step in next_steps(end, state) if step.startswith("hint: ")]
        wrapped = [line for hint in hints for line in wrap(hint, width)]
        return [
            *failures(state, end.invocation, width),
            last_line(end, state),
            *wrap(exists, width),
            *wrapped,
        ]
    lines = ["", *stage_table(state).splitlines(), ""] if state.stages else []
    lines += failures(state, end.invocation, width)
    lines += [last_line(end, state), f"log: {log}", *([f"timeline: {end.timeline}"] if end.timeline else [])]
    lines += wrap(exists, width)
    for step in next_steps(end, state):
        lines += [step] if step.startswith("next: ") else wrap(step, width)
    return lines


def last_line(end: End, state: State) -> str:
    """Format the result of a command as one line."""
    name = f"{end.what} --check" if end.check else end.what
    changes = f"{state.changed} change{'' if state.changed == 1 else 's'}"
    if end.code == ExitCode.DONE and end.check:
        return f"{name}: {changes} would be made"
    if end.code == ExitCode.DONE:
        return f"{name}: done in {state.seconds:.1f} s, {changes}"
    if end.code == ExitCode.INTERRUPTED:
        return f"{name}: interrupted after {state.seconds:.1f} s"
    return f"{name}: failed after {state.seconds:.1f} s"


def status(rows: Sequence[Mapping[str, Any]], invocation: Invocation, width: int) -> list[str]:
    """Format the table of ``status``, and below it each node's problem with a hint."""
    narrow = ("node", "architecture", "address", "server", "guest", "kubernetes")
    lines = _format_nodes(rows, narrow if width < 110 else ("node", "host", *narrow[1:], "version"))
    return lines + _format_problems(rows, invocation, width)


def nodes(rows: Sequence[Mapping[str, Any]], invocation: Invocation, width: int) -> list[str]:
    """Format the node table after a deploy, with the columns that Kubernetes users need, and each node's problem."""
    narrow = ("node", "architecture", "address", "kubernetes", "version")
    lines = _format_nodes(rows, narrow if width < 110 else ("node", "host", *narrow[1:]))
    return lines + _format_problems(rows, invocation, width)


def promises(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the table of ``verify``: what the cluster file says of each worker, and what the worker shows."""
    kept = {True: "yes", False: "NO", None: "not compared"}
    names = ("node", "promise", "promised", "measured", "off")
    return table([{**{name: row[name] for name in names}, "kept": kept[row["kept"]]} for row in rows]).splitlines()


def _format_nodes(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    return table([{name: row[name] for name in names} for row in rows]).splitlines()


def _format_problems(rows: Sequence[Mapping[str, Any]], invocation: Invocation, width: int) -> list[str]:
    """Format the problem and the hint of each node that has one."""
    lines: list[str] = []
    bad = [row for row in rows if row["problem"]]
    if bad:
        lines.append("")
    for row in bad:
        lines += wrap(f"{row['node']}: {row['problem']}", width)
        if row["hint"]:
            lines += [f"  {line}" for line in wrap(f"hint: {invocation.adapt(row['hint'])}", width - 2)]
    return lines


def next_steps(end: End, state: State) -> list[str]:
    """Return the next steps, each a command with the prefix ``next: `` or ``hint: ``."""
    what, command = end.what, end.invocation.command
    if end.code == ExitCode.DONE and end.check:
        needed = what == "upgrade" or deleted_servers(state.results.get("q8s_plan") or {}) or changed_nodes(state)
        again = end.again.replace(" --check", "", 1)
        return [f"next: {add_option(again, '--yes') if needed else again}"]
    if end.code == ExitCode.DONE and what == "deploy" and state.results.get("q8s_inactive_servers"):
        # With --tags, servers were missing or off, and the run did not do everything that they need.
        return [f"next: {command('deploy')}"]
    if end.code == ExitCode.DONE:
        # With the milestones of the guests that have booted, which a deploy does not wait for.
        where_time_went = [command("timeline")] if count_created_servers(state.results.get("q8s_plan") or {}) else []
        steps = {
            "deploy": [command("verify"), command("kubeconfig", "--merge"), *where_time_went, command("destroy")],
            "replace": [command("status")],
            "upgrade": [command("verify"), command("status")],
            # What was merged has the old certificate.
            "renew": [command("status"), command("kubeconfig", "--merge")],
            "plan": [end.again],
        }.get(what, [])
        return [f"next: {step}" for step in steps]
    changes = what in ("deploy", "replace", "upgrade", "destroy") and not end.check
    keeps = changes or end.continues
    if end.code == ExitCode.INTERRUPTED:
        steps = [f"hint: `{end.again}` continues where it stopped" if keeps else f"hint: `{end.again}` starts again"]
        if what == "deploy" and changes:
            steps.append(f"hint: `{command('destroy')}` removes the whole cluster")
        return steps
    if end.code == ExitCode.WRONG_INPUT:
        if changed_nodes(state):
            return [f"hint: `{add_option(end.again, '--yes')}` changes them one at a time"]
        reasons = [failure.reason for failure in state.failures]
        if any("needs --yes" in reason for reason in reasons):
            return [f"hint: `{add_option(end.again, '--yes')}` allows it"]
        if any("\nhint: " in reason for reason in reasons):
            return []  # the refusal says what to do
        return [f"hint: fix the cluster file, then run `{end.again}` again"]
    continuation = ": it continues where it stopped" if keeps else ""
    steps = [f"hint: fix the cause, then run `{end.again}` again{continuation}"]
    host = next(iter(sorted(state.failed - {"localhost"})), None)
    if host:
        steps.append(f"hint: `{command('logs', host)}` shows the log of {host}")
    return steps


def describe_servers(servers: Sequence[str]) -> str:
    """Describe the servers of the cluster that exist in the cloud."""
    if not servers:
        return "the cloud has no server of this cluster"
    count = f"{len(servers)} server{'s' if len(servers) > 1 else ''}"
    return f"the cloud has {count} of this cluster: {', '.join(servers)}"


def result(what: str, code: int, state: State, log: str, *, check: bool = False) -> dict[str, Any]:
    """Return the result of a run as data for ``--json``. In check mode, ``changed`` counts what would change."""
    return {
        "event": "result",
        "command": what,
        "exit_code": code,
        "check": check,
        "changed": state.changed,
        "seconds": round(state.seconds, 1),
        "stages": [
            {
                "name": stage.name,
                "start": round(stage.start, 1),
                "seconds": round(state.duration(stage), 1),
                "hosts": sorted(state.hosts(stage)),
            }
            for stage in state.stages
        ],
        "failures": [{"host": f.host, "task": f.task, "reason": f.reason, "place": f.place} for f in state.failures],
        "nodes": state.results.get("q8s_node_table", []),
        **({"promises": state.results["q8s_promises"]} if "q8s_promises" in state.results else {}),
        "notes": list(state.notes),
        "warnings": list(state.warnings),
        "log": log,
    }
