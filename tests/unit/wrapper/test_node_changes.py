"""Edits of the cluster file that restart or recreate nodes, or are refused: output, confirmation and exit code."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import cli, render, report, runner
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.events import reduce
from q8s_wrapper.invocation import Invocation
from q8s_wrapper.run_state import Failure, State

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"
RAM = {"field": "ram", "has": "2048 MB", "wanted": "1536 MB"}
NODES = {
    "changes": [
        {"node": "x86-small-1", "action": "restart", "fields": [RAM, {"field": "num_cpus", "has": "2", "wanted": "1"}]},
        {"node": "arm-mid-1", "action": "recreate", "fields": [{**RAM, "field": "storage"}]},
    ],
    "refused": [],
    "unknown": {"demo-arm-mid-2": "the server is SHUTOFF"},
}
EMPTY = {"changes": [], "notes": [], "quota": {}}
PLANNED = State(finished=True, results={"q8s_plan": EMPTY, "q8s_node_plan": NODES})


def test_the_plan_names_each_node_its_action_and_both_values() -> None:
    assert report.node_plan(NODES, 80) == [
        "existing nodes:",
        "  restart  x86-small-1       ram 2048 MB -> 1536 MB, num_cpus 2 -> 1",
        "  recreate arm-mid-1         storage 2048 MB -> 1536 MB",
        "  note: not compared with the file, as the host did not answer: demo-arm-mid-2",
        "    (the server is SHUTOFF)",
    ]
    assert report.node_plan({}, 80) == []
    assert report.node_plan({"changes": [], "unknown": {}}, 80) == []


def test_notes_of_the_nodes_are_shown_and_are_data() -> None:
    noted = {**NODES, "notes": ["the flavor c1.medium of demo-arm-mid-1 has a disk of 20 GB"]}
    assert report.node_plan(noted, 80) == [
        *report.node_plan(NODES, 80),
        "  note: the flavor c1.medium of demo-arm-mid-1 has a disk of 20 GB",
    ]
    assert report.node_plan_data(noted) == {**report.node_plan_data(NODES), "notes": noted["notes"]}


def debug(**result: Any) -> dict[str, Any]:
    data = {"host": "localhost", "play": "Node changes", "task_action": "debug", "res": result}
    return {"event": "runner_on_ok", "event_data": data}


def test_progress_shows_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    before = State(results={"q8s_plan": EMPTY})
    after = reduce(before, debug(q8s_node_plan=NODES))
    for shown in (render.Plain(lambda state: None, True), render.JsonLines(lambda state: None)):
        shown.update(before, after)
        shown.update(after, after)
    out, err = capsys.readouterr()
    assert err.count("restart  x86-small-1") == 1
    (line,) = [json.loads(text) for text in out.splitlines() if "node_plan" in text]
    assert line == {"event": "node_plan", "changes": NODES["changes"], "unknown": NODES["unknown"]}


def failure(task: str, **result: Any) -> State:
    data = {"host": "localhost", "task": task, "res": {"msg": "no", **result}}
    return reduce(State(), {"event": "runner_on_failed", "event_data": data})


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        (failure("Refuse edits of the range of NodePorts"), True),
        (failure("Check image, flavors, network and quota", refused=["guest_ip_prefix is ..."]), True),
        (failure("Check image, flavors, network and quota"), False),
        (failure("Refuse to remove or replace servers without consent"), True),
        (failure("Refuse tags that leave out the stage cloud, where the initial control plane does not run"), True),
        (failure("Refuse a host that cannot be a control plane"), False),
        (State(), False),
        (State(failures=(Failure("a", "t", "r", "p", True), Failure("b", "t", "r", "p"))), False),
    ],
)
def test_what_is_refused_is_wrong_input(state: State, refused: bool) -> None:
    assert state.refused is refused


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Stands in for the runs of playbooks: each finds the same plan; keeps what was asked for."""
    made: list[tuple[str, list[str]]] = []

    def run(playbook: str, file: Path, place: Path, lock: Path, *, arguments: list[str], renderer: Any) -> Any:
        made.append((playbook, arguments))
        return runner.Outcome(PLANNED, ExitCode.DONE, place / "ansible.log")

    monkeypatch.setattr(runner, "run", run)
    return made


