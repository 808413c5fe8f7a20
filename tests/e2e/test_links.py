"""The links of a cluster: in force after a deploy, measured, changed live, kept over a reboot, and removed.

They build on each other, in the order of the file. They take about ten minutes, so ``make test-long`` runs them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from clusters import Cluster, changes, connection, edge_file

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("Q8S_TEST_LONG"), reason="ten minutes: part of make test-long (Q8S_TEST_LONG=1)"
    ),
]


@dataclass(frozen=True)
class Edge(Cluster):
    """The cluster of examples/edge.yaml, with two x86_64 workers."""

    def links(self, action: str) -> dict[str, Any]:
        done = self.attempt(f"link {action}", "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (1 if found["broken"] else 0)
        return found

    def round_trip(self) -> float:
        """The median time in ms of a ping from the edge to the cloud, there and back."""
        output = self.command("ssh", "edge-1", "--", f"ping -n -c 20 -i 0.1 -q {self.address('cloud-1')}")
        found = re.search(r"= [\d.]+/([\d.]+)/", output)
        assert found, output
        return float(found[1])

    def edit(self, network: Mapping[str, Any] | None) -> None:
        data = yaml.safe_load(self.file.read_text())
        data.pop("network", None)
        self.file.write_text(yaml.safe_dump({**data, **({"network": network} if network else {})}, sort_keys=False))


@pytest.fixture(scope="module")
def edge(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    file = edge_file(folder)
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(folder / "state")}
    with connection(lab) as cloud:
        cluster = Edge("edge", file, environment, cloud)
        yield cluster
        cluster.attempt("destroy", "--yes")


def test_a_deploy_applies_the_links_once(edge: Edge) -> None:
    edge.command("deploy", "--yes")
    assert changes(edge.command("deploy")) == 0
    found = edge.links("show")
    assert found["links"] and all(row["in_force"] for row in found["links"])


def test_every_promise_is_kept(edge: Edge) -> None:
    findings = edge.links("verify")["findings"]
    assert {(row["from"], row["to"], row["what"]) for row in findings} >= {
        ("edge-1", "cloud-1", "delay"),
        ("cloud-1", "edge-1", "rate"),
        ("edge-control-plane", "edge-1", "delay"),
    }
    assert [row for row in findings if row["kept"] is False] == []


def test_an_edit_is_live(edge: Edge) -> None:
    before = edge.command("ssh", "edge-1", "--", "cat /proc/sys/kernel/random/boot_id")
    edge.edit({"links": [{"from": "zone:edge-site", "to": "zone:cloud-site", "delay": "100ms"}]})
    assert changes(edge.command("deploy")) == 2  # both guests
    assert 95 < edge.round_trip() < 120
    assert edge.command("ssh", "edge-1", "--", "cat /proc/sys/kernel/random/boot_id") == before


def test_a_link_is_changed_for_a_time(edge: Edge) -> None:
    edge.command("link set", "edge-1", "cloud-1", "delay=30ms")
    assert 25 < edge.round_trip() < 50
    assert "link changed by `link set`: node:edge-1 -> node:cloud-1: delay=30ms" in edge.attempt("status").stdout
    # verify asks for the file's promises, and measures nothing here.
    done = edge.attempt("verify", "--skip-links", "--json")
    promises = json.loads(done.stdout.splitlines()[-1])["promises"]
    assert done.returncode == 1
    assert [row["problem"] for row in promises if row["kept"] is False] == [
        "edge-1: link to cloud-1: not in force: delay 30 ms is instead of delay 100 ms"
    ]
    edge.command("link clear")
    assert 95 < edge.round_trip() < 120
    assert "link set" not in edge.attempt("status").stdout


def test_links_are_in_force_after_a_reboot_of_the_guest(edge: Edge) -> None:
    boot_id = ("ssh", "edge-1", "--", "cat /proc/sys/kernel/random/boot_id")
    before = edge.attempt(*boot_id).stdout
    edge.attempt("ssh", "edge-1", "--", "systemctl reboot")
    end = time.monotonic() + 300
    while (found := edge.attempt(*boot_id)).returncode or found.stdout == before:
        assert time.monotonic() < end, "the guest is not back"
        time.sleep(5)
    while not all(row["in_force"] for row in edge.links("show")["links"]):
        assert time.monotonic() < end, "the guest is without its links"
        time.sleep(5)
    assert 95 < edge.round_trip() < 120


def test_without_links_in_the_file_nothing_is_shaped(edge: Edge) -> None:
    edge.edit(None)
    assert changes(edge.command("deploy")) >= 1
    assert edge.links("show")["links"] == []
    assert "netem" not in edge.command("ssh", "edge-1", "--", "tc qdisc show")
    assert edge.round_trip() < 20
    assert changes(edge.command("deploy")) == 0
