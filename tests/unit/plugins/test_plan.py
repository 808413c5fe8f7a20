"""What has to change in the cloud, from what is wanted and what exists."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _plan, _spec
from ansible_collections.q8s.emu.plugins.module_utils._plan import Findings, Flavor, Rule, Server

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
NAMES = ["demo-control-plane", "demo-x86-small-1", "demo-arm-mid-1"]


def server(name: str, status: str = "ACTIVE", cluster: str | None = "demo", number: str = "") -> Server:
    metadata = {"q8s_cluster": cluster} if cluster else {}
    return Server(f"id-{name}{number}", name, status, ("10.254.1.9",), metadata)


ALL = [server(name) for name in NAMES]


def test_empty_cloud() -> None:
    plan = _plan.plan_servers(CLUSTER, [], present=True)
    assert [spec.name for spec in plan.create] == NAMES
    assert plan.changed
    assert _plan.servers_diff(plan) == {"before": "", "after": "".join(f"{name} ACTIVE\n" for name in sorted(NAMES))}


def test_second_run_changes_nothing() -> None:
    plan = _plan.plan_servers(CLUSTER, ALL, present=True)
    assert not plan.changed
    assert list(plan.keep) == ALL
    diff = _plan.servers_diff(plan)
    assert diff["before"] == diff["after"]


def test_what_is_half_made_is_finished() -> None:
    servers = [server(NAMES[0]), server(NAMES[1], "ERROR"), server(NAMES[2], "SHUTOFF")]
    plan = _plan.plan_servers(CLUSTER, servers, present=True)
    assert [spec.name for spec in plan.create] == [NAMES[1]]
    assert list(plan.delete) == [servers[1]]
    assert list(plan.start) == [servers[2]]


def test_a_server_that_is_being_made_is_waited_for() -> None:
    plan = _plan.plan_servers(CLUSTER, [server(NAMES[0], "BUILD"), *ALL[1:]], present=True)
    assert not plan.changed and len(plan.keep) == 3


def test_of_two_with_one_name_one_goes() -> None:
    plan = _plan.plan_servers(CLUSTER, [*ALL, server(NAMES[2], number="b")], present=True)
    assert [s.id for s in plan.delete] == [f"id-{NAMES[2]}b"]


def test_surplus_stays_and_is_named() -> None:
    extra = server("demo-arm-mid-2")
    plan = _plan.plan_servers(CLUSTER, [*ALL, extra], present=True)
    assert list(plan.surplus) == [extra] and not plan.changed


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([server(NAMES[0], cluster="other")], "belongs to the Q8S cluster other"),
        ([server(NAMES[0], cluster=None), server(NAMES[0], cluster=None, number="b")], "2 servers are called"),
        ([server(NAMES[1], cluster=None)], "exists and is not of the cluster demo"),
        ([server(NAMES[1], "PAUSED")], "is PAUSED; bring it to ACTIVE"),
    ],
)
def test_what_stands_in_the_way(servers: list[Server], expected: str) -> None:
    assert expected in " ".join(_plan.plan_servers(CLUSTER, servers, present=True).problems)


def test_a_foreign_initial_instance_is_used_and_never_removed() -> None:
    foreign = server(NAMES[0], cluster=None)
    plan = _plan.plan_servers(CLUSTER, [foreign], present=True)
    assert plan.foreign == foreign
    assert [spec.name for spec in plan.create] == NAMES[1:]
    assert _plan.plan_servers(CLUSTER, [foreign, *ALL[1:]], present=False).delete == tuple(ALL[1:])


def test_absent_takes_the_clusters_servers_only() -> None:
    others = [server("stranger", cluster=None), server("theirs", cluster="other")]
    plan = _plan.plan_servers(CLUSTER, [*others, *ALL, server("demo-old-1", "ERROR")], present=False)
    assert {s.name for s in plan.delete} == {*NAMES, "demo-old-1"}
    assert not _plan.plan_servers(CLUSTER, others, present=False).changed


def test_rules() -> None:
    wanted = _plan.wanted_rules(CLUSTER)
    assert Rule("tcp", 8099, 8099, "") in wanted
    assert Rule("udp", 30000, 32767, "10.254.1.0/24") in wanted
    assert Rule("icmp", None, None, "10.254.1.0/24") in wanted
    assert str(Rule("tcp", 30000, 32767, "10.254.1.0/24")) == "tcp 30000-32767 from 10.254.1.0/24"
    assert len(wanted) == 17
    fresh = _plan.plan_rules(wanted, None)
    assert fresh.make_group and set(fresh.add) == wanted
    same: dict[str, Rule | str] = {str(n): rule for n, rule in enumerate(wanted)}
    assert not _plan.plan_rules(wanted, same).changed
    changed = {**same, "x": Rule("tcp", 23, 23, "0.0.0.0/0"), "y": "IPv6 tcp from anywhere", "z": same["0"]}
    plan = _plan.plan_rules(wanted, changed)
    assert plan.add == () and set(plan.remove) == {"x", "y", "z"}
    assert "tcp 23 from 0.0.0.0/0" in _plan.rules_diff(wanted, changed)["before"]


GOOD = Findings(
    images=1,
    flavors={"c1.small": Flavor("c1.small", 2, 3072), "c1.medium": Flavor("c1.medium", 2, 4096)},
    networks=1,
    subnets=("10.254.1.0/24",),
    missing_groups=(),
    limits={"instances": 3, "cores": 6, "ram": 11264},
    used={"instances": 0, "cores": 0, "ram": 0},
)


def check(**changes: object) -> list[str]:
    findings = Findings(**{**GOOD.__dict__, **changes})  # type: ignore[arg-type]
    return _plan.preflight_problems(CLUSTER, findings, CLUSTER.servers())


def test_a_cloud_that_just_fits() -> None:
    assert check() == []
    assert check(limits={"instances": -1, "cores": -1, "ram": -1}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": 0}, "there is no image called 'debian-13'"),
        ({"images": 2}, "2 images are called 'debian-13'"),
        ({"networks": 0}, "there is no network or subnet called 'private'"),
        ({"networks": 2}, "2 networks are called 'private'"),
        ({"subnets": ("10.1.0.0/24",)}, "remote_ip_prefix: is 10.254.1.0/24; the network private has 10.1.0.0/24"),
        ({"subnets": ()}, "has no IPv4 subnet"),
        ({"missing_groups": ("web",)}, "there is no group called 'web'"),
        ({"flavors": {"c1.small": Flavor("c1.small", 2, 3072)}}, "no flavor called 'c1.medium'"),
        (
            {"flavors": {**GOOD.flavors, "c1.medium": Flavor("c1.medium", 2, 2048)}},
            "vm_types.types.arm-mid.openstack_flavor: c1.medium has 2048 MB, no more than the 2048 MB of its guest",
        ),
        ({"used": {"instances": 1}}, "quota: 3 servers are needed, 2 of 3 are free"),
        ({"used": {"cores": 9}}, "quota: 6 vCPUs are needed, 0 of 6 are free"),
        ({"used": {"ram": 1}}, "quota: 11264 MB of memory are needed, 11263 of 11264 are free"),
    ],
)
def test_shortfalls(changes: dict[str, object], expected: str) -> None:
    assert any(expected in problem for problem in check(**changes)), check(**changes)


def test_shortfalls_come_together() -> None:
    assert len(check(images=0, networks=0, used={"instances": 3, "cores": 6, "ram": 11264})) == 5
