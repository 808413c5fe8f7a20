"""Files that q8s-run reads back after somebody edited them, a disk was full, or another version wrote them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _conformance

from q8s_wrapper import cli, cluster_lock, damage, history, kubeconfig, runner, state
from q8s_wrapper.commands import access, records
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import (
    links,
    scenario,
    scenario_plot,
    secrets,
    timeline,
    timeline_page,
    timeline_record,
    timeline_text,
)
from q8s_wrapper.run_state import Stage, State
from q8s_wrapper.runner import Outcome
from tests.unit.damage import FILES, texts
from tests.unit.wrapper import fake_machines
from tests.unit.wrapper.local_cloud import recorded
from tests.unit.wrapper.recorded_deploy import EXAMPLE

ACTION = {"event": "action", "what": "stop a", "kind": "stop", "undo": False, "planned": 1.0, "begun": 1.0, "done": 1.2}
SCENARIO: list[dict[str, Any]] = [
    {"event": "begin", "time": "2026-11-28T10:00:00.000Z", "seed": 5, "end": 3.0, "file": "demo.yaml"},
    ACTION,
    {**ACTION, "what": "end of stop a", "undo": True, "begun": 2.0, "done": 2.2, "error": "no such domain"},
    {"event": "node", "node": "a", "state": "NotReady", "at": 1.5},
    {"event": "node", "node": "a", "state": "Ready", "at": 2.5},
    {"event": "unwatched", "since": 0.5, "at": 1.0, "error": "cp: no route to host"},
    {"event": "watched", "node": "cp", "at": 1.4},
    {"event": "back", "node": "a", "at": 2.4},
    {"event": "ping", "from": "a", "to": "b", "at": 1.0, "ms": 3.0},
    {"event": "ping", "from": "a", "to": "b", "at": 1.2, "ms": 4.0},
    {"event": "end", "result": "done"},
]
TASK = {"host": "h", "stage": "Boot", "play": "Start the control plane, and boot guests", "task": "Start the guest",
        "action": "command", "start": 1.0, "end": 9.0, "result": "ok"}  # fmt: skip
WAIT = {**TASK, "host": "localhost", "action": "q8s.emu.nodes_ready", "play": "Wait", "start": 9.0, "end": 20.0}
TIMES = dict(zip(timeline_record.MILESTONES, (2.0, 3.0, 4.0, 5.0, 6.0, 15.0), strict=True))
DEPLOY = {"schema": "q8s-timeline/1", "cluster": "demo", "command": "deploy", "exit_code": 0, "servers_created": 2,
          "started": "2026-11-27T19:58:16+00:00", "seconds": 21.0, "changed": 3, "versions": {}, "plan": None,
          "guests": [{"node": "n", "host": "h", "times": TIMES}], "tasks": [TASK, WAIT]}  # fmt: skip
CHANGED = [
    {
        "from": "node:arm-mid-1",
        "to": "control-planes",
        "delay": "1ms",
        "rate": {"up": "1mbit", "down": "2mbit"},
        "until": "2026-01-01T00:00:00Z",
    }
]
RUN = {"what": "deploy", "servers": 3, "made": 3, "seconds": 100.0, "stages": {"A": 0.0, "B": 20.0}}
NODE = {"name": "a", "kind": "arm", "architecture": "aarch64", "emulated": True, "cpus": 2}
MEASURED = {"name": "cpu a 1", "group": "cpu", "metric": "cpu", "tool": "sysbench", "path": "", "protocol": "",
            "client": "a", "server": "", "repetition": 1, "argv": ["true"], "start": "", "end": "", "error": "",
            "figures": {"x": 1.5}, "load": {}, "output": ""}  # fmt: skip
BENCH = {"schema": "q8s-bench/1", "complete": False, "quick": True, "groups": ["cpu"], "versions": {},
         "nodes": [NODE], "sessions": [], "measurements": [MEASURED], "idle": {}, "deploy_stages": []}  # fmt: skip
SPEC = {"name": "[sig-node] a", "sig": "node", "status": "not run", "seconds": 0.0, "session": "", "reason": ""}
CONFORMANCE = {"schema": _conformance.SCHEMA, "cluster": "demo", "kubernetes": "1.36.3", "focus": "", "skip": "",
               "nodes": [{"name": "a", "architecture": "arm64"}], "complete": False, "sessions": [{"started": "s"}],
               "specs": [SPEC]}  # fmt: skip
KUBECONFIG = {"clusters": [{"name": "kubernetes", "cluster": {"server": "https://127.0.0.1:1"}}], "contexts": [],
              "users": [{"name": "admin", "user": {"token": "t"}}], "current-context": "x"}  # fmt: skip


def json_lines(lines: Sequence[Any]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the cluster demo."""
    for name in [name for name in os.environ if name.startswith("Q8S_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    found = recorded(tmp_path / "state")
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: found)
    monkeypatch.setattr(records, "read_facts", lambda *_, **__: None)  # the cluster is gone
    fake_machines.make(tmp_path / "bin", EXAMPLE).use(monkeypatch)
    return found


@pytest.fixture(autouse=True)
def plays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Stand in for Ansible. Returns the playbooks that ran."""
    found: list[str] = []
    results = {"q8s_status_table": []}

    def play(playbook: str, *_: object, **__: object) -> Outcome:
        found.append(playbook)
        return Outcome(State(finished=True, results=results), ExitCode.DONE, tmp_path / "ansible.log")

    monkeypatch.setattr(runner, "run", play)
    return found


# By file: its path below the folder of the state or the current folder, whole content, the command that reads it, and
# the beginning of the hint.
COMMANDS: Mapping[str, tuple[str, str, Sequence[str], str]] = {
    "scenario": ("scenarios/1.jsonl", json_lines(SCENARIO), ["scenario", "report", EXAMPLE], "fix it, or move it away"),
    "timeline": ("timeline.json", json.dumps(DEPLOY), ["timeline", EXAMPLE], "move it away"),
    "last timeline": ("timeline-last.json", json.dumps(DEPLOY), ["timeline", EXAMPLE, "--last"], "move it away"),
    "links": ("links.json", json.dumps(CHANGED), ["link", "set", EXAMPLE, "*", "*", "delay=1ms"],
              f"`q8s-run link clear {EXAMPLE}` restores"),
    "bench": ("bench-demo/results.json", json.dumps(BENCH), ["bench", EXAMPLE, "--resume"], "fix the file, or replace"),
    "conformance": (
        "conformance-demo/results.json", json.dumps(CONFORMANCE), ["conformance", EXAMPLE, "--resume"],
        "fix the file, or replace",
    ),
}  # fmt: skip


def write(folder: Path, tmp_path: Path, file: str, text: str) -> Path:
    path = (tmp_path if file.endswith("results.json") else folder) / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_whole_file_is_read(name: str, folder: Path, tmp_path: Path) -> None:
    file, text, command, _hint = COMMANDS[name]
    write(folder, tmp_path, file, text)
    assert cli.main(command) == ExitCode.DONE


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("how", FILES)
def test_a_damaged_file_is_named_with_the_reason_and_what_to_do(
    name: str, how: str, folder: Path, tmp_path: Path, plays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, text, command, hint = COMMANDS[name]
    path = write(folder, tmp_path, file, text)
    change, reason = FILES[how]
    change(path)
    content = path.read_bytes() if path.is_file() else None
    code, error = cli.main(command), capsys.readouterr().err
    if name == "scenario" and how in ("empty", "cut"):  # as a run leaves it that is killed
        assert code == ExitCode.DONE
        return
    assert code == ExitCode.WRONG_INPUT
    first, second = error.splitlines()
    assert first.startswith(f"error: Failed to read {path}") and reason in first
    assert second.startswith(f"hint: {hint}")
    assert plays == [] and (content is None or path.read_bytes() == content)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("scenario", {**ACTION, "begun": "soon"}, "begun: is 'soon'; must be a number"),
        ("scenario", {**ACTION, "begun": float("nan")}, "begun: is nan; must be a number from -1e15 to 1e15"),
        ("scenario", {"event": "action"}, "what: is missing"),
        ("scenario", {"time": "x"}, "event: is missing"),
        ("scenario", ["event"], "is a list; must be a mapping"),
        ("timeline", {**DEPLOY, "schema": "q8s-timeline/2"}, "schema: is 'q8s-timeline/2'; must be q8s-timeline/1"),
        ("timeline", {**DEPLOY, "tasks": [TASK, {**TASK, "end": None}]}, "tasks[1].end: is nothing; must be a number"),
        ("timeline", {**DEPLOY, "started": "yesterday"}, "started: is 'yesterday'; must be a time"),
        ("links", [*CHANGED, {"to": "a"}], "[1].from: is missing"),
        ("links", [{**CHANGED[0], "delay": "soon"}], "[0].delay: is 'soon'; must be a number with us, ms or s"),
        ("links", [{**CHANGED[0], "slow": 1}], "[0].slow: unknown key"),
        ("links", {"from": "a"}, "is a mapping; must be a list"),
        ("bench", {**BENCH, "measurements": [{**MEASURED, "figures": {"x": "1"}}]}, "measurements[0].figures.x: is"),
        ("bench", {**BENCH, "measurements": [{**MEASURED, "client": "b"}]}, "measurements[0].client: is 'b'; must"),
        ("bench", {**BENCH, "schema": "q8s-bench/2"}, "are of another version of Q8S"),
        (
            "conformance", {**CONFORMANCE, "specs": [{**SPEC, "status": "ok"}]},
            "specs[0].status: is 'ok'; must be passed or failed or skipped or not run",
        ),
    ],
)  # fmt: skip
def test_the_place_the_value_and_what_is_allowed_are_named(
    name: str, line: Any, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _text, command, _hint = COMMANDS[name]
    path = write(folder, tmp_path, file, json_lines([SCENARIO[0], line]) if name == "scenario" else json.dumps(line))
    assert cli.main(command) == ExitCode.WRONG_INPUT
    place = f"{path}:2: {message}" if name == "scenario" else message
    assert place in capsys.readouterr().err


def read_scenario(folder: Path) -> None:
    path, lines = scenario.read_record(folder)
    scenario.report_lines(path, lines)
    data = scenario.report_data(path, lines)
    json.dumps(data)
    if data["pings"]:
        scenario_plot.svg(data)


def read_timeline(folder: Path) -> None:
    record = timeline_record.read(folder)
    assert record is not None
    found = timeline.analysis(record)
    timeline_text.text(found, 100)
    timeline_page.page(found)
    if timeline_record.lacks_guests(record):
        fact = {"node": "n", "host": "h", "power_on": 1795809500.0, "ready": None}
        timeline_record.keep_guests(folder, timeline_record.with_guests(record, [fact]))


def read_links(folder: Path) -> None:
    links.describe(links.read(folder), "q8s-run link clear demo.yaml")


def read_history(folder: Path) -> None:
    found = history.estimate(history.read(folder.parent.parent), "deploy", 3, 3)
    if found:
        found.left(State(stages=(Stage("A", 0.0, 5.0),)), 6.0)
        history.format_duration(found.seconds)
    history.append_run(folder, history.Run("deploy", 3, 3, 1.0, {}))


def read_kubeconfig(folder: Path) -> None:
    text = kubeconfig.read(folder / "kubeconfig")
    if text:
        kubeconfig.is_reachable(text, 0.1)
        kubeconfig.renamed(text, "demo")
    kubeconfig.merge(folder / "kubeconfig", json.dumps(KUBECONFIG), "demo")


def read_left(folder: Path) -> None:
    left = scenario.find_left(folder)
    assert left is not None and (left.nodes is None or all(isinstance(node, str) for node in left.nodes))


@pytest.mark.parametrize(
    ("file", "contents", "read"),
    [
        *(
            (
                "scenarios/1.jsonl",
                [json_lines([*SCENARIO[:number], json.loads(text), *SCENARIO[number + 1 :]]) for text in texts(line)],
                read_scenario,
            )
            for number, line in enumerate(SCENARIO)
        ),
        ("timeline.json", list(texts(DEPLOY)), read_timeline),
        ("links.json", list(texts(CHANGED)), read_links),
        ("history.jsonl", [text + "\n" for text in texts(RUN)], read_history),
        ("kubeconfig", list(texts(KUBECONFIG)), read_kubeconfig),
        ("scenario.json", list(texts({"since": "s", "nodes": ["a"], "record": "r"})), read_left),
    ],
)
def test_no_other_value_causes_a_traceback(
    file: str, contents: Sequence[str], read: Callable[[Path], None], folder: Path
) -> None:
    (folder / "scenarios").mkdir()
    refused = 0
    for content in contents:
        (folder / file).write_text(content)
        try:
            read(folder)
        except WrapperError as error:
            assert str(error).startswith("Failed to ") and str(folder / file) in str(error)
            refused += 1
    assert refused < len(contents), "what another version has added is read"


@pytest.mark.parametrize("how", FILES)
def test_a_damaged_history_stops_no_command(how: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "history.jsonl"
    path.write_text(json.dumps(RUN) + "\n")
    FILES[how][0](path)
    assert cli.main(["renew", EXAMPLE]) == ExitCode.DONE
    assert "error: " not in capsys.readouterr().err
    if how not in ("folder", "unreadable"):
        assert history.read(folder.parent.parent)[-1].what == "renew"


@pytest.mark.parametrize("how", FILES)
def test_status_and_verify_warn_of_a_damaged_record_of_links_and_link_clear_removes_it(
    how: str, folder: Path, plays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "links.json"
    path.write_text(json.dumps(CHANGED))
    FILES[how][0](path)
    for command in ("status", "verify"):
        assert cli.main([command, EXAMPLE]) == ExitCode.DONE
        assert f"warning: Failed to read {path}" in capsys.readouterr().err
    if how != "folder":
        assert cli.main(["link", "clear", EXAMPLE]) == ExitCode.DONE
        assert not path.is_symlink() and not path.exists()


@pytest.mark.parametrize("how", FILES)
def test_a_benchmark_goes_without_a_damaged_timeline(
    how: str, folder: Path, plays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "timeline.json"
    path.write_text(json.dumps(DEPLOY))
    FILES[how][0](path)
    assert cli.main(["bench", EXAMPLE]) == ExitCode.DONE
    error = capsys.readouterr().err
    assert f"warning: Failed to read {path}" in error and "the results are without the timeline of the deploy" in error
    assert plays == ["bench"]


@pytest.mark.parametrize("content", [b"0\nq8s-run scenario run", b"9" * 40 + b"\nx", b"\xff\xfe\n\xff", b"12", b"x\ny"])
def test_a_lock_whose_owner_cannot_be_read(content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with cluster_lock.locked(folder, "deploy"):
        (folder / "lock").write_bytes(content)
        assert cli.main(["deploy", EXAMPLE, "--yes"]) == ExitCode.FAILED
        assert cluster_lock.owner(folder) == cluster_lock.Owner(0, "another process")
    assert "Failed to start: another process is working on cluster demo" in capsys.readouterr().err


def test_other_files_beside_the_logs_are_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "runs").mkdir()
    note = folder / "runs" / "00-notes-deploy"
    note.write_text("mine")
    for _ in range(12):
        assert cli.main(["renew", EXAMPLE]) == ExitCode.DONE
    assert note.read_text() == "mine"
    assert cli.main(["logs", EXAMPLE]) == ExitCode.FAILED
    assert "has no log of cluster demo" in capsys.readouterr().err


YAML = [
    "a: 2026-13-45", "a: !!bool 5", "a: !!timestamp x", "a: !!int ''", "a: *b", "? [a]\n: b", "!!python/name:os.x ''",
    "[", "\0", "--- a\n--- b\n", "[" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", YAML)
def test_a_kubeconfig_that_is_no_yaml_is_not_merged_into(
    text: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config"
    target.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(target))
    (folder / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.WRONG_INPUT
    assert f"Failed to merge into {target}: " in capsys.readouterr().err
    assert cli.main(["kubeconfig", EXAMPLE, "--write", str(target)]) == ExitCode.WRONG_INPUT
    assert target.read_text() == text
    assert secrets.known(tmp_path, {}) == {}, "nothing in it is a secret, and the search goes on"


def test_a_device_is_no_kubeconfig_to_merge_into(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    (folder / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.WRONG_INPUT
    assert f"error: Failed to merge into {os.devnull}: is not a regular file" in capsys.readouterr().err
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("server", ["https://[", "https://h:99999999", "https://h:x", 5, None])
def test_a_kubeconfig_whose_server_is_no_url_is_fetched_again(
    server: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "kubeconfig"
    path.write_text(json.dumps({**KUBECONFIG, "clusters": [{"cluster": {"server": server}}]}))
    monkeypatch.setattr(
        access, "fetch_kubeconfig", lambda *_: path.write_text(json.dumps(KUBECONFIG)) and ExitCode.DONE
    )
    assert cli.main(["kubeconfig", EXAMPLE]) == ExitCode.DONE
    assert yaml.safe_load(capsys.readouterr().out)["clusters"][0]["name"] == "demo"


def test_what_is_wrong_with_a_file_has_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("{")
    with pytest.raises(damage.DamagedError) as refused, damage.explained("remove it") as read:
        read.json_file(path, dict[str, int])
    assert (refused.value.hint, refused.value.code) == ("remove it", ExitCode.WRONG_INPUT)
    assert refused.value.reason == "line 1: is not JSON: Expecting property name enclosed in double quotes (column 2)"