@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("n\n", False)])
def test_a_person_is_asked_before_nodes_are_drained(
    answer: str, goes: bool, calls: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = io.StringIO(answer)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert (cli.main(["deploy", str(EXAMPLE), "--limit", "arm-mid-1"]) == ExitCode.DONE) is goes
    assert "This drains 2 nodes. Continue? [y/N]" in capsys.readouterr().err
    limit = ["-e", '{"q8s_limit": ["demo-control-plane", "demo-arm-mid-1"]}']
    confirmed = ("site", ["-e", '{"q8s_confirmed": true}', *limit])
    assert calls == [("plan", limit), confirmed][: 2 if goes else 1]


def test_the_plan_for_programs_has_the_nodes(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(EXAMPLE), "--json"]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"] == {"changes": NODES["changes"], "unknown": NODES["unknown"]}


def test_check_mode_says_that_the_deploy_needs_a_yes() -> None:
    end = report.End("deploy", Invocation(file="c.yaml"), "q8s-run deploy c.yaml --check", ExitCode.DONE, True)
    assert report.next_steps(end, PLANNED) == ["next: q8s-run deploy c.yaml --yes"]


def test_how_many_nodes_at_a_time(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", str(EXAMPLE), "--yes", "--parallel", "3"]) == ExitCode.DONE
    assert calls == [("site", ["-e", '{"q8s_confirmed": true}', "-e", '{"q8s_parallel": 3}'])]
    assert cli.main(["deploy", str(EXAMPLE), "--yes", "--parallel", "0"]) == ExitCode.WRONG_INPUT
    assert "--parallel: is 0; allowed is a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (PLANNED, "hint: `q8s-run deploy c.yaml --yes` changes them one at a time"),
        (State(), "hint: fix the cluster file, then run `q8s-run deploy c.yaml` again"),
        (
            failure("Refuse to remove or replace servers", msg="w: would be removed or replaced; this needs --yes"),
            "hint: `q8s-run deploy c.yaml --yes` allows it",
        ),
    ],
)
def test_what_to_do_about_a_refusal(state: State, hint: str) -> None:
    end = report.End("deploy", Invocation(file="c.yaml"), "q8s-run deploy c.yaml", ExitCode.WRONG_INPUT)
    assert report.next_steps(end, state) == [hint]


INACTIVE = {"demo-arm-mid-1": "missing", "demo-arm-mid-2": "SHUTOFF"}


def test_a_refusal_of_tags_has_its_own_hint() -> None:
    """The cluster file needs no fix, and the same command would be refused again."""
    message = "cp is missing, and the tags ... Nothing was changed.\nhint: deploy without tags: `q8s-run deploy FILE`"
    refused = failure("Refuse tags that leave out the stage cloud", msg=message)
    end = report.End("deploy", Invocation(file="c.yaml"), "q8s-run deploy c.yaml --tags nodes", ExitCode.WRONG_INPUT)
    assert report.next_steps(end, refused) == []
    assert "  hint: deploy without tags: `q8s-run deploy c.yaml`" in report.failures(refused, end.invocation, 80)


@pytest.mark.parametrize(
    ("inactive", "following"), [(INACTIVE, "next: q8s-run deploy c.yaml"), ({}, "next: q8s-run verify c.yaml")]
)
def test_after_a_run_with_tags_the_deploy_is_next_where_servers_did_not_run(
    inactive: dict[str, str], following: str
) -> None:
    state = reduce(State(), debug(q8s_inactive_servers=inactive)) if inactive else State()
    end = report.End("deploy", Invocation(file="c.yaml"), "q8s-run deploy c.yaml --tags build", ExitCode.DONE)
    steps = report.next_steps(end, state)
    assert steps[0] == following and (len(steps) == 1) == bool(inactive)
    assert state.notes == (), "it is no note"
