"""The plan: changes in the cloud, computed from desired and current state, and checks of the quota."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud_objects,
    _fit,
    _plan,
    _plan_access,
    _plan_servers,
    _spec,
)
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import (
    FloatingIp,
    Group,
    GroupRule,
    Port,
    Rule,
    Server,
    ServerGroup,
)
from ansible_collections.q8s.emu.plugins.module_utils._fit import Findings, Flavor, Image, Network, Subnet, Usage
from ansible_collections.q8s.emu.plugins.module_utils._plan import Change, Plan
from ansible_collections.q8s.emu.plugins.module_utils._plan_servers import Existing

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
NAMES = ["demo-control-plane", "demo-x86-small-1", "demo-arm-mid-1"]


def server(name: str, status: str = "ACTIVE", cluster: str | None = "demo", number: str = "", **more: Any) -> Server:
    metadata = {"q8s_cluster": cluster} if cluster else {}
    return Server(f"id-{name}{number}", name, status, ("10.254.1.9",), metadata, **more)


def counted(**workers: int) -> _spec.Cluster:
    """The demo with other numbers of workers."""
    return replace(CLUSTER, workers=tuple((name.replace("_", "-"), count) for name, count in workers.items()))


def having(servers: Sequence[Server], ports: Sequence[Port] = (), **more: Any) -> Existing:
    return Existing(servers, ports, **more)


def told(plan: Plan) -> list[str]:
    return [str(change) for change in plan.changes]


ALL = [server(name) for name in NAMES]


def test_empty_cloud() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([]))
    assert told(plan) == [f"create server {name}" for name in NAMES]
    assert plan.changed
    after = "".join(f"server {name} ACTIVE\n" for name in sorted(NAMES))
    assert plan.diff() == {"before": "", "after": after}


def test_second_run_changes_nothing() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having(ALL))
    assert not plan.changed and len(plan.kept) == 3
    assert plan.diff()["before"] == plan.diff()["after"]


def test_hosts_that_are_numbered_from_1_are_asked_for_in_one_call() -> None:
    specs = replace(counted(x86_small=3, arm_mid=1), number_additional_master_nodes=2).servers()
    control = ["demo-control-plane", "demo-control-plane-2", "demo-control-plane-3"]

    def asked(*left_out: str) -> list[str]:
        return [str(request) for request in _plan_servers.requests(spec for spec in specs if spec.name not in left_out)]

    servers = [f"server {name}" for name in control]
    assert asked() == [*servers, "3 servers, demo-x86-small-1 to demo-x86-small-3", "server demo-arm-mid-1"]
    assert [request.name for request in _plan_servers.requests(specs)] == [*control, "demo-x86-small", "demo-arm-mid-1"]
    # Nova numbers from 1: what is missing elsewhere is asked for alone
    assert asked(*control, "demo-x86-small-1") == [
        f"server demo-{n}" for n in ("x86-small-2", "x86-small-3", "arm-mid-1")
    ]
    assert asked(*control, "demo-x86-small-2") == [
        f"server demo-{n}" for n in ("x86-small-3", "x86-small-1", "arm-mid-1")
    ]
    assert asked(*control, "demo-x86-small-3", "demo-arm-mid-1") == ["2 servers, demo-x86-small-1 to demo-x86-small-2"]


def test_what_is_left_of_a_call_is_asked_for_alone() -> None:
    (*_, request) = _plan_servers.requests(counted(x86_small=3).servers())
    assert request.without({"demo-control-plane"}) == [request]
    left = request.without({"demo-x86-small-2"})
    assert [(part.name, len(part.specs)) for part in left] == [("demo-x86-small-1", 1), ("demo-x86-small-3", 1)]
    assert request.without({spec.name for spec in request.specs}) == []


@pytest.mark.parametrize(
    "broken",
    [
        server(NAMES[1], "ERROR"),
        server(NAMES[1], "BUILD", age=601),
        server(NAMES[1], "ACTIVE", deleting=True),
    ],
)
def test_what_is_half_made_is_finished(broken: Server) -> None:
    servers = [server(NAMES[0]), broken, server(NAMES[2], "SHUTOFF")]
    plan = _plan_servers.plan_servers(CLUSTER, having(servers))
    assert told(plan) == [f"start server {NAMES[2]}", f"replace server {NAMES[1]}"]
    assert plan.of("server", "replace")[0].subject.old is broken
    assert plan.changes[1].before == f"server {NAMES[1]} {'deleting' if broken.deleting else broken.status}"


def test_a_server_that_is_being_made_is_waited_for() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([server(NAMES[0], "BUILD", age=599), *ALL[1:]]))
    assert not plan.changed and [spec.name for spec in plan.wanted] == NAMES


def test_of_two_with_one_name_one_goes() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([*ALL, server(NAMES[2], number="b")]))
    assert [(str(c), c.subject.id) for c in plan.changes] == [(f"delete server {NAMES[2]}", f"id-{NAMES[2]}b")]
    plan = _plan_servers.plan_servers(CLUSTER, having([server(NAMES[2], "ERROR", number="b"), *ALL]))
    assert [c.subject.id for c in plan.changes] == [f"id-{NAMES[2]}b"], "the broken one, whatever comes first"


CONTROL, *WORKERS = ALL
SECOND = replace(server("demo-control-plane-2"), metadata={"q8s_cluster": "demo", "q8s_role": "control_plane"})
DELETED = f"was deleted (its id was id-{NAMES[0]})"


@pytest.mark.parametrize(
    ("servers", "recorded", "state", "advice"),
    [
        (WORKERS, True, DELETED, f"deletes all servers of the cluster ({NAMES[1]}, {NAMES[2]})"),
        ([*WORKERS, SECOND], True, DELETED, "A copy of etcd is on demo-control-plane-2: save from there"),
        (
            [server(NAMES[0], "ERROR", fault="libvirt is down"), *WORKERS],
            True,
            "is ERROR (libvirt is down)",
            f"openstack server reboot --hard id-{NAMES[0]} first",
        ),
        ([server(NAMES[0], "ERROR"), *WORKERS], False, "is ERROR", f"({NAMES[0]}, {NAMES[1]}, {NAMES[2]})"),
        ([server(NAMES[0], "ERROR")], True, "is ERROR", f"deletes all servers of the cluster ({NAMES[0]})"),
        ([server(NAMES[0], "ERROR"), *WORKERS, server(NAMES[0], number="b")], True, "is ERROR", ""),
        ([server(NAMES[0], "BUILD", age=601), *WORKERS], True, "is BUILD", ""),
        ([server(NAMES[0], deleting=True), *WORKERS], True, "is being deleted", ""),
        # a server of the same name that somebody else created
        ([server(NAMES[0], cluster=None, number="b"), *WORKERS], True, f"is another one, id-{NAMES[0]}b", ""),
    ],
)
def test_the_clusters_data_is_not_lost_without_a_yes(
    servers: list[Server], recorded: bool, state: str, advice: str
) -> None:
    existing = having(servers, etcd_server=f"id-{NAMES[0]}" if recorded else "")
    plan = _plan_servers.plan_servers(CLUSTER, existing)
    (problem,) = plan.problems
    assert "Everything that was created in Kubernetes is lost" in problem and state in problem
    assert advice in problem and "q8s-run deploy FILE --replace-control-plane" in problem
    agreed = _plan_servers.plan_servers(CLUSTER, existing, replace_control_plane=True)
    assert not agreed.problems and "is lost" in agreed.notes[0]
    # none of the old servers can join the new control plane
    foreign = any(not _cloud_objects.is_ours(one, "demo") for one in servers)
    assert {change.name for change in agreed.of("server", "create", "replace")} == {*NAMES[foreign:]}
    gone = [change.subject.old for change in agreed.of("server", "replace")] + [
        c.subject for c in agreed.of("server", "delete")
    ]
    mine = [one for one in servers if _cloud_objects.is_ours(one, "demo") and one is not SECOND]
    assert sorted(one.id for one in gone) == sorted(one.id for one in mine)


TRIO = replace(CLUSTER, number_additional_master_nodes=2)
THIRD = replace(SECOND, name="demo-control-plane-3", id="id-demo-control-plane-3")


def test_a_deleted_control_plane_joins_those_that_survived() -> None:
    existing = having([*WORKERS, SECOND, THIRD], etcd_server=f"id-{NAMES[0]}")
    assert _plan_servers.plan_servers(TRIO, existing).problems, "nobody has seen that they have the cluster's data"
    plan = _plan_servers.plan_servers(TRIO, existing, survivors=[THIRD.name, SECOND.name])
    assert not plan.problems and told(plan) == [f"create server {NAMES[0]}"]
    assert plan.notes == (
        f"the control plane {NAMES[0]} was deleted: a new one joins {THIRD.name}, which has the cluster's CA and etcd",
    )
    # What an interrupted run leaves: the record names the survivor, and the new server may be there.
    for servers in ([*WORKERS, SECOND, THIRD], [*ALL, SECOND, THIRD]):
        later = having(servers, etcd_server=THIRD.id)
        assert _plan_servers.surviving_holder(TRIO, later) == THIRD
        assert not _plan_servers.plan_servers(TRIO, later).problems


def test_a_control_plane_that_runs_or_may_come_back_has_no_stand_in() -> None:
    for status in ("ACTIVE", "SHUTOFF", "ERROR"):
        existing = having([server(NAMES[0], status), *WORKERS, SECOND, THIRD], etcd_server=f"id-{NAMES[0]}")
        assert _plan_servers.surviving_holder(TRIO, existing, [SECOND.name]) is None
    (problem,) = _plan_servers.plan_servers(TRIO, existing, survivors=[SECOND.name]).problems
    assert f"openstack server delete id-{NAMES[0]}" in problem and f"deploy joins a new {NAMES[0]}" in problem


def test_a_stand_in_in_error_is_not_replaced() -> None:
    existing = having([*ALL, replace(SECOND, status="ERROR"), THIRD], etcd_server=SECOND.id)
    (problem,) = _plan_servers.plan_servers(TRIO, existing, survivors=[THIRD.name]).problems
    assert f"the server {SECOND.name}, which has the cluster's CA and etcd, is ERROR" in problem


@pytest.mark.parametrize(
    ("servers", "recorded", "action"),
    [
        (WORKERS, "", "create"),  # an interrupted first run
        ([], f"id-{NAMES[0]}", "create"),  # all of the cluster was deleted
        ([server(NAMES[0], "ERROR", launched=False), *WORKERS], "", "replace"),  # it never ran
        ([server(NAMES[0], deleting=True)], f"id-{NAMES[0]}", "replace"),
        ([server(name, "ERROR", launched=False) for name in NAMES], f"id-{NAMES[0]}-old", "replace"),
    ],
)
def test_a_control_plane_without_data_is_created(servers: list[Server], recorded: str, action: str) -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having(servers, etcd_server=recorded))
    assert not plan.problems and f"{action} server {NAMES[0]}" in told(plan)


def test_nothing_is_replaced_while_the_control_plane_runs() -> None:
    existing = having(ALL, etcd_server=f"id-{NAMES[0]}")
    assert not _plan_servers.plan_servers(CLUSTER, existing, replace_control_plane=True).changed


def test_which_server_has_the_data_is_a_tag_beside_others() -> None:
    tags = _cloud_objects.record_etcd_server(("own", "q8s-etcd:old"), "new")
    assert tags == ("own", "q8s-etcd:new") and _cloud_objects.etcd_server(tags) == "new"
    assert _cloud_objects.record_etcd_server(tags, "") == ("own",) and _cloud_objects.etcd_server(("own",)) == ""
    claimed, _others = _cloud_objects.claim(tags, "me", 1000)
    assert _cloud_objects.etcd_server(claimed) == "new"


def test_nodes_that_are_to_be_replaced_are_planned_as_such() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having(ALL), replace_nodes=["arm-mid-1"])
    assert told(plan) == [f"replace server {NAMES[2]}"]


def test_surplus_stays_and_is_named() -> None:
    extra = server("demo-arm-mid-2")
    plan = _plan_servers.plan_servers(CLUSTER, having([*ALL, extra]))
    assert not plan.changed and "no longer asks for the server demo-arm-mid-2; it stays" in plan.notes[0]
    plan = _plan_servers.plan_servers(CLUSTER, having([*ALL, extra]), remove_surplus=True)
    assert told(plan) == ["delete server demo-arm-mid-2"] and plan.notes == ()


def test_another_flavor_stays_and_is_named() -> None:
    first, second, third = (spec.flavor for spec in CLUSTER.servers())
    there = [server(NAMES[0], flavor="big"), server(NAMES[1], flavor="big"), server(NAMES[2], flavor=third)]
    plan = _plan_servers.plan_servers(CLUSTER, having(there))
    assert not plan.changed
    assert plan.notes == (
        f"the server {NAMES[0]} has the flavor big, not {first}; it stays",
        f"the server {NAMES[1]} has the flavor big, not {second}; it stays"
        " (`q8s-run replace FILE x86-small-1` creates it again)",
    )
    ids = {first: "big", second: "big"}
    plan = _plan_servers.plan_servers(CLUSTER, having([*there[:2], ALL[2]], flavors=ids))
    assert plan.notes == (), "the file may give a flavor's id"


@pytest.mark.parametrize(
    ("before", "after", "gone", "coming"),
    [
        ({"x86_small": 3, "arm_mid": 2}, {"x86_small": 1, "arm_mid": 2}, ["x86-small-2", "x86-small-3"], []),
        ({"x86_small": 1, "arm_mid": 2}, {"x86_small": 3, "arm_mid": 2}, [], ["x86-small-2", "x86-small-3"]),
        ({"x86_small": 2, "arm_mid": 2}, {"x86_small": 0, "arm_mid": 3}, ["x86-small-1", "x86-small-2"], ["arm-mid-3"]),
    ],
)
def test_a_count_touches_no_other_node(
    before: dict[str, int], after: dict[str, int], gone: list[str], coming: list[str]
) -> None:
    there = [server(spec.name) for spec in counted(**before).servers()]
    plan = _plan_servers.plan_servers(counted(**after), having(there), remove_surplus=True)
    assert told(plan) == [f"delete server demo-{name}" for name in gone] + [
        f"create server demo-{name}" for name in coming
    ]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([server(NAMES[0], cluster="other")], "belongs to the Q8S cluster other"),
        ([server(NAMES[0], cluster=None), server(NAMES[0], cluster=None, number="b")], "2 servers are called"),
        ([server(NAMES[1], cluster=None)], "exists and does not belong to the cluster demo"),
        ([server(NAMES[1], "PAUSED")], "is PAUSED; bring it to ACTIVE"),
    ],
)
def test_what_stands_in_the_way(servers: list[Server], expected: str) -> None:
    assert expected in " ".join(_plan_servers.plan_servers(CLUSTER, having(servers)).problems)


def test_a_foreign_initial_instance_is_used_and_never_removed() -> None:
    foreign = server(NAMES[0], cluster=None)
    plan = _plan_servers.plan_servers(CLUSTER, having([foreign]))
    assert told(plan) == [f"create server {name}" for name in NAMES[1:]]
    assert NAMES[0] not in {spec.name for spec in plan.wanted}
    absent = _plan_servers.plan_servers_absent(CLUSTER, having([foreign, *ALL[1:]]))
    assert told(absent) == [f"delete server {name}" for name in NAMES[1:]]


def test_a_foreign_initial_instance_that_is_off_is_started() -> None:
    foreign = server(NAMES[0], "SHUTOFF", cluster=None)
    plan = _plan_servers.plan_servers(CLUSTER, having([foreign, *ALL[1:]]))
    assert told(plan) == [f"start server {NAMES[0]}"] and plan.problems == ()
    assert plan.diff() == {
        "before": "".join(f"server {name} {'SHUTOFF' if name == NAMES[0] else 'ACTIVE'}\n" for name in sorted(NAMES)),
        "after": "".join(f"server {name} ACTIVE\n" for name in sorted(NAMES)),
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"status": "ERROR", "fault": "No valid host"},
            "is ERROR (No valid host); bring it to ACTIVE first (openstack server reboot",
        ),
        ({"status": "PAUSED"}, "is PAUSED; bring it to ACTIVE first (openstack server unpause id-demo-control-plane)"),
        ({"status": "SUSPENDED"}, "(openstack server resume id-demo-control-plane)"),
        ({"status": "SHELVED_OFFLOADED"}, "(openstack server unshelve id-demo-control-plane)"),
        ({"status": "UNKNOWN"}, "is UNKNOWN; bring it to ACTIVE first"),
        ({"deleting": True}, "is being deleted; wait until it is gone"),
        (
            {"addresses": ("192.168.1.5", "172.20.0.9")},
            "has no address in remote_ip_prefix 10.254.1.0/24 (it has 192.168.1.5, 172.20.0.9)",
        ),
        ({"addresses": ()}, "(it has no IPv4 address)"),
        ({"status": "SHUTOFF", "addresses": ("192.168.1.5",)}, "(it has 192.168.1.5)"),
    ],
)
def test_a_foreign_initial_instance_that_cannot_be_used(changes: dict[str, Any], expected: str) -> None:
    foreign = replace(server(NAMES[0], cluster=None), **changes)
    (problem,) = _plan_servers.plan_servers(CLUSTER, having([foreign, *ALL[1:]])).problems
    assert problem.startswith(f"the initial instance {NAMES[0]}, which Q8S did not create, ") and expected in problem


@pytest.mark.parametrize("status", ["ACTIVE", "BUILD", "REBOOT"])
def test_a_foreign_initial_instance_that_comes_up_is_waited_for(status: str) -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([server(NAMES[0], status, cluster=None), *ALL[1:]]))
    assert not plan.changed and plan.problems == ()


def test_absent_takes_the_clusters_servers_only() -> None:
    others = [server("stranger", cluster=None), server("theirs", cluster="other")]
    plan = _plan_servers.plan_servers_absent(
        CLUSTER, having([*others, *ALL, server("demo-old-1", "ERROR")], [Port("p", NAMES[0])])
    )
    assert set(told(plan)) == {*(f"delete server {n}" for n in (*NAMES, "demo-old-1")), f"delete port {NAMES[0]}"}
    assert not _plan_servers.plan_servers_absent(CLUSTER, having(others)).changed


def test_ports_come_before_their_servers_and_are_used_again() -> None:
    ports = [
        Port("p0", NAMES[0], ALL[0].id, ours=True),
        Port("p1", NAMES[1], ours=True),  # of a run that was killed before it made the server
        Port("p2", "demo-old-1", ours=True),
        Port("p3", NAMES[1], ours=True),
    ]
    plan = _plan_servers.plan_servers(CLUSTER, having(ALL[:1], ports), own_ports=True)
    assert told(plan) == [
        "delete port demo-old-1",
        f"delete port {NAMES[1]}",
        f"create port {NAMES[2]}",
        f"create server {NAMES[1]}",
        f"create server {NAMES[2]}",
    ]
    assert [change.subject.id for change in plan.of("port", "delete")] == ["p2", "p3"]
    assert f"port {NAMES[0]}" in plan.kept and f"port {NAMES[1]}" in plan.kept


def test_an_initial_instance_of_others_needs_no_port() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([server(NAMES[0], cluster=None)]), own_ports=True)
    assert [change.name for change in plan.of("port")] == NAMES[1:]


KEY, OTHER = "ssh-ed25519 AAAAone", "ssh-ed25519 AAAAtwo"
MARKED = f"{KEY} Q8S cluster demo"


@pytest.mark.parametrize(
    ("existing", "wanted", "changes"),
    [
        (None, f"{KEY} me@here", ["create key pair q8s-demo"]),
        (MARKED, f"{KEY} me@here", []),
        (f"{KEY} somebody", KEY, []),
        (MARKED, None, ["delete key pair q8s-demo"]),
        (None, None, []),
        (f"{KEY} somebody", None, []),
        (KEY, None, []),
        (f"{KEY} Q8S cluster demo2", None, []),
    ],
)
def test_key_pair(existing: str | None, wanted: str | None, changes: list[str]) -> None:
    plan = _plan_access.plan_keypair("demo", existing, wanted)
    assert told(plan) == changes and plan.problems == ()
    if existing and wanted is None and not changes:
        assert "does not belong to this cluster" in plan.notes[0]


def test_a_key_carries_the_clusters_name() -> None:
    (change,) = _plan_access.plan_keypair("demo", None, f"{KEY} me@here\n").changes
    assert change.subject == MARKED
    assert (change.before, change.after) == ("", f"key pair q8s-demo {KEY}")


@pytest.mark.parametrize(("existing", "who"), [(MARKED, "was deployed with another key"), (f"{KEY} x", "someone else")])
def test_another_key_is_never_replaced(existing: str, who: str) -> None:
    plan = _plan_access.plan_keypair("demo", existing, OTHER)
    assert not plan.changed
    assert "another key under the name q8s-demo" in plan.problems[0] and who in plan.problems[0]


def held(rules: Sequence[Rule | str], ours: bool = True) -> Group:
    return Group("g", tuple(GroupRule(f"r{number}", rule, ours) for number, rule in enumerate(rules)))


INSIDE = Rule("", None, None, "")
LISTED = replace(CLUSTER, inside="listed")


def test_rules() -> None:
    wanted = _plan_access.wanted_rules(CLUSTER)
    assert [rule for rule in wanted if not rule.source] == [INSIDE]
    assert str(INSIDE) == "any protocol from the group itself"
    assert Rule("udp", 30000, 32767, "10.254.1.0/24") in wanted
    assert Rule("icmp", None, None, "10.254.1.0/24") in wanted
    assert str(Rule("tcp", 30000, 32767, "10.254.1.0/24")) == "tcp 30000-32767 from 10.254.1.0/24"
    assert len(wanted) == 14
    fresh = _plan_access.plan_group(CLUSTER, None, [], [])
    assert told(fresh)[0] == "create security group q8s-cluster"
    assert {change.subject for change in fresh.of("rule", "create")} == wanted
    for ours in (True, False):
        same = _plan_access.plan_group(CLUSTER, held(sorted(wanted, key=str), ours), [], [])
        assert not same.changed and same.notes == () and same.diff()["before"] == same.diff()["after"]


@pytest.mark.parametrize("cluster", [CLUSTER, LISTED])
def test_etcd_and_vxlan_are_closed_to_the_rest_of_the_prefix(cluster: _spec.Cluster) -> None:
    assert {2379, 2380} < set(cluster.required_tcp_ports) and 8472 in cluster.required_udp_ports
    outside = {(rule.protocol, rule.port_min) for rule in _plan_access.wanted_rules(cluster) if rule.source}
    assert {("tcp", 22), ("tcp", 2222), ("tcp", 6443), ("tcp", 10250), ("tcp", 30000), ("icmp", None)} < outside
    assert not outside & {("tcp", 2379), ("tcp", 2380), ("udp", 8472), ("", None)}


@pytest.mark.parametrize(
    ("low", "high", "tcp", "udp"),
    [
        (30000, 32767, [(30000, 32767)], [(30000, 32767)]),
        (2000, 9000, [(2000, 2378), (2381, 9000)], [(2000, 8471), (8473, 9000)]),
        (2379, 2380, [], [(2379, 2380)]),
        (2380, 8472, [(2381, 8472)], [(2380, 8471)]),
    ],
)
def test_a_range_of_nodeports_leaves_etcd_and_vxlan_out(
    low: int, high: int, tcp: list[tuple[int, int]], udp: list[tuple[int, int]]
) -> None:
    cluster = replace(CLUSTER, required_tcp_ports=(), required_udp_ports=())
    wanted = _plan_access.wanted_rules(replace(cluster, worker_port_range_min=low, worker_port_range_max=high))
    for protocol, expected in (("tcp", tcp), ("udp", udp)):
        found = [(rule.port_min, rule.port_max) for rule in sorted(wanted, key=str) if rule.protocol == protocol]
        assert sorted(found, key=str) == sorted(expected, key=str)


def test_listed_gives_members_the_ports_of_the_file_only() -> None:
    inside = {rule for rule in _plan_access.wanted_rules(LISTED) if not rule.source}
    ports = (("tcp", 2379), ("tcp", 2380), ("tcp", 8099), ("udp", 8472))
    assert inside == {Rule(protocol, port, port, "") for protocol, port in ports}
    assert _plan_access.wanted_rules(LISTED) - inside == _plan_access.wanted_rules(CLUSTER) - {INSIDE}
    fewer = _plan_access.wanted_rules(replace(LISTED, required_tcp_ports=(22,), required_udp_ports=()))
    assert {rule for rule in fewer if not rule.source} == {Rule("tcp", 8099, 8099, "")}


def test_a_cluster_with_the_rules_of_an_older_release_is_never_without_rules() -> None:
    """The rule for members, and members that are not in the group yet, come before the rules that go."""
    source = CLUSTER.remote_ip_prefix
    older = [rule for rule in _plan_access.wanted_rules(LISTED) if rule.source or rule.port_min == 8099]
    older += [Rule("tcp", 2379, 2379, source), Rule("tcp", 2380, 2380, source), Rule("udp", 8472, 8472, source)]
    plan = _plan_access.plan_group(CLUSTER, held(older), ALL[:1], [Port("p0", "a", ALL[0].id, ())])
    assert told(plan) == [
        "create rule any protocol from the group itself",
        f"create member {NAMES[0]}",
        "delete rule tcp 8099 from the group itself",
        f"delete rule tcp 2379 from {source}",
        f"delete rule tcp 2380 from {source}",
        f"delete rule udp 8472 from {source}",
    ]
    before, after = plan.diff()["before"].splitlines(), plan.diff()["after"].splitlines()
    assert set(after) - set(before) == {"rule any protocol from the group itself", f"member {NAMES[0]}"}
    assert _fit.needed_quota([plan], {})["security_group_rules"] == 1, "they are created while the old ones are there"
    back = _plan_access.plan_group(LISTED, held(sorted(_plan_access.wanted_rules(CLUSTER), key=str)), [], [])
    assert [change.action for change in back.changes] == ["create"] * 4 + ["delete"]
    assert back.changes[-1].name == "any protocol from the group itself"


def test_an_initial_instance_whose_port_is_not_seen_is_named() -> None:
    group = held(sorted(_plan_access.wanted_rules(CLUSTER), key=str))
    plan = _plan_access.plan_group(CLUSTER, group, [server(NAMES[0], cluster=None)], [])
    assert not plan.changed
    assert plan.notes[0].startswith(f"the initial instance {NAMES[0]} is no member of q8s-cluster")
    assert _plan_access.plan_group(CLUSTER, group, [ALL[0]], []).notes == ()


def test_drift_of_rules() -> None:
    good = sorted(_plan_access.wanted_rules(CLUSTER), key=str)
    old, by_hand = Rule("tcp", 23, 23, "10.254.1.0/24"), Rule("tcp", 12345, 12345, "0.0.0.0/0")
    text = "IPv6 tcp from anywhere"
    group = Group("g", (*held([*good[1:], old]).rules, GroupRule("x", by_hand, False), GroupRule("y", text, False)))
    plan = _plan_access.plan_group(CLUSTER, group, [], [])
    assert told(plan) == [f"create rule {good[0]}", f"delete rule {old}"]
    assert plan.of("rule", "delete")[0].subject.id == f"r{len(good) - 1}"
    assert plan.notes == tuple(
        f"the rule {rule} in q8s-cluster was not created by Q8S; it is kept" for rule in (by_hand, text)
    )
    for side in ("before", "after"):
        assert f"rule {by_hand}\n" in plan.diff()[side]


def test_members() -> None:
    group = held(sorted(_plan_access.wanted_rules(CLUSTER), key=str))
    foreign, stranger = server(NAMES[0], cluster=None), server("stranger", cluster=None)
    servers = [foreign, *ALL[1:], stranger]
    ports = [
        Port("p0", "a", foreign.id, ("web",)),
        Port("p1", "b", ALL[1].id, ("g",)),
        Port("p2", "c", ALL[2].id, ("g",)),
        Port("p3", "d", ALL[2].id, ()),
        Port("p4", "e", stranger.id, ("web",)),
    ]
    plan = _plan_access.plan_group(CLUSTER, group, servers, ports)
    assert told(plan) == [f"create member {NAMES[0]}", f"create member {NAMES[2]}"]
    assert [[port.id for port in change.subject] for change in plan.changes] == [["p0"], ["p3"]]
    inside = [replace(port, groups=("g",)) for port in ports]
    absent = _plan_access.plan_group_absent(CLUSTER, group, servers, inside)
    assert told(absent)[0] == f"delete member {NAMES[0]}" and told(absent)[-1] == "delete security group q8s-cluster"
    assert len(absent.of("member")) == 1 and not _plan_access.plan_group_absent(CLUSTER, None, servers, inside).changed


def test_a_port_without_port_security_takes_no_group() -> None:
    group = held(sorted(_plan_access.wanted_rules(CLUSTER), key=str))
    foreign = server(NAMES[0], cluster=None)
    open_port = Port("p0", "a", foreign.id, address="10.254.1.9", secured=False)
    (problem,) = _plan_access.plan_group(CLUSTER, group, [foreign], [open_port]).problems
    assert problem.startswith(
        f"the port p0 of the server {NAMES[0]} has port security off, and takes no security group"
    )
    assert "openstack port set --enable-port-security p0" in problem
    elsewhere = [replace(open_port, address="192.168.1.9"), Port("p1", "b", foreign.id, address="10.254.1.9")]
    plan = _plan_access.plan_group(CLUSTER, group, [foreign], elsewhere)
    assert plan.problems == () and [port.id for port in plan.changes[0].subject] == ["p1"]


def test_plans_are_joined_in_order() -> None:
    first = Plan((Change("a", "create", "x"),), ("k",), ("n",), ("p",))
    second = Plan((Change("b", "create", "y"),))
    assert _plan.joined([first, second]) == Plan((*first.changes, *second.changes), ("k",), ("n",), ("p",))
    assert first.to_mapping()["changes"] == [{"kind": "a", "action": "create", "name": "x", "before": "", "after": ""}]


SUBNET = Subnet("s", "n", "10.254.1.0/24", size=253, used=0)
GOOD = Findings(
    images=(Image("i"),),
    flavors={"c1.small": Flavor("c1.small", 2, 3072, 20), "c1.medium": Flavor("c1.medium", 2, 4096, 20)},
    networks=(Network("n", "private", (SUBNET,)),),
    groups={},
    quota={
        "instances": Usage(3, 0),
        "cores": Usage(6, 0),
        "ram": Usage(11264, 0),
        "ports": Usage(13, 10),
        "security_groups": Usage(10, 9),
        "security_group_rules": Usage(100, 81),
        "key_pairs": Usage(1, 0),
    },
)


def plans(servers: Sequence[Server] = ()) -> list[Plan]:
    return [
        _plan_access.plan_keypair("demo", None, KEY),
        _plan_access.plan_group(CLUSTER, None, [], []),
        _plan_servers.plan_servers(CLUSTER, having(servers)),
    ]


def check(servers: Sequence[Server] = (), **changes: Any) -> list[str]:
    quota = {**GOOD.quota, **changes.pop("quota", {})}
    return _fit.preflight_problems(CLUSTER, replace(GOOD, quota=quota, **changes), plans(servers))


def test_a_cloud_that_just_fits() -> None:
    assert check() == []
    assert check(quota={key: Usage(-1, 99) for key in GOOD.quota}) == []
    assert _fit.preflight_problems(CLUSTER, replace(GOOD, quota={}), plans()) == [], "a cloud that keeps it to itself"


def medium(**changes: Any) -> dict[str, Flavor]:
    return {**GOOD.flavors, "c1.medium": replace(GOOD.flavors["c1.medium"], **changes)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": ()}, "default_image_name: there is no image called 'debian-13'"),
        (
            {"images": (Image("b"), Image("a"))},
            "default_image_name: 2 images are called 'debian-13'; give the id of one: a, b",
        ),
        (
            {"images": (Image("i", min_ram=3584),)},
            "image debian-13 needs 3584 MB of memory; the flavor c1.small has 3072",
        ),
        ({"images": (Image("i", min_disk=21),)}, "image debian-13 needs a disk of 21 GB; the flavor c1.small has 20"),
        ({"networks": ()}, "private_network_id: there is no network or subnet called 'private'"),
        (
            {"networks": (Network("b", "private"), Network("a", "private"))},
            "private_network_id: 2 networks or subnets are called 'private'; give the id of one: a, b",
        ),
        (
            {"networks": (Network("n", "private", (replace(SUBNET, cidr="10.1.0.0/24"),)),)},
            "remote_ip_prefix: is 10.254.1.0/24; the network private has 10.1.0.0/24",
        ),
        ({"networks": (Network("n", "private"),)}, "has no IPv4 subnet"),
        (
            {"networks": (Network("n", "private", (replace(SUBNET, used=251),)),)},
            "addresses in the subnet 10.254.1.0/24: needs 3, 251 of 253 used",
        ),
        ({"groups": {"web": 0}}, "security_groups: there is no group called 'web'"),
        ({"groups": {"web": 2}}, "security_groups: 2 groups are called 'web'; give the id of one"),
        ({"flavors": {"c1.small": GOOD.flavors["c1.small"]}}, "no flavor called 'c1.medium'"),
        (
            {"flavors": medium(ram=2048)},
            "vm_types.types.arm-mid.openstack_flavor: c1.medium has 2048 MB; the 2048 MB of its guest, QEMU and "
            "the host's system need at least 2400 MB",
        ),
        ({"flavors": medium(vcpus=1)}, "c1.medium has 1 vCPUs, fewer than the 2 of its guest"),
        ({"flavors": medium(disk=3)}, "c1.medium has a disk of 3 GB; its server needs at least 4 GB"),
        (
            {"flavors": medium(disk=0)},
            "vm_types.types.arm-mid.openstack_flavor: c1.medium has no disk (disk 0): its servers would boot from a "
            "volume, which Q8S does not create; choose a flavor with a disk of at least 4 GB",
        ),
        ({"flavors": medium(disk=0), "images": (Image("i", min_disk=9),)}, "a disk of at least 9 GB"),
        ({"flavors": medium(disk=0), "images": (Image("i", size=11),)}, "a disk of at least 11 GB"),
        (
            {"flavors": {**GOOD.flavors, "c1.small": Flavor("c1.small", 2, 3072, 4)}},
            "cluster_definition.master_node_flavor: c1.small has a disk of 4 GB; its server needs at least 5 GB",
        ),
        (
            {"flavors": {**GOOD.flavors, "c1.small": Flavor("c1.small", 1, 3072, 20)}},
            "c1.small has 1 vCPUs and 3072 MB; kubeadm asks for 2 vCPUs and 1700 MB",
        ),
        (
            {"flavors": {**GOOD.flavors, "c1.small": Flavor("c1.small", 2, 1024, 20)}},
            "c1.small has 2 vCPUs and 1024 MB; kubeadm asks for 2 vCPUs and 1700 MB",
        ),
        ({"images": (Image("i", size=21),)}, "image debian-13 needs a disk of 21 GB; the flavor c1.small has 20"),
        ({"images": (Image("i", status="queued"),)}, "the image 'debian-13' is queued"),
        ({"images": (Image("i", architecture="aarch64"),)}, "the image 'debian-13' is for aarch64; hosts are x86_64"),
        (
            {"networks": (Network("n", "private", (SUBNET,), secured=False),)},
            "private_network_id: the network 'private' has port security off",
        ),
        ({"quota": {"instances": Usage(3, 1)}}, "quota of servers: needs 3, 1 of 3 used"),
        ({"quota": {"cores": Usage(6, 9)}}, "quota of vCPUs: needs 6, 9 of 6 used"),
        ({"quota": {"ram": Usage(11264, 1)}}, "quota of MB of memory: needs 11264, 1 of 11264 used"),
        ({"quota": {"ports": Usage(13, 11)}}, "quota of ports: needs 3, 11 of 13 used"),
        ({"quota": {"security_groups": Usage(10, 10)}}, "quota of security groups: needs 1, 10 of 10 used"),
        ({"quota": {"security_group_rules": Usage(100, 85)}}, "security group rules: needs 16, 85 of 100 used"),
        ({"quota": {"key_pairs": Usage(1, 1)}}, "quota of key pairs: needs 1, 1 of 1 used"),
    ],
)
def test_shortfalls(changes: dict[str, Any], expected: str) -> None:
    assert any(expected in problem for problem in check(**changes)), check(**changes)


def test_shortfalls_come_together() -> None:
    full = {"instances": Usage(3, 3), "cores": Usage(6, 6), "ram": Usage(11264, 11264)}
    assert len(check(images=(), networks=(), quota=full)) == 5


def test_a_replaced_server_needs_no_more_quota() -> None:
    broken = [server(name, "ERROR", vcpus=2, ram=4096) for name in NAMES]
    assert check(broken, quota={"instances": Usage(3, 3), "cores": Usage(6, 6), "ram": Usage(11264, 11264)}) == []


def notes(cluster: _spec.Cluster = CLUSTER, **changes: Any) -> list[str]:
    return _fit.preflight_notes(cluster, replace(GOOD, **changes))


def test_nothing_is_said_of_the_demo() -> None:
    assert notes() == []


@pytest.mark.parametrize("ram", [2400, 2847])
def test_a_host_with_little_memory_is_a_note(ram: int) -> None:
    assert check(flavors=medium(ram=ram)) == []
    said = notes(flavors=medium(ram=ram))
    used = 2048 + 64 + 32 + ram // 8 + 384
    assert said[1] == (
        f"vm_types.types.arm-mid.openstack_flavor: c1.medium has {ram} MB; its guest, QEMU with a full cache of "
        f"translated code and the host's system use {used} MB: choose a larger flavor, or bound QEMU's cache with "
        "tb_cache"
    )
    assert len(said) == 2 and "x86-small" in said[0]


@pytest.mark.parametrize(
    ("changes", "ram", "least", "recommended"),
    [
        ({}, 4096, 2400, 2048 + 64 + 32 + 512 + 384),
        ({}, 16384, 2400, 2048 + 64 + 32 + 1024 + 384),
        ({"tb_cache_mb": 64}, 16384, 2400, 2048 + 64 + 32 + 64 + 384),
        ({"accel": "kvm"}, 16384, 2400, 2048 + 64 + 32 + 384),
        ({"ram_mb": 512, "num_cpus": 8}, 4096, 960, 512 + 64 + 128 + 512 + 384),
    ],
)
def test_memory_of_a_host(changes: dict[str, Any], ram: int, least: int, recommended: int) -> None:
    vm_type = replace(CLUSTER.vm_type("arm-mid"), **changes)
    assert (_fit.least_memory(vm_type), _fit.guest_memory(vm_type, ram)) == (least, recommended)


def test_a_disk_that_a_full_guest_fills_is_a_note() -> None:
    assert check(flavors=medium(disk=13)) == [] and notes(flavors=medium(disk=14)) == []
    said = notes(flavors=medium(disk=13))
    assert "c1.medium has a disk of 13 GB; when the guest has filled its 10 GB the host needs 14 GB" in said[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dhcp": False}, "the subnet 10.254.1.0/24 has no DHCP: servers get a config drive"),
        ({"gateway": ""}, "the subnet 10.254.1.0/24 has no gateway: servers need a package mirror or a proxy"),
        ({"dns": False}, "the subnet 10.254.1.0/24 names no DNS server"),
    ],
)
def test_what_a_subnet_lacks_is_a_note(changes: dict[str, Any], expected: str) -> None:
    network = Network("n", "private", (replace(SUBNET, **changes),))
    assert check(networks=(network,)) == []
    (only,) = notes(networks=(network,))
    assert only.startswith(expected)


def test_with_a_proxy_no_gateway_is_needed() -> None:
    behind = replace(CLUSTER, proxy=_spec.Proxy("http://10.254.1.1:3128"))
    assert notes(behind, networks=(Network("n", "private", (replace(SUBNET, gateway=""),)),)) == []


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [
        (0, ""), (1400, ""), (1450, ""), (1500, ""), (8950, ""), (9000, ""),
        (1399, "pods get 50 less"), (1280, "pods get 50 less"),
        (1279, "Q8S supports 1280 to 9000"), (9001, "Q8S supports 1280 to 9000"),
    ],
)  # fmt: skip
def test_mtu(mtu: int, expected: str) -> None:
    said = notes(networks=(Network("n", "private", (SUBNET,), mtu=mtu),))
    assert [expected in note for note in said] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("prefix", "cidr", "subnets", "expected"),
    [
        ("10.254.1.0/25", "10.254.1.0/24", 1, "has 10.254.1.0/24; write remote_ip_prefix: 10.254.1.0/24"),
        ("10.254.0.0/20", "10.254.0.0/16", 1, "has 10.254.0.0/16; write remote_ip_prefix: 10.254.0.0/16"),
        ("10.254.1.0/28", "10.254.1.16/28", 1, "has 10.254.1.16/28; write remote_ip_prefix: 10.254.1.16/28"),
        ("10.254.1.0/25", "10.254.1.0/24", 2, "has 10.254.1.0/24, 10.9.0.0/24"),
    ],
)
def test_another_prefix_than_the_subnets_is_a_problem_with_the_right_value(
    prefix: str, cidr: str, subnets: int, expected: str
) -> None:
    have = (replace(SUBNET, cidr=cidr), replace(SUBNET, cidr="10.9.0.0/24"))[:subnets]
    cluster = replace(CLUSTER, remote_ip_prefix=prefix)
    problems = _fit.preflight_problems(cluster, replace(GOOD, networks=(Network("n", "private", have),)), plans())
    assert any(problem.endswith(expected) for problem in problems), problems


@pytest.mark.parametrize("cidr", ["10.20.0.0/16", "10.20.16.0/20", "10.20.1.16/28"])
def test_subnets_from_16_to_28(cidr: str) -> None:
    cluster = replace(CLUSTER, remote_ip_prefix=cidr, guest_ip_prefix="172.16.0.0/12")
    findings = replace(GOOD, networks=(Network("n", "private", (replace(SUBNET, cidr=cidr),)),))
    assert _fit.preflight_problems(cluster, findings, plans()) == []
    assert _fit.preflight_notes(cluster, findings) == []


def test_a_prefix_that_is_larger_than_the_subnet_is_a_note() -> None:
    (only,) = notes(replace(CLUSTER, remote_ip_prefix="10.254.0.0/16"))
    assert only.startswith("remote_ip_prefix is 10.254.0.0/16, more than the subnet, which is 10.254.1.0/24")
    assert only.endswith("write remote_ip_prefix: 10.254.1.0/24")


GENOA = replace(
    CLUSTER,
    types=tuple(replace(t, cpu_model="EPYC-Genoa") if t.name == "x86-small" else t for t in CLUSTER.types),
)
LACKS = "vm_types.types.x86-small.cpu_model: is 'EPYC-Genoa', which QEMU 7.2 of Debian 12 does not have; "


@pytest.mark.parametrize(
    ("image", "host_os", "lacks", "note"),
    [
        (Image("i", name="our-image", distribution="debian", version="12"), "auto", True, False),
        (Image("i", name="debian-12"), "auto", True, False),
        (Image("i", name="debian-13"), "auto", False, False),
        (Image("i", name="our-image"), "auto", False, False),
        (Image("i", name="our-image"), "debian-12", True, False),
        (Image("i", name="debian-13"), "debian-12", True, True),
        (Image("i", name="debian-12"), "debian-13", False, True),
    ],
)
def test_models_that_the_images_qemu_does_not_have(image: Image, host_os: str, lacks: bool, note: bool) -> None:
    cluster = replace(GENOA, host_os=host_os)
    findings = replace(GOOD, images=(image,))
    assert [problem.startswith(LACKS) for problem in _fit.preflight_problems(cluster, findings, plans())] == [
        True
    ] * lacks
    said = _fit.preflight_notes(cluster, findings)
    assert [text.startswith(f"host_os is {host_os}, but the image") for text in said] == [True] * note


def test_a_model_of_a_type_without_workers_is_nobodys_business() -> None:
    cluster = replace(GENOA, workers=(("x86-small", 0), ("arm-mid", 1)))
    assert _fit.preflight_problems(cluster, replace(GOOD, images=(Image("i", name="debian-12"),)), plans()) == []


def test_what_goes_makes_room() -> None:
    there = [server(spec.name, vcpus=2, ram=4096) for spec in counted(x86_small=2, arm_mid=1).servers()]
    plan = _plan_servers.plan_servers(counted(x86_small=1, arm_mid=2), having(there), remove_surplus=True)
    assert told(plan) == ["delete server demo-x86-small-2", "create server demo-arm-mid-2"]
    assert not any(_fit.needed_quota([plan], GOOD.flavors).values())


SPREAD = replace(CLUSTER, server_group="soft-anti-affinity")
NAMED = "server group q8s-demo"


def test_a_server_group_comes_with_the_first_servers() -> None:
    plan = _plan_servers.plan_servers(SPREAD, having([]))
    assert told(plan) == [f"create {NAMED}", *(f"create server {name}" for name in NAMES)]
    needs = _fit.needed_quota([plan], GOOD.flavors)
    assert (needs["server_groups"], needs["server_group_members"]) == (1, 3)
    assert not _plan_servers.plan_servers(SPREAD, having(ALL)).changed, "servers that are there cannot join"
    group = ServerGroup("s", "q8s-demo", "soft-anti-affinity")
    plan = _plan_servers.plan_servers(SPREAD, having(ALL[:1], group=group))
    assert told(plan) == [f"create server {name}" for name in NAMES[1:]]
    assert told(_plan_servers.plan_servers_absent(CLUSTER, having([], group=group))) == [f"delete {NAMED}"]


def test_a_server_group_of_another_policy_is_not_ours() -> None:
    group = ServerGroup("s", "q8s-demo", "affinity")
    assert "has the policy affinity" in _plan_servers.plan_servers(SPREAD, having([], group=group)).problems[0]
    assert not _plan_servers.plan_servers_absent(CLUSTER, having([], group=group)).changed


OUTSIDE = replace(CLUSTER, access=_spec.Access("floating_ip", floating_network="external"))
IP = f"floating IP {NAMES[0]}"


@pytest.mark.parametrize(
    ("cluster", "floating", "expected"),
    [
        (OUTSIDE, [], [f"create {IP}"]),
        (OUTSIDE, [FloatingIp("f", "203.0.113.4", "10.254.1.9")], []),
        (OUTSIDE, [FloatingIp("f", "203.0.113.4")], [f"attach {IP}"]),
        (OUTSIDE, [FloatingIp("g", "x"), FloatingIp("f", "203.0.113.4", "10.254.1.9")], [f"delete {IP}"]),
        (CLUSTER, [FloatingIp("f", "203.0.113.4", "10.254.1.9")], [f"delete {IP}"]),
    ],
)
def test_floating_ip(cluster: _spec.Cluster, floating: list[FloatingIp], expected: list[str]) -> None:
    assert told(_plan_servers.plan_servers(cluster, having(ALL, floating=floating))) == expected
    assert len(_plan_servers.plan_servers_absent(cluster, having([], floating=floating)).changes) == len(floating)


def test_a_lost_floating_ip_is_moved_to_a_survivor() -> None:
    cluster = replace(OUTSIDE, number_additional_master_nodes=1)
    second = server(f"{NAMES[0]}-2", launched=True)
    second = replace(second, addresses=("10.254.1.7",), metadata={**second.metadata, "q8s_role": "control_plane"})
    for fixed, said in (("", True), ("10.254.1.7", False)):
        existing = having([second, *ALL[1:]], floating=[FloatingIp("f", "203.0.113.4", fixed)], etcd_server="gone")
        (problem,) = _plan_servers.plan_servers(cluster, existing).problems
        assert (f"(openstack server add floating ip {second.name} 203.0.113.4)" in problem) == said
    plan = _plan_servers.plan_servers(cluster, existing, survivors=[second.name])
    assert told(plan) == [f"create server {NAMES[0]}", f"attach {IP}"], "it comes back"


def test_an_initial_instance_that_has_a_floating_ip_keeps_it() -> None:
    foreign = server(NAMES[0], cluster=None, floating=("203.0.113.4",))
    assert not _plan_servers.plan_servers(OUTSIDE, having([foreign, *ALL[1:]])).changed


def test_what_a_floating_ip_needs() -> None:
    assert {rule for rule in _plan_access.wanted_rules(OUTSIDE) if rule.source == "0.0.0.0/0"} == {
        Rule("tcp", 22, 22, "0.0.0.0/0"),
        Rule("tcp", 6443, 6443, "0.0.0.0/0"),
    }
    office = ("198.51.100.0/24", "203.0.113.7/32")
    closed = replace(OUTSIDE, access=replace(OUTSIDE.access, allowed_prefixes=office))
    assert _plan_access.wanted_rules(closed) - _plan_access.wanted_rules(CLUSTER) == {
        Rule("tcp", port, port, prefix) for port in (22, 6443) for prefix in office
    }
    problems = _fit.preflight_problems(OUTSIDE, replace(GOOD, floating_networks=0), [])
    assert problems == ["access.floating_network: must name one external network; there is none called 'external'"]


def test_two_controllers_are_told() -> None:
    tags, other = _cloud_objects.claim(("blue",), "alice@one", 1_000_000)
    assert tags == ("blue", "q8s-run:1000000:alice@one") and other == ""
    assert _cloud_objects.claim(tags, "alice@one", 1_000_300)[1] == "", "the same one, again"
    assert _cloud_objects.claim(tags, "bob@two", 1_000_300) == (
        ("blue", "q8s-run:1000300:bob@two"),
        "alice@one started a run on this cluster 5 min ago",
    )
    assert _cloud_objects.claim(tags, "bob@two", 1_003_601)[1] == "", "long over"
    long, _ = _cloud_objects.claim((), "x" * 100, 1_700_000_000)
    assert len(long[0]) <= 60 and _cloud_objects.claim(long, "x" * 100, 1_700_000_000)[1] == ""
