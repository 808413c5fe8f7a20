"""What pings measured is compared with what was promised."""

from __future__ import annotations

import math
import random
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _links_measure, _links_series, _links_tc, _links_verify
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment, Loss
from ansible_collections.q8s.emu.plugins.module_utils._links_measure import Probe

ADDRESSES = {"initial": "10.254.1.2", "cloud-1": "10.254.1.3", "edge-1": "10.254.1.4"}
GUESTS = frozenset({"cloud-1", "edge-1"})


def probe(**impairment: Any) -> Probe:
    return Probe("edge-1", "cloud-1", Impairment(**impairment), "edge-1", "10.254.1.3", _links_tc.REQUEST)


def series(kind: str, times: list[float | None]) -> str:
    """What the shell command prints of one series. None is a ping without a reply."""
    lines = [
        f"icmp_seq={number + 1} ttl=63 time={time:.4g} ms" for number, time in enumerate(times) if time is not None
    ]
    return "\n".join([f"# 0 {kind}", *lines, ""])


def around(shortest: float, count: int = 60, noise: float = 0.4) -> list[float | None]:
    """Round trips to which a machine adds something."""
    random_noise = random.Random(shortest)
    return [shortest + random_noise.expovariate(1 / noise) for _ in range(count)]


def both(link: float) -> str:
    return series("free", around(3)) + series("link", around(link))


def netem(passed: int, dropped: int) -> str:
    return (
        "qdisc netem 8003: parent 1:103 limit 1000 delay 40ms loss 1%\n"
        f" Sent {passed * 98} bytes {passed} pkt (dropped {dropped}, overlimits 0 requeues 0) \n"
        " backlog 0b 0p requeues 0\n"
    )


def many(sent: int, answered: int, dropped: int | None = None, twice: int = 0) -> str:
    """What is printed of a series of many. netem had passed 900 and dropped 70 packets before."""
    before, after = ("", "") if dropped is None else (netem(900, 70), netem(900 + sent - dropped, 70 + dropped))
    duplicates = f", +{twice} duplicates" if twice else ""
    pings = f"{sent} packets transmitted, {answered} received{duplicates}, 1% packet loss, time 3990ms\n"
    return f"# 0 many\n{before}{pings}{after}"


def load(mbit: float, tokens: int = -2000, stalled: int = 0, read: int = 4000, seconds: float = 4.0) -> str:
    """What is printed of a series of load: counters every 80 ms, each read within some µs."""
    lines = ["# 0 load"]
    for step in range(int(seconds / 0.08)):
        at = 1_795_853_448_000_000 + step * 80_000
        sent = int(mbit * (step * 80_000 + read / 2) / 8)
        lines += [
            f"at {at} {at + read}",
            f"class htb 1:103 root leaf 8003: prio 0 rate {mbit}Mbit ceil {mbit}Mbit burst 3028b cburst 3028b ",
            f" Sent {sent} bytes {sent // 1414} pkt (dropped 0, overlimits 71 requeues 0) ",
            " backlog 22624b 16p requeues 0",
            " lended: 443 borrowed: 0 giants: 0",
            f" tokens: {tokens} ctokens: {tokens}",
            "",
        ]
    return "\n".join([*lines, f"stalled {stalled} 4000000", ""])


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
    found = finding(probe(delay=40_000), both(43), "delay")
    assert found.kept
    assert found.measured == pytest.approx(40, abs=0.1)
    assert found.low is not None and found.high is not None and found.low <= 40 <= found.high
    assert "path's own 3.0 ms" in found.note


@pytest.mark.parametrize("shaped", [3, 38, 46])
def test_another_delay_is_a_broken_promise(shaped: float) -> None:
    assert finding(probe(delay=40_000), both(shaped), "delay").kept is False


def test_a_node_that_does_not_answer_is_a_broken_promise_that_names_both() -> None:
    found = finding(probe(delay=40_000), series("free", [None] * 40) + series("link", [None] * 40), "delay")
    assert found.kept is False
    assert found.note == "cloud-1 does not answer edge-1"


def test_a_guest_that_did_not_measure_breaks_its_promises() -> None:
    assert [f.kept for f in _links_verify.findings([probe(delay=1000, loss=Loss(1))], "")] == [False, False]


def test_what_a_guest_had_no_time_for_is_not_judged() -> None:
    first = probe(delay=40_000, loss=Loss(1))
    found = _links_verify.findings([first, probe(delay=1000)], both(43))
    assert [(f.what, f.kept) for f in found] == [("delay", True), ("loss", None), ("delay", None)]
    assert found[-1].note == "no time was left"


