"""The command ``bench``: what reaches the playbook, what is refused, and what happens on Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import cli, runner, state
from q8s_wrapper.commands import records
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.run_state import State
from q8s_wrapper.runner import Outcome

EXAMPLE = str(Path(__file__).parents[3] / "examples/demo.yaml")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records.state, "find", lambda _: tmp_path)
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
        "q8s_bench_resume": False,
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
    runner.run.codes.append(ExitCode.INTERRUPTED)  # type: ignore[attr-defined]
    assert cli.main(["bench", EXAMPLE]) == ExitCode.INTERRUPTED
    assert [playbook for playbook, _ in played] == ["bench", "bench"]
    assert played[1][1][:2] == ["--tags", "bench_remove"]


def test_an_interrupted_run_goes_on_in_its_folder(
    played: list[tuple[str, list[str]]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", EXAMPLE, "--resume"]) == ExitCode.WRONG_INPUT
    assert "bench-demo has no results.json" in capsys.readouterr().err
    (folder / "bench-demo").mkdir()
    results = folder / "bench-demo/results.json"
    lists = dict.fromkeys(("groups", "nodes", "sessions", "measurements", "deploy_stages"), ())
    document = {"schema": "q8s-bench/1", "complete": False, "quick": True, "versions": {}, "idle": {}, **lists}
    results.write_text(json.dumps(document))
    runner.run.codes.append(ExitCode.INTERRUPTED)  # type: ignore[attr-defined]
    assert cli.main(["bench", EXAMPLE, "--resume"]) == ExitCode.INTERRUPTED
    assert variables(played[0])["q8s_bench_resume"] is True
    said = " ".join(capsys.readouterr().err.split())
    assert f"bench {EXAMPLE} --resume` continues where it stopped" in said
    results.write_text('{"complete": true}')
    assert cli.main(["bench", EXAMPLE, "--resume"]) == ExitCode.WRONG_INPUT
    assert "are complete" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--quick"], ["--only", "cpu"], ["--nodes", "arm-mid-1"], ["--force"]])
def test_what_the_earlier_run_decided_is_not_decided_again(
    option: list[str], played: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", EXAMPLE, "--resume", *option]) == ExitCode.WRONG_INPUT
    assert f"{option[0]} is not possible" in capsys.readouterr().err
    assert played == []


def test_the_page_gets_the_timeline_of_the_deploy(
    played: list[tuple[str, list[str]]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    play = runner.run

    def read(playbook: str, *others: Any, arguments: Any = (), **more: Any) -> Outcome:
        seen.append(Path(variables((playbook, list(arguments)))["q8s_bench_timeline"]).read_text())
        return play(playbook, *others, arguments=arguments, **more)

    task = {"host": "localhost", "stage": "Create servers", "play": "P", "task": "Create", "action": "q8s.emu.servers",
            "start": 1.0, "end": 9.0, "result": "ok"}  # fmt: skip
    record = {"schema": "q8s-timeline/1", "cluster": "demo", "command": "deploy", "exit_code": 0, "guests": [],
              "started": "2026-11-27T19:58:16+00:00", "seconds": 10.0, "servers_created": 2,
              "tasks": [task]}  # fmt: skip
    (folder / "timeline.json").write_text(json.dumps(record))
    monkeypatch.setattr(runner, "run", read)
    assert cli.main(["bench", EXAMPLE, "--quick"]) == ExitCode.DONE
    assert "Timeline of the deploy of demo" in seen[0] and "Create servers" in seen[0]
