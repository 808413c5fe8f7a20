"""The server with the cluster's CA and etcd: what happens when it is gone, on the real services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.cloud.clusters import snapshot

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


def apply(cluster: Cluster, module: str, **arguments: Any) -> dict[str, Any]:
    answer = cluster.module(module, **arguments)
    assert not answer.get("failed"), answer["msg"]
    return answer


def delete(cloud: Any, name: str) -> str:
    server = cloud.compute.find_server(name, ignore_missing=False)
    cloud.compute.delete_server(server)
    cloud.compute.wait_for_delete(server, interval=1, wait=60)
    return str(server.id)


def etcd_server(cloud: Any, cluster: Cluster) -> list[str]:
    (group_id,) = snapshot(cloud, cluster)["security group"].values()
    tags = cloud.network.get_security_group(group_id).tags
    return [tag.removeprefix("q8s-etcd:") for tag in tags if tag.startswith("q8s-etcd:")]


@pytest.fixture(scope="module")
def deployed(cloud: Any, cluster: Cluster) -> dict[str, Any]:
    for module in ("keypair", "security_group", "servers"):
        apply(cluster, module)
    return snapshot(cloud, cluster)


def test_a_lost_control_plane_is_given_up_with_a_yes_only(
    deployed: dict[str, Any], cloud: Any, cluster: Cluster
) -> None:
    lost = delete(cloud, cluster.initial)
    assert etcd_server(cloud, cluster) == [lost]
    before = snapshot(cloud, cluster)
    for module in ("cloud_preflight", "servers"):
        for check in (True, False):
            message = cluster.module(module, check=check)["msg"]
            assert f"the server {cluster.initial}, which has the cluster's CA and etcd, was deleted" in message
            assert "q8s-run deploy FILE --replace-control-plane" in message
    assert snapshot(cloud, cluster) == before
    wanted = {f"create server {cluster.initial}", f"replace server {cluster.worker}"}
    for check in (True, False):
        answer = apply(cluster, "servers", check=check, replace_control_plane=True)
        assert {f"{c['action']} {c['kind']} {c['name']}" for c in answer["changes"]} == wanted
        assert "Everything that was created in Kubernetes is lost" in str(answer["warnings"])
    after = snapshot(cloud, cluster)
    assert not set(after["server"]) & set(before["server"])
    new = next(number for number, (name, _status) in after["server"].items() if name == cluster.initial)
    assert etcd_server(cloud, cluster) == [new]
    assert not apply(cluster, "servers", replace_control_plane=True)["changed"], "there is nothing to give up now"


def test_a_control_plane_in_error_is_not_replaced(
    deployed: dict[str, Any], cloud: Any, admin: Any, cluster: Cluster
) -> None:
    server = cloud.compute.find_server(cluster.initial, ignore_missing=False)
    admin.compute.reset_server_state(server.id, "error")
    message = cluster.module("servers", check=True)["msg"]
    assert "is ERROR" in message and f"openstack server reboot --hard {server.id}" in message
    admin.compute.reset_server_state(server.id, "active")
    assert not apply(cluster, "servers")["changed"]


def test_what_replace_would_do_is_checked_first(deployed: dict[str, Any], cluster: Cluster) -> None:
    node = cluster.worker.removeprefix(f"{cluster.name}-")
    answer = apply(cluster, "cloud_preflight", check=True, replace_nodes=[node])
    assert [f"{c['action']} {c['name']}" for c in answer["plan"]["changes"]] == [f"replace {cluster.worker}"]
    data = cluster.mapping()
    data["vm_types"]["types"]["tiny"]["openstack_flavor"] = "no-such-flavor"
    message = cluster.module("cloud_preflight", data, check=True, replace_nodes=[node])["msg"]
    assert "no-such-flavor" in message


def test_a_cluster_that_is_all_gone_is_created_again(deployed: dict[str, Any], cloud: Any, cluster: Cluster) -> None:
    for name in (cluster.initial, cluster.worker):
        delete(cloud, name)
    changes = apply(cluster, "servers")["changes"]
    assert {f"{c['action']} {c['name']}" for c in changes} == {f"create {cluster.initial}", f"create {cluster.worker}"}
    apply(cluster, "servers", state="absent")
    assert etcd_server(cloud, cluster) == [], "the security group stays with --keep"
