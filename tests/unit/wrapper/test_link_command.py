"""The commands ``link ...``: what reaches the playbook, what is recorded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import cli, runner, state
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import links
from q8s_wrapper.run_state import State
from q8s_wrapper.runner import Outcome

EXAMPLE = str(Path(__file__).parents[3] / "examples/edge.yaml")
LINK = {"from": "node:edge-1", "to": "zone:cloud-site", "delay": "200ms"}
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


class Plays:
    """Stands in for Ansible: what it was called with, and what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[dict[str, Any]] = []
        self.recorded: list[list[dict[str, Any]]] = []  # while the playbook ran
        self.codes: list[ExitCode] = []
        self.report: dict[str, Any] = {"links": [ROW], "findings": [], "broken": 0}

    def __call__(self, playbook: str, *_: object, arguments: list[str], **__: object) -> Outcome:
        self.calls.append({"playbook": playbook, **json.loads(arguments[arguments.index("-e") + 1])})
        self.recorded.append(links.overrides(links.read(self.folder)))
        code = self.codes.pop(0) if self.codes else ExitCode.DONE
        return Outcome(State(finished=True, results={"q8s_link_report": self.report}), code, self.folder / "log")


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plays:
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(state, "cluster_folder", lambda *_, **__: tmp_path)
    found = Plays(tmp_path)
    monkeypatch.setattr(runner, "run", found)
    return found


def set_link(*others: str) -> int:
    return cli.main(["link", "set", EXAMPLE, "edge-1", "zone:cloud-site", "delay=200ms", *others])


