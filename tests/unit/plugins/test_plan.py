"""The plan: changes in the cloud, computed from desired and current state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud_objects,
    _cloud_tags,
    _plan,
    _plan_access,
    _plan_servers,
    _preflight_quota,
    _server_requests,
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
from ansible_collections.q8s.emu.plugins.module_utils._plan import Change, Plan
from ansible_collections.q8s.emu.plugins.module_utils._plan_notes import Resources, ports_by_server
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
        return [
            str(request) for request in _server_requests.requests(spec for spec in specs if spec.name not in left_out)
        ]

    servers = [f"server {name}" for name in control]
    assert asked() == [*servers, "3 servers, demo-x86-small-1 to demo-x86-small-3", "server demo-arm-mid-1"]
    assert [request.name for request in _server_requests.requests(specs)] == [
        *control,
        "demo-x86-small",
        "demo-arm-mid-1",
    ]
    # Nova numbers from 1: what is missing elsewhere is asked for alone
    assert asked(*control, "demo-x86-small-1") == [
        f"server demo-{n}" for n in ("x86-small-2", "x86-small-3", "arm-mid-1")
    ]
    assert asked(*control, "demo-x86-small-2") == [
        f"server demo-{n}" for n in ("x86-small-3", "x86-small-1", "arm-mid-1")
    ]
    assert asked(*control, "demo-x86-small-3", "demo-arm-mid-1") == ["2 servers, demo-x86-small-1 to demo-x86-small-2"]


def test_what_is_left_of_a_call_is_asked_for_alone() -> None:
    (*_, request) = _server_requests.requests(counted(x86_small=3).servers())
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
    agreed = _plan_servers.plan_servers(CLUSTER, existing, _plan_servers.Options(replace_control_plane=True))
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
    plan = _plan_servers.plan_servers(TRIO, existing, _plan_servers.Options(survivors=[THIRD.name, SECOND.name]))
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
    (problem,) = _plan_servers.plan_servers(TRIO, existing, _plan_servers.Options(survivors=[SECOND.name])).problems
    assert f"openstack server delete id-{NAMES[0]}" in problem and f"deploy joins a new {NAMES[0]}" in problem


def test_a_stand_in_in_error_is_not_replaced() -> None:
    existing = having([*ALL, replace(SECOND, status="ERROR"), THIRD], etcd_server=SECOND.id)
    (problem,) = _plan_servers.plan_servers(TRIO, existing, _plan_servers.Options(survivors=[THIRD.name])).problems
    assert f"the server {SECOND.name}, which has the cluster's CA and etcd, is ERROR" in problem


PAIR = replace(CLUSTER, number_additional_master_nodes=1)


@pytest.mark.parametrize(
    ("cluster", "servers", "named"),
    [
        (PAIR, [*ALL, replace(SECOND, status="ERROR")], [SECOND]),
        (TRIO, [*ALL, replace(SECOND, status="ERROR"), replace(THIRD, status="ERROR")], [SECOND, THIRD]),
        # One that was deleted by hand is a member still.
        (TRIO, [*ALL, replace(SECOND, status="ERROR")], [SECOND]),
    ],
)
def test_a_control_plane_that_etcd_needs_is_not_replaced(
    cluster: _spec.Cluster, servers: list[Server], named: list[Server]
) -> None:
    (problem,) = _plan_servers.plan_servers(cluster, having(servers, etcd_server=f"id-{NAMES[0]}")).problems
    assert "would leave etcd without a majority" in problem
    for one in named:
        assert f"{one.name} is ERROR" in problem and f"openstack server reboot --hard {one.id}" in problem


@pytest.mark.parametrize(
    ("cluster", "servers"),
    [
        (TRIO, [*ALL, replace(SECOND, status="ERROR"), THIRD]),
        (PAIR, [*ALL, replace(SECOND, status="ERROR", launched=False)]),  # it never ran, so it is no member
    ],
)
def test_a_control_plane_that_etcd_does_not_need_is_replaced(cluster: _spec.Cluster, servers: list[Server]) -> None:
    plan = _plan_servers.plan_servers(cluster, having(servers, etcd_server=f"id-{NAMES[0]}"))
    assert told(plan) == [f"replace server {SECOND.name}"] and plan.problems == ()


def test_a_run_replaces_only_servers_that_it_is_for() -> None:
    broken = server(NAMES[1], "ERROR")
    there = having([ALL[0], broken], etcd_server=f"id-{NAMES[0]}")
    plan = _plan_servers.plan_servers(CLUSTER, there, _plan_servers.Options(limit=[NAMES[0]]))
    assert told(plan) == [f"create server {NAMES[2]}"], "what is missing is created"
    assert plan.notes == (f"the server {NAMES[1]} is ERROR, and stays so: this run is not for it",)
    assert NAMES[1] not in [spec.name for spec in plan.wanted], "nobody waits for it"
    plan = _plan_servers.plan_servers(CLUSTER, there, _plan_servers.Options(limit=NAMES))
    assert f"replace server {NAMES[1]}" in told(plan)


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
    assert not _plan_servers.plan_servers(CLUSTER, existing, _plan_servers.Options(replace_control_plane=True)).changed


def test_which_server_has_the_data_is_a_tag_beside_others() -> None:
    tags = _cloud_tags.record_etcd_server(("own", "q8s-etcd:old"), "new")
    assert tags == ("own", "q8s-etcd:new") and _cloud_tags.etcd_server(tags) == "new"
    assert _cloud_tags.record_etcd_server(tags, "") == ("own",) and _cloud_tags.etcd_server(("own",)) == ""
    tagged, _others = _cloud_tags.run_owner_tags(tags, "me", 1000)
    assert _cloud_tags.etcd_server(tagged) == "new"


def test_nodes_that_are_to_be_replaced_are_planned_as_such() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having(ALL), _plan_servers.Options(replace_nodes=["arm-mid-1"]))
    assert told(plan) == [f"replace server {NAMES[2]}"]


def test_surplus_stays_and_is_named() -> None:
    extra = server("demo-arm-mid-2")
    plan = _plan_servers.plan_servers(CLUSTER, having([*ALL, extra]))
    assert not plan.changed and "no longer asks for the server demo-arm-mid-2; it stays" in plan.notes[0]
    plan = _plan_servers.plan_servers(CLUSTER, having([*ALL, extra]), _plan_servers.Options(remove_surplus=True))
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


AGAIN = "`q8s-run replace FILE NODE` creates the server of a worker again"
RECORDED = {"q8s_cluster": "demo", "q8s_default_image_name": "debian-13"}


def alike(**more: Any) -> list[Server]:
    """The demo's servers, in whatever a test compares with the file."""
    return [replace(one, **more) for one in ALL]


