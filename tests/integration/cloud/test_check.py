"""``deploy --check`` and limits on a cluster that does not exist, and on one that is half made: it changes nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from q8s_lab.machine import wait
from q8s_wrapper.config import REPOSITORY
from tests.integration.cloud.clusters import snapshot

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


def state_of(folder: Path) -> dict[str, str]:
    """Every file of local state with its checksum."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tags(cloud: Any, cluster: Cluster) -> list[str]:
    mark = f"Q8S cluster {cluster.name}"
    return sorted(tag for group in cloud.network.security_groups() if group.description == mark for tag in group.tags)


class Check:
    """Runs what should change nothing, and makes sure that it does not."""

    def __init__(self, cloud: Any, cluster: Cluster, cache: Path) -> None:
        self.cloud, self.cluster, self.cache = cloud, cluster, cache

    def __call__(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        folder = Path(self.cluster.environment["Q8S_STATE"])
        before = snapshot(self.cloud, self.cluster), tags(self.cloud, self.cluster), state_of(folder)
        done = self.cluster.run(command, Q8S_CACHE=str(self.cache))
        assert (snapshot(self.cloud, self.cluster), tags(self.cloud, self.cluster), state_of(folder)) == before
        built = [path for path in self.cache.iterdir() if path.name != "checks"] if self.cache.exists() else []
        assert built == [], "nothing is built or downloaded"
        return done

    def deploy(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self("q8s-run", "deploy", self.cluster.file(1), "--check", *options)


@pytest.fixture
def check(cloud: Any, cluster: Cluster, tmp_path: Path) -> Check:
    return Check(cloud, cluster, tmp_path / "cache")


@pytest.fixture(scope="module")
def half_made(cloud: Any, cluster: Cluster) -> None:
    """All servers are there, and switched off."""
    for module in ("keypair", "security_group", "servers"):
        assert not cluster.module(module, cluster.mapping(1)).get("failed")
    names = (cluster.initial, cluster.worker)
    servers = [server for server in cloud.compute.servers() if server.name in names]
    for server in servers:
        cloud.compute.stop_server(server)
    assert wait(lambda: {cloud.compute.get_server(server.id).status for server in servers} == {"SHUTOFF"}, 60)


def test_no_cluster(check: Check, cluster: Cluster) -> None:
    done = check.deploy()
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert "deploy --check: 5 changes would be made" in said, (
        "the key's comment, key pair, group, servers, and the build"
    )
    assert f"next: q8s-run deploy {cluster.file(1)}" in said and "verify" not in said
    assert "Not in the cache; deploy builds or downloads it first: control-plane-x86_64, bundle-aarch64" in said
    assert f"these servers do not run yet: {cluster.initial}, {cluster.worker}" in said


def test_no_cluster_and_no_state(check: Check, cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.run(
        ["q8s-run", "deploy", cluster.file(1), "--check", "--limit", "tiny-1", "--json"],
        Q8S_STATE=str(tmp_path / "state"),
        Q8S_CACHE=str(tmp_path / "cache"),
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, result["check"], result["changed"]) == (0, True, 5), done.stderr
    assert not (tmp_path / "state").exists(), "no folder, no key"


def test_a_limit_to_what_is_not_there(check: Check, cluster: Cluster) -> None:
    done = check.deploy("--limit", "tiny-7")
    assert done.returncode == 2 and "tiny-7" in done.stderr and "tiny-1" in done.stderr
    plain = check(
        "ansible-playbook", REPOSITORY / "playbooks" / "site.yml",
        "-e", f"q8s_cluster_file={cluster.file(1)}", "-e", "q8s_limit=tiny-7", "--check",
    )  # fmt: skip
    assert plain.returncode == 2 and "no server, node or group tiny-7; known are" in plain.stdout + plain.stderr


def test_tags_that_leave_out_the_servers_are_refused(cloud: Any, cluster: Cluster, tmp_path: Path) -> None:
    """Before anything is built: nobody would create the servers that these tags are for."""
    before, cache = snapshot(cloud, cluster), tmp_path / "cache"
    for options in (["--tags", "qemu_host"], ["--tags", "nodes"], ["--tags", "qemu_host", "--check"]):
        done = cluster.run(["q8s-run", "deploy", cluster.file(1), *options], Q8S_CACHE=str(cache))
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 2, said
        missing = f"{cluster.initial} is missing, {cluster.worker} is missing"
        assert f"{missing}, and the tags leave out the stage cloud, which creates and starts servers" in said
        assert f"hint: deploy without tags: `q8s-run deploy {cluster.file(1)}`" in said and "next: " not in said
    assert snapshot(cloud, cluster) == before
    built = [path for path in cache.iterdir() if path.name != "checks"] if cache.exists() else []
    assert built == [], "nothing is built or downloaded"


@pytest.mark.usefixtures("half_made")
def test_servers_that_do_not_run(check: Check, cluster: Cluster) -> None:
    done = check.deploy()
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert f"start 2 servers {cluster.initial}," in said
    assert f"these servers do not run yet: {cluster.initial}, {cluster.worker}" in said


@pytest.mark.usefixtures("half_made")
@pytest.mark.parametrize("limit", ["tiny-1", "worker_hosts"])
def test_ansibles_own_limit_is_refused_at_once(limit: str, check: Check, cluster: Cluster) -> None:
    """It leaves out localhost and the first control plane, without which variables lack; the message has the way."""
    done = check(
        "ansible-playbook", REPOSITORY / "playbooks" / "site.yml",
        "-e", f"q8s_cluster_file={cluster.file(1)}", "--check", "--limit", limit,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"Pass -e q8s_limit={limit} instead" in " ".join((done.stdout + done.stderr).split())
    assert "TASK [Check image" not in done.stdout


@pytest.mark.usefixtures("half_made")
def test_a_limit_without_the_wrapper(check: Check, cluster: Cluster) -> None:
    done = check(
        "ansible-playbook", REPOSITORY / "playbooks" / "site.yml",
        "-e", f"q8s_cluster_file={cluster.file(1)}", "--check", "-e", "q8s_limit=tiny-1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TASK [Check image, flavors, network and quota]" in done.stdout


@pytest.fixture
def broken(half_made: None, cloud: Any, admin: Any, cluster: Cluster) -> Iterator[None]:
    """The worker's server is in ERROR, and afterwards switched off again."""
    (server,) = [server for server in cloud.compute.servers() if server.name == cluster.worker]
    admin.compute.reset_server_state(server.id, "error")
    assert wait(lambda: cloud.compute.get_server(server.id).status == "ERROR", 60)
    yield
    cloud.compute.stop_server(server)
    assert wait(lambda: cloud.compute.get_server(server.id).status == "SHUTOFF", 60)


@pytest.mark.usefixtures("broken")
def test_a_server_that_would_be_replaced(check: Check, cloud: Any, cluster: Cluster, tmp_path: Path) -> None:
    """A check shows it. A deploy does it after a yes only, and cannot ask without a terminal."""
    done = check.deploy()
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert f"replace server {cluster.worker}" in said
    assert f"next: q8s-run deploy {cluster.file(1)} --yes" in said
    before = snapshot(cloud, cluster)
    refused = cluster.run(["q8s-run", "deploy", cluster.file(1)], Q8S_CACHE=str(tmp_path / "cache"))
    said = " ".join((refused.stdout + refused.stderr).split())
    assert refused.returncode == 2, said
    assert f"{cluster.worker}: would be removed or replaced; this needs --yes" in said
    assert f"hint: `q8s-run deploy {cluster.file(1)} --yes` allows it" in said
    assert snapshot(cloud, cluster) == before
