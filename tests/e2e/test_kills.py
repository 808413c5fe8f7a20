"""A run that is killed, or whose host loses power, at twenty random points: the same command then ends well.

The tests build on each other, in the order of the file: a cluster of three control planes and one worker is deployed,
gets another worker, has one replaced, and is destroyed. ``Q8S_TEST_SEED`` chooses other points; failures name the seed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e import clusters
from tests.e2e.clusters import Q8S_RUN, in_cloud, ready

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("half an hour"),
]
NAME: Final = "kills"
SEED: Final = int(os.environ.get("Q8S_TEST_SEED", "17"))
CONTROL_PLANES: Final = {f"{NAME}-control-plane", f"{NAME}-control-plane-2", f"{NAME}-control-plane-3"}
STILL_ENDING: Final = "is still ending"


@dataclass(frozen=True)
class Cluster(clusters.Cluster):
    """The cluster of these tests, and what may happen to it."""

    chance: random.Random

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        verb, *others = arguments
        command = [str(Q8S_RUN), verb, str(self.file), *others]
        print(time.strftime("%H:%M:%S"), *command, flush=True)
        log = (self.file.parent / "output.txt").open("a")
        return subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
        )

    def run(self, *arguments: str) -> str:
        """Run a command that has to end well. Return its output."""
        verb, *others = arguments
        for _ in range(12):
            done = self.attempt(verb, *others)
            if STILL_ENDING not in done.stderr:
                break
            time.sleep(5)
        assert done.returncode == 0, f"seed {SEED}: {done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def nodes(self) -> dict[str, Any]:
        text = self.run("ssh", f"{NAME}-control-plane", "--", "sudo", "kubectl", "get", "nodes", "--output=json")
        return {node["metadata"]["name"]: node for node in json.loads(text[text.index("{") :])["items"]}

    def ca(self) -> str:
        return self.run("ssh", f"{NAME}-control-plane", "--", "sudo", "sha256sum", "/etc/kubernetes/pki/ca.crt")

    def interrupt(self, how: str, longest: float, *arguments: str) -> None:
        """Start a command, and stop it the hard way after a random time, unless it has ended by then."""
        seconds = self.chance.uniform(1, longest)
        process = self.start(*arguments)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._strike(how, process)
        print(f"{time.strftime('%H:%M:%S')} {how} after {seconds:.0f} s: exit code {process.returncode}", flush=True)

    def _strike(self, how: str, process: subprocess.Popen[str]) -> None:
        if how == "power" and (servers := self.servers()):
            name = self.chance.choice(sorted(servers))
            print(f"power loss of {name}", flush=True)
            self.cloud.compute.reboot_server(servers[name], "HARD")
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        elif how == "ansible" and (
            found := [pid for pid in descendants(process.pid) if "ansible-playbook" in words(pid)]
        ):
            os.kill(found[0], signal.SIGKILL)
            assert process.wait(60) == 1, "q8s-run says that Ansible was killed"
        else:
            process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    """The processes below one, parents first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [number for child in children for number in (int(child), *descendants(int(child)))]


def words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def identities(nodes: Mapping[str, Any], names: Sequence[str] | set[str]) -> dict[str, str]:
    return {name: nodes[name]["metadata"]["uid"] for name in names}


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clusters.small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=2) as made:
        yield Cluster(made.name, made.file, made.environment, made.cloud, random.Random(SEED))
        print((made.file.parent / "output.txt").read_text())


@dataclass(frozen=True)
class HalfMade:
    """What check mode says of a cluster whose deploy was stopped, and what the cloud records before and after it."""

    output: str
    before: dict[str, Any]
    after: dict[str, Any]


@pytest.fixture(scope="module")
def half_made(cluster: Cluster) -> HalfMade:
    """A deploy that was stopped three times, and check mode afterwards."""
    for how in ("q8s-run", "ansible", "power"):
        cluster.interrupt(how, 50, "deploy", "--yes")
    before = in_cloud(cluster.cloud, NAME)
    output = cluster.run("deploy", "--check", "--yes")
    return HalfMade(output, before, in_cloud(cluster.cloud, NAME))


@pytest.fixture(scope="module")
def deployed(half_made: HalfMade, cluster: Cluster) -> dict[str, Any]:
    """The nodes, after a deploy that was stopped seven times."""
    for how in ("q8s-run", "power", "ansible", "q8s-run"):
        cluster.interrupt(how, 50, "deploy", "--yes")
    cluster.run("deploy", "--yes")
    return cluster.nodes()


def test_check_mode_of_a_half_made_cluster_changes_nothing(half_made: HalfMade, cluster: Cluster) -> None:
    assert half_made.after == half_made.before
    assert re.search(r"deploy --check: [1-9]\d* changes? would be made", half_made.output)


def test_a_deploy_ends_ready(deployed: dict[str, Any], cluster: Cluster) -> None:
    assert ready(deployed) == {*CONTROL_PLANES, "x86-small-1"} == set(deployed)
    assert len(cluster.servers()) == 4, "no server was created twice"
    assert ", 0 changes" in cluster.run("deploy", "--yes")


def test_a_worker_more(deployed: dict[str, Any], cluster: Cluster) -> None:
    servers, authority = cluster.servers(), cluster.ca()
    text = cluster.file.read_text()
    cluster.file.write_text(re.sub(r"(x86-small: )1\b", r"\g<1>2", text))
    assert cluster.file.read_text() != text
    for how in ("ansible", "q8s-run", "power", "q8s-run", "ansible"):
        cluster.interrupt(how, 40, "deploy", "--yes")
    cluster.run("deploy", "--yes")
    nodes = cluster.nodes()
    assert ready(nodes) == {*CONTROL_PLANES, "x86-small-1", "x86-small-2"} == set(nodes)
    assert identities(nodes, set(deployed)) == identities(deployed, set(deployed)), "no other node was made again"
    assert {name: cluster.servers()[name] for name in servers} == servers
    assert cluster.ca() == authority


def test_a_replaced_worker(deployed: dict[str, Any], cluster: Cluster) -> None:
    servers, nodes, authority = cluster.servers(), cluster.nodes(), cluster.ca()
    for how in ("q8s-run", "power", "ansible", "q8s-run"):
        cluster.interrupt(how, 50, "replace", "x86-small-1", "--yes")
    cluster.run("replace", "x86-small-1", "--yes")
    cluster.run("deploy", "--yes")  # what lost power meanwhile
    after, going = cluster.nodes(), f"{NAME}-x86-small-1"
    assert ready(after) == set(after) == set(nodes)
    others = set(nodes) - {"x86-small-1"}
    assert identities(after, others) == identities(nodes, others)
    found = cluster.servers()
    assert set(found) == set(servers) and found[going] != servers[going]
    assert {name: found[name] for name in servers if name != going} == {
        name: number for name, number in servers.items() if name != going
    }
    assert cluster.ca() == authority


def test_a_destroyed_cluster_leaves_nothing(deployed: dict[str, Any], cluster: Cluster) -> None:
    ours = set(cluster.servers().values())
    for how in ("q8s-run", "ansible", "q8s-run", "ansible"):
        cluster.interrupt(how, 6, "destroy", "--yes")
    cluster.run("destroy", "--yes")
    cloud = cluster.cloud
    assert cluster.servers() == {}
    assert [port.id for port in cloud.network.ports() if port.device_id in ours] == []
    assert [key.name for key in cloud.compute.keypairs() if NAME in key.name] == []
    assert [group.name for group in cloud.network.security_groups() if NAME in (group.description or "")] == []
