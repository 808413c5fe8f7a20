"""Upgrades of three control planes, from the oldest minor version to the newest. A Deployment outlives them.

Builds the older versions' programs from source, if they are not cached. ``make test-long`` runs it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils._spec import KUBERNETES_VERSIONS

from tests.e2e.clusters import Q8S_RUN, Cluster, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("an hour"),
]
NEWEST, PREVIOUS, OLDEST = KUBERNETES_VERSIONS
NAME, WORKER = "upgrade", "x86-small-1"
CONTROL_PLANES = (f"{NAME}-control-plane", f"{NAME}-control-plane-2", f"{NAME}-control-plane-3")
# Tolerates the control plane's taint: while the only worker is drained, its pod runs there.
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: lasting}
spec:
  selector: {matchLabels: {app: lasting}}
  template:
    metadata: {labels: {app: lasting}}
    spec:
      tolerations: [{operator: Exists, effect: NoSchedule}]
      containers: [{name: probe, image: "q8s.local/probe:1", imagePullPolicy: Never, command: [/probe, serve, ":8080"]}]
"""


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp("upgrade"), NAME, len(CONTROL_PLANES) - 1) as found:
        set_version(found, OLDEST)
        yield found


def set_version(cluster: Cluster, version: str) -> None:
    data = {**yaml.safe_load(cluster.file.read_text()), "kubernetes_version": version}
    cluster.file.write_text(yaml.safe_dump(data, sort_keys=False))


def on_control_plane(cluster: Cluster, script: str) -> str:
    done = cluster.attempt("ssh", f"{NAME}-control-plane", "--quiet", "--", f"sudo sh -c {shlex.quote(script)}")
    assert done.returncode == 0
    return done.stdout


def kubectl(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(on_control_plane(cluster, f"kubectl {shlex.join(arguments)} --output=json"))


def kubelets(cluster: Cluster) -> dict[str, str]:
    nodes = kubectl(cluster, "get", "nodes")["items"]
    return {node["metadata"]["name"]: node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes}


def ca(cluster: Cluster) -> str:
    return on_control_plane(cluster, "sha256sum /etc/kubernetes/pki/ca.crt")


def images(cluster: Cluster, kind: str, name: str) -> list[str]:
    found = kubectl(cluster, "--namespace=kube-system", "get", kind, name)
    return [container["image"] for container in found["spec"]["template"]["spec"]["containers"]]


def interrupt_upgrade(cluster: Cluster) -> None:
    """Begin an upgrade, and kill it as soon as the control plane's kubelet has the new version."""
    name = f"{NAME}-control-plane"
    ask = f"sudo kubectl get node {name} --output=jsonpath={{.status.nodeInfo.kubeletVersion}}"
    command = [Q8S_RUN, "upgrade", cluster.file, "--yes"]
    with subprocess.Popen(command, env=cluster.environment, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 900
        # No answer for a moment: the API server restarts.
        while cluster.attempt("ssh", name, "--quiet", "--", ask).stdout.strip() != f"v{NEWEST}":
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(5)
        process.kill()


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> str:
    """The cluster of the oldest version, with the Deployment. The checksum of its CA."""
    cluster.command("deploy", "--yes")
    on_control_plane(cluster, f"echo {shlex.quote(DEPLOYMENT)} | kubectl apply -f -")
    on_control_plane(cluster, "kubectl rollout status deployment/lasting --timeout=300s")
    return ca(cluster)


def assert_upgraded(cluster: Cluster, version: str, authority: str) -> None:
    """Assert that all of a cluster has a version, and that it is the cluster that it was."""
    assert kubelets(cluster) == dict.fromkeys((*CONTROL_PLANES, WORKER), f"v{version}")
    assert kubectl(cluster, "version")["serverVersion"]["gitVersion"] == f"v{version}"
    for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        pods = kubectl(cluster, "--namespace=kube-system", "get", "pods", f"--selector=component={component}")["items"]
        found = {pod["spec"]["nodeName"]: pod["spec"]["containers"][0]["image"] for pod in pods}
        assert found == dict.fromkeys(CONTROL_PLANES, f"registry.k8s.io/{component}:v{version}")
    assert images(cluster, "daemonset", "kube-proxy") == [f"registry.k8s.io/kube-proxy:v{version}"]
    assert ca(cluster) == authority
    on_control_plane(cluster, "kubectl rollout status deployment/lasting --timeout=300s")
    assert kubectl(cluster, "get", "deployment", "lasting")["metadata"]["generation"] == 1


def test_the_oldest_version_runs(cluster: Cluster, deployed: str) -> None:
    assert_upgraded(cluster, OLDEST, deployed)
    cluster.command("verify")


def test_no_minor_version_is_skipped(cluster: Cluster, deployed: str) -> None:
    set_version(cluster, NEWEST)
    for command in ("plan", "deploy --yes", "upgrade --check", "upgrade --yes"):
        done = cluster.attempt(command)
        assert done.returncode == 2
        assert f"set it to {PREVIOUS} and run" in done.stdout + done.stderr
    assert set(kubelets(cluster).values()) == {f"v{OLDEST}"}


def test_upgrade_to_the_next_minor_version(cluster: Cluster, deployed: str) -> None:
    set_version(cluster, PREVIOUS)
    cluster.command("upgrade", "--yes")
    assert_upgraded(cluster, PREVIOUS, deployed)


def test_a_deploy_with_a_newer_version_names_the_upgrade(cluster: Cluster, deployed: str) -> None:
    set_version(cluster, NEWEST)
    for command in ("plan", "deploy --check", "deploy --yes"):
        done = cluster.attempt(command)
        assert done.returncode == 2
        assert "q8s-run upgrade" in done.stdout + done.stderr
    assert set(kubelets(cluster).values()) == {f"v{PREVIOUS}"}


def test_an_upgrade_that_was_killed_is_continued(cluster: Cluster, deployed: str) -> None:
    said = cluster.command("upgrade --check")
    assert f"would be upgraded from v{PREVIOUS} to v{NEWEST}" in said
    assert set(kubelets(cluster).values()) == {f"v{PREVIOUS}"}

    interrupt_upgrade(cluster)
    done = cluster.attempt("deploy", "--yes")
    assert done.returncode == 2
    assert "has begun and not ended" in done.stdout + done.stderr
    assert kubelets(cluster)[WORKER] == f"v{PREVIOUS}"

    cluster.command("upgrade", "--yes")
    assert_upgraded(cluster, NEWEST, deployed)


def test_the_upgraded_cluster_is_whole(cluster: Cluster, deployed: str) -> None:
    cluster.command("verify")
    assert "0 changes" in cluster.command("deploy", "--yes")
    assert "0 changes" in cluster.command("upgrade", "--yes")


def test_there_is_no_way_back(cluster: Cluster, deployed: str) -> None:
    set_version(cluster, PREVIOUS)
    for command in ("deploy --yes", "upgrade --yes"):
        done = cluster.attempt(command)
        assert done.returncode == 2
        assert "downgrades" in done.stdout + done.stderr
