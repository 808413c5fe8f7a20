"""The commands ``scenario ...``: what reaches hosts and guests, at which time, what is recorded, and what is restored.

Only the machines are not real.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
import yaml

from q8s_wrapper import cli, state
from q8s_wrapper.commands import scenarios
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import links, node_watch, scenario
from tests.unit.wrapper import fake_machines
from tests.unit.wrapper.fake_machines import FakeMachines

EDGE = Path(__file__).parents[3] / "examples/edge.yaml"
# Runs a command as the fixture does, in a process that can be killed.
DRIVER = """\
import json, sys
from pathlib import Path
from q8s_wrapper import cli, inventory, state
from q8s_wrapper.commands import scenarios
folder, hosts = Path(sys.argv[1]), json.loads(sys.argv[2])
state.cluster_folder = lambda *_, **__: folder
inventory.read = lambda *_: hosts
scenarios._SECONDS_TO_BEGIN = 0
sys.exit(cli.main(["scenario", "run", *sys.argv[3:]]))
"""
SET = {"from": "zone:edge-site", "to": "zone:cloud-site", "delay": "200ms"}


@dataclass(frozen=True)
class Lab:
    """A cluster that has no machines: its file, its state folder, and what its machines were told."""

    file: Path
    folder: Path
    machines: FakeMachines
    processes: list[subprocess.Popen[bytes]]

    def write(self, *events: dict[str, Any]) -> None:
        data = yaml.safe_load(EDGE.read_text())
        self.file.write_text(yaml.safe_dump({**data, "scenario": {"seed": 5, "events": list(events)}}))

    def run(self, *options: str) -> int:
        return cli.main(["scenario", "run", str(self.file), *options])

    def start(self, *options: str, **streams: int) -> subprocess.Popen[bytes]:
        """Run the scenario in a process of its own, until a guest is stopped. Nobody reads what a pipe is for."""
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, self.folder, json.dumps(self.machines.hosts), self.file, *options], **streams
        )
        self.processes.append(process)
        if process.stdout is not None:
            process.stdout.close()
        until(lambda: ("edge-edge-1", "destroy") in self.told())
        return process

    def log(self) -> list[tuple[float, str, str]]:
        """Return when which machine was told what, in few words."""
        result = []
        for line in self.machines.lines():
            at, name, command = line.split(" ", 2)
            known = re.search(r"system ([a-z]+)|iptables -w -t mangle (-[ID])|q8s-links (update)|(domstate)", command)
            if "domstate" in command:
                result.append((float(at), name, "restore"))
            elif known and "sha256sum" not in command:
                result.append((float(at), name, next(word for word in known.groups() if word)))
        return result

    def told(self) -> list[tuple[str, str]]:
        return [(name, what) for _at, name, what in self.log()]

    def lines(self, word: str) -> list[str]:
        """Return the lines of the log that have a word."""
        return [line for line in self.machines.lines() if word in line and "domstate" not in line]

    def restored(self) -> bool:
        """Return whether the guests have the cluster file's links."""
        pairs = (("edge-1", "10.254.1.2"), ("cloud-1", "10.254.1.3"))
        delays = [self.machines.links(guest)[to]["delay"] for guest, to in pairs]
        return delays == [40_000, 40_000]

    def result(self) -> str:
        path, lines = scenario.read_record(self.folder)
        return str(scenario.report_data(path, lines)["result"])


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    machines, folder = fake_machines.make(tmp_path / "bin", str(EDGE)), tmp_path / "edge"
    folder.mkdir()
    machines.use(monkeypatch)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: folder)
    monkeypatch.setattr(state, "find", lambda *_: folder)
    monkeypatch.setattr(scenarios, "_SECONDS_TO_BEGIN", 0)
    found = Lab(tmp_path / "edge.yaml", folder, machines, [])
    yield found
    for process in found.processes:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_dry_run_prints_the_schedule_and_needs_no_cloud(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "1s", "for": "2s", "set": SET}, {"at": "1s", "for": "500ms", "stop": "node:edge-1"})
    assert lab.run("--dry-run", "--json") == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert [(one["at"], one["what"]) for one in data["actions"]] == [
        (1.0, "set zone:edge-site -> zone:cloud-site: delay 200 ms"),
        (1.0, "stop edge-1"),
        (1.5, "end of stop edge-1"),
        (3.0, "end of set zone:edge-site -> zone:cloud-site: delay 200 ms"),
    ]
    assert (data["seed"], data["end"]) == (5, 3.0)
    assert lab.run("--dry-run") == ExitCode.DONE
    assert "1.500 s  end of stop edge-1" in capsys.readouterr().out
    assert lab.told() == []


