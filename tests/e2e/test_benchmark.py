"""A quick benchmark of a small cluster: its results, and that no pod is left of it, also when it was interrupted.

The cluster has one emulated worker. It takes about ten minutes, so ``make test-long`` runs it.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from clusters import Q8S_RUN, Cluster, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("Q8S_TEST_LONG"), reason="ten minutes: part of make test-long (Q8S_TEST_LONG=1)"
    ),
]


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp("bench"), "measured", 0) as found:
        assert found.attempt("deploy", "--yes").returncode == 0
        yield found


def namespaces(cluster: Cluster) -> set[str]:
    """Return the names of the namespaces that are not being removed."""
    kubectl = "sudo /var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf get namespaces -o json"
    done = cluster.attempt("ssh", "measured-control-plane", "--quiet", "--", kubectl)
    found = json.loads(done.stdout)["items"]
    return {one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]}


def test_a_quick_benchmark_measures_everything(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "results"
    done = cluster.attempt("bench", "--quick", "--output", str(output))
    assert done.returncode == 0
    document = json.loads((output / "results.json").read_text())
    assert document["complete"] and {node["kind"] for node in document["nodes"]} == {"control-plane", "x86-small"}
    bandwidth = list(csv.reader((output / "bandwidth.csv").read_text().splitlines()))
    assert all(float(cell) > 0 for cell in bandwidth[1][2:])
    assert document["idle"]["qemu/x86-small-1"]["cpu_percent"] > 0
    assert "q8s-bench" not in namespaces(cluster)
    assert cluster.attempt("bench", "--quick", "--output", str(output)).returncode == 2, "the results are not replaced"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_benchmark_leaves_no_pod(
    cluster: Cluster, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [Q8S_RUN, "bench", cluster.file, "--quick", "--output", tmp_path / "results"]
    with subprocess.Popen(command, env=cluster.environment, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while "q8s-bench" not in namespaces(cluster):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(2)
        process.send_signal(number)
        assert process.wait(timeout=120) == code
    assert list(tmp_path.iterdir()) == [], "nothing is half-written"
    if number == signal.SIGKILL:  # the next run removes them
        again = cluster.attempt("bench", "--quick", "--only", "cpu", "--output", str(tmp_path / "again"))
        assert again.returncode == 0
    assert "q8s-bench" not in namespaces(cluster)
