"""The command ``bench``: what reaches the playbook, what is refused, and what happens on Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import cli, runner, state
from q8s_wrapper.commands import runs
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.events import State
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
        code = codes.pop(0) if codes else ExitCode.DONE
        return Outcome(State(finished=True), code, tmp_path / "ansible.log")

    codes: list[ExitCode] = []
    monkeypatch.setattr(runner, "run", play)
    monkeypatch.setattr(play, "codes", codes, raising=False)
    return calls


def variables(call: tuple[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call[1][call[1].index("-e") + 1])
    return found


def test_options_reach_the_playbook(played: list[tuple[str, list[str]]], folder: Path) -> None:
    assert cli.main(["bench", EXAMPLE, "--quick", "--only", "network, cpu", "--nodes", "arm-mid-1"]) == ExitCode.DONE
    [call] = played
    assert call[0] == "bench"
    assert variables(call) == {
        "q8s_bench_quick": True,
        "q8s_bench_only": ["network", "cpu"],
        "q8s_bench_nodes": ["arm-mid-1"],
        "q8s_bench_output": str(folder / "bench-demo"),
        "q8s_bench_force": False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "gpu,cpu"], "--only: is gpu; allowed are network, cpu, memory, disk"),
        (["--nodes", "arm-mid-9"], "--nodes: is arm-mid-9; allowed are "),
        (["--output", "taken"], "taken exists"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    options: list[str], message: str, played: list[Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "taken").mkdir()
    assert cli.main(["bench", EXAMPLE, *options]) == ExitCode.WRONG_INPUT
    assert message in capsys.readouterr().err
    assert played == []


def test_force_is_for_the_playbook_to_judge(played: list[tuple[str, list[str]]], folder: Path) -> None:
    """It knows whether the folder has results."""
    (folder / "taken").mkdir()
    assert cli.main(["bench", EXAMPLE, "--output", "taken", "--force"]) == ExitCode.DONE
    assert variables(played[0])["q8s_bench_force"] is True


def test_ctrl_c_removes_the_pods(played: list[tuple[str, list[str]]]) -> None:
    runs.runner.run.codes.append(ExitCode.INTERRUPTED)  # type: ignore[attr-defined]
    assert cli.main(["bench", EXAMPLE]) == ExitCode.INTERRUPTED
    assert [playbook for playbook, _ in played] == ["bench", "bench"]
    assert played[1][1][:2] == ["--tags", "bench_remove"]
