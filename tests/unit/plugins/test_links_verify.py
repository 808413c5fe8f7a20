"""What pings measured is compared with what was promised."""

from __future__ import annotations

import random
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _links_tc, _links_verify
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment, Loss
from ansible_collections.q8s.emu.plugins.module_utils._links_verify import Probe

ADDRESSES = {"initial": "10.254.1.2", "cloud-1": "10.254.1.3", "edge-1": "10.254.1.4"}
GUESTS = frozenset({"cloud-1", "edge-1"})


def probe(**impairment: Any) -> Probe:
    return Probe("edge-1", "cloud-1", Impairment(**impairment), "edge-1", "10.254.1.3", _links_tc.REQUEST)


def series(kind: str, times: list[float | None], start: float = 1000.0, step: float = 0.05) -> str:
    """What the shell command prints of one series. None is a ping without a reply."""
    lines = [
        f"[{start + number * step + time / 1000:.6f}] 64 bytes from 10.254.1.3: "
        f"icmp_seq={number + 1} ttl=63 time={time:.3g} ms"
        for number, time in enumerate(times)
        if time is not None
    ]
    answered = sum(time is not None for time in times)
    lines.append(f"{len(times)} packets transmitted, {answered} received, 0% packet loss, time 1950ms")
    return "\n".join([f"# 0 {kind}", *lines, ""])


def around(middle: float, count: int = 40) -> list[float | None]:
    noise = random.Random(1)
    return [middle + noise.uniform(-0.4, 0.4) for _ in range(count)]


def finding(one: Probe, text: str, what: str) -> _links_verify.Finding:
    return next(f for f in _links_verify.findings([one], text) if f.what == what)


def test_each_direction_is_measured_by_a_guest_that_shapes_it() -> None:
    link = Impairment(delay=1000)
    matrix = {("edge-1", "initial"): link, ("initial", "edge-1"): link, ("initial", "initial-2"): link}
    found = _links_verify.probes(matrix, GUESTS, ADDRESSES)
    assert [(p.guest, p.address, p.service) for p in found] == [
        ("edge-1", "10.254.1.2", _links_tc.REQUEST),
        ("edge-1", "10.254.1.2", _links_tc.REPLY),
    ]


def test_the_path_that_is_not_shaped_is_subtracted() -> None:
    text = series("free", around(3)) + series("link", around(43))
    found = finding(probe(delay=40_000), text, "delay")
    assert found.kept
    assert found.measured == pytest.approx(40, abs=0.3)
    assert "path's own 3." in found.note or "path's own 2.9" in found.note


@pytest.mark.parametrize("shaped", [3, 38, 46])
def test_another_delay_is_a_broken_promise(shaped: float) -> None:
    text = series("free", around(3)) + series("link", around(shaped))
    assert finding(probe(delay=40_000), text, "delay").kept is False


def test_a_node_that_does_not_answer_is_a_broken_promise_that_names_both() -> None:
    found = finding(probe(delay=40_000), series("free", [None] * 40) + series("link", [None] * 40), "delay")
    assert found.kept is False
    assert found.note == "cloud-1 does not answer edge-1"


def test_a_guest_that_did_not_measure_breaks_its_promises() -> None:
    assert [f.kept for f in _links_verify.findings([probe(delay=1000, loss=Loss(1))], "")] == [False, False]


@pytest.mark.parametrize(("lost", "kept"), [(4, True), (0, True), (40, False)])
def test_loss_is_kept_inside_its_interval(lost: int, kept: bool) -> None:
    times: list[float | None] = [*around(43, 400 - lost), *([None] * lost)]
    text = series("free", around(3)) + series("link", times)
    found = finding(probe(delay=40_000, loss=Loss(1)), text, "loss")
    assert found.kept is kept
    assert found.measured == pytest.approx(lost / 4)


