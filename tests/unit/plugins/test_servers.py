"""The module ``servers``: a failed server does not affect the others, and etcd's data is deleted only if confirmed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _cloud_tags, _plan_servers, _spec
from ansible_collections.q8s.emu.plugins.modules import servers

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
CLUSTER_OF_TWO = replace(CLUSTER, number_additional_master_nodes=1)
INITIAL, WORKER, BROKEN = "demo-control-plane", "demo-x86-small-1", "demo-arm-mid-1"


def server(name: str, status: str = "ACTIVE", number: int = 1, **more: Any) -> _cloud_objects.Server:
    return _cloud_objects.Server(f"{name}#{number}", name, status, ("10.254.1.9",), {"q8s_cluster": "demo"}, **more)


class Recorded:
    """Stands in for our own client: servers of some names never become ACTIVE."""

    def __init__(
        self,
        existing: _plan_servers.Existing,
        broken: tuple[str, ...] = (),
        locked: tuple[str, ...] = (),
        stuck: tuple[str, ...] = (),
    ) -> None:
        self.has = existing
        self.broken = broken
        self.stuck = stuck
        self.locked = locked
        self.log: list[str] = []
        self.twins: list[_cloud_objects.Server] = []  # beside the servers that were requested
        self.warnings: list[str] = []
        self.tags: tuple[str, ...] = ()

    def find_existing(self, cluster: Any) -> _plan_servers.Existing:
        return self.has

    def find_networks(self, cluster: Any) -> list[Any]:
        return []

    def find_needs(self, cluster: Any) -> Any:
        return _cloud.Needs("image", SimpleNamespace(own_ports=False), {}, ())  # type: ignore[arg-type]

    def create_servers(
        self, cluster: Any, needs: Any, requests: list[Any], user_data: Any, ports: Any
    ) -> dict[str, Any]:
        self.log += [f"create {spec.name}" for request in requests for spec in request.specs]
        return {}

    def delete_servers(self, gone: list[_cloud_objects.Server], deadline: float) -> dict[str, str]:
        self.log += [f"delete {one.id}" for one in gone]
        return {one.id: f"server {one.name}: not removed" for one in gone if one.id in self.stuck}

    def wait_until_active(
        self, cluster: Any, names: set[str], deadline: float
    ) -> tuple[list[Any], list[Any], dict[str, str]]:
        kept = {one.name: one for one in self.has.servers}
        ready = [kept.get(name) or server(name, number=2) for name in sorted(names) if name not in self.broken]
        errors = [server(name, "ERROR", number=2, fault="no host") for name in sorted(names) if name in self.broken]
        gone = [line.removeprefix("delete ") for line in self.log if line.startswith("delete ")]
        return ready + [twin for twin in self.twins if twin.id not in gone], errors, {}

    def record_etcd_server(self, cluster_name: str, server_id: str) -> None:
        self.log.append(f"record {server_id or 'nothing'}")

    def find_tags(self, cluster_name: str) -> tuple[str, tuple[str, ...]]:
        return "group", self.tags

    def nothing(self, *_: Any) -> None:
        pass

    def start_servers(self, stopped: list[_cloud_objects.Server]) -> dict[str, Any]:
        why = "Failed to start the server {}: it is locked (409)"
        return {one.name: _cloud.CloudError(why.format(one.name)) for one in stopped if one.name in self.locked}

    delete_ports = delete_floating_ips = nothing


def run(cloud: Recorded, cluster: _spec.Cluster = CLUSTER, **params: Any) -> dict[str, Any]:
    defaults = {"state": "present", "nodes": None, "timeout": 1, "public_key": "ssh-ed25519 AAAA"}
    flags = {"remove_surplus": False, "replace_control_plane": False, "partial": False}
    module: Any = SimpleNamespace(params={**defaults, **flags, **params}, check_mode=False, warn=cloud.warnings.append)
    resources = ("clusters", "servers", "server_groups", "ports", "floating_ips", "security_groups")
    return servers.apply(module, cluster, SimpleNamespace(**dict.fromkeys(resources, cloud)))


def test_the_others_are_there_when_one_cannot_be_created() -> None:
    cloud = Recorded(_plan_servers.Existing(), broken=(BROKEN,))
    result = run(cloud, partial=True)
    assert [one["name"] for one in result["servers"]] == [INITIAL, WORKER]
    assert result["failed_servers"] == {BROKEN: f"server {BROKEN} is in ERROR: no host"}
    assert cloud.log.count(f"create {BROKEN}") == 2, "it is tried once more"
    assert f"record {INITIAL}#2" in cloud.log


def test_the_others_are_there_when_one_cannot_be_started() -> None:
    existing = _plan_servers.Existing([server(INITIAL), server(BROKEN, "SHUTOFF")], etcd_server=f"{INITIAL}#1")
    cloud = Recorded(existing, locked=(BROKEN,))
    result = run(cloud, partial=True)
    assert [one["name"] for one in result["servers"]] == [INITIAL, WORKER]
    assert result["failed_servers"] == {BROKEN: f"Failed to start the server {BROKEN}: it is locked (409)"}
    assert cloud.log == [f"create {WORKER}"]


def test_the_others_are_there_when_one_is_paused() -> None:
    existing = _plan_servers.Existing([server(INITIAL), server(BROKEN, "PAUSED")], etcd_server=f"{INITIAL}#1")
    cloud = Recorded(existing)
    result = run(cloud, partial=True)
    assert [one["name"] for one in result["servers"]] == [INITIAL, WORKER]
    assert result["failed_servers"] == {
        BROKEN: f"the server {BROKEN} is PAUSED; bring it to ACTIVE first (openstack server unpause {BROKEN}#1)"
    }
    assert cloud.log == [f"create {WORKER}"]


def test_the_others_are_there_when_one_cannot_be_removed() -> None:
    old, twin = server("demo-old-1"), server(WORKER, number=2)
    servers = [server(INITIAL), server(WORKER), twin, server(BROKEN, "ERROR"), old]
    cloud = Recorded(
        _plan_servers.Existing(servers, etcd_server=f"{INITIAL}#1"), stuck=(old.id, twin.id, f"{BROKEN}#1")
    )
    result = run(cloud, partial=True, remove_surplus=True)
    assert [one["name"] for one in result["servers"]] == [INITIAL, WORKER]
    assert result["failed_servers"] == {name: f"server {name}: not removed" for name in (BROKEN, old.name)}
    assert sorted(cloud.log) == sorted(f"delete {one.id}" for one in (old, twin, servers[3])), "none in its place"
    with pytest.raises(_cloud.CloudError, match="Failed to remove 3 of 3 servers:\n- server demo-"):
        run(cloud, remove_surplus=True)


@pytest.mark.parametrize(("broken", "partial"), [(INITIAL, True), (BROKEN, False)])
def test_without_a_control_plane_or_leave_it_is_a_failure(broken: str, partial: bool) -> None:
    with pytest.raises(_cloud.CloudError, match=f"Failed to create 1 of 3 servers:\n- server {broken} is in ERROR"):
        run(Recorded(_plan_servers.Existing(), broken=(broken,)), partial=partial)


def test_the_control_planes_data_is_given_up_with_a_yes_only() -> None:
    workers = [server(WORKER), server(BROKEN)]
    existing = _plan_servers.Existing(workers, etcd_server=f"{INITIAL}#1")
    cloud = Recorded(existing)
    with pytest.raises(_cloud.CloudError, match="--replace-control-plane"):
        run(cloud)
    assert cloud.log == []
    cloud.wait_until_active = Recorded(_plan_servers.Existing()).wait_until_active  # type: ignore[method-assign]
    run(cloud, replace_control_plane=True)
    gone = [f"delete {one.id}" for one in workers]
    made = [f"create {name}" for name in (INITIAL, WORKER, BROKEN)]
    # what is given up is forgotten before the new one is created, which an interrupted run may then finish
    assert cloud.log == [*gone, "record nothing", *made, f"record {INITIAL}#2"]


def test_a_control_plane_that_fails_to_start_is_not_replaced() -> None:
    existing = _plan_servers.Existing([server(INITIAL, "SHUTOFF"), server(WORKER), server(BROKEN)])
    cloud = Recorded(replace(existing, etcd_server=f"{INITIAL}#1"), broken=(INITIAL,))
    with pytest.raises(_cloud.CloudError, match=f"server {INITIAL} is in ERROR"):
        run(cloud)
    assert not [line for line in cloud.log if line.startswith(("delete", "create"))]


def test_a_server_that_was_there_and_fails_to_start_is_not_replaced_without_a_yes() -> None:
    """Its host may have data: the next plan names it, and asks."""
    existing = _plan_servers.Existing([server(INITIAL), server(WORKER), server(BROKEN, "SHUTOFF")])
    cloud = Recorded(replace(existing, etcd_server=f"{INITIAL}#1"), broken=(BROKEN,))
    assert run(cloud, partial=True)["failed_servers"] == {BROKEN: f"server {BROKEN} is in ERROR: no host"}
    assert not [line for line in cloud.log if line.startswith(("delete", "create"))]


def test_a_survivor_is_recorded_before_the_new_control_plane_exists() -> None:
    second = replace(server("demo-control-plane-2"), metadata={"q8s_cluster": "demo", "q8s_role": "control_plane"})
    existing = _plan_servers.Existing([second, server(WORKER), server(BROKEN)], etcd_server=f"{INITIAL}#1")
    cloud = Recorded(existing)
    result = run(cloud, CLUSTER_OF_TWO, survivors=[second.name])
    assert cloud.log == [f"record {second.id}", f"create {INITIAL}"]
    assert not result["initial_created"], "the kubeconfig stays: it is the same cluster"


@pytest.mark.parametrize("name", [INITIAL, WORKER])
def test_a_server_that_the_cloud_created_twice_is_deleted_before_anything_is_installed(name: str) -> None:
    cloud = Recorded(_plan_servers.Existing())
    cloud.twins = [server(name, number=3)]
    result = run(cloud, partial=True)
    assert f"delete {name}#3" in cloud.log and name in " ".join(cloud.warnings)
    assert f"record {INITIAL}#2" in cloud.log
    assert {one["id"] for one in result["servers"]} == {f"{n}#2" for n in (INITIAL, WORKER, BROKEN)}


def test_of_two_control_planes_the_one_with_etcd_stays() -> None:
    existing = _plan_servers.Existing([server(INITIAL), server(WORKER)], etcd_server=f"{INITIAL}#1")
    cloud = Recorded(existing)
    cloud.twins = [server(INITIAL, number=0, created="2026-01-01")]
    run(cloud, partial=True)
    assert [line for line in cloud.log if line.startswith("delete")] == [f"delete {INITIAL}#0"]


def test_of_two_control_planes_the_one_whose_etcd_another_run_has_created_stays() -> None:
    cloud = Recorded(_plan_servers.Existing())
    cloud.twins = [server(INITIAL, number=3)]
    cloud.tags = _cloud_tags.record_etcd_server((), f"{INITIAL}#3")
    run(cloud, partial=True)
    assert [line for line in cloud.log if line.startswith("delete")] == [f"delete {INITIAL}#2"]


def test_a_twin_in_error_is_deleted_and_not_created_again() -> None:
    cloud = Recorded(_plan_servers.Existing())
    cloud.wait_until_active = lambda *_: (  # type: ignore[method-assign]
        [server(name, number=2) for name in (INITIAL, WORKER, BROKEN)],
        [server(WORKER, "ERROR", number=3)],
        {},
    )
    assert run(cloud, partial=True)["failed_servers"] == {}
    assert cloud.log.count(f"create {WORKER}") == 1 and f"delete {WORKER}#3" in cloud.log


def test_a_failed_server_that_stays_does_not_make_its_replacement_fail() -> None:
    old = server(BROKEN, "ERROR", number=2)
    cloud = Recorded(_plan_servers.Existing(), stuck=(old.id,))
    first = True

    def wait(cluster: Any, names: set[str], deadline: float) -> tuple[list[Any], list[Any], dict[str, str]]:
        nonlocal first
        ready = [server(name, number=3) for name in sorted(names) if name != BROKEN or not first]
        first = False
        return ready, [old], {}

    cloud.wait_until_active = wait  # type: ignore[method-assign]
    result = run(cloud, partial=True)
    assert result["failed_servers"] == {} and f"{BROKEN}#3" in {one["id"] for one in result["servers"]}
    assert f"A server that is replaced stays: server {BROKEN}: not removed" in cloud.warnings


def test_without_the_new_control_plane_the_others_go_on() -> None:
    second = replace(server("demo-control-plane-2"), metadata={"q8s_cluster": "demo", "q8s_role": "control_plane"})
    existing = _plan_servers.Existing([second, server(WORKER), server(BROKEN)], etcd_server=f"{INITIAL}#1")
    result = run(Recorded(existing, broken=(INITIAL,)), CLUSTER_OF_TWO, survivors=[second.name], partial=True)
    assert list(result["failed_servers"]) == [INITIAL]
