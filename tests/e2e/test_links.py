"""The links of a cluster: in force after a deploy, measured, changed live, kept over a reboot, and removed.

They build on each other, in the order of the file. They take about ten minutes, so ``make test-long`` runs them.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.e2e.clusters import Q8S_RUN, Cluster, changes, edge_file, given_or_deployed

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("a quarter to half an hour"),
]


@dataclass(frozen=True)
class Edge(Cluster):
    """The cluster of examples/edge.yaml."""

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

    @contextmanager
    def pings(self) -> Iterator[list[tuple[float, float]]]:
        """Ping from the edge to the cloud five times a second. The list gets (moment here, round trip in ms)."""
        words = ["ssh", self.file, "edge-1", "--", f"exec ping -n -i 0.2 -w 300 {self.address('cloud-1')}"]
        seen: list[tuple[float, float]] = []

        def read(lines: Iterable[str]) -> None:
            for line in lines:
                found = re.search(r" time=([\d.]+) ms", line)
                if found:
                    seen.append((time.monotonic(), float(found[1])))

        with subprocess.Popen(
            [Q8S_RUN, *words], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            reader = threading.Thread(target=read, args=(process.stdout,))
            reader.start()
            try:
                while len(seen) < 10:
                    assert process.poll() is None
                    time.sleep(0.2)
                yield seen
            finally:
                process.terminate()
                reader.join()

    def edit(self, network: Mapping[str, Any] | None) -> None:
        data = yaml.safe_load(self.file.read_text())
        data.pop("network", None)
        self.file.write_text(yaml.safe_dump({**data, **({"network": network} if network else {})}, sort_keys=False))


@pytest.fixture(scope="module")
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with given_or_deployed(request, tmp_path_factory.mktemp("edge"), "edge", edge_file) as found:
        yield Edge(**vars(found))


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


def test_a_link_is_changed_for_20_seconds(edge: Edge) -> None:
    with edge.pings() as seen:
        begin = time.monotonic()
        edge.command("link set", "edge-1", "cloud-1", "delay=30ms", "--for", "20s")
        end = time.monotonic()
        time.sleep(3)
    changed = [moment for moment, milliseconds in seen if moment > begin and milliseconds < 70]
    assert changed, "the link was never in force"
    assert all(milliseconds > 95 for moment, milliseconds in seen if moment < begin or moment > end + 1)
    # The change has reached the guest when the first packet takes less time. The command's own start is part of it.
    print(f"link set was in force after {changed[0] - begin:.1f} s, for {changed[-1] - changed[0]:.1f} s; ", end="")
    print(f"the command took {end - begin:.1f} s")
    assert changed[-1] - changed[0] > 15
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


def test_nothing_is_left_after_clear(edge: Edge) -> None:
    state = ("ssh", "edge-1", "--", "tc qdisc show; ip -o link")
    before = sorted(edge.command(*state).splitlines())
    edge.command("link set", "edge-1", "cloud-1", "delay=30ms", "rate=10mbit")
    edge.command("link set", "control-planes", "edge-1", "delay=10ms")
    shaped = edge.command(*state)
    assert all(word in shaped for word in ("netem", "htb", "clsact", "q8s-in"))
    edge.command("link clear")
    after = edge.command(*state)
    assert not any(word in after for word in ("netem", "htb", "clsact", "q8s-in", "ifb"))
    assert _kinds(after.splitlines()) == _kinds(before)


def _kinds(lines: Iterable[str]) -> list[str]:
    """Return the queueing disciplines of devices that are no pod's, without the kernel's numbers."""
    found = (re.match(r"qdisc (\S+) \S+ dev (?!veth)(\S+)", line) for line in lines)
    return sorted(f"{one[1]} {one[2]}" for one in found if one)
