"""Conformance tests on a small cluster: a run that was killed goes on with what has no result, and all of them pass.

The chosen ones need the API only, and take seconds. ``docs/reference/conformance.md`` has the table of a whole run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.clusters import Q8S_RUN, Cluster, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("twenty minutes, and more if e2e.test is not built yet"),
]
FOCUS: Final = (
    "PodTemplates|RuntimeClass|IngressClass|Ingress API|ConfigMap should (fail|update|run)|Secrets should (fail|patch)"
)
PART: Final = 8  # tests between two writes of the results: four of each of two processes


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp("conformance"), "conforming", 0) as found:
        found.command("deploy", "--yes")
        yield found


@pytest.fixture(scope="module")
def chosen(cluster: Cluster) -> list[str]:
    names: list[str] = json.loads(cluster.attempt("conformance", "--focus", FOCUS, "--list", "--json").stdout)
    assert len(names) > PART, "one part would have them all"
    return names


@pytest.fixture(scope="module")
def killed(cluster: Cluster, chosen: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that was killed after its first part."""
    output = tmp_path_factory.mktemp("results") / "conformance"
    command = [Q8S_RUN, "conformance", cluster.file, "--focus", FOCUS, "--output", output]
    with subprocess.Popen(command, env=cluster.environment, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 2400
        while not (output / "results.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(1)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    return output


def results(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def test_what_a_killed_run_has_written_stays_and_the_rest_is_run(
    cluster: Cluster, chosen: list[str], killed: Path
) -> None:
    before = {one["name"]: one for one in results(killed)["specs"] if one["status"] != "not run"}
    assert 0 < len(before) < len(chosen) and not results(killed)["complete"]
    left = json.loads(cluster.attempt("conformance", "--output", str(killed), "--resume", "--list", "--json").stdout)
    assert sorted(left) == sorted({*chosen} - {*before})
    assert cluster.attempt("conformance", "--output", str(killed), "--resume").returncode == 0
    after = {one["name"]: one for one in results(killed)["specs"]}
    assert {name: after[name] for name in before} == before, "they did not run again"
    assert {name: after[name]["status"] for name in chosen} == dict.fromkeys(chosen, "passed")
    assert results(killed)["complete"] and len(results(killed)["sessions"]) == 2


def test_nothing_is_left_of_the_tests(cluster: Cluster, killed: Path) -> None:
    ask = ("sudo", "kubectl", "get", "namespaces", "--output=name")
    deadline = time.monotonic() + 300
    while "e2e-" in (names := cluster.attempt("ssh", f"{cluster.name}-control-plane", "--quiet", "--", *ask).stdout):
        assert time.monotonic() < deadline, names
        time.sleep(5)
    assert "default" in names