def noted(cluster: _spec.Cluster, servers: Sequence[Server], **more: Any) -> list[str]:
    """Return the notes of a plan that changes nothing."""
    ports = [Port(f"p-{one.id}", one.name, one.id, ("own", "id-web"), ("10.254.1.9",)) for one in servers]
    ports = more.pop("ports", [replace(port, network="net", subnets=("subnet",)) for port in ports])
    group = more.pop("group", None)
    resources = Resources(ports_by_server(cluster, servers, ports), **{"networks": ["net"], **more})
    plan = _plan_servers.plan_servers(cluster, having(servers, group=group, resources=resources))
    assert not plan.changed and not plan.problems
    return list(plan.notes)


@pytest.mark.parametrize(
    ("recorded", "image", "wanted", "ids", "what"),
    [
        ("debian-13", "old", "debian-13", [], ""),  # another image has the name since: not looked up
        ("debian-12", "old", "debian-13", ["new"], "have the image debian-12, not debian-13"),
        ("debian-12", "same", "debian-13", ["same"], ""),  # another name of the same image
        ("debian-13", "same", "same", [], ""),  # by its id
        ("debian-12", "", "debian-13", ["new"], ""),  # booted from a volume
        # an earlier release recorded nothing
        ("", "old", "debian-13", ["new"], "were created from another image than debian-13 is now"),
        ("", "same", "debian-13", ["new", "same"], ""),
        ("", "", "debian-13", ["new"], ""),
        ("", "old", "debian-13", [], "were created from another image than debian-13, which the cloud does not have"),
    ],
)
def test_another_image_is_named(recorded: str, image: str, wanted: str, ids: list[str], what: str) -> None:
    metadata = {**RECORDED, "q8s_default_image_name": recorded}
    told = noted(replace(CLUSTER, default_image_name=wanted), alike(image=image, metadata=metadata), images=ids)
    assert told == ([f"the servers {', '.join(NAMES)} {what}; they stay ({AGAIN})"] if what else [])


