# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a run of Kubernetes' conformance tests, and read its results. Pure functions.

A spec is a test of upstream's ``e2e.test``, known by its full name. A batch is what one call of the runner on the control
plane runs: a few specs for each of its processes. After each batch the results are written, and a run can be resumed.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import ready_problem
from ansible_collections.q8s.emu.plugins.module_utils._results_folder import Kind

SCHEMA = "q8s-conformance/1"
SIGS = ("network", "node", "apps", "storage", "api-machinery")  # in the order in which their specs run
# Specs that a process runs before the results are written. What a run that is killed has tested since is lost.
BATCH = 4
PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"
NO_RESULT = "no result yet"
_REASON_LENGTH = 300
# The junit report's words for a spec that has ended. An interrupted one has no result: --resume runs it.
_STATUS = {"passed": PASSED, "failed": FAILED, "panicked": FAILED, "timedout": FAILED, "skipped": SKIPPED}
# Specs that need an image which cannot be made from Debian's packages and the tests' own module.
_MISSING_IMAGES = (
    (r"\[sig-api-machinery\] Aggregator ", "sample-apiserver"),
    (r"\[sig-node\] ImageVolume ", "kitten, from a registry"),
    (r"\[sig-cli\] .*(Update Demo|update-demo)", "nautilus"),
)


class _Node(TypedDict):
    name: str
    architecture: str


class _Session(TypedDict):
    started: str


class _Spec(TypedDict):
    name: str
    sig: str
    status: Literal["passed", "failed", "skipped", "not run"]
    seconds: float
    session: str
    reason: str


class Results(TypedDict):
    """What is read of ``results.json`` to resume a run."""

    schema: str
    cluster: str
    kubernetes: str
    focus: str
    skip: str
    complete: bool
    nodes: list[_Node]
    sessions: list[_Session]
    specs: list[_Spec]


KIND = Kind(SCHEMA, Results)


class ConformanceError(Exception):
    """The cluster cannot be tested. The message has a line for each reason."""


