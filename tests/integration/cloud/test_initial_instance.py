"""An initial instance that the user has: used as it is, started where it is off, and never repaired or removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from q8s_lab.machine import wait

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


@pytest.fixture
def instance(cloud: Any, cluster: Cluster) -> Iterator[Callable[..., Any]]:
    """Makes a server of the user's under the name of the initial instance, without any mark of Q8S's."""
    made = []

    def make(network: str = "private") -> Any:
        server = cloud.compute.create_server(
            name=cluster.initial,
            image_id=cloud.image.find_image("debian-13").id,
            flavor_id=cloud.compute.find_flavor("hollow.small").id,
            networks=[{"uuid": cloud.network.find_network(network).id}],
        )
        made.append(server)
        return cloud.compute.wait_for_server(server, wait=60)

    yield make
    for name in ("servers", "security_group", "keypair"):
        cluster.module(name, state="absent")
    for server in made:
        cloud.compute.delete_server(server, ignore_missing=True)
    ids = {server.id for server in made}
    assert wait(lambda: not ids & {server.id for server in cloud.compute.servers()}, 60)


def changes(answer: dict[str, Any]) -> list[str]:
    return [f"{c['action']} {c['kind']} {c['name']}" for c in answer["changes"] if c["kind"] == "server"]


def test_one_that_is_off_is_started(cloud: Any, cluster: Cluster, instance: Callable[..., Any]) -> None:
    server = instance()
    cloud.compute.stop_server(server)
    assert wait(lambda: cloud.compute.get_server(server).status == "SHUTOFF", 60)
    wanted = cluster.mapping(0)
    planned = cluster.module("cloud_preflight", wanted)
    assert changes(planned) == [f"start server {cluster.initial}"] and not planned["settled"]
    for name in ("keypair", "security_group"):
        assert not cluster.module(name, wanted).get("failed")
    answer = cluster.module("servers", wanted)
    assert changes(answer) == changes(planned), answer
    assert cloud.compute.get_server(server).status == "ACTIVE", "waited for"
    assert not cluster.module("servers", wanted)["changed"]
    assert cluster.module("cloud_preflight", wanted)["settled"]
    cluster.module("servers", wanted, state="absent")
    assert cloud.compute.get_server(server).status == "ACTIVE", "not removed, and not stopped again"


def test_one_that_is_off_is_checked_before_other_servers_are_created(
    cloud: Any, cluster: Cluster, instance: Callable[..., Any]
) -> None:
    server = instance()
    cloud.compute.stop_server(server)
    assert wait(lambda: cloud.compute.get_server(server).status == "SHUTOFF", 60)
    checked = cluster.run(["q8s-run", "deploy", cluster.file(1), "--yes", "--check"])
    assert "it is started, and checked then" in checked.stdout + checked.stderr
    assert cloud.compute.get_server(server).status == "SHUTOFF"
    # Nobody can log in to a server without a machine.
    done = cluster.run(["q8s-run", "deploy", cluster.file(1), "--yes", "--", "-e", "q8s_ssh_timeout=5"])
    assert done.returncode == 1 and f"{cluster.initial} cannot be a control plane" in done.stderr, done.stderr
    assert cloud.compute.get_server(server).status == "ACTIVE"
    assert cloud.compute.find_server(cluster.worker) is None


def test_one_that_is_off_keeps_no_other_server_from_being_destroyed(
    cloud: Any, cluster: Cluster, instance: Callable[..., Any]
) -> None:
    server = instance()
    for name in ("keypair", "security_group", "servers"):
        assert not cluster.module(name, cluster.mapping(1)).get("failed")
    assert cloud.compute.find_server(cluster.worker)
    cloud.compute.stop_server(server)
    assert wait(lambda: cloud.compute.get_server(server).status == "SHUTOFF", 60)
    done = cluster.run(["q8s-run", "destroy", cluster.file(1), "--yes"])
    said = " ".join(done.stderr.split())
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"Failed to remove Kubernetes from {cluster.initial}" in said and "run destroy again" in said, said
    assert cloud.compute.find_server(cluster.worker) is None
    assert cloud.compute.get_server(server).status == "SHUTOFF", "the user's own"
    assert (cluster.state / "id_ed25519").exists(), "to log in with next time"


def test_one_in_error_is_the_users_to_bring_back(
    cloud: Any, cluster: Cluster, instance: Callable[..., Any], admin: Any
) -> None:
    server = instance()
    admin.compute.reset_server_state(server.id, "error")
    (problem,) = cluster.module("cloud_preflight", cluster.mapping(0))["problems"]
    assert problem.startswith(f"the initial instance {cluster.initial}, which Q8S did not create, is ERROR"), problem
    assert f"openstack server reboot --hard {server.id}" in problem
    message = cluster.module("servers", cluster.mapping(0))["msg"]
    assert problem in message and cloud.compute.get_server(server).status == "ERROR", "not replaced"


def test_a_key_that_is_not_there_is_named(cluster: Cluster, instance: Callable[..., Any], tmp_path: Path) -> None:
    wanted = cluster.mapping(0, initial_instance_private_key=str(tmp_path / "cloud"))
    assert cluster.module("cloud_preflight", wanted)["problems"] == [], "the instance is Q8S's to create"
    instance()
    assert cluster.module("cloud_preflight", wanted)["problems"] == [
        f"initial_instance_private_key: there is no file {tmp_path}/cloud, and Q8S did not create the initial "
        f"instance {cluster.initial}"
    ]
    (tmp_path / "cloud").touch()
    assert cluster.module("cloud_preflight", wanted)["problems"] == []


def test_one_in_another_network_is_named_with_its_addresses(
    cloud: Any, cluster: Cluster, instance: Callable[..., Any]
) -> None:
    network = cloud.network.create_network(name=f"{cluster.name}-elsewhere")
    try:
        cloud.network.create_subnet(network_id=network.id, cidr="10.80.0.0/24", ip_version=4)
        server = instance(network.name)
        (address,) = [fixed["addr"] for fixed in next(iter(server.addresses.values()))]
        wanted = cluster.mapping(0, access={"type": "floating_ip", "floating_network": "external"})
        (problem,) = cluster.module("cloud_preflight", wanted)["problems"]
        assert f"has no address in remote_ip_prefix {wanted['remote_ip_prefix']} (it has {address})" in problem
        assert problem in cluster.module("servers", wanted)["msg"]
    finally:
        for server in cloud.compute.servers(name=cluster.initial):
            cloud.compute.delete_server(server)
        assert wait(lambda: not list(cloud.network.ports(network_id=network.id, device_owner="compute:nova")), 60)
        cloud.network.delete_network(network)


def test_one_without_a_floating_ip_is_refused_where_this_machine_has_no_other_way(
    cloud: Any, cluster: Cluster, instance: Callable[..., Any]
) -> None:
    access = {"type": "floating_ip", "floating_network": "external"}
    network = cloud.network.create_network(name=f"{cluster.name}-inside")
    try:
        cloud.network.create_subnet(network_id=network.id, cidr="10.80.0.0/24", ip_version=4)
        instance(network.name)
        own = cluster.mapping(0, private_network_id=network.name, remote_ip_prefix="10.80.0.0/24", access=access)
        assert cluster.module("cloud_preflight", own)["problems"] == [
            f"the initial instance {cluster.initial}, which Q8S did not create, has no floating IP, by which it is "
            "checked before anything is created; give it one "
            f"(openstack server add floating ip {cluster.initial} ADDRESS; openstack floating ip create external "
            "creates one)"
        ]
    finally:
        for server in cloud.compute.servers(name=cluster.initial):
            cloud.compute.delete_server(server)
        assert wait(lambda: not list(cloud.network.ports(network_id=network.id, device_owner="compute:nova")), 60)
        cloud.network.delete_network(network)


def test_one_without_a_floating_ip_is_used_where_this_machine_has_a_route(
    cluster: Cluster, instance: Callable[..., Any]
) -> None:
    instance()
    planned = cluster.module(
        "cloud_preflight", cluster.mapping(0, access={"type": "floating_ip", "floating_network": "external"})
    )
    assert planned["problems"] == []
    assert [change["action"] for change in planned["changes"] if change["kind"] == "floating IP"] == ["create"]


def test_a_port_without_port_security_is_named(
    cloud: Any, cluster: Cluster, instance: Callable[..., Any], admin: Any
) -> None:
    server = instance()
    (port,) = cloud.network.ports(device_id=server.id)
    # the network's owner may, and of a shared network no other
    admin.network.update_port(port.id, security_groups=[], is_port_security_enabled=False)
    (problem,) = cluster.module("cloud_preflight", cluster.mapping(0))["problems"]
    assert problem.startswith(f"the port {port.id} of the server {cluster.initial} has port security off"), problem
    assert problem in cluster.module("security_group", cluster.mapping(0))["msg"]
