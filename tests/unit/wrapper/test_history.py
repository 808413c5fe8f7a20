"""Estimates of a run's duration from earlier runs, and their display on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from q8s_wrapper import history, render
from q8s_wrapper.history import Estimate, Run
from q8s_wrapper.run_state import RunningTask, Stage, State

BUILD = "Build node bundles and guest images"
DEPLOYS = [
    Run("deploy", 3, 3, 200.0, {"Check the cloud and the quota": 0.0, "Create servers": 10.0, "Boot guests": 40.0}),
    Run("deploy", 3, 0, 9.0, {"Check the cloud and the quota": 0.0}),
    Run("deploy", 3, 3, 160.0, {"Check the cloud and the quota": 0.0, "Create servers": 6.0, "Boot guests": 25.0}),
    Run("deploy", 3, 3, 170.0, {"Check the cloud and the quota": 0.0, "Create servers": 7.0, "Boot guests": 27.0}),
    Run("deploy", 50, 50, 900.0, {}),
    Run("destroy", 3, 0, 12.0, {}),
]


@pytest.mark.parametrize(
    ("what", "servers", "made", "seconds", "runs"),
    [
        ("deploy", 3, 3, 170.0, 3),  # the one in the middle
        ("deploy", 3, 0, 9.0, 1),  # nothing is made: only like its own
        ("deploy", 6, 6, 170.0, 3),  # twice the size still says something
        ("deploy", 7, 7, None, 0),
        ("deploy", 53, 30, 900.0, 1),
        ("deploy", 50, 3, 170.0, 3),  # what is made counts, not what is there
        ("destroy", 4, 0, 12.0, 1),
        ("verify", 3, 0, None, 0),
    ],
)
def test_estimate(what: str, servers: int, made: int, seconds: float | None, runs: int) -> None:
    found = history.estimate(DEPLOYS, what, servers, made)
    assert (found.seconds, found.runs) == (seconds, runs) if found else seconds is None


def test_no_earlier_runs_give_no_estimate() -> None:
    assert history.estimate([], "deploy", 3, 3) is None


def test_the_newest_of_equal_size_count() -> None:
    runs = [Run("deploy", 3, 3, float(seconds), {}) for seconds in (900, 900, 10, 20, 30)]
    found = history.estimate(runs, "deploy", 3, 3)
    assert found and found.seconds == 20.0


HERE = frozenset({"localhost"})
STAGES = (
    Stage("Check the cloud and the quota", 0.0, 8.0, HERE, "Check the cloud and the quota"),
    Stage("Create servers", 8.0, 30.0, HERE, "Create servers"),
)


def test_what_is_left_follows_the_stages() -> None:
    found = Estimate(170.0, {"Check the cloud and the quota": 0.0, "Create servers": 7.0, "Boot guests": 27.0}, 3)
    assert found.left(State(), 5.0) == 165.0
    # Its last stage began at second 8 here, at second 7 then.
    assert found.left(State(stages=STAGES), 30.0) == 170.0 - 7.0 - 22.0
    late = State(stages=(*STAGES, Stage("Boot guests", 100.0, 110.0), Stage("other", 105.0, 110.0)))
    assert found.left(late, 110.0) == 170.0 - 27.0 - 10.0, "time that was lost before is not waited for again"
    assert found.left(late, 1000.0) == 0.0


def test_a_run_of_a_version_with_other_stages_still_gives_an_estimate() -> None:
    earlier = Run("deploy", 3, 3, 170.0, {"Prepare": 0.0, "Cloud": 7.0, "emulated_worker": 27.0})
    found = history.estimate([earlier], "deploy", 3, 3)
    assert found and found.left(State(stages=STAGES), 30.0) == 140.0


PREPARED = Stage("Check the cloud and the quota", 0.0, 2.0, HERE, "Check the cloud and the quota")
BUILT = (PREPARED, Stage(BUILD, 2.0, 602.0, HERE, BUILD), Stage("Create servers", 602.0, 610.0, HERE, "Create servers"))


def test_the_build_is_not_part_of_what_is_remembered() -> None:
    """It takes minutes or nothing, whatever is deployed."""
    run = history.summarize_run("deploy", 3, 3, State(stages=BUILT, seconds=700.0))
    assert (run.seconds, run.stages) == (100.0, {"Check the cloud and the quota": 0.0, "Create servers": 2.0})


def test_the_build_is_not_part_of_what_is_left() -> None:
    found = Estimate(100.0, {"Check the cloud and the quota": 0.0, "Create servers": 2.0}, 3)
    building = State(
        stages=BUILT[:2], current={"localhost": RunningTask(BUILD, "Prepare node bundles", 2.0)}, play=BUILD
    )
    for now in (3.0, 300.0):
        assert found.left(building, now) == 98.0
        assert Estimate(100.0, {}, 3).left(building, now) == 98.0
    assert found.left(State(stages=BUILT), 610.0) == 100.0 - 2.0 - 8.0
    (*_, last) = render.frame(building, 300.0, 98.0, 80, 24)
    assert last[1] == "5 min 0 s, about 1 min 38 s left after the build"


def test_runs_are_remembered_in_their_clusters(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for number in range(60):
        history.append_run(tmp_path / "one", Run("deploy", 3, 3, float(number), {"Create servers": 1.0}))
    history.append_run(tmp_path / "two", DEPLOYS[0])
    (tmp_path / "two" / "history.jsonl").open("a").write('not JSON\n{"of": "a later version"}\n[]\n')
    runs = history.read(tmp_path)
    assert [run.seconds for run in runs] == [*map(float, range(10, 60)), 200.0]
    assert runs[-1] == DEPLOYS[0]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (161, "2 min 41 s")])
def test_times_in_words(seconds: float, text: str) -> None:
    assert history.format_duration(seconds) == text


def shown(state: State, width: int, height: int, left: float | None = None) -> list[str]:
    return [text for _, text in render.frame(state, 40.0, left, width, height)]


BUSY = State(
    stages=(*STAGES, Stage("Boot guests", 30.0, 39.0, frozenset({"demo-b"}), "Boot guests")),
    play="Boot guests",
    current={
        "demo-a-host-with-a-name-that-is-much-too-long": RunningTask("Boot guests", "Boot the guest", 35.0),
        "demo-b": RunningTask("Boot guests", "Wait until the guest answers, however long that takes it", 30.0, 7),
    },
)


def test_a_terminal_is_never_overrun() -> None:
    hosts = {f"host-{n}": RunningTask("Boot guests", "Boot", 39.0) for n in range(99)}
    many = State(stages=BUSY.stages * 8, current=hosts)
    for width, height in ((80, 24), (160, 50), (40, 10), (20, 5)):
        for state in (State(), BUSY, many):
            lines = shown(state, width, height)
            assert len(lines) < height and max(map(len, lines)) <= width, (width, height, lines)
    assert shown(many, 80, 24)[-3].strip() == "… and 89 hosts more"


def test_what_a_terminal_shows() -> None:
    assert shown(BUSY, 80, 24, 70.0) == [
        "✓ Check the cloud and the quota             8.0 s  1 host",
        "✓ Create servers                           22.0 s  1 host",
        "• Boot guests                              10.0 s  2 hosts",
        "  demo-a-host-with-a-name-t…  Boot the guest                                 5 s",
        "  demo-b                      Wait until the guest answers, however lon…    10 s",
        "",
        "40 s, about 1 min 10 s left",
    ]
    assert shown(State(), 80, 24) == ["", "40 s"]
    assert shown(State(), 80, 24, 0.0)[-1] == "40 s, longer than earlier runs"