@pytest.mark.parametrize(
    ("wanted", "labels", "ids", "named"),
    [
        ("net", (), [], False),
        ("subnet", (), [], False),
        ("private", ("private",), [], False),
        ("renamed", ("private",), ["net"], False),
        ("subnet-name", ("private",), ["subnet"], False),
        ("other", ("private",), ["other-id"], True),
        ("other-subnet", ("private",), ["subnet-2"], True),
        ("gone", ("private",), [], True),
    ],
)
def test_another_network_is_named(wanted: str, labels: tuple[str, ...], ids: list[str], named: bool) -> None:
    cluster = replace(CLUSTER, private_network_id=wanted)
    told = noted(cluster, alike(networks=labels), networks=ids)
    text = f"the servers {', '.join(NAMES)} are in another network than {wanted}; they stay ({AGAIN})"
    assert told == ([text] if named else [])
    assert noted(cluster, alike(networks=labels), networks=ids, ports=()) == [], "this project sees no port"


def test_a_security_group_that_a_server_lacks_is_named() -> None:
    cluster = replace(CLUSTER, security_groups=("q8s-cluster", "web"))
    assert noted(cluster, ALL, groups={"web": ("id-web",)}) == []
    assert noted(CLUSTER, ALL) == [], "a group that somebody added by hand, or that was taken out of the file"
    assert noted(replace(cluster, security_groups=("q8s-cluster", "id-web")), ALL) == [], "by its id"
    add = "`openstack server add security group SERVER web` adds the group"
    names = ", ".join(NAMES)
    for ids in (("other",), ()):
        told = noted(cluster, ALL, groups={"web": ids})
        assert told == [f"the servers {names} have no security group web; they stay ({AGAIN}, {add})"]
    missing = {"groups": {"web": ("id-web",)}}
    port = Port("p", "p", ALL[0].id, ("own",), ("10.254.1.4",))
    assert noted(cluster, ALL, ports=[port], **missing) == [
        f"the server {NAMES[0]} has no security group web; it stays ({add.replace('SERVER', ALL[0].id)})"
    ], "a control plane is not replaced"
    assert noted(cluster, ALL, ports=[replace(port, server_id=ALL[1].id)], **missing) == [
        f"the server {NAMES[1]} has no security group web; it stays (`q8s-run replace FILE x86-small-1` creates it "
        f"again, {add.replace('SERVER', ALL[1].id)})"
    ]
    for other in (replace(port, secured=False), replace(port, addresses=("192.168.1.4",))):
        assert noted(cluster, ALL, ports=[other], **missing) == [], "it takes no groups, or is in another network"


def test_many_servers_share_a_note() -> None:
    cluster = replace(counted(x86_small=40, arm_mid=0), default_image_name="debian-14")
    there = [server(spec.name, image="old") for spec in cluster.servers()]
    (note,) = noted(cluster, [replace(one, metadata=RECORDED) for one in there], images=["new"])
    assert "demo-x86-small-4 and 36 more have the image debian-13, not debian-14; they stay" in note


def test_another_server_group_is_named() -> None:
    spread = replace(CLUSTER, server_group="soft-anti-affinity")
    whole = ServerGroup("g", "q8s-demo", "soft-anti-affinity", tuple(one.id for one in ALL))
    assert noted(spread, ALL, group=whole) == [] == noted(CLUSTER, ALL)
    names = ", ".join(NAMES)
    assert noted(spread, ALL) == [f"the servers {names} are not in the server group q8s-demo; they stay ({AGAIN})"]
    assert noted(spread, ALL, group=replace(whole, members=whole.members[1:])) == [
        f"the server {NAMES[0]} is not in the server group q8s-demo; it stays"
    ]
    (note,) = noted(CLUSTER, ALL, group=whole)
    assert "are in the server group q8s-demo, which the file no longer asks for; they stay" in note


