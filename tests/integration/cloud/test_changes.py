"""Every kind of change: what check mode announces is what the change then does, and nothing more is to do after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from q8s_lab import settings
from q8s_lab.machine import wait
from tests.integration.cloud.clusters import difference, snapshot

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Case:
    """A cloud that differs from the file, what a module is asked for, and what it must announce."""

    module: str
    expected: set[str]
    prepare: Callable[[Any, Any, Cluster], None] = lambda cloud, admin, cluster: None
    changes: dict[str, Any] = field(default_factory=dict)  # of the cluster file
    arguments: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def foreign(cloud: Any, cluster: Cluster) -> Iterator[Any]:
    """The initial instance of the cluster: a server that Q8S did not make, in a group of its own."""
    group = cloud.network.create_security_group(name=f"{cluster.name}-web", description=f"of {cluster.name}")
    made = cloud.compute.create_server(
        name=cluster.initial,
        image_id=cloud.image.find_image(settings.IMAGE_NAME).id,
        flavor_id=cloud.compute.find_flavor(cluster.flavor).id,
        networks=[{"uuid": cloud.network.find_network("private").id}],
        security_groups=[{"name": group.id}],
    )
    yield cloud.compute.wait_for_server(made, interval=1, wait=60)
    cloud.compute.delete_server(made)
    cloud.compute.wait_for_delete(made, interval=1, wait=60)


def server_of(cloud: Any, cluster: Cluster) -> Any:
    return cloud.compute.find_server(cluster.worker, ignore_missing=False)


def lose_key(cloud: Any, admin: Any, cluster: Cluster) -> None:
    cloud.compute.delete_keypair(f"q8s-{cluster.name}")


def group_id(cloud: Any, cluster: Cluster) -> str:
    return str(snapshot(cloud, cluster)["security group"]["q8s-cluster"])


def drift(cloud: Any, admin: Any, cluster: Cluster) -> None:
    """A rule of ours is lost, one of an older file is left, and somebody added one by hand."""
    rules = snapshot(cloud, cluster)["rule"]
    cloud.network.delete_security_group_rule(rules[f"tcp 6443 from {settings.load().subnet}"])
    for port, description in ((9000, f"Q8S cluster {cluster.name}"), (12345, "by hand")):
        cloud.network.create_security_group_rule(
            security_group_id=group_id(cloud, cluster),
            direction="ingress",
            ether_type="IPv4",
            protocol="tcp",
            port_range_min=port,
            port_range_max=port,
            description=description,
        )


def leave_group(cloud: Any, admin: Any, cluster: Cluster) -> None:
    (port,) = cloud.network.ports(device_id=server_of(cloud, cluster).id)
    cloud.network.update_port(port, security_groups=[])


def stop(cloud: Any, admin: Any, cluster: Cluster) -> None:
    server = server_of(cloud, cluster)
    cloud.compute.stop_server(server)
    assert wait(lambda: cloud.compute.get_server(server.id).status == "SHUTOFF", 60)


def remove(cloud: Any, admin: Any, cluster: Cluster) -> None:
    server = server_of(cloud, cluster)
    cloud.compute.delete_server(server)
    cloud.compute.wait_for_delete(server, interval=0.5, wait=60)


def fail(cloud: Any, admin: Any, cluster: Cluster) -> None:
    admin.compute.reset_server_state(server_of(cloud, cluster).id, "error")


def twin(cloud: Any, admin: Any, cluster: Cluster) -> None:
    """What two runs at once may leave."""
    first = server_of(cloud, cluster)
    made = cloud.compute.create_server(
        name=first.name,
        image_id=cloud.image.find_image(settings.IMAGE_NAME).id,
        flavor_id=cloud.compute.find_flavor(cluster.flavor).id,
        networks=[{"uuid": cloud.network.find_network("private").id}],
        security_groups=[{"name": group_id(cloud, cluster)}],
        metadata=first.metadata,
    )
    cloud.compute.wait_for_server(made, interval=0.5, wait=60)


def left_port(cloud: Any, admin: Any, cluster: Cluster) -> None:
    """What a run that was killed may leave: a port for a server that never came. And no server at all."""
    remove(cloud, admin, cluster)
    cloud.network.create_port(
        name=f"{cluster.name}-gone-1",
        network_id=cloud.network.find_network("private").id,
        description=f"Q8S cluster {cluster.name}",
    )


def detach(cloud: Any, admin: Any, cluster: Cluster) -> None:
    (ip,) = cloud.network.ips(description=f"Q8S cluster {cluster.name}")
    cloud.network.update_ip(ip, port_id=None)


OUTSIDE = {"access": {"type": "floating_ip", "floating_network": "external"}}
OFFICE = {"access": {**OUTSIDE["access"], "allowed_prefixes": ["198.51.100.0/24"]}}
SUBNET = settings.load().subnet
RULES = {
    f"create rule {rule} from {SUBNET}" for rule in ("tcp 22", "tcp 6443", "tcp 30000-32767", "udp 30000-32767", "icmp")
} | {"create rule any protocol from the group itself"}
INSIDE = {f"rule {rule} from the group itself" for rule in ("tcp 8099", "udp 8472")}
# In this order on one cluster; {initial}, {worker} and {name} are the cluster's names.
CASES = {
    "a key": Case("keypair", {"create key pair q8s-{name}"}),
    "a key that was lost": Case("keypair", {"create key pair q8s-{name}"}, lose_key),
    "a group": Case("security_group", {"create security group q8s-cluster", "create member {initial}", *RULES}),
    "rules that drifted": Case(
        "security_group", {f"create rule tcp 6443 from {SUBNET}", "delete rule tcp 9000 from 0.0.0.0/0"}, drift
    ),
    "another port": Case(
        "security_group",
        {f"create rule udp 8473 from {SUBNET}"},
        changes={"required_udp_ports": [8473]},
    ),
    "only listed ports among members": Case(
        "security_group",
        {f"create {rule}" for rule in INSIDE}
        | {"delete rule any protocol from the group itself", f"delete rule udp 8473 from {SUBNET}"},
        changes={"inside": "listed"},
    ),
    "all ports among members, and another port": Case(
        "security_group",
        {f"delete {rule}" for rule in INSIDE}
        | {"create rule any protocol from the group itself", f"create rule udp 8473 from {SUBNET}"},
        changes={"required_udp_ports": [8473]},
    ),
    "a server": Case("servers", {"create server {worker}"}),
    "a server that left the group": Case(
        "security_group",
        {"create member {worker}", f"delete rule udp 8473 from {SUBNET}"},
        leave_group,
    ),
    "a server that is off": Case("servers", {"start server {worker}"}, stop),
    "a server in ERROR": Case("servers", {"replace server {worker}"}, fail),
    "two of one name": Case("servers", {"delete server {worker}"}, twin),
    "a server that was removed": Case("servers", {"create server {worker}"}, remove),
    "a subnet, and ports": Case(
        "servers",
        {"create server {worker}", "create port {worker}", "delete port {name}-gone-1"},
        left_port,
        {"private_network_id": "private-subnet"},
    ),
    "a server group, and an address outside": Case(
        "servers",
        {
            "delete port {worker}",
            "create server group q8s-{name}",
            "create server {worker}",
            "create floating IP {initial}",
        },
        remove,
        {"server_group": "soft-anti-affinity", **OUTSIDE},
    ),
    "an address of nobody": Case("servers", {"attach floating IP {initial}"}, detach, OUTSIDE),
    "open to an office": Case(
        "security_group", {f"create rule tcp {port} from 198.51.100.0/24" for port in (22, 6443)}, changes=OFFICE
    ),
    "open to everybody": Case(
        "security_group",
        {f"create rule tcp {port} from 0.0.0.0/0" for port in (22, 6443)}
        | {f"delete rule tcp {port} from 198.51.100.0/24" for port in (22, 6443)},
        changes=OUTSIDE,
    ),
    "open to nobody outside": Case("security_group", {f"delete rule tcp {port} from 0.0.0.0/0" for port in (22, 6443)}),
    "a surplus": Case(
        "servers",
        {"delete server {worker}", "delete floating IP {initial}"},
        changes={"cluster_definition": {"worker": {"tiny": 0}}},
        arguments={"remove_surplus": True},
    ),
    "no servers": Case(
        "servers",
        {"delete server {worker}", "delete port {worker}", "delete server group q8s-{name}"},
        arguments={"state": "absent"},
    ),
    "no group": Case(
        "security_group",
        {
            *(rule.replace("create", "delete") for rule in RULES),
            "delete rule tcp 12345 from 0.0.0.0/0",
            "delete member {initial}",
            "delete security group q8s-cluster",
        },
        arguments={"state": "absent"},
    ),
    "no key": Case("keypair", {"delete key pair q8s-{name}"}, arguments={"state": "absent"}),
}


def file_of(cluster: Cluster, changes: dict[str, Any]) -> dict[str, Any]:
    data = cluster.mapping(1)
    for key, value in changes.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return data


@pytest.mark.parametrize("name", CASES)
def test_what_is_announced_is_done(name: str, foreign: Any, cloud: Any, admin: Any, cluster: Cluster) -> None:
    case = CASES[name]
    if name == "no servers":  # the case before it has removed them
        cluster.module("servers", cluster.mapping(private_network_id="private-subnet"))
    case.prepare(cloud, admin, cluster)
    expected = {
        text.format(initial=cluster.initial, worker=cluster.worker, name=cluster.name) for text in case.expected
    }
    mapping = file_of(cluster, case.changes)

    def run(check: bool = False) -> dict[str, Any]:
        answer = cluster.module(case.module, mapping, check, **case.arguments)
        assert not answer.get("failed"), answer
        return answer

    before = snapshot(cloud, cluster)
    announced = run(check=True)
    assert {f"{c['action']} {c['kind']} {c['name']}" for c in announced["changes"]} == expected
    assert len(announced["changes"]) == len(expected) and announced["changed"]
    assert snapshot(cloud, cluster) == before, "check mode changed something"
    applied = run()
    assert [applied[key] for key in ("changed", "changes", "diff")] == [
        announced[key] for key in ("changed", "changes", "diff")
    ]
    after = snapshot(cloud, cluster)
    assert difference(before, after) == expected
    again = run()
    assert not again["changed"] and again["changes"] == []
    assert again["diff"]["before"] == again["diff"]["after"] == announced["diff"]["after"]
    assert snapshot(cloud, cluster) == after
    web = next(group.id for group in cloud.network.security_groups() if group.name == f"{cluster.name}-web")
    (port,) = cloud.network.ports(device_id=foreign.id)
    assert web in port.security_group_ids, "the groups of the initial instance are its own affair"
