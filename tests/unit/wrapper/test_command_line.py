"""``q8s-run`` without a cloud: messages, exit codes, the lock and local state."""

from __future__ import annotations

import io
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

from q8s_wrapper import cli, cluster_lock, history, inventory, run_logs, runner, state
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import links
from q8s_wrapper.run_state import Failure, Stage, State
from tests.unit.wrapper.local_cloud import cluster_state

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Local state of the cluster ``demo``; nothing of the user's own is touched."""
    for name in [name for name in os.environ if name.startswith("Q8S_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    return cluster_state(tmp_path / "state")


def broken(tmp_path: Path, change: Callable[[str], str]) -> Path:
    file = tmp_path / "cluster.yaml"
    text = EXAMPLE.read_text()
    assert change(text) != text
    file.write_text(change(text))
    return file


def test_a_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(EXAMPLE)]) == ExitCode.DONE
    assert capsys.readouterr() == (f"{EXAMPLE}: OK\n", "")


@pytest.mark.parametrize("command", ["validate", "deploy", "destroy", "status", "verify", "kubeconfig"])
def test_no_such_file(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "nowhere.yaml"]) == ExitCode.WRONG_INPUT
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: Failed to read nowhere.yaml: No such file or directory\nhint: ")
    assert not folder.parents[1].exists(), "wrong input leaves nothing behind"


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
    assert err.startswith(f"error: {file} has 1 error; nothing was changed\n{file}:{line}:{column}: {path}"), err
    assert message in err and "nothing was changed" in err


def test_all_mistakes_come_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = broken(
        tmp_path, lambda text: text.replace("storage: 10 ", "storage: -1 ").replace("[22, 80,", "[22, 70000,")
    )
    assert cli.main(["validate", str(file)]) == ExitCode.WRONG_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(str(file))]
    assert len(lines) == 2 and "required_tcp_ports" in lines[0] and "x86-small.storage" in lines[1], lines


@pytest.fixture
def ansible(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., list[tuple[Any, ...]]]:
    """Stands in for the runs of playbooks: each ends as told, in turn; keeps what was asked for."""
    calls: list[tuple[Any, ...]] = []

    def end_with(*ends: tuple[ExitCode, State]) -> list[tuple[Any, ...]]:
        coming = list(ends)

        def run(
            playbook: str, file: Path, place: Path, lock: Path, *, arguments: list[str], renderer: object
        ) -> runner.Outcome:
            if playbook not in ("plan", "status") and "--check" not in arguments:
                with (
                    pytest.raises(WrapperError, match="is working on cluster"),
                    cluster_lock.locked(place.parents[1], "x"),
                ):
                    pass
            calls.append((playbook, file, arguments))
            code, end = coming.pop(0)
            return runner.Outcome(end, code, place / "ansible.log")

        monkeypatch.setattr(runner, "run", run)
        return calls

    return end_with


SERVERS = {"demo-control-plane": {}, "demo-arm-mid-1": {}, "arm-mid-1": {"q8s_host": "demo-arm-mid-1"}}


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers that the cloud has."""
    monkeypatch.setattr(inventory, "read", lambda _cluster: SERVERS)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Somebody sits at a terminal, and answers."""

    def answers(text: str) -> None:
        typed = io.StringIO(text)
        monkeypatch.setattr(typed, "isatty", lambda: True)
        monkeypatch.setattr(sys, "stdin", typed)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("TERM", "dumb")

    return answers


FAILED = State(failures=(Failure("demo-arm-mid-1", "Boot the guest", "no space", "main.yml:3"),), finished=True)
UNCONFIRMED = ["-e", '{"q8s_confirmed": false}']
CONFIRMED = ["-e", '{"q8s_confirmed": true}']


def change(action: str, name: str, kind: str = "server") -> dict[str, str]:
    return {"kind": kind, "action": action, "name": name, "before": "", "after": ""}


def planned(*changes: dict[str, str], seconds: float = 0.0) -> State:
    plan = {"changes": list(changes), "notes": [], "quota": {"cores": {"needed": 2, "used": 3, "limit": 8}}}
    return State(
        finished=True, seconds=seconds, results={"q8s_plan": plan}, stages=(Stage("Create servers", 0, seconds),)
    )


