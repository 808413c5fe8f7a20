"""What goes wrong in clouds, on the real services: each is a named error or is repaired, and makes nothing twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from q8s_lab import settings
from q8s_lab.machine import wait
from q8s_wrapper.config import REPOSITORY
from tests.integration.cloud.clusters import snapshot

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def settled(cloud: Any, cluster: Cluster) -> Mapping[str, Any]:
    """A cluster of one control plane; each test brings it back to this."""
    for name in ("keypair", "security_group", "servers"):
        assert not cluster.module(name, cluster.mapping(0)).get("failed")
    return snapshot(cloud, cluster)


@pytest.fixture(autouse=True)
def _bring_back(settled: Mapping[str, Any], cloud: Any, cluster: Cluster) -> Iterator[None]:
    yield
    if names(cloud, cluster) != [cluster.initial]:
        cluster.module("servers", cluster.mapping(0), remove_surplus=True)
    assert [name for name, status in snapshot(cloud, cluster)["server"].values()] == [cluster.initial]


def names(cloud: Any, cluster: Cluster) -> list[str]:
    return sorted(name for name, _ in snapshot(cloud, cluster)["server"].values())


def rewrite(environment: Mapping[str, str], **more: Any) -> Mapping[str, str]:
    """The same clouds.yaml with more settings."""
    path = Path(environment["OS_CLIENT_CONFIG_FILE"])
    data = yaml.safe_load(path.read_text())
    data["clouds"][settings.CLOUD_NAME].update(more)
    path.write_text(yaml.safe_dump(data))
    return environment


def of_types(cluster: Cluster, **workers: int) -> dict[str, Any]:
    """With workers of several types, which are all like the first."""
    data = cluster.mapping(0)
    data["cluster_definition"]["worker"] = workers
    data["vm_types"]["types"] = dict.fromkeys(workers, data["vm_types"]["types"]["tiny"])
    return data


@pytest.fixture
def room_for_one(cloud: Any, admin: Any) -> Iterator[int]:
    """A quota for one server more than there are; gives it."""
    project = cloud.current_project_id
    quota = cloud.compute.get_limits().absolute.instances_used + 1
    before = admin.get_compute_quotas(project).instances
    admin.set_compute_quotas(project, instances=quota)
    yield quota
    admin.set_compute_quotas(project, instances=before)


def test_quota_hit_half_way(room_for_one: int, cloud: Any, admin: Any, cluster: Cluster) -> None:
    data = of_types(cluster, tiny=1, small=1)
    answer = cluster.module("servers", data)
    first, *failed, hint = answer["msg"].splitlines()
    # Two requests that meet at the limit may both be refused: Nova counts again after it has taken them. What is too
    # much then it refuses, or puts to ERROR.
    refused, taken = len(failed), sum(" is in ERROR: " in line for line in failed)
    assert answer["failed"] and refused in (1, 2) and first == f"Failed to create {refused} of 3 servers:", answer
    for line in failed:
        counted = rf"{room_for_one}" if refused == 1 else r"\d+"
        said = rf"Quota exceeded for instances: needs 1, {counted} of {room_for_one} used"
        server = rf"{cluster.name}-\S+"
        assert re.fullmatch(rf"- (Failed to create server {server}|server {server} is in ERROR): {said}", line), line
    assert hint.startswith("hint: ") and "quota" in hint
    assert len(names(cloud, cluster)) == 3 - refused + taken, "what was accepted is there, and was waited for"
    admin.set_compute_quotas(cloud.current_project_id, instances=room_for_one + 1)
    again = cluster.module("servers", data)
    assert len(again["changes"]) == refused and len(names(cloud, cluster)) == 3


def test_quota_hit_by_one_call_of_two(room_for_one: int, cloud: Any, admin: Any, cluster: Cluster) -> None:
    data = of_types(cluster, tiny=1, small=2)
    first, failed, hint = cluster.module("servers", data)["msg"].splitlines()
    assert first == "Failed to create 2 of 4 servers:" and hint.startswith("hint: ") and "quota" in hint
    servers = f"2 servers, {cluster.name}-small-1 to {cluster.name}-small-2"
    said = rf"Quota exceeded for instances: needs 2, \d+ of {room_for_one} used"
    assert re.fullmatch(f"- Failed to create {servers}: {said}", failed), failed
    assert names(cloud, cluster) == [cluster.initial, cluster.worker], "the other call's was waited for"
    admin.set_compute_quotas(cloud.current_project_id, instances=room_for_one + 2)
    again = cluster.module("servers", data)
    assert [change["name"] for change in again["changes"]] == [f"{cluster.name}-small-{n}" for n in (1, 2)]
    assert len(names(cloud, cluster)) == 4


def of_flavor(flavor: str, cluster: Cluster, workers: int = 1) -> dict[str, Any]:
    """With workers of a flavor of the lab's whose servers behave badly."""
    data = cluster.mapping(workers)
    data["vm_types"]["types"]["tiny"]["openstack_flavor"] = flavor
    return data


