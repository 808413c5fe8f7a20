"""The cloud client with a connection of the test's own: what it requests, how often, and what it says of a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud,
    _cloud_errors,
    _cloud_network,
    _cloud_objects,
    _cloud_security_groups,
    _cloud_servers,
    _plan_access,
    _plan_servers,
    _server_requests,
    _spec,
)
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Network, Subnet
from keystoneauth1.exceptions import ConnectFailure
from openstack import exceptions

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
SUBNET = Subnet("subnet", "net", CLUSTER.remote_ip_prefix, 100, dhcp=True)
UNREACHABLE = ConnectFailure("Connection aborted.")


def named(name: str, **more: Any) -> Any:
    """Return an object of openstacksdk: every attribute that a test does not set is None."""
    found = MagicMock(spec_set=None)
    defaults = {
        "id": f"id-{name}",
        "name": name,
        "metadata": {},
        "addresses": {},
        "fault": None,
        "created_at": None,
        "task_state": None,
        "flavor": None,
        "availability_zone": None,
        "launched_at": None,
        "is_locked": None,
        "user_id": None,
        "fixed_ips": [],
        "image": None,
        "network_id": None,
        "floating_network_id": None,
        "member_ids": None,
    }
    found.configure_mock(**{**defaults, **more})
    return found


def http_error(status: int) -> Exception:
    error = exceptions.HttpException("no answer from the server")
    error.status_code = status
    return error


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the pauses between two requests; return how long they were."""
    slept: list[float] = []
    monkeypatch.setattr(_cloud_servers.time, "sleep", slept.append)
    return slept


def create(connection: Any, requests: list[_server_requests.Request]) -> dict[str, _cloud_errors.CloudError]:
    flavors = {spec.flavor: f"id-{spec.flavor}" for spec in CLUSTER.servers()}
    needs = _cloud.Needs("image", Network("net", "private", (SUBNET,)), flavors, ("group",))
    servers = _cloud_servers.Servers(connection)
    return servers.create_servers(CLUSTER, needs, requests, lambda spec: ("#!/bin/sh", {"q8s_cluster": "demo"}), {})


def test_a_server_that_exists_after_a_failure_is_not_created_again(pauses: list[float]) -> None:
    first, second, *_ = (_server_requests.Request((spec,)) for spec in CLUSTER.servers())
    there = named(first.name, status="BUILD", metadata={"q8s_cluster": CLUSTER.cluster_name})
    connection = MagicMock()
    connection.compute.servers.return_value = [there]
    answers = {first.name: [UNREACHABLE], second.name: [UNREACHABLE, None]}

    def answer(name: str, **_: Any) -> None:
        error = answers[name].pop(0)
        if error:
            raise error

    connection.compute.create_server.side_effect = answer
    assert create(connection, [first, second]) == {}
    assert answers == {first.name: [], second.name: []}
    assert sum(pauses) == 60, "the second may come late, too"


def test_a_server_that_comes_a_while_after_a_timeout_is_not_created_again() -> None:
    request = _server_requests.Request((CLUSTER.servers()[0],))
    there = named(request.name, status="BUILD", metadata={"q8s_cluster": CLUSTER.cluster_name})
    connection = MagicMock()
    connection.compute.create_server.side_effect = http_error(504)
    connection.compute.servers.side_effect = [[], [], [there]]
    assert create(connection, [request]) == {}
    assert connection.compute.create_server.call_count == 1


def test_a_cloud_that_is_busy_is_asked_again_soon(pauses: list[float]) -> None:
    request = _server_requests.Request((CLUSTER.servers()[0],))
    connection = MagicMock()
    connection.compute.servers.return_value = []
    connection.compute.create_server.side_effect = [http_error(503), None]
    assert create(connection, [request]) == {}
    assert pauses == [2.0], "it did nothing: there is nothing to wait for"