def test_a_change_is_recorded_and_shown_by_the_next_command(
    plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set_link() == ExitCode.DONE
    assert plays.calls == [{"playbook": "link", "q8s_link_action": "apply", "q8s_link_overrides": [LINK]}]
    assert links.read(tmp_path) == [LINK]
    capsys.readouterr()
    assert cli.main(["link", "show", EXAMPLE]) == ExitCode.DONE
    output = capsys.readouterr().out
    assert "edge-1  cloud-1  delay 200 ms  in force" in output
    assert "link changed by `link set`: node:edge-1 -> zone:cloud-site: delay=200ms" in output
    assert plays.calls[1]["q8s_link_overrides"] == [LINK]


def test_a_change_of_the_same_link_takes_the_place_of_the_earlier_one(plays: Plays, tmp_path: Path) -> None:
    set_link()
    assert set_link("loss=1%") == ExitCode.DONE
    assert links.read(tmp_path) == [{**LINK, "loss": "1%"}]


def test_clear_restores_the_file_s_links(plays: Plays, tmp_path: Path) -> None:
    set_link()
    assert cli.main(["link", "clear", EXAMPLE]) == ExitCode.DONE
    assert plays.calls[1]["q8s_link_overrides"] == []
    assert links.read(tmp_path) == []


def test_a_change_for_a_time_is_taken_back(plays: Plays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    assert set_link("--for", "2min") == ExitCode.DONE
    assert slept == [120]
    assert [call["q8s_link_overrides"] for call in plays.calls] == [[LINK], []]
    assert links.read(tmp_path) == []


def test_ctrl_c_takes_it_back_at_once(plays: Plays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert set_link("--for", "1h") == ExitCode.DONE
    assert plays.calls[-1]["q8s_link_overrides"] == []
    assert links.read(tmp_path) == []


def test_a_run_that_fails_leaves_a_record(plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plays.codes = [ExitCode.FAILED]
    assert set_link() == ExitCode.FAILED
    assert plays.recorded == [[LINK]], "before it began"
    assert links.read(tmp_path) == [LINK]


def test_the_command_to_type_again_is_complete(plays: Plays, capsys: pytest.CaptureFixture[str]) -> None:
    plays.codes = [ExitCode.FAILED]
    assert set_link("--for", "2min") == ExitCode.FAILED
    assert f"link set {EXAMPLE} edge-1 zone:cloud-site delay=200ms --for 2min" in capsys.readouterr().err


def test_a_profile_of_the_file_is_known(plays: Plays, tmp_path: Path) -> None:
    text = Path(EXAMPLE).read_text().replace("network:\n", "network:\n  profiles: {slow: {delay: 90ms}}\n")
    file = tmp_path / "edge.yaml"
    file.write_text(text)
    assert cli.main(["link", "set", str(file), "edge-1", "cloud-1", "profile=slow"]) == ExitCode.DONE
    assert plays.calls[0]["q8s_link_overrides"] == [{"from": "node:edge-1", "to": "node:cloud-1", "profile": "slow"}]


def test_fields_of_a_mapping_have_a_dot(plays: Plays, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rate.up=5mbit", "rate.down=20mbit", "loss.model=gilbert-elliott", "loss.p=2%", "loss.r=25%"]
    assert cli.main(["link", "set", EXAMPLE, "edge-1", "cloud-1", *words]) == ExitCode.DONE
    (link,) = plays.calls[0]["q8s_link_overrides"]
    assert link["rate"] == {"up": "5mbit", "down": "20mbit"}
    assert link["loss"] == {"model": "gilbert-elliott", "p": "2%", "r": "25%"}
    assert f"node:edge-1 -> node:cloud-1: {' '.join(words)}" in capsys.readouterr().out


def test_duplicates_are_allowed_where_an_earlier_change_has_removed_the_other_links(plays: Plays) -> None:
    for words in (["edge-1", "*", "delay=0ms"], ["*", "edge-1", "delay=0ms"], ["edge-1", "cloud-1", "duplicate=10%"]):
        assert cli.main(["link", "set", EXAMPLE, *words]) == ExitCode.DONE
    assert len(plays.calls[-1]["q8s_link_overrides"]) == 3


def test_duplicates_beside_a_link_that_was_changed_before_are_refused(
    plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(Path(EXAMPLE).read_text().partition("\nnetwork:")[0])
    assert cli.main(["link", "set", str(file), "edge-1", "cloud-1", "duplicate=1%"]) == ExitCode.DONE
    assert cli.main(["link", "set", str(file), "edge-1", "edge-control-plane", "delay=1ms"]) == ExitCode.WRONG_INPUT
    assert "Linux allows no other link beside it" in capsys.readouterr().err
    assert len(plays.calls) == 1
    links.write(tmp_path, [])
    file.write_text(
        f"{file.read_text()}\nnetwork:\n  links: [{{from: node:edge-1, to: node:cloud-1, duplicate: 1%}}]\n"
    )
    assert cli.main(["link", "set", str(file), "edge-1", "edge-control-plane", "delay=1ms"]) == ExitCode.WRONG_INPUT
    assert len(plays.calls) == 1


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
    words: list[str], message: str, plays: Plays, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["link", "set", EXAMPLE, *words]) == ExitCode.WRONG_INPUT
    assert message in capsys.readouterr().err
    assert plays.calls == []


def test_a_broken_promise_is_a_failure(plays: Plays, capsys: pytest.CaptureFixture[str]) -> None:
    plays.report = {"links": [ROW], "findings": [FINDING], "broken": 1}
    assert cli.main(["link", "verify", EXAMPLE]) == ExitCode.FAILED
    assert plays.calls[0]["q8s_link_action"] == "verify"
    output = capsys.readouterr().out
    assert "200 ms    212.5 ms  212.1 to 212.9  +12.5   BROKEN" in output


def test_json_is_one_document(plays: Plays, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", "show", EXAMPLE, "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == {**plays.report, "changed": []}


def test_the_second_word_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", "list"]) == ExitCode.WRONG_INPUT
    assert "allowed are link show, link verify, link set, link clear" in capsys.readouterr().err


def test_verify_measures_the_file_s_links_and_says_what_link_set_has_changed(
    plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_link()
    capsys.readouterr()
    assert cli.main(["verify", EXAMPLE, "--skip-links"]) == ExitCode.DONE
    assert plays.calls[-1] == {"playbook": "verify", "q8s_measure_links": False}
    printed = capsys.readouterr()
    assert "link changed by `link set`: node:edge-1 -> zone:cloud-site: delay=200ms" in printed.err
    assert "link clear" in printed.err
