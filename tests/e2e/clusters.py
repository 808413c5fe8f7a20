"""What the tests of whole clusters share: a small cluster of a name of its own, its commands, and its nodes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openstack
import pytest
import yaml

from q8s_lab import settings
from tests import clouds

Q8S_RUN: Final = Path(sys.executable).with_name("q8s-run")
DEMO: Final = Path(__file__).parents[2] / "examples" / "demo.yaml"
EDGE: Final = DEMO.with_name("edge.yaml")


@dataclass(frozen=True)
class Cluster:
    """A cluster: its name and file, the variables of its commands, and its cloud."""

    name: str
    file: Path
    environment: Mapping[str, str]
    cloud: openstack.connection.Connection

    def attempt(self, verb: str, *others: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal, and print what it prints."""
        done = subprocess.run(
            [Q8S_RUN, *verb.split(), self.file, *others],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2700,
            check=False,
        )
        print(time.strftime("%H:%M:%S"), verb, *others, done.stdout, done.stderr, sep="\n", flush=True)
        return done

    def command(self, verb: str, *others: str) -> str:
        """Run a command that must succeed. Return what it prints."""
        done = self.attempt(verb, *others)
        assert done.returncode == 0
        return done.stdout + done.stderr

    def address(self, node: str) -> str:
        """Return the address of a node."""
        rows = json.loads(self.attempt("status", "--json").stdout)
        return next(str(row["address"]) for row in rows if row["node"] == node)

    def servers(self) -> dict[str, str]:
        """Return the ids of the cluster's servers by name."""
        return {server.name: server.id for server in self.cloud.compute.servers() if server.name.startswith(self.name)}


@contextmanager
def connection(lab: Mapping[str, str]) -> Iterator[openstack.connection.Connection]:
    """A connection to the lab's cloud."""
    with clouds.connect(lab) as cloud:
        yield cloud


@contextmanager
def small_cluster(lab: Mapping[str, str], folder: Path, name: str, additional: int) -> Iterator[Cluster]:
    """The demo with one x86_64 worker and some additional control planes. It is destroyed in the end."""
    file = folder / "cluster.yaml"
    data = yaml.safe_load(DEMO.read_text().replace("demo", name))
    data["remote_ip_prefix"] = str(settings.load().subnet)
    data["cluster_definition"] |= {"number_additional_master_nodes": additional, "worker": {"x86-small": 1}}
    del data["vm_types"]["types"]["arm-mid"]
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(folder / "state")}
    with connection(lab) as cloud:
        found = Cluster(name, file, environment, cloud)
        try:
            yield found
        finally:
            found.attempt("destroy", "--yes")


@contextmanager
def given_or_deployed(
    request: pytest.FixtureRequest, folder: Path, name: str, write: Callable[[Path], Path]
) -> Iterator[Cluster]:
    """The cluster of Q8S_TEST_CLUSTER, which stays as it was, or a new one, which is destroyed in the end.

    Tests may edit the cluster's file: it is a copy.

    :param write: writes the new cluster's file to a folder, and returns its path
    """
    if there := os.environ.get("Q8S_TEST_CLUSTER"):
        text, file = Path(there).read_text(), folder / "cluster.yaml"
        file.write_text(text)
        with connection(os.environ) as cloud:
            given = Cluster(str(yaml.safe_load(text)["cluster_name"]), file, dict(os.environ), cloud)
            yield given
            if yaml.safe_load(file.read_text()) != yaml.safe_load(text):
                file.write_text(text)
                given.command("deploy", "--yes")
        return
    lab: Mapping[str, str] = request.getfixturevalue("lab")
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(folder / "state")}
    with connection(lab) as cloud:
        found = Cluster(name, write(folder), environment, cloud)
        try:
            found.command("deploy", "--yes")
            yield found
        finally:
            found.attempt("destroy", "--yes")


def in_cloud(cloud: openstack.connection.Connection, name: str) -> dict[str, Any]:
    """Return what the cloud records of a cluster: its servers, ports and security groups."""
    servers = [server for server in cloud.compute.servers() if server.name.startswith(name)]
    ports = [port for port in cloud.network.ports() if port.name.startswith(name)]
    groups = [group for group in cloud.network.security_groups() if name in f"{group.name} {group.description}"]
    return {
        "servers": {server.name: (server.id, server.metadata, server.tags, server.status) for server in servers},
        "ports": {port.name: (port.id, sorted(port.tags), sorted(port.security_group_ids)) for port in ports},
        "groups": {
            group.name: (group.id, sorted(group.tags), sorted(rule["id"] for rule in group.security_group_rules))
            for group in groups
        },
    }


def changes(output: str) -> int:
    """Return how many changes a command says that it made."""
    found = re.search(r"done in [\d.]+ s, (\d+) change", output)
    assert found, "the output does not say how much was changed"
    return int(found[1])


def edge_file(folder: Path) -> Path:
    """Write examples/edge.yaml for the lab, with two x86_64 workers, to a folder. Return its path."""
    file = folder / "cluster.yaml"
    data = yaml.safe_load(EDGE.read_text())
    data["remote_ip_prefix"] = str(settings.load().subnet)
    # As the other long tests: one architecture, and one guest less to emulate.
    data["vm_types"]["types"]["edge"] |= {"architecture": "x86_64", "cpu_model": "EPYC-Rome"}
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def is_ready(node: Mapping[str, Any]) -> bool:
    """Return whether a node is Ready and takes pods."""
    found = [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
    return found == ["True"] and not node["spec"].get("unschedulable")


def ready(nodes: Mapping[str, Any]) -> set[str]:
    """Return the names of the nodes that are Ready and take pods."""
    return {name for name, node in nodes.items() if is_ready(node)}