@pytest.mark.parametrize(
    ("network", "wanted", "ids", "named"),
    [
        ("e1", "e1", [], False),
        ("e1", "external", ["e1"], False),
        ("e1", "other", ["e2"], True),
        ("", "other", [], False),
    ],
)
def test_a_floating_ip_of_another_network_is_named(network: str, wanted: str, ids: list[str], named: bool) -> None:
    access = _spec.Access("floating_ip", floating_network=wanted)
    address = FloatingIp("f", "203.0.113.4", "10.254.1.9", network)
    existing = having(ALL, floating=[address], resources=Resources(external_networks=ids))
    plan = _plan_servers.plan_servers(replace(CLUSTER, access=access), existing)
    note = (
        f"the floating IP 203.0.113.4 of {NAMES[0]} is of another network than other; it stays "
        "(`openstack floating ip delete 203.0.113.4` releases it, and the next deploy assigns another one)"
    )
    assert not plan.changed and plan.notes == ((note,) if named else ())
    assert _plan_servers.plan_servers(CLUSTER, existing).notes == (), "it is deleted"


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
    plan = _plan_servers.plan_servers(counted(**after), having(there), _plan_servers.Options(remove_surplus=True))
    assert told(plan) == [f"delete server demo-{name}" for name in gone] + [
        f"create server demo-{name}" for name in coming
    ]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ([server(NAMES[0], cluster="other")], "belongs to the Q8S cluster other"),
        ([server(NAMES[0], cluster=None), server(NAMES[0], cluster=None, number="b")], "2 servers are called"),
        ([server(NAMES[1], cluster=None)], "exists and does not belong to the cluster demo"),
        ([server(NAMES[0], "PAUSED")], "is PAUSED; bring it to ACTIVE"),
    ],
)
def test_what_stands_in_the_way(servers: list[Server], expected: str) -> None:
    assert expected in " ".join(_plan_servers.plan_servers(CLUSTER, having(servers)).problems)


@pytest.mark.parametrize("status", ["MIGRATING", "RESIZE"])
def test_a_server_that_the_cloud_moves_is_waited_for(status: str) -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([server(NAMES[0], status), server(NAMES[1], status), ALL[2]]))
    assert not plan.changed and not plan.problems and not plan.unusable


def test_servers_of_a_cell_that_is_down_are_not_taken_for_deleted_ones() -> None:
    hidden = [Server(one.id, "", "UNKNOWN") for one in ALL[:2]]
    for servers, number in ((hidden, "2 servers"), ([hidden[0], *ALL[1:]], "one server")):
        existing = having(servers, etcd_server=ALL[0].id)
        for plan in (
            _plan_servers.plan_servers(
                CLUSTER, existing, _plan_servers.Options(remove_surplus=True, replace_control_plane=True)
            ),
            _plan_servers.plan_servers_absent(CLUSTER, existing),
        ):
            (problem,) = plan.problems
            assert f"cannot show {number} of this project at the moment" in problem and not plan.changes
    recorded = having([replace(ALL[0], status="UNKNOWN"), *ALL[1:]], etcd_server=ALL[0].id)
    (problem,) = _plan_servers.plan_servers(CLUSTER, recorded).problems
    assert "a Nova cell is down" in problem


def test_a_locked_server_is_refused_before_it_is_deleted() -> None:
    locked = [replace(one, locked=True) for one in ALL]
    assert not _plan_servers.plan_servers(CLUSTER, having(locked)).problems, "nothing has to be deleted"
    unlock = f"openstack server unlock id-{NAMES[2]}"
    broken = [*ALL[:2], replace(locked[2], status="ERROR")]
    for plan in (
        _plan_servers.plan_servers(CLUSTER, having(broken)),
        _plan_servers.plan_servers(
            counted(x86_small=1), having([*ALL[:2], locked[2]]), _plan_servers.Options(remove_surplus=True)
        ),
        _plan_servers.plan_servers_absent(CLUSTER, having([*ALL[:2], locked[2]])),
        _plan_servers.plan_servers_absent(CLUSTER, having(locked), ["arm-mid-1"]),
    ):
        (problem,) = plan.problems
        assert f"the server {NAMES[2]} has to be deleted, and is locked" in problem and unlock in problem