def test_actions_reach_their_machines_at_their_time(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(
        {"at": "500ms", "for": "1s", "set": SET},
        {"at": "1s", "for": "1s", "stop": "node:cloud-1"},
    )
    assert lab.run() == ExitCode.DONE
    times = {(name, what): at for at, name, what in lab.log()}
    assert set(times) == {("edge-1", "update"), ("edge-cloud-1", "destroy"), ("edge-cloud-1", "start")}
    begin, end = times["edge-cloud-1", "destroy"], times["edge-cloud-1", "start"]
    assert 0 < end - begin < 5
    assert lab.told().count(("edge-1", "update")) == 2
    assert lab.restored()
    output = capsys.readouterr().out
    assert "edge-1 is NotReady" in output and "cloud-1 answers again" in output
    assert cli.main(["scenario", "report", str(lab.file), "--json"]) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert data["result"] == "done" and data["seed"] == 5
    assert [one["planned"] for one in data["actions"]] == [0.5, 1.0, 1.5, 2.0]
    assert all(0 <= one["begun"] - one["planned"] < 5 for one in data["actions"])
    assert data["not_ready"][0]["node"] == "edge-1" and data["not_ready"][0]["to"] is None
    assert cli.main(["scenario", "report", str(lab.file)]) == ExitCode.DONE
    assert "edge-1 was NotReady from" in capsys.readouterr().out


def test_nodes_are_watched_by_any_control_plane_that_answers(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(iter(lab.machines.hosts))
    second = {"q8s_node_name": "second", "ansible_host": "second", "q8s_private_ip": "10.254.1.9"}
    cast(dict[str, Any], lab.machines.hosts)["edge-second"] = {**lab.machines.hosts[first], **second}
    lab.machines.away(first)
    lab.write({"at": "4s", "for": "100ms", "stop": "node:cloud-1"})
    assert lab.run() == ExitCode.DONE
    out, err = capsys.readouterr()
    assert "edge-1 is NotReady" in out and "no control plane" not in err
    assert "--server=https://10.254.1.9:6443" in lab.lines("get nodes")[0], "not the one that is off"


def test_a_scenario_without_a_control_plane_says_that_it_watches_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so once, and when a control plane answers again."""
    monkeypatch.setattr(node_watch, "_UNWATCHED_SECONDS", 1)
    monkeypatch.setattr(node_watch, "_PAUSE", 0.5)
    [plane] = [name for name in lab.machines.hosts if name.endswith("control-plane")]
    lab.machines.away(plane)
    lab.write({"at": "6s", "for": "100ms", "stop": "node:cloud-1"})
    timer = threading.Timer(4, (lab.machines.tools / f"away-{plane}").unlink)
    timer.start()
    assert lab.run() == ExitCode.DONE
    timer.join()
    out, err = capsys.readouterr()
    assert re.search(r"warning: no control plane has answered for \d+ s, .*: .*: no route to host", err)
    assert err.count("no control plane") == 1
    assert "nodes are watched again" in out and "edge-1 is NotReady" in out
    report = ["scenario", "report", str(lab.file)]
    assert cli.main(report) == ExitCode.DONE
    assert "no control plane answered from 0.000 s to " in capsys.readouterr().out
    assert cli.main([*report, "--json"]) == ExitCode.DONE
    [unwatched] = json.loads(capsys.readouterr().out)["unwatched"]
    assert 1 < unwatched["to"] < 6 and "no route to host" in unwatched["error"]


def test_a_slower_guest_answers_all_the_time(lab: Lab) -> None:
    lab.write({"at": "200ms", "for": "2s", "cpu": {"node": "cloud-1", "quota": "25%"}})
    assert lab.run() == ExitCode.DONE
    said = [(one.split()[1], one.rpartition("vcpu_quota=")[2].split()[0]) for one in lab.lines("vcpu_quota=")]
    assert said == [("edge-cloud-1", "25000"), ("edge-cloud-1", "-1")]
    assert lab.restored()
    _path, lines = scenario.read_record(lab.folder)
    assert [line["what"] for line in lines if line["event"] == "action"] == [
        "cpu cloud-1: at most 25%",
        "end of cpu cloud-1: at most 25%",
    ]
    assert not [line for line in lines if line["event"] == "back"]


def test_a_node_that_is_not_ready_is_not_slowed_down(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write(
        {"at": "0s", "for": "1s", "cpu": {"node": "edge-1", "quota": "25%"}},
        {"at": "0s", "for": "1h", "stop": "node:cloud-1"},
    )
    assert lab.run() == ExitCode.FAILED
    assert "edge-1 is NotReady; only a node that is Ready is slowed down" in capsys.readouterr().err
    assert not [one for one in lab.lines("vcpu_quota=") if "vcpu_quota=-1" not in one]


def test_a_node_is_stopped_until_it_is_started(lab: Lab) -> None:
    lab.write({"at": "200ms", "stop": "node:edge-1"}, {"at": "900ms", "start": "node:edge-1"})
    assert lab.run() == ExitCode.DONE
    assert lab.told() == [("edge-edge-1", "destroy"), ("edge-edge-1", "start")]
    _path, lines = scenario.read_record(lab.folder)
    actions = [line for line in lines if line["event"] == "action"]
    assert [one["planned"] for one in actions] == [0.2, 0.9]
    assert all(0 <= one["begun"] - one["planned"] < 5 for one in actions)
    assert lab.restored()


def test_a_host_that_cannot_limit_cpus_is_named_before_the_begin(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.machines.tools / "old-groups").touch()
    stop = {"at": "0s", "for": "1s", "stop": "node:cloud-1"}
    lab.write(stop, {"at": "1h", "for": "1s", "cpu": {"node": "edge-1", "quota": "25%"}})
    assert lab.run() == ExitCode.FAILED
    assert "Failed to prepare the scenario: edge-1: edge-edge-1: no CPU controller" in capsys.readouterr().err
    assert "edge-cloud-1 destroy" not in " ".join(map(" ".join, lab.told()))


def test_the_links_of_a_guest_that_is_away_are_applied_when_it_is_back(lab: Lab) -> None:
    lab.write(
        {"at": "200ms", "for": "1s", "stop": "node:edge-1"},
        {"at": "500ms", "for": "2500ms", "set": SET},
    )
    assert lab.run() == ExitCode.DONE
    at = {(name, what): when for when, name, what in reversed(lab.log())}
    assert at["edge-edge-1", "start"] < at["edge-1", "update"]
    assert lab.told().count(("edge-1", "update")) == 2


def test_pings_are_recorded_and_drawn(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "300ms", "for": "500ms", "set": SET})
    assert lab.run("--ping", "edge-1:cloud-1") == ExitCode.DONE
    assert "85.2" not in capsys.readouterr().out, "they are for the report"
    report, plot = ["scenario", "report", str(lab.file)], tmp_path / "delays.svg"
    assert cli.main([*report, "--plot", str(plot)]) == ExitCode.DONE
    row = re.search(r"edge-1 +cloud-1 +([0-9]+) +85\.2 / 85\.2 / 85\.2 ms", capsys.readouterr().out)
    assert cli.main([*report, "--json"]) == ExitCode.DONE
    pings = json.loads(capsys.readouterr().out)["pings"]
    # four in a second, and the scenario takes at least 0.8 s
    assert row and int(row[1]) == len(pings) >= 3
    assert [(one["from"], one["to"], one["ms"]) for one in pings][:1] == [("edge-1", "cloud-1", 85.2)]
    moments = [one["at"] for one in pings]
    assert moments == sorted(moments) and moments[-1] > 0
    drawn = ElementTree.fromstring(plot.read_text())
    assert len(drawn.findall(".//{*}g/{*}circle")) == len([moment for moment in moments if moment >= 0])
    assert "set zone:edge-site -> zone:cloud-site: delay 200 ms" in "".join(drawn.itertext())
    assert cli.main([*report, "--plot", str(plot)]) == ExitCode.WRONG_INPUT
    assert "exists: nothing was changed" in capsys.readouterr().err
    assert cli.main([*report, "--plot", str(plot), "--force"]) == ExitCode.DONE
    link, pipe = tmp_path / "link.svg", tmp_path / "pipe"
    link.symlink_to(plot)
    os.mkfifo(pipe)
    assert cli.main([*report, "--plot", str(link), "--force"]) == ExitCode.DONE
    assert link.is_symlink() and ElementTree.fromstring(plot.read_text()) is not None
    assert cli.main([*report, "--plot", str(pipe), "--force"]) == ExitCode.WRONG_INPUT
    assert pipe.is_fifo(), "nothing is put in its place"


@pytest.mark.parametrize("value", ["edge-1", "edge-1:edge-1", "edge-1:nobody", ":edge-1"])
def test_a_ping_needs_two_nodes_of_the_file(lab: Lab, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "300ms", "for": "500ms", "set": SET})
    assert lab.run("--ping", value) == ExitCode.WRONG_INPUT
    assert f"--ping: is {value!r}; allowed is FROM:TO with two of edge-control-plane, cloud-1, edge-1" in (
        capsys.readouterr().err
    )


def test_without_pings_there_is_no_plot(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "100ms", "for": "100ms", "set": SET})
    assert lab.run() == ExitCode.DONE
    assert cli.main(["scenario", "report", str(lab.file), "--plot", str(tmp_path / "delays.svg")]) == ExitCode.FAILED
    assert "the newest scenario measured none" in capsys.readouterr().err


def test_ctrl_c_restores_nodes_and_links(lab: Lab) -> None:
    lab.write({"at": "0s", "for": "1h", "stop": "node:edge-1"})

    def interrupt() -> None:
        try:
            until(lambda: bool(lab.told()))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert lab.run() == ExitCode.INTERRUPTED
    thread.join()
    assert lab.told() == [("edge-edge-1", "destroy"), ("edge-edge-1", "restore")]
    assert lab.restored()
    assert lab.result() == "interrupted"
    assert scenario.find_left(lab.folder) is None


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_is_gone_costs_neither_the_record_nor_the_restoring(lab: Lab, options: list[str]) -> None:
    """As after Ctrl-C in `q8s-run scenario run FILE | tee`, which ends tee too."""
    back = {**SET, "from": SET["to"], "to": SET["from"]}
    lab.write({"at": "0s", "for": "1h", "stop": "node:edge-1"}, {"at": "1s", "for": "1h", "set": back})
    process = lab.start(*options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: lab.machines.links("cloud-1").get("10.254.1.3", {}).get("delay") == 200_000)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    assert process.wait() == ExitCode.INTERRUPTED, errors
    assert "Traceback" not in errors, "of a thread"
    assert lab.restored()
    assert lab.result() == "interrupted"
    assert scenario.find_left(lab.folder) is None


def test_a_start_that_fails_leaves_the_report_of_the_scenario_before(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write({"at": "0s", "for": "100ms", "stop": "node:cloud-1"})
    assert lab.run() == ExitCode.DONE
    lab.machines.away("edge-cloud-1")
    assert lab.run() == ExitCode.FAILED
    assert "Failed to prepare the scenario" in capsys.readouterr().err
    (lab.folder / "scenarios/99991231-000000.jsonl").touch()  # of one that was killed
    assert lab.result() == "done"
    assert len(list((lab.folder / "scenarios").iterdir())) == 2


def test_an_action_that_fails_ends_the_scenario_and_restores(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.machines.tools / "fails").touch()
    churn = {"type": "edge", "mtbf": "1s", "mttr": "1s", "how": ["pause"]}
    lab.write({"from": "0s", "to": "1h", "churn": churn})
    assert lab.run() == ExitCode.FAILED
    assert "pause edge-1: edge-edge-1: no such domain" in capsys.readouterr().err
    assert lab.told() == [("edge-edge-1", "restore")]
    assert lab.restored()
    assert lab.result() == "failed"


def test_a_run_that_was_killed_is_named_and_restored(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "0s", "for": "1h", "stop": "node:edge-1"})
    assert cli.main(["link", "clear", str(lab.file)]) == ExitCode.DONE
    process = lab.start()
    assert cli.main(["deploy", str(lab.file), "--yes"]) == ExitCode.FAILED
    assert "q8s-run scenario run (process" in capsys.readouterr().err
    assert cli.main(["link", "show", str(lab.file)]) == ExitCode.DONE
    assert "a scenario is running since" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert cli.main(["link", "show", str(lab.file)]) == ExitCode.DONE
    error = capsys.readouterr().err
    assert "warning: the scenario of" in error and "was killed" in error
    assert "scenario stop" in error
    assert cli.main(["scenario", "stop", str(lab.file)]) == ExitCode.DONE
    assert lab.told()[-1] == ("edge-edge-1", "restore")
    assert lab.restored()
    assert cli.main(["link", "show", str(lab.file)]) == ExitCode.DONE
    assert "scenario" not in capsys.readouterr().err
    assert lab.result() == "killed, or running"


def test_a_host_that_is_off_does_not_keep_the_links_of_other_guests(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """What could not be restored is tried again by the next `scenario stop`."""
    back = {**SET, "from": SET["to"], "to": SET["from"]}
    lab.write({"at": "0s", "for": "1h", "set": back}, {"at": "500ms", "for": "1h", "stop": "node:edge-1"})
    process = lab.start()

    def delay() -> int:
        return int(lab.machines.links("cloud-1")["10.254.1.3"]["delay"])

    until(lambda: delay() == 200_000)
    process.kill()
    process.wait()
    gone = ["edge-edge-1", "edge-1"]
    for machine in gone:
        lab.machines.away(machine)
    stop = ["scenario", "stop", str(lab.file)]
    assert cli.main(stop) == ExitCode.FAILED
    assert "error: edge-edge-1: no route to host" in capsys.readouterr().err
    assert delay() == 40_000
    assert scenario.find_left(lab.folder) is not None
    for machine in gone:
        (lab.machines.tools / f"away-{machine}").unlink()
    assert cli.main(stop) == ExitCode.DONE
    assert lab.told()[-1] == ("edge-edge-1", "restore")
    assert lab.restored()
    assert scenario.find_left(lab.folder) is None


def test_the_next_run_restores_what_a_killed_one_has_left(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "0s", "for": "1h", "stop": "node:edge-1"})
    process = lab.start()
    process.kill()
    process.wait()
    lab.write({"at": "100ms", "for": "200ms", "stop": "node:cloud-1"})
    assert lab.run() == ExitCode.DONE
    assert "was killed; restoring the cluster file's state first" in capsys.readouterr().err
    assert lab.told()[1:] == [("edge-edge-1", "restore"), ("edge-cloud-1", "destroy"), ("edge-cloud-1", "start")]
    assert lab.restored()
    assert lab.result() == "done"
    assert scenario.find_left(lab.folder) is None


def test_a_running_scenario_is_stopped(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "0s", "for": "1h", "stop": "node:edge-1"})
    process = lab.start()
    assert cli.main(["scenario", "stop", str(lab.file)]) == ExitCode.DONE
    assert process.wait() == ExitCode.INTERRUPTED
    assert lab.told()[-1] == ("edge-edge-1", "restore")
    assert lab.result() == "interrupted"
    assert cli.main(["scenario", "stop", str(lab.file)]) == ExitCode.DONE
    assert "no scenario is running" in capsys.readouterr().err


def test_links_that_were_changed_before_are_refused(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write({"at": "0s", "for": "1s", "set": SET})
    links.write(lab.folder, [SET])
    assert lab.run() == ExitCode.FAILED
    assert "`link set` has changed links" in capsys.readouterr().err
    assert lab.told() == []


def test_a_file_without_a_scenario_is_refused(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.write()
    assert lab.run() == ExitCode.WRONG_INPUT
    assert "has no events in scenario" in capsys.readouterr().err
