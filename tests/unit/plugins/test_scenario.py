"""The scenario of a cluster file: its schedule, right values, and mistakes with their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _scenario, _spec
from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint
from ansible_collections.q8s.emu.plugins.module_utils._scenario import Churn, Fault, NodeEvent, Scenario

EDGE = Path(__file__).parents[3] / "examples" / "edge.yaml"
TEXT = EDGE.read_text(encoding="utf-8").partition("\nscenario:")[0]
NODES = [Endpoint("cp", control_plane=True), *(Endpoint(f"arm-{n}", "arm", "edge") for n in range(1, 6))]
HOUR = 3_600_000
CHURN = Churn(0, HOUR, "type:arm", mtbf=120_000, mttr=30_000, how=_scenario.CHURN)


def load(events: str, network: str = "") -> _spec.Cluster:
    text = TEXT.partition("\nnetwork:")[0] + f"\n{network}" if network else TEXT
    return _spec.load_text(f"{text}\nscenario:\n  seed: 7\n  events:\n{events}", "c.yaml")


def lines(cluster: _spec.Cluster) -> list[str]:
    faults = _scenario.schedule(cluster.scenario, cluster.endpoints())
    return [f"{action.at / 1000:g} {action.text}" for action in _scenario.actions(faults)]


def test_every_fault_has_its_end() -> None:
    cluster = load(
        "    - {at: 10s, for: 20s, set: {from: zone:edge-site, to: zone:cloud-site, delay: 200ms}}\n"
        "    - {at: 15s, for: 15s, partition: [zone:edge-site, zone:cloud-site]}\n"
        "    - {at: 30s, for: 1min, stop: type:edge}\n"
        "    - {at: 100s, reboot: node:edge-1}\n"
        "    - {at: 100s, for: 10s, cpu: {type: cloud, quota: 12.5%}}\n"
        "    - {from: 2min, to: 2.3min, flap: [zone:edge-site, control-planes], period: 10s}\n"
    )
    assert lines(cluster) == [
        "10 set zone:edge-site -> zone:cloud-site: delay 200 ms",
        "15 partition zone:edge-site <-> zone:cloud-site",
        "30 end of set zone:edge-site -> zone:cloud-site: delay 200 ms",
        "30 end of partition zone:edge-site <-> zone:cloud-site",
        "30 stop edge-1",
        "90 end of stop edge-1",
        "100 reboot edge-1",
        "100 cpu cloud-1: at most 12.5%",
        "110 end of cpu cloud-1: at most 12.5%",
        "120 partition zone:edge-site <-> control-planes",
        "125 end of partition zone:edge-site <-> control-planes",
        "130 partition zone:edge-site <-> control-planes",
        "135 end of partition zone:edge-site <-> control-planes",
    ]


def test_a_partition_applies_before_a_link_that_is_set_later() -> None:
    cluster = load(
        "    - {at: 10s, for: 1h, partition: [zone:edge-site, zone:cloud-site]}\n"
        "    - {at: 20s, for: 1h, set: {from: zone:edge-site, to: zone:cloud-site, delay: 200ms}}\n"
    )
    rules = _scenario.active_rules(_scenario.schedule(cluster.scenario, cluster.endpoints()))
    assert cluster.link_matrix(rules)["edge-1", "cloud-1"] == _scenario.CUT


def test_the_seed_alone_decides_about_churn() -> None:
    first, again, other = (_scenario.schedule(Scenario(seed, (CHURN,)), NODES) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert {fault.node for fault in first} == {f"arm-{n}" for n in range(1, 6)}
    assert {fault.kind for fault in first} == set(_scenario.CHURN)
    assert len(first) > 50
    # The sequence of a seed is a promise: a record of an old experiment can be repeated.
    one = _scenario.schedule(
        Scenario(42, (Churn(0, 300_000, "node:n", 60_000, 20_000, _scenario.CHURN),)), [Endpoint("n")]
    )
    assert [(fault.begin, fault.end, fault.kind) for fault in one] == [
        (8301, 9564, "netdown"),
        (71997, 94577, "pause"),
        (275870, 294184, "netdown"),
    ]


def test_another_node_does_not_change_the_faults_of_the_others() -> None:
    few, many = (_scenario.schedule(Scenario(1, (CHURN,)), nodes) for nodes in (NODES[:3], NODES))
    assert few == [fault for fault in many if fault.node in ("arm-1", "arm-2")]


def test_mtbf_and_mttr_are_means() -> None:
    faults = _scenario.schedule(
        Scenario(3, (Churn(0, 24 * HOUR, "*", 120_000, 30_000, ("pause",)),)), [Endpoint("a"), Endpoint("b")]
    )
    lengths = [fault.end - fault.begin for fault in faults]
    assert sum(lengths) / len(lengths) == pytest.approx(30_000, rel=0.1)
    assert len(faults) == pytest.approx(2 * 24 * HOUR / 150_000, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_a_node_has_one_fault_at_a_time_and_none_after_the_end(seed: int) -> None:
    stop = NodeEvent(600_000, 900_000, "node:arm-1", "stop")
    twice = Churn(0, HOUR, "zone:edge", mtbf=60_000, mttr=60_000, how=("destroy", "netdown"))
    faults = _scenario.schedule(Scenario(seed, (CHURN, stop, twice)), NODES)
    assert _scenario.overlapping(faults) is None
    assert Fault(600_000, 900_000, 1, "stop", "arm-1") in faults
    assert max(fault.end for fault in faults if fault.kind != "reboot") <= HOUR
    assert max(fault.begin for fault in faults) < HOUR


def test_a_completed_scenario_is_read_as_an_equal_one() -> None:
    cluster = load(
        "    - {at: 10s, for: 2.5s, set: {from: '*', to: zone:cloud-site, profile: lte}}\n"
        "    - {at: 15s, for: 10s, partition: [zone:edge-site, zone:cloud-site]}\n"
        "    - {at: 30s, for: 1min, stop: type:edge}\n"
        "    - {at: 100s, reboot: node:edge-1}\n"
        "    - {at: 300s, for: 10s, cpu: {type: cloud, quota: 12.5%}}\n"
        "    - {from: 0s, to: 1h, churn: {zone: cloud-site, mtbf: 20min, mttr: 2min, how: [pause]}}\n"
        "    - {from: 2min, to: 3min, flap: [zone:edge-site, control-planes], period: 10s}\n",
        "network:\n  profiles:\n    lte: {delay: 45ms, rate: {up: 7mbit, down: 30mbit}}\n",
    )
    assert len(cluster.scenario.events) == 7
    assert _spec.load_mapping(json.loads(json.dumps(cluster.to_mapping())), "c.yaml") == cluster


@pytest.mark.parametrize(
    ("event", "path", "words"),
    [
        (
            "at: 1s",
            "",
            "has nothing that happens; must have one of set, partition, flap, churn, stop, start, cpu, reboot",
        ),
        ("at: 1s, ram: {}", ".ram", "unknown key"),
        ("at: 1s, for: 2s, cpu: {type: edge}", ".cpu.quota", "is missing"),
        ("at: 1s, for: 2s, cpu: {quota: 50%}", ".cpu", "has no target; must have one of type, zone and node"),
        ("at: 1s, for: 2s, cpu: {node: cp, quota: 50%}", ".cpu", "node:cp matches no worker of this cluster"),
        (
            "at: 1s, for: 2s, cpu: {type: edge, quota: 0.5%}",
            ".cpu.quota",
            "is '0.5%'; must be a number with %, such as 25%, from 1% to 100%",
        ),
        ("at: 1s, for: 2s, cpu: {type: edge, quota: 150%}", ".cpu.quota", "such as 25%, from 1% to 100%"),
        ("at: 1s, for: 2s, cpu: {type: edge, quota: 0.5}", ".cpu.quota", "is 0.5; must be a number with %"),
        ("at: 1s, cpu: {type: edge, quota: 50%}", ".for", "is missing"),
        ("at: 1s, reboot: '*', stop: '*'", "", "has stop and reboot; must have one of"),
        ("at: 60, reboot: '*'", ".at", "is 60; must be a number with ms, s, min or h"),
        ("at: 25h, reboot: '*'", ".at", "is '25h'; must be a number with ms, s, min or h, such as 90s, at most 24h"),
        ("at: 23h, for: 2h, stop: '*'", "", "ends after 90000s; must end within 24h"),
        ("at: 1s, for: 0s, stop: '*'", ".for", "is 0s; must be longer"),
        ("from: 9s, to: 2s, churn: {type: edge, mtbf: 1s, mttr: 1s}", ".to", "is 2s; must be after from, 9s"),
        ("at: 1s, stop: '*'", ".stop", "cloud-1 is stopped at the scenario's end; must have for, or a later start"),
        ("at: 1s, start: '*'", ".start", "cloud-1 is not stopped at 1s; must be, by a stop without for"),
        ("at: 1s, for: 1s, start: '*'", ".for", "does not go with start"),
        ("at: 1s, for: 2s, partition: ['*', '*', '*']", ".partition", "is a list of 3; must be a list of two groups"),
        ("at: 1s, for: 2s, reboot: '*'", ".for", "does not go with reboot"),
        ("at: 1s, reboot: node:edge-2", ".reboot", "node:edge-2 matches no worker of this cluster"),
        ("at: 1s, reboot: control-planes", ".reboot", "control-planes matches no worker of this cluster"),
        ("at: 1s, for: 2s, partition: ['*']", ".partition", "must be a list of two groups of nodes"),
        ("at: 1s, for: 2s, partition: ['*', zone:x]", ".partition[1]", "is zone:x, which matches no node"),
        ("at: 1s, for: 2s, partition: ['*', zone:x]", ".partition[1]", "zones: cloud-site, edge-site"),
        ("at: 1s, for: 2s, partition: [control-planes, control-planes]", ".partition", "only edge-control-plane"),
        ("at: 1s, for: 2s, set: {from: node:x, to: '*', delay: 1ms}", ".set.from", "nodes: cloud-1, edge-1, edge-c"),
        ("at: 1s, for: 2s, set: {from: '*', to: '*', dealy: 1ms}", ".set.dealy", "unknown key"),
        ("at: 1s, for: 2s, set: {from: '*', to: '*', profile: lte}", ".set.profile", "lte is not in network.profiles"),
        ("at: 1s, for: 2s, set: {from: '*', to: '*', duplicate: 1%}", ".set.duplicate", "is 1% beside another link"),
        ("from: 1s, to: 9s, period: 1s, flap: ['*', '*']", ".period", "is 1s; must be at least 4s"),
        ("from: 0s, to: 9s, churn: {mtbf: 1s, mttr: 1s}", ".churn", "has no target; must have one of type, zone"),
        ("from: 0s, to: 9s, churn: {type: edge, mtbf: 1s}", ".churn.mttr", "is missing"),
        ("from: 0s, to: 9s, churn: {type: edge, mtbf: 0s, mttr: 1s}", ".churn.mtbf", "is 0s; must be at least 1s"),
        ("from: 0s, to: 9s, churn: {type: edge, mtbf: 1s, mttr: 1s, how: [burn]}", ".churn.how[0]", "is 'burn'"),
    ],
)
def test_a_mistake_is_an_error_with_its_place(event: str, path: str, words: str) -> None:
    with pytest.raises(_spec.SpecError) as caught:
        load(f"    - {{{event}}}\n")
    assert f"scenario.events[0]{path}" in [problem.path for problem in caught.value.problems]
    assert words in str(caught.value)


def test_one_mistake_is_one_error() -> None:
    for event in (
        "from: 0s, to: 9s, churn: {type: edge, mtbf: 1s, mttr: 1s, how: [burn]}",
        "at: 1s, ram: {}",
        "at: 1s, for: 2s, set: {from: '*', to: '*', profile: lte, jitter: 1ms}",
    ):
        with pytest.raises(_spec.SpecError) as caught:
            load(f"    - {{{event}}}\n")
        assert len(caught.value.problems) == 1


def test_a_node_is_stopped_until_it_is_started_or_the_scenario_ends() -> None:
    cluster = load(
        "    - {at: 10s, stop: '*'}\n"
        "    - {at: 40s, start: node:edge-1}\n"
        "    - {at: 50s, stop: node:edge-1}\n"
        "    - {at: 60s, start: node:edge-1}\n"
        "    - {at: 70s, for: 20s, cpu: {type: edge, quota: 50%}}\n"
    )
    assert lines(cluster) == [
        "10 stop cloud-1",
        "10 stop edge-1",
        "40 end of stop edge-1",
        "50 stop edge-1",
        "60 end of stop edge-1",
        "70 cpu edge-1: at most 50%",
        "90 end of stop cloud-1",
        "90 end of cpu edge-1: at most 50%",
    ]
    assert _spec.load_mapping(json.loads(json.dumps(cluster.to_mapping())), "c.yaml") == cluster


def test_two_faults_of_a_node_at_once_are_refused() -> None:
    with pytest.raises(_spec.SpecError, match=r"reboot edge-1 begins at 50s, while stop edge-1 of events\[0\] lasts"):
        load("    - {at: 40s, for: 20s, stop: node:edge-1}\n    - {at: 50s, reboot: type:edge}\n")


def test_a_partition_needs_ssh_to_be_exempt() -> None:
    event = "    - {at: 1s, for: 2s, partition: [zone:edge-site, zone:cloud-site]}\n"
    with pytest.raises(_spec.SpecError, match=r"needs ssh in network\.exempt"):
        load(event, "network:\n  exempt: [apiserver]\n")