def test_of_two_control_planes_the_one_with_etcd_gets_the_floating_ip() -> None:
    def twin(number: int) -> Any:
        fixed = [{"version": 4, "addr": f"10.254.1.{number}"}]
        more = {"metadata": {"q8s_cluster": CLUSTER.cluster_name}, "addresses": {"private": fixed}}
        return named(CLUSTER.name_of_initial_instance, id=f"s{number}", status="ACTIVE", **more)

    connection = MagicMock(current_project_id="project")
    connection.compute.servers.return_value = [twin(4), twin(5)]
    connection.network.ports.return_value = [
        named(f"p{n}", device_id=f"s{n}", fixed_ips=[{"ip_address": f"10.254.1.{n}"}]) for n in (4, 5)
    ]
    address = _cloud_objects.FloatingIp("f", "203.0.113.4")
    _cloud.Cloud(connection).floating_ips.associate_floating_ip(CLUSTER, address, "s5")
    assert connection.network.update_ip.call_args.kwargs == {"port_id": "id-p5", "fixed_ip_address": "10.254.1.5"}


def test_a_floating_ip_of_the_users_own_server_is_found_before_nova_knows_it() -> None:
    fixed = [{"version": 4, "addr": "10.254.1.4"}]
    connection = MagicMock(current_project_id="project")
    theirs = named(CLUSTER.name_of_initial_instance, id="s4", status="ACTIVE", metadata={}, addresses={"net": fixed})
    connection.compute.servers.return_value = [theirs]
    connection.network.ports.return_value = [named("p4")]
    connection.network.ips.return_value = [
        named("other", port_id="id-p5", floating_ip_address="203.0.113.5"),
        named("own", port_id="id-p4", floating_ip_address="203.0.113.4"),
    ]
    clusters = _cloud.Cloud(connection).clusters
    servers = clusters.servers.list_servers()
    outside = replace(CLUSTER, access=_spec.Access("floating_ip", floating_network="external"))
    assert [server.floating for server in clusters.with_foreign_floating(outside, servers)] == [("203.0.113.4",)]
    assert [server.floating for server in clusters.with_foreign_floating(CLUSTER, servers)] == [()]


def test_a_port_with_several_addresses_gets_the_floating_ip_for_that_in_the_clusters_network() -> None:
    addresses = [{"version": 4, "addr": a} for a in ("10.254.9.4", "10.254.1.4")]
    more = {"metadata": {"q8s_cluster": CLUSTER.cluster_name}, "addresses": {"private": addresses}}
    connection = MagicMock(current_project_id="project")
    connection.compute.servers.return_value = [named(CLUSTER.name_of_initial_instance, status="ACTIVE", **more)]
    fixed = [{"ip_address": address} for address in ("2001:db8::4", "10.254.9.4", "10.254.1.4")]
    device = f"id-{CLUSTER.name_of_initial_instance}"
    connection.network.ports.return_value = [named("p", device_id=device, fixed_ips=fixed)]
    connection.network.networks.return_value = [named("external")]
    outside = replace(CLUSTER, access=_spec.Access("floating_ip", floating_network="external"))
    _cloud.Cloud(connection).floating_ips.associate_floating_ip(outside, None, "")
    assert connection.network.create_ip.call_args.kwargs["fixed_ip_address"] == "10.254.1.4"


def test_a_refused_server_is_requested_once_and_named() -> None:
    request = _server_requests.Request((CLUSTER.servers()[0],))
    connection = MagicMock()
    connection.compute.create_server.side_effect = exceptions.ForbiddenException("not yours")
    failed = create(connection, [request])
    assert list(failed) == [request.name]
    assert str(failed[request.name]).startswith(f"Failed to create {request}: not yours")
    assert connection.compute.create_server.call_count == 1


def test_a_server_that_stays_is_named_with_its_status() -> None:
    connection = MagicMock()
    connection.compute.servers.return_value = [named("demo-1", status="ACTIVE")]
    server = _cloud_objects.Server("id-demo-1", "demo-1", "ACTIVE", (), {})
    left = _cloud_servers.Servers(connection).delete_servers([server], 0)
    assert left == {"id-demo-1": "server demo-1: not removed within 0 s (ACTIVE)"}


