"""The command ``conformance``: what reaches the playbook, what is refused, and what happens on Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import cli, runner, state
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.run_state import State
from q8s_wrapper.runner import Outcome

EXAMPLE = str(Path(__file__).parents[3] / "examples/demo.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, list[str]]]:
    """Stand in for Ansible. Returns the playbooks that ran, with their arguments."""
    calls: list[tuple[str, list[str]]] = []

    def play(playbook: str, *_: object, arguments: list[str], **__: object) -> Outcome:
        calls.append((playbook, list(arguments)))
        outcomes = runner.run.outcomes  # type: ignore[attr-defined]
        code, document = outcomes.pop(0) if outcomes else (ExitCode.DONE, None)
        if document:
            (tmp_path / "conformance-demo").mkdir(exist_ok=True)
            (tmp_path / "conformance-demo/results.json").write_text(json.dumps(document))
        return Outcome(State(finished=True, results={"q8s_conformance_tests_left": ["a", "b"]}), code, tmp_path / "log")

    monkeypatch.setattr(runner, "run", play)
    monkeypatch.setattr(play, "outcomes", [], raising=False)
    return calls


def variables(call: tuple[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call[1][call[1].index("-e") + 1])
    return found


def test_options_reach_the_playbook(played: list[tuple[str, list[str]]], folder: Path) -> None:
    assert cli.main(["conformance", EXAMPLE, "--focus", "DNS", "--skip", "Slow", "--parallel", "1"]) == ExitCode.DONE
    [call] = played
    assert call[0] == "conformance"
    assert variables(call) == {
        "q8s_conformance_focus": "DNS",
        "q8s_conformance_skip": "Slow",
        "q8s_conformance_parallel": 1,
        "q8s_conformance_list": False,
        "q8s_conformance_output": str(folder / "conformance-demo"),
        "q8s_conformance_force": False,
        "q8s_conformance_resume": False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--focus", "("], "--focus: '(' is not a regular expression"),
        (["--parallel", "0"], "--parallel: is 0; allowed is a whole number of at least 1"),
        (["--output", "taken"], "taken exists"),
        (["--resume"], "conformance-demo has no results.json"),
        (["--resume", "--output", "old", "--focus", "DNS"], "--focus is not possible"),
        (["--resume", "--output", "old"], "are complete"),
    ],
)
def test_what_is_not_possible_is_refused_before_anything_runs(
    options: list[str], message: str, played: list[Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken").mkdir()
    (folder / "old").mkdir()
    (folder / "old/results.json").write_text('{"complete": true}')
    assert cli.main(["conformance", EXAMPLE, *options]) == ExitCode.WRONG_INPUT
    assert message in " ".join(capsys.readouterr().err.split())
    assert played == []


def test_ctrl_c_stops_the_tests_and_names_the_way_on(
    played: list[tuple[str, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    runner.run.outcomes.append((ExitCode.INTERRUPTED, {"complete": False}))  # type: ignore[attr-defined]
    assert cli.main(["conformance", EXAMPLE]) == ExitCode.INTERRUPTED
    assert [playbook for playbook, _ in played] == ["conformance", "conformance"]
    assert played[1][1][:2] == ["--tags", "conformance_remove"]
    assert f"conformance {EXAMPLE} --resume` continues where it stopped" in " ".join(capsys.readouterr().err.split())


def test_a_list_needs_no_folder_and_prints_names(
    played: list[Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "conformance-demo").mkdir()
    assert cli.main(["conformance", EXAMPLE, "--list"]) == ExitCode.DONE
    assert capsys.readouterr().out == "a\nb\n"
    assert cli.main(["conformance", EXAMPLE, "--list", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == ["a", "b"]


def test_a_list_of_what_is_left_needs_results(
    played: list[tuple[str, list[str]]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["conformance", EXAMPLE, "--list", "--resume"]) == ExitCode.WRONG_INPUT
    assert "conformance-demo has no results.json" in " ".join(capsys.readouterr().err.split())
    assert played == []


def test_with_json_the_results_are_the_only_document(played: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    runner.run.outcomes.append((ExitCode.FAILED, {"complete": True, "specs": []}))  # type: ignore[attr-defined]
    assert cli.main(["conformance", EXAMPLE, "--json"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().out) == {"complete": True, "specs": []}
