"""Scenarios on a cluster: links and nodes fail at their time, and everything is restored, however a run ends.

They build on each other, in the order of the file. They take 50 minutes, so ``make test-long`` runs them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import yaml

from tests.e2e.clusters import Q8S_RUN, Cluster, edge_file, given_or_deployed

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("50 minutes"),
]
SET = {"at": "6s", "for": "40s", "set": {"from": "zone:edge-site", "to": "zone:cloud-site", "delay": "200ms"}}
PARTITION = {"at": "21s", "for": "15s", "partition": ["zone:edge-site", "zone:cloud-site"]}
LAST = {"at": "58s", "for": "1s", "partition": ["zone:edge-site", "zone:cloud-site"]}
FOREVER: list[dict[str, Any]] = [
    {"at": "2s", "for": "1h", "partition": ["zone:edge-site", "zone:cloud-site"]},
    {"from": "2s", "to": "1h", "churn": {"node": "edge-1", "mtbf": "1s", "mttr": "10h", "how": ["pause"]}},
    {"at": "9s", "for": "1h", "stop": "node:cloud-1"},
]


@dataclass(frozen=True)
class Edge(Cluster):
    """The cluster of examples/edge.yaml."""

    def edit(self, *events: Mapping[str, Any]) -> None:
        data = yaml.safe_load(self.file.read_text())
        self.file.write_text(
            yaml.safe_dump({**data, "scenario": {"seed": 113, "events": list(events)}}, sort_keys=False)
        )

    @contextmanager
    def started(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command of q8s-run, and read its stdout. Whatever fails, it has ended in the end."""
        with subprocess.Popen(
            [Q8S_RUN, *command], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)

    def scenario(self, *options: str) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start the scenario. Its stdout has the record's lines."""
        return self.started("scenario", "run", str(self.file), "--json", *options)

    def perform(self, *options: str) -> dict[str, Any]:
        """Run the scenario to its end. Return the report."""
        with self.scenario(*options) as process:
            lines_until(process, lambda line: line["event"] == "end")
            assert process.wait(1500) == 0
        return self.report()

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.attempt("scenario report", "--json").stdout)
        return found

    def guests(self) -> dict[str, str]:
        """Return the state of each guest, as its host's libvirt tells."""
        command = "sudo virsh --connect qemu:///system domstate"
        return {
            node: self.command("ssh", f"edge-{node}", "--", f"{command} {node}").split("\n")[0]
            for node in ("cloud-1", "edge-1")
        }

    def is_restored(self) -> None:
        """Check that links and guests are as the file says."""
        assert self.guests() == {"cloud-1": "running", "edge-1": "running"}
        found = json.loads(self.attempt("link show", "--json").stdout)
        assert found["links"] and all(row["in_force"] for row in found["links"])
        assert "200" not in self.command("ssh", "edge-1", "--", "tc qdisc show | grep delay")
        for host in ("edge-cloud-1", "edge-edge-1"):
            assert "q8s-scenario" not in self.command("ssh", host, "--", "sudo iptables -S FORWARD")


@pytest.fixture(scope="module")
def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with given_or_deployed(request, tmp_path_factory.mktemp("edge"), "edge", edge_file) as found:
        yield Edge(**vars(found))


