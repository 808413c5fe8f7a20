"""A quick benchmark of a small cluster: its results, and that no pod is left of it, also when it was interrupted.

The cluster has one emulated worker. It takes about twenty minutes, so ``make test-long`` runs it. The tests are in the
order of the file: the last one switches the worker off.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clusters import Q8S_RUN, Cluster, is_ready, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("twenty minutes"),
]
WORKER = "x86-small-1"
PODS = 6  # three on each of the two nodes


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp("bench"), "measured", 0) as found:
        assert found.attempt("deploy", "--yes").returncode == 0
        yield found


def listed(cluster: Cluster, *what: str) -> list[dict[str, Any]]:
    """Return what ``kubectl get`` lists."""
    kubectl = ("sudo", "kubectl", "get", *what, "--output=json")
    done = cluster.attempt("ssh", f"{cluster.name}-control-plane", "--quiet", "--", *kubectl)
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def namespaces(cluster: Cluster) -> set[str]:
    """Return the names of the namespaces that are not being removed."""
    found = listed(cluster, "namespaces")
    return {one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]}


def wait_for(process: subprocess.Popen[bytes], what: Callable[[], bool]) -> None:
    """Wait until something is the case while a command runs."""
    deadline = time.monotonic() + 700
    while not what():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(2)


def pods_are_ready(cluster: Cluster) -> bool:
    """Return whether all pods of the benchmark are Ready."""
    pods = listed(cluster, "pods", "--namespace=q8s-bench")
    return len(pods) == PODS and all(is_ready(pod) for pod in pods)


@pytest.fixture(scope="module")
def results(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of a quick benchmark."""
    output = tmp_path_factory.mktemp("quick") / "results"
    assert cluster.attempt("bench", "--quick", "--output", str(output)).returncode == 0
    return output


def test_a_quick_benchmark_measures_everything(cluster: Cluster, results: Path) -> None:
    document = json.loads((results / "results.json").read_text())
    assert document["complete"] and {node["kind"] for node in document["nodes"]} == {"control-plane", "x86-small"}
    bandwidth = list(csv.reader((results / "bandwidth.csv").read_text().splitlines()))
    assert all(float(cell) > 0 for cell in bandwidth[1][2:])
    assert document["idle"][f"qemu/{WORKER}"]["cpu_percent"] > 0
    assert "q8s-bench" not in namespaces(cluster)
    assert cluster.attempt("bench", "--quick", "--output", str(results)).returncode == 2, "the results are not replaced"


def test_a_record_has_the_results_and_gives_the_same_plan(cluster: Cluster, results: Path, tmp_path: Path) -> None:
    output = tmp_path / "record"
    cluster.command("record", str(output), "--verify", "--bench", str(results), "--zip")
    entities = {one["@id"] for one in json.loads((output / "ro-crate-metadata.json").read_text())["@graph"]}
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert files - {"ro-crate-metadata.json"} <= entities
    assert {"cluster.yaml", "verify.json"} <= files
    assert {path.name for path in results.iterdir()} <= {Path(file).name for file in files}
    assert output.with_name("record.zip").is_file()
    again = replace(cluster, file=output / "cluster.yaml")
    assert again.attempt("plan", "--json").stdout == cluster.attempt("plan", "--json").stdout


@pytest.mark.parametrize(
    ("number", "code", "removed_by"),
    [
        (signal.SIGINT, 130, "itself"),
        (signal.SIGKILL, -signal.SIGKILL, "the next run"),
        (signal.SIGKILL, -signal.SIGKILL, "the timer"),
    ],
)
def test_an_interrupted_benchmark_leaves_no_pod(
    cluster: Cluster, tmp_path: Path, number: signal.Signals, code: int, removed_by: str
) -> None:
    command = [Q8S_RUN, "bench", cluster.file, "--quick", "--output", tmp_path / "results"]
    with subprocess.Popen(command, env=cluster.environment, stdin=subprocess.DEVNULL) as process:
        wait_for(process, lambda: "q8s-bench" in namespaces(cluster))
        process.send_signal(number)
        assert process.wait(timeout=120) == code
    assert list(tmp_path.iterdir()) == [], "nothing is half-written"
    if removed_by == "the next run":
        again = cluster.attempt("bench", "--quick", "--only", "cpu", "--output", str(tmp_path / "again"))
        assert again.returncode == 0
    elif removed_by == "the timer":
        # It would do this when the time is up, also while pods of the killed run are there.
        timer = ("sudo", "systemctl", "start", "--wait", "q8s-bench-removal.service")
        assert cluster.attempt("ssh", f"{cluster.name}-control-plane", "--", *timer).returncode == 0
    assert "q8s-bench" not in namespaces(cluster)


def test_a_node_that_dies_is_named_and_the_others_are_measured(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "results"
    command = [Q8S_RUN, "bench", cluster.file, "--quick", "--only", "cpu", "--output", output]
    with subprocess.Popen(
        command, env=cluster.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        wait_for(process, lambda: pods_are_ready(cluster))
        virsh = ("sudo", "virsh", "--connect", "qemu:///system", "destroy", WORKER)
        assert cluster.attempt("ssh", f"{cluster.name}-{WORKER}", "--", *virsh).returncode == 0
        said = process.communicate(timeout=900)[1].decode()
        print(said)
    assert process.returncode == 1 and "partial" in said and WORKER in said
    measured = json.loads((output / "results.json").read_text())["measurements"]
    failed = {one["client"] for one in measured if one["error"]}
    assert failed == {WORKER} and {one["client"] for one in measured} - failed == {f"{cluster.name}-control-plane"}
    assert "q8s-bench" not in namespaces(cluster)
    while any(node["metadata"]["name"] == WORKER and is_ready(node) for node in listed(cluster, "nodes")):
        time.sleep(2)
    refused = cluster.attempt("bench", "--quick", "--output", str(tmp_path / "again"))
    assert refused.returncode and f"node {WORKER} is not Ready" in refused.stderr
    # Kubernetes keeps a lost node's pods until its kubelet says that they have ended.
    others = ("--only", "cpu", "--nodes", f"{cluster.name}-control-plane", "--output", str(tmp_path / "others"))
    assert cluster.attempt("bench", "--quick", *others).returncode == 0
