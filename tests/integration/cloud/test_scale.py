"""250 servers in one go, one of which cannot be created: the others are there, and the next run is about that one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml

from q8s_lab import settings
from q8s_lab.machine import wait
from tests.integration.cloud.clusters import Cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.long("a quarter of an hour"),
]
SERVERS, NAME = 250, "scale"
BROKEN = f"{NAME}-broken-1"


@pytest.fixture
def project(lab: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The lab's project without quota. It is empty before and after."""
    for name, value in lab.items():
        monkeypatch.setenv(name, value)
    with openstack.connect(cloud=settings.SCALE_CLOUD_NAME) as cloud:
        assert not list(cloud.compute.servers(details=False))
        yield cloud
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda s: cloud.compute.delete_server(s, ignore_missing=True), cloud.compute.servers()))
        assert wait(lambda: not list(cloud.compute.servers(details=False)), 600)
        for group in cloud.network.security_groups():
            if group.name != "default":
                cloud.network.delete_security_group(group)
        for pair in cloud.compute.keypairs():
            cloud.compute.delete_keypair(pair)


def test_one_of_250_servers_that_fails_stays_one(project: Any, lab: Any, tmp_path: Path) -> None:
    environment = {**lab, "OS_CLOUD": settings.SCALE_CLOUD_NAME, "Q8S_STATE": str(tmp_path / "state")}
    cluster = Cluster(NAME, tmp_path, environment, tmp_path / "state")
    data = cluster.mapping(SERVERS - 2)
    types = data["vm_types"]["types"]
    types["broken"] = {**types["tiny"], "openstack_flavor": "hollow.error"}
    data["cluster_definition"]["worker"]["broken"] = 1
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    cluster.public_key = key.with_suffix(".pub").read_text().strip()

    def planned() -> list[tuple[str, str]]:
        """Return what is planned for servers."""
        begin = time.monotonic()
        done = cluster.run(["q8s-run", "plan", file, "--json"])
        print(f"planned within {time.monotonic() - begin:.0f} s")
        assert done.returncode == 0, done.stderr
        changes = json.loads(done.stdout)["changes"]
        return [(change["action"], change["name"]) for change in changes if change["kind"] == "server"]

    assert [action for action, _ in planned()] == ["create"] * SERVERS
    for name in ("keypair", "security_group"):
        assert not cluster.module(name, data).get("failed")
    begin = time.monotonic()
    answer = cluster.module("servers", data, seconds=1500, timeout=1200)
    first, failed, _ = answer["msg"].splitlines()
    assert first == f"Failed to create 1 of {SERVERS} servers:"
    assert failed.startswith(f"- server {BROKEN} is in ERROR: ")
    status = {server.name: server.status for server in project.compute.servers()}
    assert status.pop(BROKEN) == "ERROR"
    assert len(status) == SERVERS - 1 and set(status.values()) == {"ACTIVE"}
    listed = cluster.inventory(file)
    print(f"created and in the inventory within {time.monotonic() - begin:.0f} s")
    assert len(listed["worker_hosts"]["hosts"]) == SERVERS - 1, "with the one that failed, so that it is named"
    assert planned() == [("replace", BROKEN)]