def check_ready(items: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> None:
    """Check that every node of the cluster file is Ready.

    :param items: nodes as the API returns them
    :param wanted: names of the nodes that the cluster file asks for
    :raises ConformanceError: one is not
    """
    found = {item["metadata"]["name"]: item for item in items}
    problems = [f"node {name} is not Ready: {why}" for name in wanted if (why := ready_problem(found.get(name)))]
    if problems:
        raise ConformanceError("\n".join([*problems, "hint: `q8s-run status FILE` shows why a node is not Ready"]))


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that results and the cluster belong together.

    :param before: what a resumed run has to know of the results: ``cluster``, ``kubernetes`` and ``nodes``
    :param now: the same of the cluster
    :raises ConformanceError: they differ
    """
    lines = [
        f"{what} was {before[key]}, and is {now[key]}"
        for key, what in (("cluster", "the cluster"), ("kubernetes", "Kubernetes"))
        if before[key] != now[key]
    ]
    old, new = ({node["name"]: node for node in one["nodes"]} for one in (before, now))
    lines += [f"node {name} is no longer in the cluster" for name in old if name not in new]
    lines += [f"node {name} was not in the cluster" for name in new if name not in old]
    lines += [
        f"node {name} had {key} {old[name][key]}, and has {new[name][key]}"
        for name in old
        for key in ("kind", "architecture")
        if name in new and old[name].get(key, new[name][key]) != new[name][key]
    ]
    if lines:
        hint = "hint: such results cannot be mixed; --force measures everything again"
        raise ConformanceError("\n".join([*lines, hint]))


def blocking_taints(taints: Sequence[str]) -> list[str]:
    """Return the keys of those taints that keep pods from a node.

    :param taints: in Kubernetes' form: ``key=value:Effect`` or ``key:Effect``
    """
    parts = [taint.rpartition(":") for taint in taints]
    return list(dict.fromkeys(part[0].partition("=")[0] for part in parts if part[2] != "PreferNoSchedule"))


def check_schedulable(workers: Mapping[str, Collection[str]]) -> None:
    """Check that the tests' pods, which tolerate no taint, have a worker.

    :param workers: the keys of the taints that keep pods from each worker
    :raises ConformanceError: each worker has one, or there is none
    """
    if all(workers.values()):
        named = ", ".join(f"{name} has {' and '.join(keys)}" for name, keys in workers.items())
        raise ConformanceError(
            "no worker is without taints, and the tests' pods tolerate none: "
            f"{named or 'the cluster has no workers'}\n"
            "hint: remove the taints of a VM type in the cluster file, then `q8s-run deploy FILE` removes them from its nodes"
        )


def read_specs(listing: str) -> list[str]:
    """Return the names of the conformance specs in what ``e2e.test --list-tests`` prints."""
    names = [line.partition(": ")[2].strip() for line in listing.splitlines() if line.startswith("    ")]
    return [name for name in names if name.startswith("[sig-") and "[Conformance]" in name]


def sig(name: str) -> str:
    """Return the special interest group of a spec: ``network`` of ``[sig-network] …``."""
    found = re.match(r"\[sig-([a-z-]+)\]", name)
    return found.group(1) if found else ""


def choose(names: Sequence[str], focus: str = "", skip: str = "") -> list[str]:
    """Return the specs of a run in the order in which they run: by group, and those that need the cluster alone last.

    :param focus: a regular expression; with one, specs of all groups are chosen
    :param skip: a regular expression of those to leave out
    :raises ConformanceError: an expression is not valid, or no spec is left
    """
    try:
        wanted, unwanted = re.compile(focus or "."), re.compile(skip or r"(?!)")
    except re.error as error:
        raise ConformanceError(f"{focus or skip!r} is not a regular expression: {error}") from error
    chosen = [
        name for name in names if (focus or sig(name) in SIGS) and wanted.search(name) and not unwanted.search(name)
    ]
    if not chosen:
        raise ConformanceError("no conformance test has such a name\nhint: --list shows the names")
    return sorted(chosen, key=_order)


def _order(name: str) -> tuple[bool, int, str]:
    group = sig(name)
    return "[Serial]" in name, SIGS.index(group) if group in SIGS else len(SIGS), name


def missing_image(name: str) -> str:
    """Return the image that a spec needs and that the nodes do not have; empty if they have all."""
    return next((image for pattern, image in _MISSING_IMAGES if re.match(pattern, name)), "")


def focus_of(names: Collection[str]) -> str:
    """Return the regular expression, in Go's syntax, that matches the specs with these names and no others."""
    # Ginkgo matches the suite's name, a space, and the spec's.
    return f"(?:^| )(?:{'|'.join(map(_escape, names))})$"


def _escape(name: str) -> str:
    """Escape a name for Go, which does not know escapes such as of a space."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", name)


def batches(names: Sequence[str], parallel: int) -> list[dict[str, Any]]:
    """Return what is run one after the other: ``processes`` has the specs of each process, ``focuses`` its expression."""
    found: list[list[list[str]]] = []
    together = [name for name in names if "[Serial]" not in name]
    size = BATCH * parallel
    for start in range(0, len(together), size):
        part = together[start : start + size]
        # Neighbours in the list are alike, also in how long they take.
        found.append([process for process in (part[number::parallel] for number in range(parallel)) if process])
    alone = [name for name in names if "[Serial]" in name]
    found += [[alone[start : start + BATCH]] for start in range(0, len(alone), BATCH)]
    return [{"processes": one, "focuses": [focus_of(process) for process in one]} for one in found]


def plan(names: Sequence[str], done: Mapping[str, str], *, parallel: int) -> dict[str, Any]:
    """Return the plan of a run.

    :param names: the chosen specs in their order
    :param done: status of those with a result, from an earlier run
    """
    left = [name for name in names if name not in done and not missing_image(name)]
    return {
        "specs": [{"name": name, "sig": sig(name), "image": missing_image(name)} for name in names],
        "left": left,
        "batches": batches(left, parallel),
    }


def read_junit(text: str) -> dict[str, dict[str, Any]]:
    """Return the results in a JUnit report of ``e2e.test`` by the specs' names: status, seconds, reason and log.

    :raises ValueError: it is no such report
    """
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"it is not XML: {error}") from error
    found = {}
    for case in root.iter("testcase"):
        label = case.get("name", "")
        status = _STATUS.get(case.get("status", ""))
        if not label.startswith("[It] ") or status is None:
            continue
        # A spec that was not chosen is reported as skipped, too, with this message alone.
        skipped = case.find("skipped")
        message = skipped.get("message", "") if skipped is not None else ""
        if status == SKIPPED and not message.startswith("skipped - "):
            continue
        text_of_failure = _text(case, "failure", "error")
        found[label[len("[It] ") :].strip()] = {
            "status": status,
            "seconds": round(float(case.get("time", "0")), 1),
            "reason": message[len("skipped - ") :] if status == SKIPPED else reason(text_of_failure),
            "log": "\n".join(part for part in (text_of_failure, _text(case, "system-err")) if part),
        }
    return found


def _text(case: ET.Element, *tags: str) -> str:
    return "\n".join((child.text or "").strip() for child in case if child.tag in tags).strip()


def suite_problem(text: str) -> str:
    """Return why a suite ran no spec, from its JUnit report: what failed before the first one. Empty if nothing did."""
    try:
        cases = list(ET.fromstring(text).iter("testcase"))
    except ET.ParseError:
        return ""
    failed = [case for case in cases if "BeforeSuite]" in case.get("name", "") and case.get("status") != "passed"]
    return reason(_text(failed[0], "failure", "error")) if failed else ""


def reason(text: str) -> str:
    """Return the first sentences of a failure as one line: without the place in the source, and not too long."""
    lines: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if re.match(r"(In|There were additional failures|Full Stack Trace|\S+\.go:\d+)", line) and lines:
            break
        if line and not re.match(r"\[FAILED\]$|<\*?[\w./]+(?: \||>: ?$)", line):
            lines.append(re.sub(r"^\[FAILED\] ", "", line))
    joined = " ".join(lines)
    return joined if len(joined) <= _REASON_LENGTH else joined[: _REASON_LENGTH - 1] + "…"


def outcomes(
    processes: Sequence[Sequence[str]], reports: Sequence[str], logs: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the results of a batch by the specs' names. A spec without one has the status ``not run`` and the reason.

    :param processes: the specs of each process
    :param reports: the JUnit report of each process
    :param logs: the end of the output of each process
    """
    found: dict[str, dict[str, Any]] = {}
    for specs, report, log in zip(processes, reports, logs):
        try:
            results = read_junit(report)
            problem = suite_problem(report)
        except ValueError:
            results, problem = {}, ""
        lines = log.strip().splitlines()
        why = problem or (
            f"the tests ended without a result: {lines[-1]}" if lines else "the tests ended without a result"
        )
        for name in specs:
            none = {"status": NOT_RUN, "seconds": 0.0, "reason": why[:_REASON_LENGTH], "log": ""}
            found[name] = results.get(name, none)
    return found


def document(
    planned: Mapping[str, Any],
    new: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Any] | None,
    *,
    about: Mapping[str, Any],
    session: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the results: those so far, and the new ones.

    :param planned: the plan of this run
    :param new: new results by the specs' names
    :param before: the document so far
    :param about: what is the same in all its sessions: cluster, Kubernetes, nodes, focus and skip
    :param session: this run: when it started, its processes, and the load of the initial control plane
    """
    old = {spec["name"]: spec for spec in before["specs"]} if before else {}
    sessions = {one["started"]: one for one in (before["sessions"] if before else [])}
    sessions[session["started"]] = {**sessions.get(session["started"], {}), **session}
    specs = []
    for spec in planned["specs"]:
        name = spec["name"]
        start = {
            "name": name,
            "sig": spec["sig"],
            "status": NOT_RUN,
            "seconds": 0.0,
            "session": "",
            "reason": NO_RESULT,
        }
        if spec["image"]:
            start["reason"] = f"image {spec['image']}"
        if name in new:
            result = {key: new[name][key] for key in ("status", "seconds", "reason")}
            start = {**start, **result, "session": session["started"]}
        elif name in old:
            start = dict(old[name])
        specs.append(start)
    complete = not any(is_open(spec) for spec in specs)
    return {"schema": SCHEMA, **about, "complete": complete, "sessions": list(sessions.values()), "specs": specs}


def is_open(spec: Mapping[str, Any]) -> bool:
    """Return whether a spec has no result, and could have one."""
    return spec["status"] == NOT_RUN and not str(spec["reason"]).startswith("image ")


def done(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the status of each spec with a result by its name."""
    return {spec["name"]: spec["status"] for spec in results["specs"] if spec["status"] != NOT_RUN}


def counts(results: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of specs of each status."""
    return {
        status: sum(spec["status"] == status for spec in results["specs"])
        for status in (PASSED, FAILED, SKIPPED, NOT_RUN)
    }


def summary(results: Mapping[str, Any]) -> list[str]:
    """Return the summary as lines: counts by group, and each spec that did not pass, with the reason."""
    number = counts(results)
    lines = [", ".join(f"{count} {status}" for status, count in number.items() if count or status == FAILED)]
    for group in dict.fromkeys(spec["sig"] for spec in results["specs"]):
        mine = counts({"specs": [spec for spec in results["specs"] if spec["sig"] == group]})
        lines.append(f"  sig-{group}: " + ", ".join(f"{count} {status}" for status, count in mine.items() if count))
    for status in (FAILED, SKIPPED, NOT_RUN):
        for spec in results["specs"]:
            if spec["status"] == status and spec["reason"] != NO_RESULT:
                lines.append(f"{status}: {spec['name']}: {spec['reason']}")
    return lines


def markdown(results: Mapping[str, Any]) -> str:
    """Return the results as a page in Markdown."""
    number = counts(results)
    nodes = ", ".join(f"{node['name']} ({node['architecture']})" for node in results["nodes"])
    lines = [
        f"# Conformance tests of {results['cluster']}",
        "",
        f"Kubernetes {results['kubernetes']}; nodes: {nodes}. "
        + ", ".join(f"{count} {status}" for status, count in number.items())
        + ("." if results["complete"] else ". The run is not complete."),
        "",
        "| run | processes | load before | load after |",
        "|---|---|---|---|",
        *(
            f"| {one['started']} | {one.get('parallel', '')} | {one.get('load_before', '')} | {one.get('load_after', '')} |"
            for one in results["sessions"]
        ),
        "",
        "| spec | result | s | reason |",
        "|---|---|---|---|",
        *(
            f"| {_cell(spec['name'])} | {spec['status']} | {spec['seconds'] or ''} | {_cell(spec['reason'])} |"
            for spec in results["specs"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Escape a text for a cell of a table."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def progress(results: Mapping[str, Any]) -> str:
    """Return how far a run is, as a line."""
    number = counts(results)
    total = sum(spec["status"] != NOT_RUN or is_open(spec) for spec in results["specs"])
    ended = total - sum(is_open(spec) for spec in results["specs"])
    return f"{ended} of {total} tests: {number[PASSED]} passed, {number[FAILED]} failed"