def test_a_worker_that_is_paused_stands_in_nobodys_way() -> None:
    plan = _plan_servers.plan_servers(CLUSTER, having([ALL[0], server(NAMES[1], "PAUSED"), *ALL[2:]]))
    assert not plan.changed and not plan.problems
    assert plan.unusable == {NAMES[1]: plan.notes[0]} and "is PAUSED; bring it to ACTIVE" in plan.notes[0]


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
    plan = _plan_servers.plan_servers(CLUSTER, having(ALL[:1], ports), _plan_servers.Options(own_ports=True))
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
    plan = _plan_servers.plan_servers(
        CLUSTER, having([server(NAMES[0], cluster=None)]), _plan_servers.Options(own_ports=True)
    )
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
    assert _preflight_quota.needed_quota([plan], {})["security_group_rules"] == 1, (
        "they are created while the old ones are there"
    )
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
    open_port = Port("p0", "a", foreign.id, addresses=("10.254.1.9",), secured=False)
    (problem,) = _plan_access.plan_group(CLUSTER, group, [foreign], [open_port]).problems
    assert problem.startswith(
        f"the port p0 of the server {NAMES[0]} has port security off, and takes no security group"
    )
    assert "openstack port set --enable-port-security p0" in problem
    elsewhere = [replace(open_port, addresses=(address,)) for address in ("192.168.1.9", "2001:db8::9")]
    elsewhere.append(Port("p1", "b", foreign.id, addresses=("10.254.1.9",)))
    plan = _plan_access.plan_group(CLUSTER, group, [foreign], elsewhere)
    assert plan.problems == () and [port.id for port in plan.changes[0].subject] == ["p1"]


def test_plans_are_joined_in_order() -> None:
    first = Plan((Change("a", "create", "x"),), ("k",), ("n",), ("p",))
    second = Plan((Change("b", "create", "y"),))
    assert _plan.joined([first, second]) == Plan((*first.changes, *second.changes), ("k",), ("n",), ("p",))
    assert first.to_mapping()["changes"] == [{"kind": "a", "action": "create", "name": "x", "before": "", "after": ""}]


SPREAD = replace(CLUSTER, server_group="soft-anti-affinity")
NAMED = "server group q8s-demo"


def test_a_server_group_comes_with_the_first_servers() -> None:
    plan = _plan_servers.plan_servers(SPREAD, having([]))
    assert told(plan) == [f"create {NAMED}", *(f"create server {name}" for name in NAMES)]
    needs = _preflight_quota.needed_quota([plan], {})
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
    plan = _plan_servers.plan_servers(cluster, existing, _plan_servers.Options(survivors=[second.name]))
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


def test_two_controllers_are_told() -> None:
    tags, other = _cloud_tags.run_owner_tags(("blue",), "alice@one", 1_000_000)
    assert tags == ("blue", "q8s-run:1000000:alice@one") and other == ""
    assert _cloud_tags.run_owner_tags(tags, "alice@one", 1_000_300)[1] == "", "the same one, again"
    assert _cloud_tags.run_owner_tags(tags, "bob@two", 1_000_300) == (
        ("blue", "q8s-run:1000300:bob@two"),
        "alice@one started a run on this cluster 5 min ago",
    )
    assert _cloud_tags.run_owner_tags(tags, "bob@two", 1_003_601)[1] == "", "long over"
    long, _ = _cloud_tags.run_owner_tags((), "x" * 100, 1_700_000_000)
    assert len(long[0]) <= 60 and _cloud_tags.run_owner_tags(long, "x" * 100, 1_700_000_000)[1] == ""
