"""The commands ``link ...``: what reaches guests, what is recorded, and what is refused. Only machines are not real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _ssh

from q8s_wrapper import cli, runner, state
from q8s_wrapper.commands import links as link_commands
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import links
from q8s_wrapper.experiment.machines import Machines, socket_paths
from q8s_wrapper.experiment.shaping import Shaping
from q8s_wrapper.run_state import State
from q8s_wrapper.runner import Outcome
from tests.unit.wrapper import fake_machines
from tests.unit.wrapper.fake_machines import FakeMachines

ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/emulated_worker"
GUESTS = yaml.safe_load((ROLE / "vars/main.yml").read_text())["emulated_worker_directory"]
EXAMPLE = str(Path(__file__).parents[3] / "examples/edge.yaml")
LINK = {"from": "node:edge-1", "to": "zone:cloud-site", "delay": "200ms"}
CONTROL_PLANE, CLOUD, EDGE = "10.254.1.1", "10.254.1.2", "10.254.1.3"
ROW = {
    "from": ["edge-1"],
    "to": ["cloud-1"],
    "impairment": "delay 200 ms",
    "state": "in force",
    "in_force": True,
}
FINDING = {
    "from": "edge-1",
    "to": "cloud-1",
    "what": "delay",
    "unit": "ms",
    "promised": 200.0,
    "measured": 212.5,
    "low": 212.1,
    "high": 212.9,
    "kept": False,
    "note": "",
}


@dataclass(frozen=True)
class Lab:
    """The machines of examples/edge.yaml, the cluster's state folder, and the playbooks that ran."""

    machines: FakeMachines
    folder: Path
    plays: list[dict[str, Any]]

    def sent(self, to: str = CLOUD) -> dict[str, Any]:
        """Return what edge-1 does to the packets that it sends to an address."""
        return self.machines.links("edge-1")[to]

    def marked(self, host: str) -> list[str]:
        """Return what was said on a host about the links of its guest."""
        lines = [line for line in self.machines.lines() if f" {host} " in line and f"{GUESTS}/links" in line]
        return ["no links" if "rm -f" in line else "links" for line in lines]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    machines, folder = fake_machines.make(tmp_path / "bin", EXAMPLE), tmp_path / "state-of-edge"
    folder.mkdir()
    machines.use(monkeypatch)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: folder)
    found = Lab(machines, folder, [])

    def play(playbook: str, *_: object, arguments: list[str], **__: object) -> Outcome:
        found.plays.append({"playbook": playbook, **json.loads(arguments[arguments.index("-e") + 1])})
        report = {"links": [ROW], "findings": [FINDING], "broken": 1}
        return Outcome(State(finished=True, results={"q8s_link_report": report}), ExitCode.DONE, folder / "log")

    monkeypatch.setattr(runner, "run", play)
    return found