NOISES: dict[str, Callable[[random.Random], float]] = {
    "idle": lambda source: source.expovariate(5),
    "20 ms, often little": lambda source: source.expovariate(1 / 20),
    "10 ms, seldom little": lambda source: source.gammavariate(2, 5),
    "15 ms, hardly ever little": lambda source: source.gammavariate(3, 5),
    "a few very long": lambda source: 10 * math.exp(source.gauss(0, 1)),
    "nine of ten wait": lambda source: source.expovariate(3) + (source.random() < 0.9) * source.expovariate(1 / 30),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [40, 100])
def test_a_busy_machine_breaks_no_promise(noise: str, count: int) -> None:
    source = random.Random(20)
    kept = []
    for _ in range(200):
        free = [3 + NOISES["idle" if source.random() < 0.3 else noise](source) for _ in range(count)]
        link = [23 + NOISES[noise](source) for _ in range(count)]
        text = series("free", list(free)) + series("link", list(link))
        kept.append(finding(probe(delay=20_000), text, "delay").kept)
    assert kept.count(False) == 0
    if noise == "idle":
        assert kept.count(True) == 200


def test_a_missing_delay_is_found_on_a_busy_machine() -> None:
    source = random.Random(4)
    times = [[3 + NOISES["20 ms, often little"](source) for _ in range(100)] for _ in range(2)]
    text = series("free", list(times[0])) + series("link", list(times[1]))
    assert finding(probe(delay=40_000), text, "delay").kept is False


def test_pings_that_differ_by_more_than_they_are_off_are_not_judged() -> None:
    text = series("free", around(3)) + series("link", around(44, noise=30))
    found = finding(probe(delay=40_000), text, "delay")
    assert found.kept is None
    assert found.note.startswith("the pings differ too much to tell")


@pytest.mark.parametrize(("deviation", "kept"), [(5, True), (1, False), (20, False)])
def test_jitter_is_the_standard_deviation(deviation: float, kept: bool) -> None:
    source = random.Random(5)
    text = series("free", around(3)) + series("link", [63 + source.gauss(0, deviation) for _ in range(100)])
    one = probe(delay=60_000, jitter=5000)
    assert finding(one, text, "jitter").kept is kept
    assert finding(one, text, "jitter").measured == pytest.approx(deviation, rel=0.4)
    assert finding(probe(delay=60_000, jitter=5000, distribution="pareto"), text, "jitter").kept is None


def test_jitter_below_that_of_the_path_is_not_judged() -> None:
    text = series("free", around(3, noise=20)) + series("link", around(63, noise=20))
    assert finding(probe(delay=60_000, jitter=5000), text, "jitter").kept is None


@pytest.mark.parametrize(("lost", "kept"), [(4, True), (0, True), (40, False)])
def test_loss_is_kept_inside_its_interval(lost: int, kept: bool) -> None:
    found = finding(probe(loss=Loss(1)), both(3) + many(400, 400 - lost), "loss")
    assert found.kept is kept
    assert found.measured == pytest.approx(lost / 4)


def test_loss_is_what_netem_dropped_meanwhile() -> None:
    found = finding(probe(loss=Loss(1)), both(3) + many(2000, 1975, dropped=21), "loss")
    assert found.kept is True
    assert found.measured == pytest.approx(1.05)
    assert found.note == "21 of 2000 packets, 25 of 2000 pings"


def test_loss_besides_that_of_netem_is_not_blamed_on_the_link() -> None:
    found = finding(probe(loss=Loss(1)), both(3) + many(2000, 1500, dropped=21), "loss")
    assert found.kept is None
    assert found.note == "packets are lost elsewhere, too, or held back: 21 of 2000 packets, 500 of 2000 pings"


def test_no_loss_where_half_is_promised_is_broken() -> None:
    assert finding(probe(loss=Loss(50)), both(3) + many(400, 400, dropped=0), "loss").kept is False


def test_everything_lost_as_promised_says_nothing_of_the_delay() -> None:
    text = series("free", around(3)) + series("link", [None] * 60) + many(400, 0, dropped=400)
    one = probe(delay=40_000, loss=Loss(100))
    assert finding(one, text, "delay").kept is None
    assert finding(one, text, "loss").kept is True


@pytest.mark.parametrize(("twice", "kept"), [(52, True), (0, False), (200, False)])
def test_duplicates_are_replies_that_come_twice(twice: int, kept: bool) -> None:
    found = finding(probe(duplicate=5), both(3) + many(1000, 1000, twice=twice), "duplicate")
    assert found.kept is kept
    assert found.measured == pytest.approx(twice / 10)


@pytest.mark.parametrize(("answered", "kept"), [(940, True), (990, False), (700, False)])
def test_corrupted_pings_are_those_that_neither_netem_drops_nor_the_other_node_answers(
    answered: int, kept: bool
) -> None:
    one = probe(corrupt=5, loss=Loss(1))
    found = _links_verify.findings([one], both(3) + many(1000, answered, dropped=10))
    assert [f.kept for f in found if f.what == "corrupt"] == [kept]


