"""``q8s-run`` without a cloud: messages, exit codes, the lock and local state."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import cli, runner, state
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.events import Failure, State

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Local state of the cluster ``demo``; nothing of the user's own is touched."""
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("Q8S_CLUSTER_FILE", raising=False)
    return tmp_path / "state" / "demo"


def broken(tmp_path: Path, change: Callable[[str], str]) -> Path:
    file = tmp_path / "cluster.yaml"
    text = EXAMPLE.read_text()
    assert change(text) != text
    file.write_text(change(text))
    return file


def test_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(EXAMPLE)]) == ExitCode.DONE
    assert capsys.readouterr() == (f"{EXAMPLE}: good\n", "")


@pytest.mark.parametrize("command", ["validate", "deploy", "destroy", "status", "verify", "kubeconfig"])
def test_no_such_file(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "nowhere.yaml"]) == ExitCode.WRONG_INPUT
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Failed to read nowhere.yaml: No such file or directory\nhint: ")
    assert not folder.parent.exists(), "wrong input leaves nothing behind"


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("security_groups: [", "security_groups: ]", "", "not YAML"),
        ("cluster_name: demo", "claster_name: demo", "claster_name: ", "cluster_name"),
        ("2048 ", "much ", "vm_types.types.x86-small.ram: ", "a whole number (MB)"),
    ],
)
def test_mistakes_have_a_place(
    old: str, new: str, path: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = broken(tmp_path, lambda text: text.replace(old, new, 1))
    lines = file.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if new in text)
    column = lines[line - 1].index(new) + (len(new) if message == "not YAML" else 1)
    assert cli.main(["deploy", str(file)]) == ExitCode.WRONG_INPUT
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert err.startswith(f"{file}:{line}:{column}: {path}"), err
    assert message in err and "nothing was changed" in err


def test_all_mistakes_come_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = broken(
        tmp_path, lambda text: text.replace("storage: 10 ", "storage: -1 ").replace("[22, 80,", "[22, 70000,")
    )
    assert cli.main(["validate", str(file)]) == ExitCode.WRONG_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(str(file))]
    assert len(lines) == 2 and "required_tcp_ports" in lines[0] and "x86-small.storage" in lines[1], lines


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["deploy"], ["deploy", "a.yaml", "--frobnicate"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == ExitCode.WRONG_INPUT
    assert "usage: q8s-run" in capsys.readouterr().err


def test_the_file_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CLUSTER_FILE", str(EXAMPLE))
    assert cli.main(["validate"]) == ExitCode.DONE
    assert "good" in capsys.readouterr().out


def test_kubeconfig(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kubeconfig", str(EXAMPLE)]) == ExitCode.FAILED
    assert f"hint: q8s-run deploy {EXAMPLE}" in capsys.readouterr().err
    (folder / "kubeconfig").write_text("apiVersion: v1\n")
    assert cli.main(["kubeconfig", str(EXAMPLE)]) == ExitCode.DONE
    assert capsys.readouterr().out == "apiVersion: v1\n"


@pytest.fixture
def ansible(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[ExitCode, State], list[tuple[Any, ...]]]:
    """Stands in for the run of a playbook: ends as told, and keeps what it was asked for."""
    calls: list[tuple[Any, ...]] = []

    def end_with(code: ExitCode, end: State) -> list[tuple[Any, ...]]:
        def run(playbook: str, file: Path, place: Path, arguments: list[str], shown: object) -> runner.Outcome:
            with pytest.raises(WrapperError, match="is working on cluster demo"), state.locked(folder, "deploy"):
                pass
            calls.append((playbook, file, arguments))
            return runner.Outcome(end, code, place / "ansible.log")

        monkeypatch.setattr(runner, "run", run)
        return calls

    return end_with


FAILED = State(failures=(Failure("demo-arm-mid-1", "Boot the guest", "no space", "main.yml:3"),), finished=True)


@pytest.mark.parametrize(
    ("code", "end", "said"),
    [
        (ExitCode.DONE, State(finished=True, changed=1), "deploy: done in 0.0 s, 1 change; log: "),
        (ExitCode.FAILED, FAILED, "demo-arm-mid-1: Boot the guest\n  no space\n"),
        (ExitCode.INTERRUPTED, State(), f"`q8s-run destroy {EXAMPLE}` to undo"),
    ],
)
def test_the_end_of_a_run(
    code: ExitCode, end: State, said: str, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ansible(code, end)
    assert cli.main(["deploy", str(EXAMPLE), "--check", "--limit", "demo-arm-mid-1", "--", "--step"]) == code
    assert calls == [("site", EXAMPLE, ["--check", "--diff", "--limit", "localhost,demo-arm-mid-1", "--step"])]
    out, err = capsys.readouterr()
    assert out == "" and said in err


def test_the_end_of_a_run_for_programs(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ansible(ExitCode.FAILED, FAILED)
    assert cli.main(["destroy", str(EXAMPLE), "--json"]) == ExitCode.FAILED
    data = json.loads(capsys.readouterr().out)
    assert (data["command"], data["exit_code"], data["failures"][0]["reason"]) == ("destroy", 1, "no space")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "NODE       READY\narm-mid-1  yes\n"),
        (["--json"], '[\n  {\n    "node": "arm-mid-1",\n    "ready": "yes"\n  }\n]\n'),
    ],
)
def test_status(options: list[str], shown: str, ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ansible(ExitCode.DONE, State(results={"q8s_status_table": [{"node": "arm-mid-1", "ready": "yes"}]}))
    assert cli.main(["status", str(EXAMPLE), *options]) == ExitCode.DONE
    assert capsys.readouterr().out == shown


def test_state_is_the_owners_only(folder: Path) -> None:
    state.cluster_folder("demo")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert state.new_run(folder, "deploy").stat().st_mode & 0o777 == 0o700


def test_old_runs_are_removed(folder: Path) -> None:
    state.cluster_folder("demo")
    for number in range(12):
        (folder / "runs" / f"20200101-0000{number:02}-deploy-1").mkdir(parents=True)
    newest = state.new_run(folder, "deploy")
    kept = sorted(path.name for path in (folder / "runs").iterdir())
    assert len(kept) == 10 and newest.name in kept and "20200101-000002-deploy-1" not in kept


def test_a_second_run_is_told_who_works() -> None:
    place = state.cluster_folder("demo")
    with state.locked(place, "deploy"):
        with pytest.raises(WrapperError) as refused, state.locked(place, "destroy"):
            pass
        pattern = rf"q8s-run deploy \(process {os.getpid()}, since \d\d:\d\d:\d\d\) is working on cluster demo"
        assert re.search(pattern, str(refused.value)) and refused.value.code == ExitCode.FAILED
    with state.locked(place, "destroy"):
        pass  # free again


def test_a_killed_run_holds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    place = state.cluster_folder("demo")
    code = (
        "import sys, pathlib\nfrom q8s_wrapper import state\n"
        "with state.locked(pathlib.Path(sys.argv[1]), 'deploy'):\n  print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=EXAMPLE.parents[1]
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert cli.main(["destroy", str(EXAMPLE)]) == ExitCode.FAILED
        err = capsys.readouterr().err
        assert f"q8s-run deploy (process {holder.pid}" in err and "hint: wait for it" in err
        holder.send_signal(signal.SIGKILL)
    with state.locked(place, "destroy"):
        pass
