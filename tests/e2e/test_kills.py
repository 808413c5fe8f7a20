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
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openstack
import pytest
import yaml

from q8s_lab import settings

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("Q8S_TEST_LONG"), reason="half an hour: part of make test-long (Q8S_TEST_LONG=1)"
    ),
]
Q8S_RUN: Final = Path(sys.executable).with_name("q8s-run")
DEMO: Final = Path(__file__).parents[2] / "examples" / "demo.yaml"
NAME: Final = "kills"
SEED: Final = int(os.environ.get("Q8S_TEST_SEED", "17"))
CONTROL_PLANES: Final = {f"{NAME}-control-plane", f"{NAME}-control-plane-2", f"{NAME}-control-plane-3"}
STILL_ENDING: Final = "is still ending"


@dataclass(frozen=True)
class Cluster:
    """The cluster of these tests, and what may happen to it."""

    file: Path
    environment: Mapping[str, str]
    cloud: openstack.connection.Connection
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
            done = subprocess.run(
                [Q8S_RUN, verb, self.file, *others],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=1500,
                check=False,
            )
            if STILL_ENDING not in done.stderr:
                break
            time.sleep(5)
        print(time.strftime("%H:%M:%S"), verb, *others, done.stdout, done.stderr, sep="\n", flush=True)
        assert done.returncode == 0, f"seed {SEED}: {done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def servers(self) -> dict[str, str]:
        return {server.name: server.id for server in self.cloud.compute.servers() if server.name.startswith(NAME)}

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


def ready(nodes: Mapping[str, Any]) -> set[str]:
    return {
        name
        for name, node in nodes.items()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
        and not node["spec"].get("unschedulable")
    }


def identities(nodes: Mapping[str, Any], names: Sequence[str] | set[str]) -> dict[str, str]:
    return {name: nodes[name]["metadata"]["uid"] for name in names}


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    file = tmp_path_factory.mktemp("kills") / "cluster.yaml"
    data = yaml.safe_load(DEMO.read_text().replace("demo", NAME))
    data["remote_ip_prefix"] = str(settings.load().subnet)
    data["cluster_definition"] |= {"number_additional_master_nodes": 2, "worker": {"x86-small": 1}}
    del data["vm_types"]["types"]["arm-mid"]
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(file.parent / "state")}
    config = openstack.config.OpenStackConfig(config_files=[lab["OS_CLIENT_CONFIG_FILE"]], load_envvars=False)
    with openstack.connection.Connection(config=config.get_one(cloud=lab["OS_CLOUD"])) as cloud:
        cluster = Cluster(file, environment, cloud, random.Random(SEED))
        yield cluster
        print((file.parent / "output.txt").read_text())
        subprocess.run(
            [Q8S_RUN, "destroy", file, "--yes"], env=environment, stdin=subprocess.DEVNULL, check=False, timeout=900
        )


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> dict[str, Any]:
    """The nodes, after a deploy that was stopped seven times."""
    for how in ("q8s-run", "ansible", "power", "q8s-run", "power", "ansible", "q8s-run"):
        cluster.interrupt(how, 50, "deploy", "--yes")
    cluster.run("deploy", "--yes")
    return cluster.nodes()


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
