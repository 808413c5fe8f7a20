"""The timeline of a deploy, from the recorded events of a real one."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from xml.etree import ElementTree

import pytest

from q8s_wrapper import cli, runner, state, terminal
from q8s_wrapper.commands import records
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import timeline, timeline_page, timeline_record, timeline_svg
from q8s_wrapper.experiment.timeline_record import Guest
from tests.unit.wrapper.local_cloud import recorded
from tests.unit.wrapper.recorded_deploy import EXAMPLE, deploy, replayed, task

PARTS = ("machines", "local", "waiting", "ansible")


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


def test_hosts_without_a_task_in_a_stage_are_not_in_it() -> None:
    cells = {(cell["host"], cell["stage"]) for cell in timeline.analysis(deploy())["stages"]}
    assert ("cli-control-plane", "Install Kubernetes") in cells
    assert ("cli-arm-mid-1", "Install Kubernetes") not in cells


def test_a_guest_that_boots_works_though_ansible_waits() -> None:
    tasks = [
        task("host", 0, 4),
        task("host", 4, 10, "Wait until the guest answers", "script"),
        task("localhost", 11, 12),
    ]
    assert timeline.shares(tasks, [], 13.0) == {"machines": 4.0, "local": 1.0, "waiting": 6.0, "ansible": 2.0}
    guest = Guest("node", "host", {"power_on": 3.0, "ready": 9.0})
    assert timeline.shares(tasks, [guest], 13.0) == {"machines": 9.0, "local": 1.0, "waiting": 1.0, "ansible": 2.0}


def test_the_page_and_the_chart_are_well_formed_and_need_no_other_file() -> None:
    record = {**deploy(), "cluster": "<b>&"}
    record["guests"] = [
        {"node": "x86-small-1", "host": "cli-x86-small-1", "times": {"power_on": 175.0, "ready": 600.0}}
    ]
    found = timeline.analysis(record)
    svg, page = timeline_svg.svg(found), timeline_page.page(found)
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
    timeline_record.write(folder, deploy())
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
    run, tasks = replayed("deploy" if created else "again")

    def play(_playbook: str, _file: Path, run_folder: Path, *_: object, **__: object) -> runner.Outcome:
        return runner.Outcome(run, ExitCode.DONE, run_folder / "ansible.log", tasks)

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


def test_a_plan_that_fails_before_a_deploy_is_not_the_last_deploy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tasks = replayed("failed")

    def play(_playbook: str, _file: Path, run_folder: Path, *_: object, **__: object) -> runner.Outcome:
        return runner.Outcome(run, ExitCode.FAILED, run_folder / "ansible.log", tasks)

    monkeypatch.setattr(runner, "run", play)
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: folder)
    monkeypatch.setattr(terminal, "is_interactive", lambda: True)
    timeline_record.write(folder, deploy())
    before = timeline_record.read(folder, last=True)
    assert cli.main(["deploy", EXAMPLE]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "deploy: failed" in error and "-plan/ansible.log" in error and "timeline: " not in error
    assert timeline_record.read(folder, last=True) == before
    assert cli.main(["deploy", EXAMPLE, "--yes"]) == ExitCode.FAILED
    assert "timeline: " in capsys.readouterr().err and timeline_record.read(folder, last=True) != before