def test_a_server_that_the_cloud_refuses_to_delete_is_reported_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(_cloud_servers.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(_cloud_servers.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    connection = MagicMock()
    connection.compute.servers.return_value = [named("demo-1", status="ACTIVE")]
    connection.compute.delete_server.side_effect = exceptions.ConflictException("Instance is locked")
    server = _cloud_objects.Server("id-demo-1", "demo-1", "ACTIVE", (), {})
    left = _cloud_servers.Servers(connection).delete_servers([server], 600)
    assert left == {"id-demo-1": "server demo-1: not removed (Failed to remove the server demo-1: Instance is locked)"}
    assert clock.now < 30


def test_a_server_without_a_name_is_read() -> None:
    connection = MagicMock()
    connection.compute.servers.return_value = [named("", metadata=None, status="UNKNOWN")]
    (server,) = _cloud_servers.Servers(connection).list_servers()
    assert (server.name, server.status, server.locked) == ("", "UNKNOWN", False)


class Outage:
    """A cloud that does not answer for a while, by a clock of its own: listing the servers raises until then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, servers: list[Any]) -> None:
        self.now, self.seconds, self.listed = 0.0, seconds, servers
        monkeypatch.setattr(_cloud_servers.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(_cloud_servers.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def servers(self, details: bool = True, status: str = "") -> list[Any]:
        self.sleep(1)
        if self.now < self.seconds:
            raise UNREACHABLE
        return [server for server in self.listed if server.status == (status or server.status)]

    def get_server(self, server_id: str) -> Any:
        return self.servers()[0]

    def delete_server(self, server_id: str, **_: Any) -> None:
        self.listed = [server for server in self.listed if server.id != server_id]


def test_waits_survive_an_outage_of_some_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    name = CLUSTER.name_of_initial_instance
    fixed = {"private": [{"version": 4, "addr": "10.254.1.4"}]}
    there = named(name, status="ACTIVE", metadata={"q8s_cluster": CLUSTER.cluster_name}, addresses=fixed)
    server = _cloud_objects.Server(there.id, name, "SHUTOFF", (), {})

    def client(seconds: float) -> _cloud_servers.Servers:
        return _cloud_servers.Servers(SimpleNamespace(compute=Outage(monkeypatch, seconds, [there])))

    ready, errors, late = client(300).wait_until_active(CLUSTER, [name], 600)
    assert ([one.name for one in ready], errors, late) == ([name], [], {})
    client(300).wait_until_started(server, 600)
    assert client(300).delete_servers([server], 600) == {}
    for wait in (
        lambda: client(1000).wait_until_active(CLUSTER, [name], 600),
        lambda: client(1000).wait_until_started(server, 600),
        lambda: client(1000).delete_servers([server], 600),
    ):
        with pytest.raises(_cloud.CloudError, match="the cloud cannot be reached"):
            wait()


def test_the_address_of_the_cloud_is_in_doubt_until_the_login_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint of the login names auth_url, and no hint of a later request does."""
    from openstack import connection

    session = MagicMock()
    session.session.adapters = {}
    client = MagicMock(session=session)
    client.compute.servers.side_effect = UNREACHABLE
    monkeypatch.setattr(connection, "Connection", lambda config: client)
    monkeypatch.setattr(_cloud, "_load_config", lambda name: None)

    def hint(call: Callable[[], Any]) -> str:
        with pytest.raises(_cloud.CloudError) as raised:
            call()
        return str(raised.value).partition("hint: ")[2]

    assert hint(_cloud.connect("a").servers.list_servers).startswith("the login worked: run it again")
    session.get_token.side_effect = UNREACHABLE
    assert hint(lambda: _cloud.connect("a")).startswith("check auth_url")


class SlowCloud:
    """A cloud that makes one server after the other ACTIVE, by a clock of its own; some stay in BUILD."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, seconds_each: float, stuck: frozenset[str] = frozenset()
    ) -> None:
        self.now = 0.0
        self.names = [spec.name for spec in CLUSTER.servers()]
        self.seconds_each, self.stuck = seconds_each, stuck
        monkeypatch.setattr(_cloud_servers.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(_cloud_servers.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def servers(self, details: bool = True, status: str = "") -> list[Any]:
        listed = []
        for number, name in enumerate(self.names, start=1):
            built = name not in self.stuck and self.now >= number * self.seconds_each
            fixed = [{"version": 4, "addr": f"10.254.1.{number}"}] if built else []
            more = {"metadata": {"q8s_cluster": CLUSTER.cluster_name}, "addresses": {"private": fixed}}
            listed.append(named(name, status="ACTIVE" if built else "BUILD", **more))
        return [server for server in listed if server.status == (status or server.status)]

    def wait(self, timeout: float) -> tuple[list[str], dict[str, str]]:
        """Return who is ready when the wait ends, and who is late."""
        client = _cloud_servers.Servers(SimpleNamespace(compute=self))
        ready, errors, late = client.wait_until_active(CLUSTER, self.names, timeout)
        assert errors == []
        return [server.name for server in ready], late


def test_servers_are_waited_for_as_long_as_one_after_the_other_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = SlowCloud(monkeypatch, seconds_each=500)
    assert cloud.wait(600) == (cloud.names, {})
    assert cloud.now >= 500 * len(cloud.names) > 600, "longer in all than any one change may take"


def test_a_server_that_stays_in_build_ends_the_wait_when_nothing_more_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    last = CLUSTER.servers()[-1].name
    cloud = SlowCloud(monkeypatch, seconds_each=100, stuck=frozenset({last}))
    assert cloud.wait(600) == (
        cloud.names[:-1],
        {last: f"server {last}: still BUILD; no server changed its state for 600 s"},
    )
    assert 800 < cloud.now < 810, "600 s after the last change"


def test_a_subnet_chooses_its_network() -> None:
    subnet = named("one", network_id="net", cidr="10.0.0.0/24", ip_version=4, allocation_pools=[])
    connection = MagicMock()
    connection.network.networks.return_value = []
    connection.network.subnets.side_effect = lambda **query: [subnet] if query == {"id": "id-one"} else []
    (found,) = _cloud_network.Networks(connection).find_networks("id-one")
    assert (found.id, found.chosen, [item.id for item in found.subnets]) == ("net", True, ["id-one"])


@pytest.mark.parametrize(
    ("external", "shared", "roles", "closed"),
    [
        (True, False, ["member"], True),
        (True, True, ["member"], False),
        (False, False, ["member"], False),
        (True, False, ["member", "admin"], False),
    ],
)
def test_which_networks_take_servers(external: bool, shared: bool, roles: list[str], closed: bool) -> None:
    network = named("net", is_router_external=external, is_shared=shared, is_port_security_enabled=True, mtu=1500)
    subnet = named("one", network_id="net", cidr="10.0.0.0/24", ip_version=4, allocation_pools=[])
    connection = MagicMock()
    connection.session.auth.get_access.return_value.role_names = roles
    connection.network.networks.side_effect = lambda **query: [network] if query == {"name": "net"} else []
    connection.network.find_network.return_value = network
    connection.network.subnets.side_effect = lambda **query: [] if query.get("id") == "net" else [subnet]
    for name in ("net", "id-one"):
        (found,) = _cloud_network.Networks(connection).find_networks(name)
        assert found.closed == closed


def test_a_group_in_use_is_deleted_after_its_ports(pauses: list[float]) -> None:
    connection = MagicMock()
    conflict = exceptions.ConflictException("in use")
    connection.network.delete_security_group.side_effect = [conflict, conflict, None]
    group = _cloud_objects.Group("group", (), ())
    plan = _plan_access.plan_group_absent(CLUSTER, group, [], [])
    assert _cloud_security_groups.SecurityGroups(connection).apply_plan("demo", group, plan) == ""
    assert pauses == [1.0, 1.0]


def rule_of(**values: Any) -> Any:
    defaults = dict.fromkeys(("protocol", "port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id"))
    defaults["remote_address_group_id"] = None
    return SimpleNamespace(**{"id": "r", "ether_type": "IPv4", "description": "", **defaults, **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"remote_group_id": "group"}, _cloud_objects.Rule("", None, None, "")),
        ({}, _cloud_objects.Rule("", None, None, "0.0.0.0/0")),
        (
            {"protocol": "tcp", "port_range_min": 2379, "port_range_max": 2379, "remote_group_id": "other"},
            "IPv4 tcp from other",
        ),
        (
            {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "remote_address_group_id": "office"},
            "IPv4 tcp from address group office",
        ),
        ({"ether_type": "IPv6", "remote_group_id": "group"}, "IPv6 any protocol from group"),
    ],
)
def test_the_rules_of_a_group(values: dict[str, Any], expected: _cloud_objects.Rule | str) -> None:
    connection = MagicMock(current_project_id="project")
    found = {"id": "group", "name": "q8s-cluster", "description": "Q8S cluster demo", "project_id": "project"}
    connection.network.security_groups.return_value = [SimpleNamespace(**found, created_at="", tags=[])]
    connection.network.security_group_rules.return_value = [rule_of(**values)]
    group = _cloud_security_groups.SecurityGroups(connection).find_security_group("demo")
    assert group is not None and [item.rule for item in group.rules] == [expected]


def test_old_rules_are_deleted_after_new_rules_and_members_are_in_force() -> None:
    connection = MagicMock()
    old = _cloud_objects.Rule("udp", 8472, 8472, CLUSTER.remote_ip_prefix)
    group = _cloud_objects.Group("group", (_cloud_objects.GroupRule("r1", old, True),))
    server = _cloud_objects.Server(
        "s", CLUSTER.name_of_initial_instance, "ACTIVE", metadata={"q8s_cluster": CLUSTER.cluster_name}
    )
    plan = _plan_access.plan_group(CLUSTER, group, [server], [_cloud_objects.Port("p", "p", "s")])
    assert _cloud_security_groups.SecurityGroups(connection).apply_plan("demo", group, plan) == "group"
    calls = [call[0] for call in connection.network.method_calls]
    assert set(calls[:-2]) == {"create_security_group_rule"}
    assert calls[-2:] == ["update_port", "delete_security_group_rule"]
    created = [call.kwargs for call in connection.network.create_security_group_rule.call_args_list]
    (inside,) = [one for one in created if "remote_group_id" in one]
    assert inside["remote_group_id"] == "group" and inside["direction"] == "ingress" and inside["ether_type"] == "IPv4"
    assert inside["protocol"] is None and inside["port_range_min"] is None


def tagged(put: int, extension: int) -> Any:
    """A connection to a cloud that answers requests for tags, and for their extension, with these statuses."""
    connection = MagicMock()
    details = {"headers": {"content-type": "application/json"}, "content": b"{}", "url": "http://cloud"}
    body = {"NeutronError": {"message": "update_security_groups_tags is disallowed by policy"}}
    connection.network.put.return_value = MagicMock(status_code=put, **details, json=lambda: body)
    connection.network.get.return_value = MagicMock(status_code=extension)
    return connection


@pytest.mark.parametrize(
    ("put", "extension", "raises"), [(200, 200, False), (404, 404, False), (404, 200, True), (403, 200, True)]
)
def test_tags_that_a_cloud_rejects_are_an_error_unless_it_has_none(put: int, extension: int, raises: bool) -> None:
    connection = tagged(put, extension)
    groups = _cloud_security_groups.SecurityGroups(connection)
    try:
        groups.set_tags("group", ("q8s-etcd:s1",))
    except _cloud.CloudError as error:
        assert raises and str(error).startswith(
            "Failed to tag the security group q8s-cluster, which records the server that has the cluster's CA and "
            "etcd: update_security_groups_tags is disallowed by policy"
        )
    else:
        assert not raises
    connection.network.put.assert_called_once_with("/security-groups/group/tags", json={"tags": ["q8s-etcd:s1"]})


def test_only_a_missing_extension_means_that_a_cloud_has_no_tags() -> None:
    has = [_cloud_security_groups.SecurityGroups(tagged(200, status)).has_tags() for status in (200, 403, 500, 404)]
    assert has == [True, True, True, False]
    connection = tagged(404, 404)
    connection.image.images.return_value = connection.compute.flavors.return_value = []
    connection.network.networks.return_value = connection.network.security_groups.return_value = []
    connection.network.subnets.return_value = []
    assert not _cloud.Cloud(connection).clusters.find_requirements(CLUSTER).tags
    connection.network.get.assert_called_with("/extensions/standard-attr-tag")


def test_a_cloud_without_floating_ips_and_server_groups_has_none() -> None:
    connection = MagicMock(current_project_id="project")
    connection.compute.servers.return_value = []
    connection.network.ports.return_value = []
    connection.network.security_groups.return_value = []
    missing = exceptions.NotFoundException("no such path")
    connection.network.ips.side_effect = connection.compute.server_groups.side_effect = missing
    assert _cloud.Cloud(connection).clusters.find_existing(CLUSTER) == _plan_servers.Existing([], [], None, [], {}, "")


def existing_cluster(**metadata: str) -> Any:
    """A connection to a cloud with the servers of the demo, and a server group, a floating IP and ports of them."""
    connection = MagicMock(current_project_id="project")
    whose = {"q8s_cluster": "demo", **metadata}
    fixed = {"private": [{"version": 4, "addr": "10.254.1.4"}]}
    flavor = {"vcpus": 2, "ram": 4096, "disk": 20, "original_name": CLUSTER.master_node_flavor}
    image = SimpleNamespace(id="id-old")
    of = {"status": "ACTIVE", "metadata": whose, "addresses": fixed, "flavor": flavor, "image": image}
    servers = [named(spec.name, **of) for spec in CLUSTER.servers()]
    connection.compute.servers.return_value = servers
    port = {"network_id": "net", "fixed_ips": [{"ip_address": "10.254.1.4", "subnet_id": "subnet"}]}
    connection.network.ports.return_value = [
        named(f"p-{one.name}", device_id=one.id, security_group_ids=["own"], **port)
        for one in (*servers, named("stranger"))
    ]
    connection.compute.server_groups.return_value = [
        named("q8s-demo", policy="soft-anti-affinity", member_ids=[servers[0].id])
    ]
    text = {"description": "Q8S cluster demo", "project_id": "project"}
    address = {"floating_ip_address": "203.0.113.4", "fixed_ip_address": "10.254.1.4", "floating_network_id": "e1"}
    connection.network.ips.return_value = [named("f", **text, **address)]
    connection.network.security_groups.side_effect = lambda **query: [] if query else [named("web")]
    connection.image.images.side_effect = lambda name: [named(name, status="active", virtual_size=0, size=0)]
    network = named("other", is_router_external=False, mtu=0)
    connection.network.networks.side_effect = lambda **query: [network] if query.get("name") == "other" else []
    connection.network.subnets.return_value = []
    return connection


def test_a_cluster_that_is_as_the_file_says_is_listed_and_nothing_else_is_looked_up() -> None:
    connection = existing_cluster(q8s_default_image_name=CLUSTER.default_image_name)
    existing = _cloud.Cloud(connection).clusters.find_existing(CLUSTER)
    (server, *_), ports = existing.servers, existing.resources.ports
    (port,) = ports[server.id]
    assert (server.image, server.networks, server.disk) == ("id-old", ("private",), 20)
    assert (port.network, port.subnets, port.groups) == ("net", ("subnet",), ("own",))
    assert set(ports) == {one.id for one in existing.servers}, "no stranger's"
    assert existing.group is not None and existing.group.members == (server.id,)
    assert [ip.network for ip in existing.floating] == ["e1"]
    assert not connection.image.images.called and not connection.network.networks.called
    assert connection.network.security_groups.call_count == 1, "for its tags"


def test_what_the_listings_do_not_tell_is_looked_up_once_and_not_for_each_server() -> None:
    connection = existing_cluster()
    other = replace(
        CLUSTER,
        private_network_id="other",
        security_groups=("q8s-cluster", "web", "db"),
        access=_spec.Access("floating_ip", floating_network="external"),
    )
    resources = _cloud.Cloud(connection).clusters.find_existing(other).resources
    assert (resources.images, resources.networks, resources.groups, resources.external_networks) == (
        ("id-debian-13",),
        ("id-other",),
        {"web": ("id-web",), "db": ()},
        (),
    )
    assert connection.image.images.call_count == 1
    queries = [call.kwargs for call in connection.network.networks.call_args_list]
    assert len(queries) == 4 and {"name": "external", "is_router_external": True} in queries
    subnet = named("other", network_id="net", cidr="10.254.1.0/24", ip_version=4, allocation_pools=[])
    connection.network.networks.side_effect = None
    connection.network.networks.return_value = []
    connection.network.subnets.side_effect = lambda **query: [subnet] if query == {"name": "other"} else []
    assert _cloud.Cloud(connection).clusters.find_existing(other).resources.networks == ("id-other",), "the subnet"


def test_what_others_have_under_the_clusters_name_is_not_the_clusters() -> None:
    """An administrator sees every project, and a backend may ignore a filter."""
    mark = "Q8S cluster demo"
    pairs = [("theirs", mark, "other"), ("web", "our web server", "project"), ("ours", mark, "project")]
    connection = MagicMock(current_project_id="project")
    connection.network.ips.return_value = [
        named(name, description=text, project_id=project, floating_ip_address=name, fixed_ip_address=None)
        for name, text, project in pairs
    ]
    connection.network.security_groups.return_value = [
        named("q8s-cluster", id=f"id-{name}", description=text, project_id=project, created_at=name, tags=[name])
        for name, text, project in reversed(pairs)
    ]
    cloud = _cloud.Cloud(connection)
    assert [ip.address for ip in cloud.floating_ips.list_floating_ips("demo")] == ["ours"]
    assert cloud.security_groups.find_tags("demo") == ("id-ours", ("ours",))
    for method in (connection.network.ips, connection.network.security_groups):
        assert method.call_args.kwargs["project_id"] == "project"


def test_one_message_names_everything_that_new_servers_lack() -> None:
    connection = MagicMock()
    for listed in (connection.image.images, connection.compute.flavors, connection.network.security_groups):
        listed.return_value = []
    connection.image.find_image.return_value = None
    connection.network.networks.return_value = connection.network.subnets.return_value = []
    with pytest.raises(_cloud.CloudError) as raised:
        _cloud.Cloud(connection).clusters.find_needs(CLUSTER)
    text = str(raised.value)
    assert text.startswith("Failed to create the servers: missing or not unique: the image ")
    assert f"the network {CLUSTER.private_network_id}" in text and "the security group q8s-cluster" in text


def test_clouds_yaml_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openstack import connection
    from openstack.config import loader

    auth = "{auth_url: http://127.0.0.1:9/v3, username: me, password: x, project_name: p}"
    (tmp_path / "clouds.yaml").write_text(f"clouds: {{a: {{auth: {auth}}}}}\n")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    read: list[Any] = []
    opened: list[Any] = []

    class Config(loader.OpenStackConfig):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            read.append(options)
            super().__init__(**options)

    def open_connection(config: Any) -> Any:
        opened.append(config)
        session = SimpleNamespace(timeout=None, session=SimpleNamespace(adapters={}), get_token=lambda: "token")
        return SimpleNamespace(session=session)

    monkeypatch.setattr(loader, "OpenStackConfig", Config)
    monkeypatch.setattr(connection, "Connection", open_connection)
    client = _cloud.connect("a")
    assert len(read) == 1
    assert [config.name for config in opened] == ["a"]
    assert client._os.session.timeout == 60