def test_reordered_pings_are_those_without_the_delay() -> None:
    times = [time if number % 4 else 3.1 for number, time in enumerate(around(43, 100))]
    one, text = probe(delay=40_000, reorder=25), series("free", around(3)) + series("link", times)
    assert (finding(one, text, "reorder").kept, finding(one, text, "reorder").measured) == (True, 25)
    assert finding(one, text, "delay").kept is True
    assert finding(probe(delay=40_000, reorder=25), both(43), "reorder").kept is False


@pytest.mark.parametrize(("sent", "kept"), [(5.05, True), (4.95, True), (5.2, False), (4.8, False)])
def test_the_rate_is_what_the_class_sends_while_packets_wait(sent: float, kept: bool) -> None:
    found = finding(probe(rate=5_000_000), both(3) + load(sent), "rate")
    assert found.kept is kept
    assert found.measured == pytest.approx(sent, rel=0.002)
    assert found.low is not None and found.high is not None and found.low <= sent <= found.high


def test_a_sender_that_does_not_fill_the_rate_is_not_judged() -> None:
    found = finding(probe(rate=100_000_000), both(3) + load(23, tokens=18866), "rate")
    assert (found.kept, found.note) == (None, "the guest did not fill the rate: it sent 23 Mbit/s")


def test_a_guest_that_stands_still_breaks_no_promise() -> None:
    found = finding(probe(rate=5_000_000), both(3) + load(4, stalled=1_200_000), "rate")
    assert found.kept is None
    assert found.note.startswith("the guest stood still for 30% of the time: too much to tell")


def test_counters_that_take_long_to_read_break_no_promise() -> None:
    assert finding(probe(rate=5_000_000), both(3) + load(5.2, read=70_000, seconds=1), "rate").kept is None


def test_a_reply_that_comes_twice_counts_once() -> None:
    text = series("link", around(3, 10)) + "icmp_seq=1 ttl=63 time=3.1 ms (DUP!)\n"
    assert len(_links_series.read_pings(text).times) == 10


def everything(count: int) -> list[Probe]:
    """Probes of a guest that has a link of each kind with every other node."""
    link = Impairment(80_000, 5000, rate=20_000_000, loss=Loss(0.5), duplicate=1, corrupt=1, reorder=1)
    return [
        Probe("edge-1", f"node-{number}", link, "edge-1", f"10.254.1.{number + 10}", _links_tc.REQUEST)
        for number in range(count)
    ]


def test_a_guest_of_fifty_nodes_measures_in_three_minutes() -> None:
    assert _links_measure.seconds(everything(49)) < 170
    assert _links_measure.seconds(everything(1)) < 30


def test_series_run_side_by_side_within_bounds() -> None:
    for step in _links_measure.steps(everything(49)):
        assert len(step.commands) <= (1 if step.kinds == "load" else 8)
    slow = [replace(one, link=Impairment(rate=1_000_000)) for one in everything(49)]
    assert max(len(step.commands) for step in _links_measure.steps(slow)) == 8
    assert _links_measure.seconds(slow) < 80


def test_a_rarer_loss_is_looked_for_longer() -> None:
    def count(percent: float) -> int:
        step = _links_measure.steps([probe(loss=Loss(percent))])[-1]
        return int(step.commands[0].split()[4])

    assert count(20) == 400
    assert count(1) == 2000
    assert 4000 < count(0.1) < 20000


def test_each_guest_begins_with_another_node() -> None:
    first = [next(iter(_links_measure.steps(everything(49), turn)[0].commands)) for turn in range(49)]
    assert sorted(first) == list(range(49))


def test_the_command_is_a_program_of_bash_with_an_end() -> None:
    command = _links_measure.shell_command(everything(3))
    assert command.startswith("timeout ")
    assert not re.search(r"\{[{%#]", command)  # nothing that Ansible would take for a template
    script = shlex.split(command)[4]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    counted = [line for line in script.splitlines() if line.startswith(("pair", "many", "load"))]
    assert [line.split()[0] for line in counted if " & " in line] == ["pair", "many", "load", "load", "load"]


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


def test_a_link_to_a_node_without_a_server_is_not_broken() -> None:
    matrix = {("edge-1", "gone-1"): probe(delay=40_000).link, ("gone-1", "edge-1"): probe(delay=40_000).link}
    guests = GUESTS | {"gone-1"}
    in_force: dict[str, Any] = {"edge-1": {"outgoing": {}, "incoming": {}}}
    states = {pair: state for pair, (_, state) in _links_verify.states(matrix, guests, ADDRESSES, in_force).items()}
    assert states["edge-1", "gone-1"] == "not shaped: gone-1 has no server"
    assert states["gone-1", "edge-1"] == "unknown: gone-1 did not answer"