def lines_until(process: subprocess.Popen[str], condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first line of a running scenario that meets a condition."""
    for text in process.stdout or ():
        print(text, end="", flush=True)
        line: dict[str, Any] = json.loads(text)
        if condition(line):
            return line
    raise AssertionError("the scenario has ended before")


def done(what: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line["event"] == "action" and line["what"].startswith(what)


def test_links_change_at_their_time_and_back(edge: Edge) -> None:
    edge.edit(SET, PARTITION, LAST)
    found = edge.perform("--ping", "edge-1:cloud-1")
    assert found["result"] == "done"
    assert [one["planned"] for one in found["actions"]] == [6.0, 21.0, 36.0, 46.0, 58.0, 59.0]
    for one in found["actions"]:
        assert 0 <= one["begun"] - one["planned"] < 0.5
        assert one["done"] - one["begun"] < 10
    ended = [one["done"] + 1 for one in found["actions"]]
    begun = [one["begun"] - 1 for one in found["actions"]]
    delays = [
        median([one["ms"] for one in found["pings"] if after < one["at"] < before] or [0])
        for after, before in zip([0.0, *ended[:4]], begun[:5], strict=True)
    ]
    print(delays)
    assert delays[2] == 0, "no packet passes a partition"
    assert 70 < delays[0] < 130 and 70 < delays[4] < 130
    assert 225 < delays[1] < 300 and 225 < delays[3] < 300
    plot = edge.file.with_name("delays.svg")
    edge.command("scenario report", "--plot", str(plot))
    assert plot.read_text().startswith("<svg")
    edge.is_restored()


def test_ten_minutes_of_churn_are_the_same_for_the_same_seed(edge: Edge) -> None:
    pause_or_netdown = {"type": "edge", "mtbf": "45s", "mttr": "15s", "how": ["pause", "netdown"]}
    destroy_or_reboot = {"type": "cloud", "mtbf": "60s", "mttr": "20s", "how": ["destroy", "reboot"]}
    edge.edit(
        {"from": "0s", "to": "10min", "churn": pause_or_netdown},
        {"from": "0s", "to": "9min", "churn": destroy_or_reboot},
    )
    planned = json.loads(edge.command("scenario run", "--dry-run", "--json"))["actions"]
    assert {one["kind"] for one in planned} == {"pause", "netdown", "destroy", "reboot"}
    for found in (edge.perform(), edge.perform()):
        assert found["result"] == "done"
        assert sorted((one["planned"], one["what"]) for one in found["actions"]) == sorted(
            (one["at"], one["what"]) for one in planned
        )
        assert all(0 <= one["begun"] - one["planned"] < 0.5 for one in found["actions"])
    edge.is_restored()


def test_kubernetes_sees_a_node_that_is_stopped(edge: Edge) -> None:
    edge.edit({"at": "2s", "for": "75s", "stop": "node:edge-1"})
    found = edge.perform()
    assert [one["node"] for one in found["not_ready"]][:1] == ["edge-1"]
    assert 30 < found["not_ready"][0]["from"] < 77
    assert [one["node"] for one in found["back"]] == ["edge-1"]


def test_ctrl_c_restores_the_files_state(edge: Edge) -> None:
    edge.edit(*FOREVER)
    with edge.scenario() as process:
        lines_until(process, done("stop cloud-1"))
        assert edge.guests() == {"cloud-1": "shut off", "edge-1": "paused"}
        process.send_signal(signal.SIGINT)
        assert process.wait(900) == 130
    edge.is_restored()
    assert edge.report()["result"] == "interrupted"


def test_a_run_that_is_killed_is_named_and_restored(edge: Edge) -> None:
    with edge.scenario() as process:
        lines_until(process, done("stop cloud-1"))
        refused = edge.attempt("deploy", "--yes")
        assert refused.returncode == 1
        assert "q8s-run scenario run (process" in refused.stderr
        process.kill()
        process.wait()
    found = edge.attempt("status")
    assert "was killed; links or nodes may be as it left them" in found.stderr
    assert "scenario stop" in found.stderr
    assert edge.guests() == {"cloud-1": "shut off", "edge-1": "paused"}
    edge.command("scenario stop")
    edge.is_restored()
    assert "killed" not in edge.attempt("status").stderr


def test_a_deploy_is_not_disturbed(edge: Edge) -> None:
    with edge.started("deploy", str(edge.file), "--yes") as deploy:
        time.sleep(5)
        refused = edge.attempt("scenario run")
        assert refused.returncode == 1
        assert "q8s-run deploy (process" in refused.stderr
        assert deploy.wait(600) == 0