@pytest.mark.parametrize(
    ("code", "end", "said"),
    [
        (ExitCode.DONE, State(finished=True, changed=1), "deploy: done in 0.0 s, 1 change\nlog: "),
        (ExitCode.DONE, State(finished=True, changed=1), f"next: q8s-run verify {EXAMPLE}\n"),
        (ExitCode.FAILED, FAILED, "error: demo-arm-mid-1: Boot the guest\n  no space\n  (in main.yml:3)\n"),
        (ExitCode.FAILED, FAILED, f"`q8s-run logs {EXAMPLE} demo-arm-mid-1`"),
        (
            ExitCode.INTERRUPTED,
            State(),
            "the cloud has 2 servers of this cluster: demo-arm-mid-1, demo-control-plane\n",
        ),
        (ExitCode.INTERRUPTED, State(), f"`q8s-run destroy {EXAMPLE}`"),
    ],
)
def test_the_end_of_a_run(
    code: ExitCode, end: State, said: str, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ansible((code, end))
    assert cli.main(["deploy", str(EXAMPLE), "--limit", "arm-mid-1", "--", "--step"]) == code
    options = ["-e", '{"q8s_limit": ["demo-control-plane", "demo-arm-mid-1"]}', "--step"]
    assert calls == [("site", EXAMPLE, [*UNCONFIRMED, *options])]
    out, err = capsys.readouterr()
    assert out == "" and " ".join(said.split()) in " ".join(err.split())  # lines are folded by the length of the path


KILLED = """\
TASK [Boot the guest] ****
\x1b[0;31m[ERROR]: Task failed: no space\x1b[0m
fatal: [demo-arm-mid-1]: FAILED! => {"msg": "no space"}
changed: [demo-control-plane]
ERROR! Ansible was killed by SIGKILL; this machine may have run out of memory (dmesg shows it)
"""


@pytest.mark.parametrize("failures", [FAILED.failures, ()])
@pytest.mark.parametrize("options", [["--yes"], ["--yes", "--json"]])
def test_an_ansible_that_was_killed_is_named_beside_the_hosts_that_failed(
    options: list[str],
    failures: tuple[Failure, ...],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_playbook: str, _file: Path, place: Path, _lock: Path, **_options: object) -> runner.Outcome:
        log = place / "ansible.log"
        log.write_text(KILLED)
        return runner.Outcome(State(failures=failures), ExitCode.FAILED, log)

    monkeypatch.setattr(runner, "run", run)
    assert cli.main(["deploy", str(EXAMPLE), *options]) == ExitCode.FAILED
    out, err = capsys.readouterr()
    reason = KILLED.splitlines()[-1]
    if "--json" in options:
        found = json.loads(out.splitlines()[-1])["failures"]
        assert [one["reason"] for one in found] == [*(failure.reason for failure in failures), reason]
    else:
        assert f"error: {reason}\n" in err
        assert ("error: demo-arm-mid-1: Boot the guest\n  no space\n" in err) == bool(failures)
        assert "Task failed" not in err


@pytest.mark.parametrize("arguments", [["--check"], ["-vC"], ["-f", "3", "-t", "nodes"], ["--lim=x"], ["--list-tasks"]])
@pytest.mark.parametrize("verb", ["deploy", "destroy", "upgrade", "status"])
def test_what_selects_is_no_argument_for_ansible(
    verb: str, arguments: list[str], ansible: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be taken for a whole run, after which links and scenario are forgotten."""
    before = sorted(folder.rglob("*"))
    calls = ansible((ExitCode.DONE, State(finished=True)))
    yes = [] if verb == "status" else ["--yes"]
    assert cli.main([verb, str(EXAMPLE), *yes, "--", *arguments]) == ExitCode.WRONG_INPUT
    assert calls == [] and sorted(folder.rglob("*")) == before
    error, hint, *_ = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {verb}: --") and "is not allowed after --" in error
    own = {"deploy": ("--check", "--tags", "--limit"), "destroy": ("--check",), "upgrade": ("--check",), "status": ()}
    name = error.split()[2]
    assert hint.endswith(
        f"{verb} has {name} itself" if name in own[verb] else f"{verb} --help shows what it can select"
    )


def test_what_selects_nothing_goes_to_ansible(ansible: Any) -> None:
    calls = ansible((ExitCode.DONE, State(finished=True)))
    arguments = ["--forks", "10", "-e", "a=--check", "-vD", "--step"]
    assert cli.main(["deploy", str(EXAMPLE), "--yes", "--", *arguments]) == ExitCode.DONE
    assert calls[0][2][-len(arguments) :] == arguments


@pytest.mark.parametrize(
    ("arguments", "plan", "following"),
    [
        ([], [], f"next: q8s-run deploy {EXAMPLE}\n"),
        (["--limit", "arm-*"], [], f"next: q8s-run deploy {EXAMPLE} --limit 'arm-*'\n"),
        ([], [("replace", "demo-arm-mid-1")], f"next: q8s-run deploy {EXAMPLE} --yes\n"),
    ],
)
def test_a_check_says_what_would_change_and_leaves_nothing(
    arguments: list[str],
    plan: list[tuple[str, str]],
    following: str,
    ansible: Any,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    results = {"q8s_plan": {"changes": [change(*one) for one in plan]}}
    calls = ansible((ExitCode.DONE, State(finished=True, changed=4, results=results)))
    assert cli.main(["deploy", str(EXAMPLE), "--check", *arguments]) == ExitCode.DONE
    assert calls[0][2][2:4] == ["--check", "--diff"]
    err = capsys.readouterr().err
    assert "deploy --check: 4 changes would be made\n" in err and "done" not in err and err.endswith(following)
    assert not folder.parents[1].exists(), "local state is left alone"
    checks = tmp_path / "cache" / "checks" / folder.parent.name / "demo" / "runs"
    assert len(list(checks.iterdir())) == 1, "the log is in the cache"


def test_a_check_goes_on_beside_a_deploy(ansible: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    ansible((ExitCode.DONE, State(finished=True)))
    with cluster_lock.locked(state.cluster_folder("demo"), "deploy"):
        assert cli.main(["deploy", str(EXAMPLE), "--check"]) == ExitCode.DONE


def test_a_check_for_programs(
    ansible: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    ansible((ExitCode.DONE, State(finished=True, changed=4)))
    assert cli.main(["deploy", str(EXAMPLE), "--check", "--json"]) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert (data["check"], data["changed"]) == (True, 4)


@pytest.mark.parametrize(
    ("arguments", "unknown", "known"),
    [
        (["--limit", "demo-nosuch"], "demo-nosuch", "arm-mid-1"),
        (["--limit", "arm-mid-1,arm-mid-9"], "arm-mid-9", "demo-arm-mid-1"),
        (["--limit", "big-*"], "big-*", "worker_hosts"),
        (["--tags", "qemu_hots"], "'qemu_hots'", "qemu_host_install"),
        (["--tags", "cloud,nosuch"], "'nosuch'", "emulated_worker"),
    ],
)
def test_what_selects_nothing_is_refused(
    arguments: list[str],
    unknown: str,
    known: str,
    ansible: Any,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = ansible()
    assert cli.main(["deploy", str(EXAMPLE), *arguments]) == ExitCode.WRONG_INPUT
    err = capsys.readouterr().err
    assert unknown in err and known in err and calls == [] and not folder.parents[1].exists()


@pytest.mark.parametrize("option", ["--limit", "--tags"])
@pytest.mark.parametrize("value", ["", ",", " "])
def test_an_option_that_names_nothing_does_not_select_everything(
    option: str, value: str, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ansible()
    with pytest.raises(SystemExit) as ended:
        cli.main(["deploy", str(EXAMPLE), option, value])
    assert ended.value.code == ExitCode.WRONG_INPUT and calls == []
    assert f"error: argument {option}: is {value!r}, which names nothing\n" in capsys.readouterr().err


def test_the_tags_are_listed_without_a_cloud(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert cli.main(["deploy", str(EXAMPLE), "--list-tags"]) == ExitCode.DONE
    found = capsys.readouterr().out.split()
    assert {"cloud", "build", "surplus", "nodes", "join", "ready", "addons", "links"} <= {*found}
    assert {"k8s_common", "control_plane_run", "qemu_host_install", "emulated_worker"} <= {*found}
    assert "always" not in found and not folder.parents[1].exists()


def test_a_stage_whose_import_has_the_tag_can_be_chosen(ansible: Any) -> None:
    calls = ansible((ExitCode.DONE, State(finished=True)))
    assert cli.main(["deploy", str(EXAMPLE), "--tags", "build", "--yes"]) == ExitCode.DONE
    assert calls[-1][2][-2:] == ["--tags", "build"]


def test_the_end_of_a_run_for_programs(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ansible((ExitCode.FAILED, FAILED))
    assert cli.main(["destroy", str(EXAMPLE), "--json", "--yes"]) == ExitCode.FAILED
    data = json.loads(capsys.readouterr().out)
    assert (data["command"], data["exit_code"], data["failures"][0]["reason"]) == ("destroy", 1, "no space")


def test_a_warning_of_the_file_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text((EXAMPLE.parent / "prototype.yaml").read_text())
    assert cli.main(["validate", str(file)]) == ExitCode.DONE
    warning = capsys.readouterr().err.splitlines()[0].removeprefix("warning: ")
    # Ansible's terminal has 80 columns, and breaks words that are longer.
    broken = " ".join((warning[:60], warning[60:]))
    ansible((ExitCode.DONE, State(finished=True, warnings=(broken, "the disk is nearly full"))))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["verify", "cluster.yaml"]) == ExitCode.DONE
    err = capsys.readouterr().err
    assert err.count("the placeholder") == 1 and err.count("the disk is nearly full") == 1


@pytest.mark.parametrize(
    ("answer", "goes"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_deploy_asks_on_a_terminal(
    answer: str, goes: bool, folder: Path, terminal: Any, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log = folder / "runs" / "20260101-000000-000000-deploy" / "ansible.log"
    log.parent.mkdir(parents=True)
    log.write_text("a task failed")
    terminal(answer)
    calls = ansible((ExitCode.DONE, planned(change("create", "demo-arm-mid-1"))), (ExitCode.DONE, State()))
    assert cli.main(["deploy", str(EXAMPLE)]) == (ExitCode.DONE if goes else ExitCode.FAILED)
    assert [(call[0], call[2]) for call in calls] == [("plan", []), ("site", UNCONFIRMED)][: 2 if goes else 1]
    err = capsys.readouterr().err
    assert "Continue? [y/N]" in err and ("nothing was changed" in err) != goes
    runs = [run.name.rpartition("-")[2] for run in run_logs.past_runs(folder)]
    assert runs == ["deploy", "plan", *(["deploy"] if goes else [])]
    if not goes:
        (run_logs.past_runs(folder)[-1] / "ansible.log").write_text("the plan")
        assert cli.main(["logs", str(EXAMPLE)]) == ExitCode.DONE
        assert capsys.readouterr() == ("a task failed\n", f"log: {log}\n")


def test_deploy_asks_about_removals_by_their_number(
    terminal: Any, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal("y\n")
    calls = ansible((ExitCode.DONE, planned(change("replace", "demo-arm-mid-1"))), (ExitCode.DONE, State()))
    assert cli.main(["deploy", str(EXAMPLE)]) == ExitCode.DONE
    assert "This removes 1 server. Continue?" in capsys.readouterr().err
    assert calls[1][2] == CONFIRMED


@pytest.mark.parametrize("arguments", [["--yes"], ["--check"], ["--json"]])
def test_deploy_does_not_ask_who_said_yes_and_where_nothing_is_done(
    arguments: list[str], terminal: Any, ansible: Any
) -> None:
    terminal("")
    calls = ansible((ExitCode.DONE, State(finished=True)))
    assert cli.main(["deploy", str(EXAMPLE), *arguments]) == ExitCode.DONE
    assert [call[0] for call in calls] == ["site"]


def test_deploy_does_not_ask_when_the_cloud_stays_as_it_is(terminal: Any, ansible: Any) -> None:
    terminal("")
    calls = ansible((ExitCode.DONE, planned()), (ExitCode.DONE, State(finished=True)))
    assert cli.main(["deploy", str(EXAMPLE)]) == ExitCode.DONE
    assert [call[0] for call in calls] == ["plan", "site"]


@pytest.mark.parametrize(
    "arguments", [["destroy", str(EXAMPLE)], ["replace", str(EXAMPLE), "arm-mid-1"], ["upgrade", str(EXAMPLE)]]
)
def test_what_destroys_needs_a_yes(
    arguments: list[str], ansible: Any, terminal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = ansible((ExitCode.DONE, State(finished=True)), (ExitCode.DONE, State(finished=True)))
    assert cli.main(arguments) == ExitCode.WRONG_INPUT
    out, err = capsys.readouterr()
    assert not calls and out == "" and f"hint: q8s-run {' '.join(arguments)} --yes" in err
    assert cli.main([*arguments, "--yes"]) == ExitCode.DONE
    terminal("n\n")
    assert cli.main(arguments) == ExitCode.FAILED
    assert len(calls) == 1
    terminal("y\n")
    assert cli.main(arguments) == ExitCode.DONE
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("variable", "options", "kept"),
    [
        ("", ["--keep", "keypair"], ["keypair"]),
        ("keypair  security_group", [], ["keypair", "security_group"]),
        ("keypair", ["--keep", "security_group"], ["security_group"]),  # what is given counts
        ("", [], []),
    ],
)
def test_destroy_keeps_what_it_is_told(
    variable: str, options: list[str], kept: list[str], ansible: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("Q8S_KEEP", variable)
    calls = ansible((ExitCode.DONE, State(finished=True)))
    assert cli.main(["destroy", str(EXAMPLE), "--yes", *options]) == ExitCode.DONE
    assert calls[0][2] == (["-e", json.dumps({"q8s_keep": kept})] if kept else [])


@pytest.mark.parametrize(
    ("keep", "question"),
    [
        ([], "with its key pair and security group"),
        (["security_group"], "with its key pair, but not its security group"),
        (["security_group", "keypair"], "but not its key pair and security group"),
    ],
)
def test_destroy_asks_about_what_goes(
    keep: list[str], question: str, terminal: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "read", lambda cluster: {"demo-arm-mid-1": {}})
    terminal("n\n")
    options = [word for what in keep for word in ("--keep", what)]
    assert cli.main(["destroy", str(EXAMPLE), *options]) == ExitCode.FAILED
    assert f"Delete the cluster, {question}? [y/N]" in capsys.readouterr().err


def test_destroy_asks_about_a_server_that_is_the_users_own(
    terminal: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when no other is left: what runs on it is lost."""
    monkeypatch.setattr(inventory, "read", lambda cluster: {"demo-control-plane": {"q8s_foreign": True}})
    terminal("n\n")
    assert cli.main(["destroy", str(EXAMPLE)]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "demo-control-plane is your own server: it stays" in error and "Delete the cluster, " in error


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_run_goes_on_and_its_exit_code_counts_when_nobody_reads_its_output(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `| head -1`."""
    ended = []

    def run(*_: Any, renderer: Any, **__: Any) -> runner.Outcome:
        before, after = (
            State(),
            State(stages=(Stage("Wait for SSH", 1.0, 2.0),), failures=(Failure("h", "t", "r", "p"),)),
        )
        for _number in range(3):
            renderer.update(before, after)
        ended.append(True)
        return runner.Outcome(State(finished=True, failures=after.failures), ExitCode.FAILED, Path("ansible.log"), ())

    monkeypatch.setattr(runner, "run", run)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken_pipe:
        monkeypatch.setattr(sys, "stdout", broken_pipe)
        assert cli.main(["deploy", str(EXAMPLE), "--yes", *options]) == ExitCode.FAILED
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), broken_pipe.fileno())
    assert ended == [True]


def test_what_is_kept_is_part_of_what_to_type_next(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--keep", "keypair", "--keep", "security_group"]
    ansible((ExitCode.INTERRUPTED, State()))
    again = f"q8s-run destroy {EXAMPLE} {' '.join(options)}"
    assert cli.main(["destroy", str(EXAMPLE), *options]) == ExitCode.WRONG_INPUT
    assert f"hint: {again} --yes" in capsys.readouterr().err
    assert cli.main(["destroy", str(EXAMPLE), *options, "--yes"]) == ExitCode.INTERRUPTED
    assert f"hint: `{again}` continues where it stopped" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["destroy", str(EXAMPLE), "--keep", "servers"])
    err = capsys.readouterr().err
    assert ended.value.code == ExitCode.WRONG_INPUT
    assert "argument --keep: invalid choice: 'servers' (choose from " in err
    assert "keypair" in err and "security_group" in err


def test_destroy_leaves_no_link_and_no_scenario_to_the_next_cluster(
    ansible: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = state.cluster_folder("demo")
    done, failed = (ExitCode.DONE, State(finished=True)), (ExitCode.FAILED, FAILED)
    ansible(failed, done, done)
    links.write(place, [{"from": "node:arm-mid-1", "to": "workers", "delay": "50ms"}])
    (place / "scenario.json").write_text('{"since": "2026-01-01T00:00:00Z", "nodes": [], "record": "a.jsonl"}')
    for arguments in (["destroy", str(EXAMPLE), "--yes"], ["destroy", str(EXAMPLE), "--check"]):
        cli.main(arguments)
        assert links.read(place), "there are servers still"
    assert cli.main(["destroy", str(EXAMPLE), "--yes"]) == ExitCode.DONE
    capsys.readouterr()
    ansible(done)
    cli.main(["verify", str(EXAMPLE)])
    out, err = capsys.readouterr()
    assert "link set" not in out + err and "scenario" not in out + err


@pytest.mark.parametrize("name", ["arm-mid-1", "demo-arm-mid-1"])
def test_replace_takes_either_name(name: str, ansible: Any) -> None:
    calls = ansible((ExitCode.DONE, State(finished=True)))
    assert cli.main(["replace", str(EXAMPLE), name, "--yes"]) == ExitCode.DONE
    assert calls == [("replace", EXAMPLE, ["-e", '{"q8s_replace": "arm-mid-1"}'])]


def test_replace_knows_what_cannot_be_replaced(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert not ansible()
    assert cli.main(["replace", str(EXAMPLE), "demo-control-plane", "--yes"]) == ExitCode.WRONG_INPUT
    err = capsys.readouterr().err
    assert "is not a worker of this cluster; allowed are x86-small-1, arm-mid-1" in err
    assert "control planes cannot be replaced" in err


def test_replace_says_how_a_control_plane_of_three_is_replaced(
    ansible: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert not ansible()
    file = tmp_path / "cluster.yaml"
    text = EXAMPLE.read_text()
    file.write_text(text.replace("number_additional_master_nodes: 0", "number_additional_master_nodes: 2"))
    assert cli.main(["replace", str(file), "demo-control-plane-3", "--yes"]) == ExitCode.WRONG_INPUT
    assert "openstack server delete demo-control-plane-3" in capsys.readouterr().err


def test_plan(ansible: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.cluster_folder("demo")
    servers = [change("create", f"demo-arm-mid-{n}") for n in (1, 2)]
    end = planned(change("create", "q8s-demo", "key pair"), *servers)
    # Of the same size, and made servers too; one that only looked says nothing about one that makes.
    for run in (history.Run("deploy", 3, 2, 100.0, {}), history.Run("deploy", 3, 0, 9.0, {})):
        history.append_run(folder, run)
    calls = ansible((ExitCode.DONE, end), (ExitCode.DONE, end))
    assert cli.main(["plan", str(EXAMPLE)]) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert out == (
        "in the cloud:\n"
        "  create   key pair          q8s-demo\n"
        "  create   2 servers         demo-arm-mid-1, demo-arm-mid-2\n"
        "quota: needs 2 vCPUs (3 of 8 used)\n"
        "time: about 1 min 40 s, from an earlier run of this size\n"
    )
    assert err == f"next: q8s-run deploy {EXAMPLE}\n"
    assert cli.main(["plan", str(EXAMPLE), "--json"]) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert data["estimate_seconds"] == 100.0 and data["changes"] == [change("create", "q8s-demo", "key pair"), *servers]
    assert [call[0] for call in calls] == ["plan", "plan"]


def test_a_whole_run_is_remembered_with_its_times(ansible: Any, folder: Path) -> None:
    good = (ExitCode.DONE, planned(change("create", "demo-arm-mid-1"), seconds=50.0))
    ansible(good, good, (ExitCode.FAILED, FAILED))
    cli.main(["deploy", str(EXAMPLE), "--yes"])
    cli.main(["deploy", str(EXAMPLE), "--limit", "demo-arm-mid-1"])
    cli.main(["deploy", str(EXAMPLE)])
    assert history.read(folder.parents[1]) == [history.Run("deploy", 3, 1, 50.0, {"Create servers": 0})]


ROW = {
    "node": "arm-mid-1",
    "host": "demo-arm-mid-1",
    "architecture": "aarch64",
    "address": "10.0.0.3",
    "server": "SHUTOFF",
    "guest": "unknown",
    "kubernetes": "NotReady",
    "version": "v1.36.3",
    "problem": "the server demo-arm-mid-1 is switched off",
    "hint": "start the server: deploy again",
}


def test_status(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    end = (ExitCode.DONE, State(results={"q8s_status_table": [ROW]}))
    ansible(end, end)
    assert cli.main(["status", str(EXAMPLE)]) == ExitCode.FAILED, "a node is not well"
    assert capsys.readouterr().out == (
        "NODE       ARCHITECTURE  ADDRESS   SERVER   GUEST    KUBERNETES\n"
        "arm-mid-1  aarch64       10.0.0.3  SHUTOFF  unknown  NotReady\n"
        "\n"
        "arm-mid-1: the server demo-arm-mid-1 is switched off\n"
        "  hint: start the server: deploy again\n"
    )
    assert cli.main(["status", str(EXAMPLE), "--json"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().out) == [ROW]


def test_status_warns_of_certificates_that_end_soon(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "the certificate apiserver of demo-control-plane ends in 9 days, on 2026-12-06; renew all: q8s-run renew FILE"
    )
    ansible((ExitCode.DONE, State(results={"q8s_status_table": [], "q8s_warnings": [text]})))
    assert cli.main(["status", str(EXAMPLE)]) == ExitCode.DONE
    assert capsys.readouterr().err == f"warning: {text.replace('FILE', str(EXAMPLE))}\n"


def test_renew(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls = ansible((ExitCode.DONE, State(finished=True)), (ExitCode.DONE, State(finished=True)))
    assert cli.main(["renew", str(EXAMPLE)]) == ExitCode.DONE
    assert f"next: q8s-run kubeconfig {EXAMPLE} --merge\n" in capsys.readouterr().err
    assert cli.main(["renew", str(EXAMPLE), "--check"]) == ExitCode.DONE
    assert calls == [("renew", EXAMPLE, []), ("renew", EXAMPLE, ["--check", "--diff"])]
    assert f"next: q8s-run renew {EXAMPLE}\n" in capsys.readouterr().err


def test_upgrade(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    done = (ExitCode.DONE, State(finished=True))
    calls = ansible(done, done)
    assert cli.main(["upgrade", str(EXAMPLE), "--yes", "--parallel", "2"]) == ExitCode.DONE
    assert f"next: q8s-run verify {EXAMPLE}\n" in capsys.readouterr().err
    assert cli.main(["upgrade", str(EXAMPLE), "--check"]) == ExitCode.DONE, "a check needs no yes"
    assert calls == [
        ("upgrade", EXAMPLE, ["-e", '{"q8s_parallel": 2}']),
        ("upgrade", EXAMPLE, ["--check", "--diff"]),
    ]
    assert f"next: q8s-run upgrade {EXAMPLE} --yes\n" in capsys.readouterr().err


def test_options_from_the_environment(ansible: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    for name, value in {"Q8S_CHECK": "1", "Q8S_TAGS": "cloud", "Q8S_VERBOSE": "2", "Q8S_YES": "true"}.items():
        monkeypatch.setenv(name, value)
    end = (ExitCode.DONE, State(finished=True))
    calls = ansible(end, end)
    cli.main(["deploy", str(EXAMPLE)])
    cli.main(["deploy", str(EXAMPLE), "--no-check", "--no-yes"])
    assert [call[2] for call in calls] == [
        ["-vv", *CONFIRMED, "--check", "--diff", "--tags", "cloud"],
        ["-vv", *UNCONFIRMED, "--tags", "cloud"],
    ]


@pytest.mark.parametrize(
    ("problem", "code"), [("", ExitCode.DONE), ("its state in Kubernetes is not known", ExitCode.FAILED)]
)
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_status_fails_where_a_node_is_not_well(
    arguments: list[str], problem: str, code: ExitCode, ansible: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"node": "one", "host": "h", "architecture": "x86_64", "address": "10.254.1.3", "server": "ACTIVE"}
    row |= {"guest": "", "kubernetes": "unknown", "version": "", "problem": problem, "hint": "q8s-run status FILE"}
    ansible((ExitCode.DONE, State(finished=True, results={"q8s_status_table": [row]})))
    assert cli.main(["status", str(EXAMPLE), *arguments]) == code
    assert problem in capsys.readouterr().out


def test_state_is_the_owners_only(folder: Path) -> None:
    state.cluster_folder("demo")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert run_logs.new_run(folder, "deploy", alone=True).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("command", "result"), [("plan", planned()), ("status", State(results={"q8s_status_table": []}))]
)
def test_what_only_looks_goes_on_beside_a_deploy(command: str, result: State, ansible: Any, folder: Path) -> None:
    calls = ansible((ExitCode.DONE, result))
    place = state.cluster_folder("demo")
    with cluster_lock.locked(place, "deploy"):
        at_work = run_logs.new_run(place, "deploy", alone=True) / "artifacts"
        at_work.mkdir()
        assert cli.main([command, str(EXAMPLE)]) == ExitCode.DONE
        assert len(calls) == 1 and at_work.exists(), "the deploy's files are left to it"


def test_a_pipe_is_refused_before_it_is_read_again(ansible: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As in ``q8s-run plan <(envsubst < template.yaml)``: Ansible found no file of that name."""
    calls = ansible()
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        stream.write(EXAMPLE.read_text())
    file = f"/dev/fd/{reader}"
    assert cli.main(["plan", file]) == ExitCode.WRONG_INPUT
    os.close(reader)
    err = capsys.readouterr().err
    assert f"error: Failed to use {file}: it is a pipe, which can be read only once" in err and calls == []


def test_old_runs_are_removed(folder: Path) -> None:
    state.cluster_folder("demo")
    for number in range(12):
        (folder / "runs" / f"20200101-0000{number:02}-deploy-1").mkdir(parents=True)
    newest = run_logs.new_run(folder, "deploy", alone=True)
    kept = sorted(path.name for path in (folder / "runs").iterdir())
    assert len(kept) == 10 and newest.name in kept and "20200101-000002-deploy-1" not in kept


def test_looks_push_out_no_deploy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = state.cluster_folder("demo")
    for number in range(12):
        for what in ("status", "deploy"):
            run = place / "runs" / f"20200101-{what == 'status':06}-0000{number:02}-{what}"
            run.mkdir(parents=True)
            (run / "ansible.log").write_text(f"{what} {number}")
    run_logs.new_run(place, "status", alone=False)
    run_logs.new_run(place, "deploy", alone=True)
    kept = [path.name.rpartition("-")[2] for path in (folder / "runs").iterdir()]
    assert kept.count("deploy") == 10 and kept.count("status") == 10
    assert cli.main(["logs", str(EXAMPLE)]) == ExitCode.DONE
    assert capsys.readouterr().out == "deploy 11\n", "a look at it is not what was asked for"


def test_looks_leave_the_files_of_a_run_that_goes_on(folder: Path) -> None:
    """A benchmark runs for an hour; ``watch q8s-run status`` makes ten runs in a minute."""
    place = state.cluster_folder("demo")
    benchmark = run_logs.new_run(place, "bench", alone=True)
    looks = [run_logs.new_run(place, "status", alone=False) for _ in range(12)]
    for running in (benchmark, looks[-1]):
        (running / "artifacts").mkdir()
        (running / "pid").write_text("1")
    run_logs.new_run(place, "status", alone=False)
    run_logs.new_run(place, "verify", alone=True)
    kept = [path.name.rpartition("-")[2] for path in (folder / "runs").iterdir()]
    assert kept.count("status") == 10
    for running in (benchmark, looks[-1]):
        assert (running / "artifacts").is_dir() and (running / "pid").exists(), "Ctrl-C needs the process id"


def test_the_plan_of_a_deploy_leaves_the_files_of_a_plan_that_goes_on(terminal: Any, ansible: Any) -> None:
    """``plan`` holds no lock."""
    running = run_logs.new_run(state.cluster_folder("demo"), "plan", alone=False)
    (running / "artifacts").mkdir()
    (running / "pid").write_text("1")
    terminal("n\n")
    ansible((ExitCode.DONE, planned(change("create", "demo-arm-mid-1"))))
    assert cli.main(["deploy", str(EXAMPLE)]) == ExitCode.FAILED
    assert (running / "artifacts").is_dir() and (running / "pid").exists()


def test_a_second_run_is_told_who_works() -> None:
    place = state.cluster_folder("demo")
    with cluster_lock.locked(place, "deploy"):
        with pytest.raises(WrapperError) as refused, cluster_lock.locked(place, "destroy"):
            pass
        pattern = rf"q8s-run deploy \(process {os.getpid()}, since \d\d:\d\d:\d\d\) is working on cluster demo"
        assert re.search(pattern, str(refused.value)) and refused.value.code == ExitCode.FAILED
    with cluster_lock.locked(place, "destroy"):
        pass  # free again


def test_a_killed_run_holds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    place = state.cluster_folder("demo")
    code = (
        "import sys, pathlib\nfrom q8s_wrapper import cluster_lock\n"
        "with cluster_lock.locked(pathlib.Path(sys.argv[1]), 'deploy'):\n"
        "  print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=EXAMPLE.parents[1]
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert cli.main(["destroy", str(EXAMPLE), "--yes"]) == ExitCode.FAILED
        err = capsys.readouterr().err
        assert (
            f"q8s-run deploy (process {holder.pid}" in err
            and f"hint: wait for it, or stop it: kill -INT {holder.pid}" in err
        )
        holder.send_signal(signal.SIGKILL)
    with cluster_lock.locked(place, "destroy"):
        pass
