"""The timeline of a deploy, from the recorded events of a real one."""

from __future__ import annotations

import json
import stat
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from local_cloud import recorded

from q8s_wrapper import cli, runner, state
from q8s_wrapper.commands import records
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.events import State, reduce
from q8s_wrapper.experiment import timeline, timeline_page
from q8s_wrapper.experiment.timeline import Guest, Task, TaskLog

HERE = Path(__file__).parent
EXAMPLE = str(HERE.parents[2] / "examples/demo.yaml")
PARTS = ("machines", "local", "waiting", "ansible")


def deploy(stream: str = "deploy") -> dict[str, Any]:
    """The record of a run whose events were recorded."""
    state, log = State(), TaskLog()
    for line in (HERE / "streams" / f"{stream}.jsonl").read_text().splitlines():
        event = json.loads(line)
        state = reduce(state, event)
        log.add(event, state)
    tasks = log.finished(state.seconds)
    return timeline.document("demo", command="deploy", code=0, created=4, state=state, tasks=tasks, versions={})


def task(host: str, start: float, end: float, name: str = "Work", action: str = "apt", play: str = "Play") -> Task:
    return Task(host, play, play, name, action, start, end)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return recorded(tmp_path / "state")


@pytest.mark.parametrize("stream", ["deploy", "again", "failed", "interrupted"])
def test_every_moment_of_a_deploy_is_accounted_for_once(stream: str) -> None:
    record = deploy(stream)
    found = timeline.analysis(record)
    assert sum(found["shares"][part] for part in PARTS) == pytest.approx(record["seconds"], abs=0.01)
    path = found["critical_path"]
    assert path[0]["start"] == 0.0
    assert path[-1]["end"] == record["seconds"]
    assert [segment["start"] for segment in path[1:]] == [segment["end"] for segment in path[:-1]]


def test_the_critical_path_goes_through_the_host_that_was_last() -> None:
    """The first x86_64 guest of this run answered after nine minutes, the others long before."""
    path = timeline.analysis(deploy())["critical_path"]
    named = [(segment["host"], segment["stage"]) for segment in path if segment["kind"] != "ansible"]
    assert named == [
        ("localhost", "Check the cloud and the quota"),
        ("localhost", "Create servers"),
        ("cli-x86-small-1", "Wait for SSH"),
        ("cli-control-plane", "Create the CA and the bootstrap token"),
        ("cli-x86-small-1", "Install QEMU and libvirt"),
        ("cli-x86-small-1", "Boot guests"),
        ("cli-x86-small-1", "Boot guests"),
        ("cli-control-plane", "Wait until every node is Ready"),
    ]


def test_hosts_without_a_task_in_a_stage_are_not_in_it() -> None:
    cells = {(cell["host"], cell["stage"]) for cell in timeline.analysis(deploy())["stages"]}
    assert ("cli-control-plane", "Install Kubernetes") in cells
    assert ("cli-arm-mid-1", "Install Kubernetes") not in cells


def test_an_interrupted_task_ends_with_the_run() -> None:
    record = deploy("interrupted")
    last = max(record["tasks"], key=lambda one: one["end"])
    assert (last["result"], last["end"]) == ("interrupted", record["seconds"])


def test_a_guest_that_boots_works_though_ansible_waits() -> None:
    tasks = [
        task("host", 0, 4),
        task("host", 4, 10, "Wait until the guest answers", "script"),
        task("localhost", 11, 12),
    ]
    assert timeline.shares(tasks, [], 13.0) == {"machines": 4.0, "local": 1.0, "waiting": 6.0, "ansible": 2.0}
    guest = Guest("node", "host", {"power_on": 3.0, "ready": 9.0})
    assert timeline.shares(tasks, [guest], 13.0) == {"machines": 9.0, "local": 1.0, "waiting": 1.0, "ansible": 2.0}


def test_the_wait_for_ready_nodes_leads_through_the_slowest_boot_to_the_task_that_started_it() -> None:
    ready = "q8s.emu.nodes_ready"
    tasks = [
        task("fast", 0, 5, "Start the guest", play="Boot"),
        task("slow", 0, 8, "Start the guest", play="Boot"),
        task("plane", 9, 30, "Wait until every node is Ready", ready, "Ready"),
    ]
    times = {"power_on": 7.0, "kernel": 8.0, "containerd": 12.0, "kubelet": 13.0, "registered": 20.0, "ready": 28.0}
    guests = [Guest("a", "fast", {"power_on": 4.0, "ready": 21.0}), Guest("b", "slow", times)]
    path = timeline.critical_path(tasks, guests, 30.0)
    assert [(segment.start, segment.end, segment.host) for segment in path] == [
        (0.0, 7.0, "slow"),
        *((times[a], times[b], "b") for a, b in pairwise(timeline.MILESTONES)),
        (28.0, 30.0, "plane"),
    ]
    assert path[1].what == "firmware and kernel's start"


def test_a_short_task_has_waited_for_its_own_host() -> None:
    play = "Start the control plane, and boot guests"
    tasks = [
        task("slow", 0, 8, "Install", play=play),
        task("other", 0, 8.01, "Upload", play=play),
        task("slow", 8.02, 8.04, "Check", play=play),
        task("slow", 8.05, 10, "Boot", play=play),
    ]
    assert {segment.host for segment in timeline.critical_path(tasks, [], 10.0)} == {"slow"}


