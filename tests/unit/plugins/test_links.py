"""Rules become one impairment for each direction, and commands of tc for each node."""

from __future__ import annotations

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _links, _links_tc
from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint, Impairment, Loss, Rule

MS, MBIT = 1_000, 1_000_000
CONTROL = Endpoint("initial", control_plane=True)
ARM = [Endpoint(f"arm-{number}", "arm", "edge") for number in (1, 2)]
CLOUD = Endpoint("x86-1", "x86", "cloud")
ALL = [CONTROL, *ARM, CLOUD]


def delay(milliseconds: int) -> Impairment:
    return Impairment(delay=milliseconds * MS)


@pytest.mark.parametrize(
    ("text", "value"), [("45ms", 45_000), ("0.5ms", 500), ("2s", 2_000_000), ("250us", 250), ("0ms", 0)]
)
def test_a_delay_is_read_in_microseconds(text: str, value: int) -> None:
    assert _links.parse_delay(text) == value


@pytest.mark.parametrize("text", ["45", "45 ms", "-1ms", "61s", "ms", "1e3ms"])
def test_a_delay_without_a_unit_or_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 45ms, at most 60s"):
        _links.parse_delay(text)


@pytest.mark.parametrize(
    ("text", "value"), [("8kbit", 8_000), ("7.5mbit", 7_500_000), ("1gbit", 1_000_000_000), ("100gbit", 10**11)]
)
def test_a_rate_is_read_in_bits_per_second(text: str, value: int) -> None:
    assert _links.parse_rate(text) == value


@pytest.mark.parametrize("text", ["0mbit", "30", "30MB", "101gbit", "1kbit"])
def test_a_rate_of_another_unit_or_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="from 8kbit to 100gbit"):
        _links.parse_rate(text)


def test_a_share_is_read_in_percent() -> None:
    assert _links.parse_percent("0.1%") == 0.1
    for text in ("0.1", "101%", "-1%"):
        with pytest.raises(ValueError, match="at most 100%"):
            _links.parse_percent(text)
    assert _links.parse_percent("0.000001%", least=_links.SMALLEST_PERCENT) > 0
    for text, least in (("0.5%", 1), ("0%", _links.SMALLEST_PERCENT)):
        with pytest.raises(ValueError, match="at least"):
            _links.parse_percent(text, least)


@pytest.mark.parametrize("text", ["node:", "zones:edge", "arm", ""])
def test_a_selector_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"node:NAME, type:NAME, zone:NAME, control-planes or \*"):
        _links.check_selector(text)


def test_a_rule_applies_in_its_direction_only() -> None:
    matrix = _links.link_matrix(ALL, [Rule("zone:edge", "zone:cloud", delay(45))])
    assert matrix == {("arm-1", "x86-1"): delay(45), ("arm-2", "x86-1"): delay(45)}


def test_a_symmetric_rule_applies_in_both() -> None:
    matrix = _links.link_matrix(ALL, [Rule("control-planes", "type:x86", delay(5), symmetric=True)])
    assert matrix == {("initial", "x86-1"): delay(5), ("x86-1", "initial"): delay(5)}


def test_rates_of_both_directions_come_with_the_rest_of_the_rule() -> None:
    rule = Rule("node:arm-1", "node:x86-1", Impairment(delay=MS, rate=7 * MBIT), reverse_rate=30 * MBIT)
    assert _links.link_matrix(ALL, [rule]) == {
        ("arm-1", "x86-1"): Impairment(delay=MS, rate=7 * MBIT),
        ("x86-1", "arm-1"): Impairment(delay=MS, rate=30 * MBIT),
    }


def test_a_node_has_no_link_with_itself() -> None:
    matrix = _links.link_matrix(ALL, [Rule("type:arm", "type:arm", delay(5))])
    assert set(matrix) == {("arm-1", "arm-2"), ("arm-2", "arm-1")}


def test_the_most_specific_rule_applies_as_a_whole_wherever_it_stands() -> None:
    rules = [
        Rule("node:arm-1", "*", Impairment(rate=2 * MBIT)),
        Rule("type:arm", "type:x86", delay(5)),
        Rule("zone:edge", "zone:cloud", delay(45)),
    ]
    matrix = _links.link_matrix(ALL, rules, default=delay(1))
    assert matrix["arm-1", "x86-1"] == Impairment(rate=2 * MBIT)
    assert matrix["arm-2", "x86-1"] == delay(5)
    assert matrix["arm-2", "initial"] == delay(1)


def test_of_equally_specific_rules_the_last_applies() -> None:
    rules = [Rule("type:arm", "type:x86", delay(5)), Rule("type:arm", "type:x86", delay(9))]
    assert _links.link_matrix(ALL, rules)["arm-1", "x86-1"] == delay(9)


def test_a_rule_can_free_a_direction_of_the_default() -> None:
    matrix = _links.link_matrix([*ARM], [Rule("node:arm-1", "node:arm-2", Impairment())], default=delay(3))
    assert matrix == {("arm-2", "arm-1"): delay(3)}


def test_rules_that_match_no_pair_are_found() -> None:
    rules = [
        Rule("zone:edge", "*", delay(1)),
        Rule("type:risc", "*", delay(1)),
        Rule("node:arm-1", "node:arm-1", delay(1)),
    ]
    assert _links.unmatched_rules(ALL, rules) == [1, 2]