def test_no_loss_where_half_is_promised_is_broken() -> None:
    text = series("free", around(3)) + series("link", around(3, 400))
    assert finding(probe(loss=Loss(50)), text, "loss").kept is False


def test_everything_lost_as_promised_says_nothing_of_the_delay() -> None:
    text = series("free", around(3)) + series("link", [None] * 400)
    one = probe(delay=40_000, loss=Loss(100))
    assert finding(one, text, "delay").kept is None
    assert finding(one, text, "loss").kept is True


def burst(kind: str, mbit: float, count: int = 60) -> str:
    step = 1414 * 8 / mbit / 1e6
    return series(kind, [5.0] * count, step=step)


@pytest.mark.parametrize(("arrived", "kept"), [(5.1, True), (6, False), (4, False)])
def test_the_rate_is_that_of_arrivals(arrived: float, kept: bool) -> None:
    text = series("free", around(3)) + series("link", around(3)) + burst("able", 80) + burst("rate", arrived) * 3
    found = finding(probe(rate=5_000_000), text, "rate")
    assert found.kept is kept
    assert found.measured == pytest.approx(arrived, rel=0.01)


def test_bursts_on_a_busy_machine_are_not_judged() -> None:
    bursts = burst("rate", 3) + burst("rate", 4) + burst("rate", 6)
    found = finding(probe(rate=5_000_000), series("free", around(3)) + series("link", around(3)) + bursts, "rate")
    assert found.kept is None
    assert found.note == "the bursts differ too much to tell"


def test_pings_that_differ_by_more_than_they_are_off_are_not_judged() -> None:
    noise = random.Random(2)
    wild: list[float | None] = [44 + noise.uniform(-30, 30) for _ in range(40)]
    found = finding(probe(delay=40_000), series("free", around(3)) + series("link", wild), "delay")
    assert found.kept is None
    assert found.note.startswith("the pings differ too much to tell")


def test_a_path_that_is_slower_than_the_rate_is_not_judged() -> None:
    text = series("free", around(3)) + series("link", around(3)) + burst("able", 60) + burst("rate", 55) * 3
    found = finding(probe(rate=100_000_000), text, "rate")
    assert found.kept is None
    assert "carries 60.0 Mbit/s" in found.note


def test_a_duplicate_is_not_counted_as_a_reply() -> None:
    text = series("link", around(3, 10)) + "[1.0] 64 bytes from 10.254.1.3: icmp_seq=1 ttl=63 time=3.1 ms (DUP!)\n"
    pings = _links_verify.read_pings(text)[0, "link"][0]
    assert (pings.answered, pings.sent, len(pings.times)) == (10, 10, 10)


def test_the_command_sends_pings_of_both_kinds_at_the_same_time() -> None:
    command = _links_verify.shell_command([probe(delay=1000), probe(rate=5_000_000, loss=Loss(1))])
    assert command.count("-Q 0xfc") == 3
    assert command.count("-Q 0xec") == 5
    assert "&;" not in command


def test_states_name_what_is_not_in_force() -> None:
    link, other = Impairment(delay=1000), Impairment(delay=2000)
    matrix = {
        ("edge-1", "cloud-1"): link,
        ("cloud-1", "edge-1"): link,
        ("initial", "edge-1"): link,
        ("initial", "initial-2"): link,
    }
    in_force = {"edge-1": {"outgoing": {"10.254.1.3": other, "10.254.1.2": link}, "incoming": {"10.254.1.2": link}}}
    states = {pair: state for pair, (_, state) in _links_verify.states(matrix, GUESTS, ADDRESSES, in_force).items()}
    assert states == {
        ("edge-1", "cloud-1"): "not in force: delay 2 ms is",
        ("cloud-1", "edge-1"): "unknown: cloud-1 did not answer",
        ("initial", "edge-1"): "in force",
        ("initial", "initial-2"): "not shaped: control planes run on the cloud's servers",
        ("edge-1", "initial"): "not in force: delay 1 ms is",
    }
