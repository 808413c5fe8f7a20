"""What ``private_network_id`` may be: ids and names, of networks and of subnets; and where servers then are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab
FIRST, SECOND = "10.77.1.0/24", "10.77.2.0/24"


@pytest.fixture(scope="module")
def networks(cloud: Any, cluster: Cluster) -> Iterator[Mapping[str, list[Any]]]:
    """Networks of the project's own: two of one name, as their subnets are, and one with two subnets."""
    made: list[Any] = []

    def make(name: str, subnets: Mapping[str, str]) -> Any:
        network = cloud.network.create_network(name=f"{cluster.name}-{name}")
        made.append(network)
        for cidr, subnet in subnets.items():
            cloud.network.create_subnet(
                network_id=network.id, name=f"{cluster.name}-{subnet}", cidr=cidr, ip_version=4, gateway_ip=None
            )
        return network

    yield {
        "twin": [make("twin", {FIRST: "same"}), make("twin", {"10.78.1.0/24": "same"})],
        "two": [make("two", {FIRST: "first", SECOND: "second"})],
    }
    for name in ("servers", "security_group", "keypair"):
        cluster.module(name, state="absent")
    for network in made:
        cloud.network.delete_network(network)


def subnet_of(cloud: Any, network: Any, cidr: str) -> Any:
    return next(subnet for subnet in cloud.network.subnets(network_id=network.id) if subnet.cidr == cidr)


def test_a_name_that_several_have_is_told_with_their_ids(
    networks: Mapping[str, list[Any]], cloud: Any, cluster: Cluster
) -> None:
    subnets = [subnet for network in networks["twin"] for subnet in cloud.network.subnets(network_id=network.id)]
    for name, several in (("twin", networks["twin"]), ("same", subnets)):
        wanted = cluster.mapping(private_network_id=f"{cluster.name}-{name}", remote_ip_prefix=FIRST)
        ids = ", ".join(sorted(one.id for one in several))
        assert cluster.module("cloud_preflight", wanted)["problems"] == [
            f"private_network_id: 2 networks or subnets are called '{cluster.name}-{name}'; give the id of one: {ids}"
        ]
    assert "missing or not unique: the network" in cluster.module("servers", wanted)["msg"]
    one = cluster.mapping(private_network_id=networks["twin"][0].id, remote_ip_prefix=FIRST)
    assert cluster.module("cloud_preflight", one)["problems"] == []


@pytest.fixture(scope="module")
def ready(networks: Mapping[str, list[Any]], cluster: Cluster) -> None:
    """The key and the group that servers need."""
    for name in ("keypair", "security_group"):
        assert cluster.module(name, cluster.mapping(remote_ip_prefix=FIRST))["changed"]


CASES = {
    "the network's name": (SECOND, lambda network, subnet: network.name),
    "the subnet's id": (FIRST, lambda network, subnet: subnet.id),
    "the subnet's name": (SECOND, lambda network, subnet: subnet.name),
}


@pytest.mark.parametrize("case", CASES)
def test_servers_are_in_the_subnet_that_is_meant(
    case: str, ready: None, networks: Mapping[str, list[Any]], cloud: Any, cluster: Cluster
) -> None:
    prefix, named = CASES[case]
    (network,) = networks["two"]
    subnet = subnet_of(cloud, network, prefix)
    wanted = cluster.mapping(0, private_network_id=named(network, subnet), remote_ip_prefix=prefix)
    answer = cluster.module("servers", wanted)
    assert [f"{c['action']} {c['kind']} {c['name']}" for c in answer["changes"]] == [
        f"create port {cluster.initial}",
        f"create server {cluster.initial}",
    ], answer
    (server,) = answer["servers"]
    (port,) = cloud.network.ports(device_id=server["id"])
    assert [fixed["subnet_id"] for fixed in port.fixed_ips] == [subnet.id]
    assert port.fixed_ips[0]["ip_address"] == server["address"]
    assert not cluster.module("servers", wanted)["changed"]
    assert cluster.module("servers", wanted, state="absent")["changed"]
    assert not list(cloud.network.ports(network_id=network.id))


def test_a_network_without_port_security(cloud: Any, cluster: Cluster) -> None:
    network = cloud.network.create_network(name=f"{cluster.name}-open", is_port_security_enabled=False)
    try:
        subnet = cloud.network.create_subnet(
            network_id=network.id, name=f"{cluster.name}-open-1", cidr=FIRST, ip_version=4
        )
        for named in (network.id, subnet.id):
            (problem,) = cluster.module(
                "cloud_preflight", cluster.mapping(private_network_id=named, remote_ip_prefix=FIRST)
            )["problems"]
            assert problem.startswith(f"private_network_id: the network '{named}' has port security off"), problem
    finally:
        cloud.network.delete_network(network)


def test_what_a_subnet_lacks_is_said(networks: Mapping[str, list[Any]], cluster: Cluster) -> None:
    wanted = cluster.mapping(
        private_network_id=networks["twin"][0].id,
        remote_ip_prefix=FIRST,
        access={"type": "bastion", "host": "gate.example.org"},
    )
    answer = cluster.module("cloud_preflight", wanted)
    assert [note.split(":")[0] for note in answer["notes"]] == [
        f"the subnet {FIRST} has no gateway",
        f"the subnet {FIRST} names no DNS server",
    ]


def test_servers_to_which_this_machine_has_no_route_are_noted(
    networks: Mapping[str, list[Any]], cluster: Cluster
) -> None:
    wanted = cluster.mapping(private_network_id=networks["twin"][0].id, remote_ip_prefix=FIRST)

    def about_access(answer: Mapping[str, Any]) -> list[str]:
        return [note for note in answer["notes"] if note.startswith("access is direct, so Q8S connects to")]

    assert len(about_access(cluster.module("cloud_preflight", wanted))) == 1
    assert about_access(cluster.module("cloud_preflight")) == [], "this machine is the lab's router"


def test_without_dhcp_servers_get_a_config_drive(ready: None, cloud: Any, cluster: Cluster) -> None:
    network = cloud.network.create_network(name=f"{cluster.name}-static")
    try:
        cloud.network.create_subnet(network_id=network.id, cidr="10.79.0.0/28", ip_version=4, is_dhcp_enabled=False)
        wanted = cluster.mapping(0, private_network_id=network.id, remote_ip_prefix="10.79.0.0/28")
        notes = cluster.module("cloud_preflight", wanted)["notes"]
        assert any(note.startswith("the subnet 10.79.0.0/28 has no DHCP") for note in notes)
        answer = cluster.module("servers", wanted)
        assert not answer.get("failed"), answer
        assert cloud.compute.get_server(answer["servers"][0]["id"]).has_config_drive
        assert cluster.module("servers", wanted, state="absent")["changed"]
    finally:
        cloud.network.delete_network(network)