def test_milestones_of_a_later_boot_are_left_out() -> None:
    record = deploy()
    began = datetime.fromisoformat(record["started"]).timestamp()
    fact = {"node": "arm-mid-1", "host": "cli-arm-mid-1", "kernel": None, "containerd": None, "kubelet": None}
    during = {**fact, "power_on": began + 175.5, "registered": began + 220, "ready": began + 5000}
    later = {**fact, "node": "x86-small-1", "power_on": began + 4000, "registered": began + 220, "ready": began + 4100}
    unread = {**fact, "node": "x86-small-2", "power_on": None, "registered": None, "ready": None}
    guests = timeline.with_guests(record, [during, later, unread])["guests"]
    assert guests == [{"node": "arm-mid-1", "host": "cli-arm-mid-1", "times": {"power_on": 175.5, "registered": 220.0}}]


def test_clocks_that_differ_by_a_second_put_no_milestone_before_an_earlier_one() -> None:
    record = deploy()
    began = datetime.fromisoformat(record["started"]).timestamp()
    fact = {"node": "a", "host": "h", "power_on": began + 100, "kernel": began + 99.4, "registered": began + 130}
    [guest] = timeline.with_guests(record, [fact])["guests"]
    assert guest["times"] == {"power_on": 100.0, "kernel": 100.0, "registered": 130.0}


def test_the_last_deploy_that_created_servers_is_kept(folder: Path) -> None:
    first = deploy()
    again = {**deploy("again"), "servers_created": 0}
    timeline.write(folder, first)
    timeline.write(folder, again)
    assert timeline.read(folder) == first
    assert timeline.read(folder, last=True) == again
    assert stat.S_IMODE((folder / timeline.CREATED).stat().st_mode) == 0o600


def test_the_page_and_the_chart_are_well_formed_and_need_no_other_file() -> None:
    record = {**deploy(), "cluster": "<b>&"}
    record["guests"] = [
        {"node": "x86-small-1", "host": "cli-x86-small-1", "times": {"power_on": 175.0, "ready": 600.0}}
    ]
    found = timeline.analysis(record)
    svg, page = timeline_page.svg(found), timeline_page.page(found)
    ElementTree.fromstring(svg)
    labels = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"this machine", "cli-control-plane", "guest x86-small-1", "critical path", "Boot guests"} <= {*labels}
    assert "<b>&" not in page
    assert "src=" not in page
    assert "href=" not in page
    assert page.count("prefers-color-scheme: dark") == 2


def test_the_command_shows_what_a_deploy_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(records, "read_facts", lambda *_, **__: None)  # the cluster is gone
    assert cli.main(["timeline", EXAMPLE]) == ExitCode.FAILED
    assert "Failed to find a recorded deploy of cluster demo" in capsys.readouterr().err
    timeline.write(folder, deploy())
    assert cli.main(["timeline", EXAMPLE, "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "q8s-timeline/1"
    assert found["shares"]["no_machine_percent"] == 82.2
    assert cli.main(["timeline", EXAMPLE, "--output", "out"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "critical path:" in shown
    assert "no machine works (the last two): 82.2 %; a guest that boots counts as waiting" in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.html", "timeline.json", "timeline.svg"]
    assert cli.main(["timeline", EXAMPLE, "--output", "out"]) == ExitCode.WRONG_INPUT
    assert cli.main(["timeline", EXAMPLE, "--output", "out", "--force"]) == ExitCode.DONE
    (tmp_path / "mine").mkdir()
    assert cli.main(["timeline", EXAMPLE, "--output", "mine", "--force"]) == ExitCode.WRONG_INPUT


@pytest.mark.parametrize("created", [True, False])
def test_a_deploy_writes_its_timeline_beside_the_log_and_names_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], created: bool
) -> None:
    run = State()
    log = TaskLog()
    for line in (HERE / "streams" / f"{'deploy' if created else 'again'}.jsonl").read_text().splitlines():
        event = json.loads(line)
        run = reduce(run, event)
        log.add(event, run)

    def play(_playbook: str, _file: Path, run_folder: Path, *_: object, **__: object) -> runner.Outcome:
        return runner.Outcome(run, ExitCode.DONE, run_folder / "ansible.log", log.finished(run.seconds))

    monkeypatch.setattr(runner, "run", play)
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: folder)
    assert cli.main(["deploy", EXAMPLE, "--yes"]) == ExitCode.DONE
    shown = capsys.readouterr().err
    [page] = [Path(line.removeprefix("timeline: ")) for line in shown.splitlines() if line.startswith("timeline: ")]
    assert page.name == "timeline.html"
    assert page.parent.parent == folder / "runs"
    assert "<h2>Critical path</h2>" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert (f"next: q8s-run timeline {EXAMPLE}" in shown) is created
    assert cli.main(["deploy", EXAMPLE, "--yes", "--json"]) == ExitCode.DONE
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(result["timeline"]).is_file()