class Clock:
    """The clock by which the command waits: every pause is short, and recorded with the delay meanwhile."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch, suspended: float = 0) -> None:
        self.slept: list[float] = []
        self.delays: list[int] = []
        self._lab, self._ahead, self._suspended = lab, 0.0, suspended
        self._begin = time.time()
        monkeypatch.setattr(link_commands, "time", SimpleNamespace(sleep=self.sleep, time=self.time))

    def time(self) -> float:
        return time.time() + self._ahead

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.delays.append(self._lab.sent()["delay"])
        self._ahead += max(seconds, self._suspended)

    def passed(self, seconds: float) -> bool:
        """Whether these seconds passed, in pauses but for the time that the machine needed meanwhile."""
        needed = time.time() - self._begin
        return seconds - needed - 1.5 <= sum(self.slept) <= seconds + 1.5  # its end is a whole second


def set_link(*others: str) -> int:
    return cli.main(["link", "set", EXAMPLE, "edge-1", "zone:cloud-site", "delay=200ms", *others])


def test_a_change_is_in_force_and_recorded_and_shown_by_the_next_command(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set_link() == ExitCode.DONE
    assert lab.sent() == {"delay": 200_000}
    assert lab.sent(CONTROL_PLANE) == {"delay": 15_000}
    assert lab.machines.links("cloud-1")[EDGE]["delay"] == 40_000
    assert links.read(lab.folder) == [LINK]
    capsys.readouterr()
    assert cli.main(["link", "show", EXAMPLE]) == ExitCode.DONE
    output = capsys.readouterr().out
    assert "edge-1              cloud-1             delay 200 ms                     in force" in output
    assert "link changed by `link set`: node:edge-1 -> zone:cloud-site: delay=200ms" in output


def test_the_change_ends_with_the_next_boot(lab: Lab) -> None:
    set_link()
    kept = json.loads((lab.machines.tools / "guests/edge-1/etc/q8s/links.json").read_text())
    assert kept["outgoing"][CLOUD]["delay"] == 40_000


def test_hosts_know_whether_their_guests_have_links(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(Path(EXAMPLE).read_text().partition("\nnetwork:")[0])
    assert cli.main(["link", "set", str(file), "edge-1", "cloud-1", "delay=1ms"]) == ExitCode.DONE
    assert cli.main(["link", "set", str(file), "edge-1", "cloud-1", "delay=2ms"]) == ExitCode.DONE
    assert lab.marked("edge-edge-1") == ["links"]
    assert cli.main(["link", "clear", str(file)]) == ExitCode.DONE
    assert lab.marked("edge-edge-1") == ["links", "no links"]
    assert not (lab.machines.tools / "guests/edge-1").exists()


def test_a_change_of_the_same_link_takes_the_place_of_the_earlier_one(lab: Lab) -> None:
    set_link()
    assert set_link("loss=1%") == ExitCode.DONE
    assert links.read(lab.folder) == [{**LINK, "loss": "1%"}]
    assert lab.sent()["loss"]["percent"] == 1.0


def test_clear_restores_the_file_s_links(lab: Lab) -> None:
    set_link()
    assert cli.main(["link", "clear", EXAMPLE]) == ExitCode.DONE
    assert lab.sent()["delay"] == 40_000
    assert links.read(lab.folder) == []


def test_a_change_for_a_time_is_taken_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lab, monkeypatch)
    assert set_link("--for", "2min") == ExitCode.DONE
    assert clock.passed(120) and set(clock.delays) == {200_000}
    assert lab.sent()["delay"] == 40_000
    assert links.read(lab.folder) == []


def test_the_time_goes_on_while_a_laptop_is_suspended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lab, monkeypatch, suspended=7200)
    assert set_link("--for", "2h") == ExitCode.DONE
    assert sum(clock.slept) < 10
    assert lab.sent()["delay"] == 40_000


def test_a_change_for_a_time_is_taken_back_also_if_a_guest_does_not_answer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.machines.away("cloud-1")
    clock = Clock(lab, monkeypatch)
    assert set_link("--for", "2min") == ExitCode.FAILED
    assert clock.passed(120) and set(clock.delays) == {200_000}
    assert lab.sent()["delay"] == 40_000
    assert f"link clear {EXAMPLE}` tries again" in capsys.readouterr().err, "cloud-1 is not known to be restored"


def test_nothing_is_waited_for_if_nothing_was_changed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("edge-1", "cloud-1"):
        lab.machines.away(name)
    clock = Clock(lab, monkeypatch)
    assert set_link("--for", "2min") == ExitCode.FAILED
    assert clock.slept == []
    assert links.read(lab.folder) == []


def test_a_link_that_is_not_in_force_is_taken_back_too(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(lab, monkeypatch)
    monkeypatch.setattr(Shaping, "report", lambda *_: {"links": [ROW], "findings": [], "broken": 1})
    assert set_link("--for", "2min") == ExitCode.FAILED
    assert clock.passed(120)
    assert lab.sent()["delay"] == 40_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_links_change_takes_the_change_back(
    number: signal.Signals, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere, calls = Shaping.apply_everywhere, []

    def interrupted(shaping: Shaping, rules: Any) -> list[str]:
        errors = everywhere(shaping, rules)
        calls.append(lab.sent()["delay"])
        if len(calls) == 1:
            os.kill(os.getpid(), number)
            time.sleep(5)
        return errors

    monkeypatch.setattr(Shaping, "apply_everywhere", interrupted)
    assert set_link("--for", "1h") == ExitCode.INTERRUPTED
    assert calls == [200_000, 40_000]
    assert links.read(lab.folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_takes_it_back_at_once(number: signal.Signals, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(link_commands, "time", SimpleNamespace(sleep=interrupt, time=time.time))
    assert set_link("--for", "1h") == ExitCode.DONE
    assert lab.sent()["delay"] == 40_000
    assert links.read(lab.folder) == []


def test_a_guest_that_does_not_answer_is_named_and_the_others_are_changed(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.machines.away("cloud-1")
    assert set_link() == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "Failed to change links: cloud-1: no route to host" in error
    assert f"link set {EXAMPLE} edge-1 zone:cloud-site delay=200ms` tries again" in error
    assert lab.sent() == {"delay": 200_000}
    assert links.overrides(links.read(lab.folder)) == [LINK], "so that clear and status know of it"
    assert cli.main(["link", "show", EXAMPLE]) == ExitCode.FAILED
    shown = capsys.readouterr()
    assert "warning: Failed to read links: cloud-1: no route to host" in shown.err
    assert "loss 1%  unknown: cloud-1 did not answer" in shown.out


def test_a_server_that_is_missing_does_not_keep_the_others_from_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cloud-1", "edge-cloud-1"):
        del lab.machines.hosts[name]
    command = ["link", "set", EXAMPLE, "edge-1", "control-planes", "delay=30ms"]
    assert cli.main(command) == ExitCode.FAILED
    assert lab.sent(CONTROL_PLANE) == {"delay": 30_000}
    assert "loss 1%  unknown: cloud-1 did not answer" in capsys.readouterr().out
    lab.machines.hosts.clear()
    assert cli.main(command) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "Failed to find the servers of cloud-1, edge-1, edge-control-plane in the cloud" in error
    assert f"hint: q8s-run deploy {EXAMPLE}" in error


def test_a_connection_from_before_a_reboot_is_opened_anew(lab: Lab, tmp_path: Path) -> None:
    folder = Path(_ssh.socket_folder(str(lab.folder)))
    folder.mkdir(mode=0o700, exist_ok=True)
    socket = socket_paths(folder, lab.folder, lab.machines.hosts)["edge-1"]
    lab.machines.rebooted("edge-1", socket)
    try:
        assert set_link() == ExitCode.DONE
    finally:
        socket.unlink()
    assert lab.sent() == {"delay": 200_000}


def test_the_path_of_a_connection_may_have_spaces_and_percent_signs(lab: Lab) -> None:
    (lab.machines.tools / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh", path=os.defpath)} -F none -G "$@"\n')
    sockets = socket_paths(Path("/my state/100%/cp"), lab.folder, lab.machines.hosts)
    options = Machines(lab.machines.hosts, sockets).run("edge-1", "true").splitlines()
    assert f"controlpath {sockets['edge-1']}" in options and "controlmaster auto" in options


def test_a_profile_of_the_file_is_known(lab: Lab, tmp_path: Path) -> None:
    text = Path(EXAMPLE).read_text().replace("network:\n", "network:\n  profiles: {slow: {delay: 90ms}}\n")
    file = tmp_path / "edge.yaml"
    file.write_text(text)
    assert cli.main(["link", "set", str(file), "edge-1", "cloud-1", "profile=slow"]) == ExitCode.DONE
    assert lab.sent() == {"delay": 90_000}


def test_fields_of_a_mapping_have_a_dot(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rate.up=5mbit", "rate.down=20mbit", "loss.model=gilbert-elliott", "loss.p=2%", "loss.r=25%"]
    assert cli.main(["link", "set", EXAMPLE, "edge-1", "cloud-1", *words]) == ExitCode.DONE
    assert lab.sent()["rate"] == 5_000_000
    assert lab.sent()["loss"] == {"percent": 2.0, "recover": 25.0}
    assert f"node:edge-1 -> node:cloud-1: {' '.join(words)}" in capsys.readouterr().out


def test_duplicates_are_allowed_where_an_earlier_change_has_removed_the_other_links(lab: Lab) -> None:
    for words in (["edge-1", "*", "delay=0ms"], ["*", "edge-1", "delay=0ms"], ["edge-1", "cloud-1", "duplicate=10%"]):
        assert cli.main(["link", "set", EXAMPLE, *words]) == ExitCode.DONE
    assert lab.machines.links("edge-1") == {CLOUD: {"duplicate": 10.0}}


def test_duplicates_beside_a_link_that_was_changed_before_are_refused(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(Path(EXAMPLE).read_text().partition("\nnetwork:")[0])
    assert cli.main(["link", "set", str(file), "edge-1", "cloud-1", "duplicate=1%"]) == ExitCode.DONE
    said = len(lab.machines.lines())
    assert cli.main(["link", "set", str(file), "edge-1", "edge-control-plane", "delay=1ms"]) == ExitCode.WRONG_INPUT
    assert "Linux allows no other link beside it" in capsys.readouterr().err
    links.write(lab.folder, [])
    file.write_text(
        f"{file.read_text()}\nnetwork:\n  links: [{{from: node:edge-1, to: node:cloud-1, duplicate: 1%}}]\n"
    )
    assert cli.main(["link", "set", str(file), "edge-1", "edge-control-plane", "delay=1ms"]) == ExitCode.WRONG_INPUT
    assert len(lab.machines.lines()) == said


def test_a_change_whose_command_was_killed_is_named(tmp_path: Path) -> None:
    links.write(tmp_path, [{**LINK, "until": "2026-01-01T00:00:00Z"}])
    lines = links.describe(links.read(tmp_path), "q8s-run link clear")
    assert lines[0].endswith("delay=200ms (was to end at 2026-01-01T00:00:00Z, but its command was killed)")
    assert lines[1] == "hint: `q8s-run link clear` restores the cluster file's links"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edge-1", "delay=1ms"], "must be FROM TO and what happens to packets"),
        (["edge-9", "*", "delay=1ms"], "link set: from: is 'edge-9'; must be node:NAME"),
        (["node:edge-9", "*", "delay=1ms"], "link set: from: is node:edge-9, which matches no node"),
        (["node:edge-9", "*", "delay=1ms"], "hint: nodes: cloud-1, edge-1, edge-control-plane"),
        (["edge-9", "*", "delay=1ms"], "hint: nodes: cloud-1, edge-1, edge-control-plane"),
        (["zone:edge", "*", "delay=1ms"], "hint: zones: cloud-site, edge-site"),
        (["edge-1", "*", "profile=lte"], "hint: did you mean webpagetest-lte?"),
        (["edge-1", "*", "speed=1mbit"], "hint: known here: from, to, profile"),
        (["edge-1", "cloud-1", "duplicate=1%"], "duplicate from edge-1 to cloud-1: Linux allows no other link beside"),
        (["edge-1", "*", "delay=1"], "link set: delay: is '1'; must be a number with us, ms or s"),
        (["edge-1", "*", "dealy=1ms"], "link set: dealy: unknown key"),
        (["edge-1", "*", "delay=1ms", "delay=2ms"], "link set: delay: is given twice, the second time as delay=2ms"),
        (["edge-1", "*", "loss=1%", "loss.p=2%"], "link set: loss: is given twice, the second time as loss.p=2%"),
        (["edge-1", "*", "rate.up=1mbit", "rate=2mbit"], "link set: rate: is given twice"),
        (["edge-1", "*", "loss.model=gilbert-elliott", "loss.p=2%"], "link set: loss.r: "),
        (["edge-1", "*", "delay=1ms", "from=cloud-1"], "link set: from: is given twice"),
        (["edge-1", "*", "delay=1ms", "--for", "soon"], "--for: is soon; allowed is a duration"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(
    words: list[str], message: str, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["link", "set", EXAMPLE, *words]) == ExitCode.WRONG_INPUT
    assert message in capsys.readouterr().err
    assert lab.machines.lines() == []


def test_a_broken_promise_is_a_failure(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", "verify", EXAMPLE]) == ExitCode.FAILED
    assert lab.plays == [{"playbook": "link", "q8s_link_action": "verify", "q8s_link_overrides": []}]
    output = capsys.readouterr().out
    assert "200 ms    212.5 ms  212.1 to 212.9  +12.5   BROKEN" in output


def test_json_is_one_document(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    set_link()
    capsys.readouterr()
    assert cli.main(["link", "show", EXAMPLE, "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert ROW in found["links"]
    assert (found["findings"], found["broken"], found["changed"]) == ([], 0, [LINK])


def test_the_second_word_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", "list"]) == ExitCode.WRONG_INPUT
    assert "allowed are link show, link verify, link set, link clear" in capsys.readouterr().err


def test_verify_measures_the_file_s_links_and_says_what_link_set_has_changed(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    set_link()
    capsys.readouterr()
    assert cli.main(["verify", EXAMPLE, "--skip-links"]) == ExitCode.DONE
    assert lab.plays[-1] == {"playbook": "verify", "q8s_measure_links": False}
    printed = capsys.readouterr()
    assert "link changed by `link set`: node:edge-1 -> zone:cloud-site: delay=200ms" in printed.err
    assert "link clear" in printed.err