def test_a_server_that_goes_to_error(cloud: Any, cluster: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    answer = cluster.module("servers", of_flavor("hollow.error", cluster), environment=through.environment)
    first, failed, hint = answer["msg"].splitlines()
    assert first == "Failed to create 1 of 2 servers:" and hint.startswith("hint: run it again")
    assert failed.startswith(f"- server {cluster.worker} is in ERROR: ") and "never start" in failed
    assert f"The server {cluster.worker} went to ERROR and is replaced: " in str(answer["warnings"])
    assert len(through.proxy.requests("POST", "/servers$")) == 2, "replaced once, not for ever"
    assert names(cloud, cluster) == [cluster.initial, cluster.worker]
    again = cluster.module("servers", cluster.mapping(1))
    assert [f"{c['action']} {c['name']}" for c in again["changes"]] == [f"replace {cluster.worker}"]
    assert names(cloud, cluster) == [cluster.initial, cluster.worker]


def test_a_server_that_somebody_has_paused(cloud: Any, cluster: Cluster) -> None:
    cluster.module("servers", cluster.mapping(1))
    (worker,) = [server for server in cloud.compute.servers() if server.name == cluster.worker]
    cloud.compute.pause_server(worker)
    assert wait(lambda: cloud.compute.get_server(worker).status == "PAUSED", 60)
    said = f"the server {cluster.worker} is PAUSED; bring it to ACTIVE first (openstack server unpause {worker.id})"
    preflight = cluster.module("cloud_preflight", cluster.mapping(2))
    assert not preflight.get("failed") and said in preflight["plan"]["notes"]
    answer = cluster.module("servers", cluster.mapping(2), partial=True)
    assert [f"{c['action']} {c['name']}" for c in answer["changes"]] == [f"create {cluster.name}-tiny-2"]
    assert answer["failed_servers"] == {cluster.worker: said}
    assert names(cloud, cluster) == [cluster.initial, cluster.worker, f"{cluster.name}-tiny-2"]


def test_servers_of_one_call_that_go_to_error(cloud: Any, cluster: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    answer = cluster.module("servers", of_flavor("hollow.error", cluster, 2), environment=through.environment)
    workers = [cluster.worker, f"{cluster.name}-tiny-2"]
    first, *failed, hint = answer["msg"].splitlines()
    assert first == "Failed to create 2 of 3 servers:" and hint.startswith("hint: run it again")
    assert [line.partition(" is in ERROR: ")[0] for line in sorted(failed)] == [f"- server {name}" for name in workers]
    assert len(through.proxy.requests("POST", "/servers$")) == 1 + 2, "once together, then each alone"
    assert names(cloud, cluster) == [cluster.initial, *workers]


def test_a_server_that_stays_in_build(cloud: Any, cluster: Cluster) -> None:
    answer = cluster.module("servers", of_flavor("hollow.stuck", cluster), timeout=3)
    late = f"- server {cluster.worker}: still BUILD; no server changed its state for 3 s"
    assert late in answer["msg"].splitlines()
    assert names(cloud, cluster) == [cluster.initial, cluster.worker]
    again = cluster.module("servers", cluster.mapping(1), timeout=10)
    if not again.get("changed"):  # it is given up after the same time as it is waited for
        time.sleep(10)
        again = cluster.module("servers", cluster.mapping(1), timeout=10)
    assert [f"{c['action']} {c['name']}" for c in again["changes"]] == [f"replace {cluster.worker}"]
    assert "server" not in again.get("msg", "") and names(cloud, cluster) == [cluster.initial, cluster.worker]


def test_an_api_that_fails_for_a_while(cloud: Any, cluster: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    for status in (503, 429):
        through.proxy.answer("POST", "/servers$", status, retry_after=1)
    through.proxy.answer("POST", "/servers$", 500)
    for status in (500, 502, 503):
        through.proxy.answer("GET", "/servers/detail", status)
    begin = time.monotonic()
    answer = cluster.module("servers", cluster.mapping(1), environment=through.environment)
    assert not answer.get("failed"), answer
    assert [request.status for request in through.proxy.requests("POST", "/servers$")] == [503, 429, 500, 202]
    assert time.monotonic() - begin >= 2, "Retry-After is honoured"
    assert names(cloud, cluster) == [cluster.initial, cluster.worker]


@pytest.mark.parametrize(
    ("workers", "delivered"),
    [(1, False), (1, True), pytest.param(3, False, marks=pytest.mark.long("a minute and a half")), (3, True)],
)
def test_an_answer_that_never_comes(workers: int, delivered: bool, cloud: Any, cluster: Cluster, faulty: Any) -> None:
    """Whether the cloud did it or not: it is there once."""
    through = faulty("compute")
    through.proxy.drop("POST", "/servers$", delivered=delivered)
    answer = cluster.module("servers", cluster.mapping(workers), environment=through.environment)
    assert not answer.get("failed"), answer
    assert names(cloud, cluster) == [cluster.initial, *(f"{cluster.name}-tiny-{n + 1}" for n in range(workers))]
    assert len(through.proxy.requests("POST", "/servers$")) == (1 if delivered else 2), "all of a type in one call"


@pytest.mark.long("four minutes of waiting")
def test_an_api_that_fails_for_good(cloud: Any, cluster: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    through.proxy.answer("POST", "/servers$", 500, times=None)
    answer = cluster.module("servers", cluster.mapping(1), environment=through.environment)
    assert f"- Failed to create server {cluster.worker}: Internal Server Error (HTTP 500)" in answer["msg"]
    assert len(through.proxy.requests("POST", "/servers$")) == 3
    assert names(cloud, cluster) == [cluster.initial]


def test_an_api_that_hangs(cluster: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    through.proxy.hang("GET", "/servers/detail", 60, times=None)
    begin = time.monotonic()
    answer = cluster.module("servers", cluster.mapping(0), environment=rewrite(through.environment, api_timeout=2))
    assert answer["msg"].startswith("Failed to list the servers: the cloud does not answer (")
    assert time.monotonic() - begin < 20


def test_neutron_down(settled: Mapping[str, Any], cloud: Any, cluster: Cluster, faulty: Any) -> None:
    through = faulty("network")
    through.proxy.drop(".*", "", times=None)
    for name in ("security_group", "cloud_preflight"):
        answer = cluster.module(name, cluster.mapping(1), environment=through.environment)
        assert answer["failed"] and "the cloud cannot be reached" in answer["msg"], answer
    assert snapshot(cloud, cluster) == settled


def test_a_token_that_expires_in_the_middle(cloud: Any, cluster: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    through.proxy.answer("POST", "/servers$", 401)
    answer = cluster.module("servers", cluster.mapping(1), environment=through.environment)
    assert not answer.get("failed"), answer
    assert [request.status for request in through.proxy.requests("POST", "/servers$")] == [401, 202]
    assert names(cloud, cluster) == [cluster.initial, cluster.worker]


def test_an_image_that_was_deleted(cloud: Any, cluster: Cluster) -> None:
    answer = cluster.module("servers", cluster.mapping(1, default_image_name="gone"))
    assert "Failed to create the servers: missing or not unique: the image gone" in answer["msg"]
    assert names(cloud, cluster) == [cluster.initial]


def kill_after(count: int, name: str, data: dict[str, Any], cluster: Cluster, faulty: Any, **arguments: Any) -> None:
    """Run a module and kill it as soon as it has made so many changes."""
    services = [faulty("compute"), faulty("network")]
    compute, network = services
    environment = rewrite(compute.environment, network_endpoint_override=f"{network.proxy.url}/v2.0")
    given = {"cluster": data, "public_key": cluster.public_key, **arguments}
    if name == "security_group":
        del given["public_key"]
    process = subprocess.Popen(
        [sys.executable, "-m", f"ansible_collections.q8s.emu.plugins.modules.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY / "collections")},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode())
    process.stdin.close()

    def done() -> int:
        return sum(len(s.proxy.requests("POST|PUT|DELETE")) for s in services)

    assert wait(lambda: done() >= count or process.poll() is not None, 60)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("name", "count", "changes", "arguments"),
    [
        ("servers", 1, {}, {}),
        ("servers", 2, {"private_network_id": "private-subnet"}, {}),
        ("servers", 1, {"private_network_id": "private-subnet"}, {"state": "absent"}),
    ],
)
def test_killed_and_run_again(
    name: str,
    count: int,
    changes: dict[str, Any],
    arguments: dict[str, Any],
    cloud: Any,
    cluster: Cluster,
    faulty: Any,
) -> None:
    data = cluster.mapping(2, **changes)
    if arguments:
        assert not cluster.module(name, data).get("failed")
    kill_after(count, name, data, cluster, faulty, **arguments)
    answer = cluster.module(name, data, **arguments)
    assert not answer.get("failed"), answer
    left = [] if arguments else sorted([cluster.initial, cluster.worker, f"{cluster.name}-tiny-2"])
    assert names(cloud, cluster) == left
    ports = sorted(snapshot(cloud, cluster)["port"].values())
    assert ports == ([name for name in left if name != cluster.initial] if changes and left else [])
    assert not cluster.module(name, data, **arguments)["changed"]


def test_a_group_killed_and_cut_off_and_run_again(cloud: Any, cluster: Cluster, faulty: Any) -> None:
    assert not cluster.module("servers", state="absent").get("failed")
    assert not cluster.module("security_group", state="absent").get("failed")
    kill_after(1, "security_group", cluster.mapping(0), cluster, faulty)
    assert len(snapshot(cloud, cluster)["security group"]) == 1
    through = faulty("network")
    through.proxy.drop("POST", "/security-group-rules", times=None, after=2)
    answer = cluster.module("security_group", environment=through.environment)
    assert answer["msg"].startswith("Failed to add the rule ") and "cannot be reached" in answer["msg"]
    assert not cluster.module("security_group").get("failed")
    assert len(snapshot(cloud, cluster)["rule"]) == 6