def test_a_queue_holds_what_is_under_way() -> None:
    assert _links_tc.queue_limit(delay(1)) == 1000
    # 100 Mbit/s x (200 ms + 200 ms) / 8 / 1514 bytes: netem's default of 1000 would lose packets
    assert _links_tc.queue_limit(Impairment(delay=200 * MS, rate=100 * MBIT)) == 3303
    assert _links_tc.queue_limit(delay(300)) == 24769
    assert _links_tc.queue_limit(Impairment(rate=MBIT // 2)) == 50
    assert _links_tc.queue_limit(Impairment(delay=60_000 * MS, rate=100_000 * MBIT)) == _links_tc.MAX_QUEUE
    assert _links_tc.rate_of_queue(Impairment(delay=60_000 * MS, rate=20 * MBIT)) == 0


def test_each_link_has_a_class_a_netem_and_a_filter() -> None:
    links = {"10.254.1.4": Impairment(delay=45 * MS, jitter=5 * MS, rate=7 * MBIT, loss=Loss(0.1))}
    assert _links_tc.setup_batch("ens3", links, "dst_ip", ["ssh"]).splitlines() == [
        "qdisc replace dev ens3 root handle 1: htb default ffff",
        "class replace dev ens3 parent 1: classid 1:ffff htb rate 100000000000bit "
        "burst 500000 cburst 500000 quantum 1514",
        "filter replace dev ens3 parent 1: protocol ip prio 1 handle 1 flower ip_proto tcp src_port 22 classid 1:ffff",
        "filter replace dev ens3 parent 1: protocol ip prio 2 handle 1 flower ip_proto tcp dst_port 22 classid 1:ffff",
        "filter replace dev ens3 parent 1: protocol ip prio 90 handle 1 "
        "flower ip_proto icmp ip_tos 0xfc classid 1:ffff",
        "filter replace dev ens3 parent 1: protocol ip prio 91 handle 1 "
        "flower ip_proto icmp type 0 ip_tos 0xec classid 1:ffff",
        "filter replace dev ens3 parent 1: protocol ip prio 92 handle 1 "
        "flower ip_proto icmp type 8 ip_tos 0xdc classid 1:ffff",
        "class replace dev ens3 parent 1: classid 1:104 htb rate 7000000bit burst 3500 cburst 3500 quantum 1514",
        "qdisc replace dev ens3 parent 1:104 netem limit 151 delay 45000us 5000us distribution normal "
        "loss 0.1% duplicate 0% corrupt 0% reorder 0%",
        "filter replace dev ens3 parent 1: protocol ip prio 100 handle 0x104 flower dst_ip 10.254.1.4 classid 1:104",
    ]


def test_bursts_of_losses_are_gilbert_elliott() -> None:
    batch = _links_tc.setup_batch("ens3", {"10.254.1.4": Impairment(loss=Loss(1, 30))}, "dst_ip")
    assert "delay 0us loss gemodel 1% 30% duplicate" in batch


def test_a_change_touches_only_the_links_that_differ() -> None:
    before = {"10.254.1.3": delay(1), "10.254.1.4": delay(1), "10.254.1.5": delay(1)}
    after = {"10.254.1.3": delay(1), "10.254.1.4": delay(2)}
    assert _links_tc.update_batch("ens3", before, before, "dst_ip") == ""
    lines = _links_tc.update_batch("ens3", before, after, "dst_ip").splitlines()
    assert [line.split(" dev ")[0] for line in lines] == ["class replace", "qdisc replace", "filter del", "class del"]
    assert "1:104 netem" in lines[1]
    assert "delay 2000us" in lines[1]
    assert lines[3].endswith("classid 1:105")


def test_what_arrives_is_redirected_for_the_named_sources_only() -> None:
    assert _links_tc.redirect_batch("ens3", "ifb0", [], ["10.254.1.2"]).splitlines() == [
        "qdisc replace dev ens3 clsact",
        "filter replace dev ens3 ingress protocol ip prio 1 handle 0x102 flower src_ip 10.254.1.2 "
        "action mirred egress redirect dev ifb0",
    ]


def test_duplicates_beside_another_link_of_the_interface_are_found() -> None:
    one = {("arm-1", "x86-1"): Impairment(duplicate=1), ("initial", "arm-1"): delay(1)}
    assert _links.duplicate_conflict(ALL, one) is None
    assert _links.duplicate_conflict(ALL, {**one, ("arm-1", "arm-2"): delay(1)}) == ("arm-1", "x86-1")


def test_an_override_applies_whatever_the_rules_are() -> None:
    rules = [Rule("node:arm-1", "node:x86-1", delay(5))]
    matrix = _links.link_matrix(ALL, rules, overrides=[Rule("*", "zone:cloud", delay(9))])
    assert matrix["arm-1", "x86-1"] == delay(9)


def test_commands_grow_with_the_number_of_nodes() -> None:
    links = {f"10.254.1.{number}": delay(number) for number in range(3, 253)}
    assert len(_links_tc.setup_batch("ens3", links, "dst_ip").splitlines()) == 2 + 3 + 3 * 250
