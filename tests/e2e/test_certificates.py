"""Certificates of a running cluster are renewed before and after they end, and bootstrap tokens revoked after use.

The tests build on each other, in the order of the file. They take about ten minutes, so ``make test-long`` runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from q8s_lab import settings

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.skipif(
        not os.environ.get("Q8S_TEST_LONG"), reason="ten minutes: part of make test-long (Q8S_TEST_LONG=1)"
    ),
]
Q8S_RUN = Path(sys.executable).with_name("q8s-run")
DEMO = Path(__file__).parents[2] / "examples" / "demo.yaml"
NAME = "certs"
CONTROL_PLANE, HOST, WORKER = f"{NAME}-control-plane", f"{NAME}-x86-small-1", "x86-small-1"
KUBECTL = "sudo kubectl --kubeconfig=/etc/kubernetes/admin.conf"

# With kubeadm's own option for short certificates: all of them end now.
EXPIRE = """
set -e
cat > /tmp/short.yaml <<END
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: $(/var/lib/q8s/bin/kubeadm version --output=short)
certificateValidityPeriod: 1s
END
/var/lib/q8s/bin/kubeadm certs renew all --config=/tmp/short.yaml > /dev/null
sleep 2
"""
# A certificate that ends the moment it begins, and its key.
EXPIRED_CERTIFICATE = f"""
set -e
cd "$(mktemp -d)"
openssl req -x509 -newkey rsa:2048 -nodes -subj /O=system:nodes/CN=system:node:{WORKER} -days 0 -keyout key -out crt
cat crt key
"""
# On the guest: as if it had been off for longer than its certificate was valid.
EXPIRE_KUBELET = """
set -e
cd /var/lib/kubelet/pki
cat > kubelet-client-old.pem
ln -sfn kubelet-client-old.pem kubelet-client-current.pem
systemctl stop kubelet.service
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with its worker of x86_64 alone."""
    path = tmp_path_factory.mktemp("certs") / "cluster.yaml"
    data = yaml.safe_load(DEMO.read_text().replace("demo", NAME))
    data["remote_ip_prefix"] = str(settings.load().subnet)
    data["cluster_definition"]["worker"] = {"x86-small": 1}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def q8s(lab: Mapping[str, str], file: Path) -> Iterator[Run]:
    """``q8s-run VERB FILE ...`` without a terminal; the cluster is gone afterwards."""
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(file.parent / "state")}

    def run(verb: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [Q8S_RUN, verb, file, *arguments]
        done = subprocess.run(
            command, env=environment, input=stdin, capture_output=True, text=True, timeout=900, check=False
        )
        print(*command, done.stdout, done.stderr, f"exit code {done.returncode}", sep="\n")
        return done

    yield run
    run("destroy", "--yes")


@pytest.fixture(scope="module")
def on(q8s: Run) -> Callable[..., str]:
    """Run a command on a host or node, and return its output."""

    def run(where: str, *command: str, stdin: str = "") -> str:
        done = q8s("ssh", where, "--", *command, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def deployed(q8s: Run) -> None:
    done = q8s("deploy", "--yes")
    assert done.returncode == 0, done.stderr


def changes(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    found = re.search(r"done in [\d.]+ s, (\d+) change", done.stderr + done.stdout)
    assert found, "the output does not say how much was changed"
    return int(found[1])


def tokens(on: Callable[..., str]) -> list[str]:
    """The bootstrap tokens that a node may join with."""
    text = on(CONTROL_PLANE, f"{KUBECTL} get secrets --namespace=kube-system --output=json")
    items = [item for item in json.loads(text)["items"] if item["type"] == "bootstrap.kubernetes.io/token"]
    return [item["metadata"]["name"] for item in items if "usage-bootstrap-authentication" in item["data"]]


def node(on: Callable[..., str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(on(CONTROL_PLANE, f"{KUBECTL} get node {WORKER} --output=json"))
    return found


def test_the_token_is_revoked_and_the_second_deploy_changes_nothing(
    deployed: None, q8s: Run, on: Callable[..., str]
) -> None:
    assert tokens(on) == []
    assert "bootstrap-token" not in on(CONTROL_PLANE, "sudo ls /etc/kubernetes/q8s")
    assert changes(q8s("deploy", "--yes")) == 0


def test_status_names_certificates_that_have_ended_and_deploy_renews_them(
    deployed: None, q8s: Run, on: Callable[..., str]
) -> None:
    on(CONTROL_PLANE, "sudo", "sh", "-s", stdin=EXPIRE)
    done = q8s("status")
    assert done.returncode == 1
    assert re.search(rf"the certificate \S+ of {CONTROL_PLANE} and \d+ others ended on ", " ".join(done.stdout.split()))
    assert "hint: q8s-run renew" in done.stdout or "/q8s-run renew" in done.stdout
    assert changes(q8s("deploy", "--yes")) > 0
    assert q8s("status").returncode == 0
    assert changes(q8s("deploy", "--yes")) == 0


def test_renew_gives_new_certificates_and_a_new_kubeconfig(deployed: None, q8s: Run, on: Callable[..., str]) -> None:
    before = q8s("kubeconfig").stdout
    uid = node(on)["metadata"]["uid"]
    would = q8s("renew", "--check")
    assert would.returncode == 0 and "would renew" in would.stdout
    assert q8s("kubeconfig").stdout == before
    done = q8s("renew")
    assert changes(done) > 0
    assert re.search(r"renewed .*apiserver.*: ended on \d{4}-\d\d-\d\d, now on \d{4}-\d\d-\d\d", done.stdout)
    after = q8s("kubeconfig").stdout
    assert after != before and "client-certificate-data" in after
    assert node(on)["metadata"]["uid"] == uid
    assert q8s("status").returncode == 0
    assert changes(q8s("deploy", "--yes")) == 0


@pytest.mark.parametrize("off", [False, True], ids=["the guest runs", "the guest is off"])
def test_a_guest_whose_certificate_has_ended_joins_again(
    deployed: None, q8s: Run, on: Callable[..., str], off: bool
) -> None:
    uid = node(on)["metadata"]["uid"]
    expired = on(CONTROL_PLANE, "sh", "-s", stdin=EXPIRED_CERTIFICATE)
    on(WORKER, "sudo", "sh", "-c", EXPIRE_KUBELET, stdin=expired)
    if off:
        on(HOST, f"sudo virsh --connect qemu:///system destroy {WORKER}")
    old = {"status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}}
    patch = f"{KUBECTL} patch node {WORKER} --subresource=status --type=strategic --patch-file=/dev/stdin"
    on(CONTROL_PLANE, patch, stdin=json.dumps(old))
    assert changes(q8s("deploy", "--yes")) > 0
    joined = node(on)
    assert joined["metadata"]["uid"] == uid
    assert [c["status"] for c in joined["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
    assert tokens(on) == []
    assert changes(q8s("deploy", "--yes")) == 0


def test_files_of_earlier_deploys_are_removed(deployed: None, q8s: Run, on: Callable[..., str]) -> None:
    old = {CONTROL_PLANE: "/var/lib/q8s-artifacts", HOST: "/var/lib/q8s-guest"}
    for where, folder in old.items():
        on(where, f"sudo touch {folder}/root-x86_64-aaaaaaaaaaaa.qcow2")
    before = {where: on(where, f"sudo ls {folder}").split() for where, folder in old.items()}
    check = q8s("deploy", "--check")
    assert "2 changes would be made" in check.stdout + check.stderr
    assert changes(q8s("deploy", "--yes")) == 2
    for where, folder in old.items():
        after = on(where, f"sudo ls {folder}").split()
        assert sorted([*after, "root-x86_64-aaaaaaaaaaaa.qcow2"]) == sorted(before[where])
    assert changes(q8s("deploy", "--yes")) == 0
