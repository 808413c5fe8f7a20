"""Serving certificates of kubelets, and metrics-server: `kubectl top`, an autoscaler, and the removal of the add-on.

They build on each other, in the order of the file. They take about ten minutes, so ``make test-long`` runs them.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.e2e.clusters import Cluster, changes, small_cluster

NAME = "addons"
WORKER = "x86-small-1"
CONTROL_PLANE = f"{NAME}-control-plane"
# The image that every node has. Its server answers with a line about the machine.
LOAD = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: load}
spec:
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: load
          image: q8s.local/probe:1
          imagePullPolicy: Never
          args: [serve, ":8080"]
          resources: {requests: {cpu: 50m}}
---
apiVersion: v1
kind: Service
metadata: {name: load}
spec:
  selector: {app: load}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: load}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: load}
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
"""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("ten minutes"),
]


def on_control_plane(cluster: Cluster, command: str) -> str:
    """Run a shell command as root on the control plane."""
    return cluster.command("ssh", CONTROL_PLANE, "--", f"sudo sh -c {shlex.quote(command)}")


def items(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    """Return what kubectl lists."""
    done = cluster.attempt("ssh", CONTROL_PLANE, "--", "sudo", "kubectl", "get", *arguments, "--output=json")
    found: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return found


def edit(cluster: Cluster, addons: list[str]) -> None:
    data = yaml.safe_load(cluster.file.read_text())
    cluster.file.write_text(yaml.safe_dump({**data, "addons": addons}, sort_keys=False))


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp("addons"), NAME, additional=0) as found:
        edit(found, ["metrics_server"])
        found.command("deploy", "--yes")
        yield found


def test_the_cluster_s_ca_has_signed_what_kubelets_serve(cluster: Cluster) -> None:
    for node in (CONTROL_PLANE, WORKER):
        address = cluster.address(node)
        shown = on_control_plane(
            cluster,
            f"openssl s_client -connect {address}:10250 -CAfile /etc/kubernetes/pki/ca.crt -verify_return_error "
            f"-verify_hostname {node} -verify_ip {address} </dev/null 2>&1",
        )
        assert "Verify return code: 0 (ok)" in shown


def test_a_request_for_another_node_s_address_stays_unsigned(cluster: Cluster) -> None:
    other = cluster.address(CONTROL_PLANE)
    server = cluster.command("ssh", WORKER, "--", "sed -n s/.*server:.//p /etc/kubernetes/kubelet.conf").split()[0]
    script = f"""
cd /tmp
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout forged.key -out forged.csr \
  -subj /O=system:nodes/CN=system:node:{WORKER} -addext subjectAltName=DNS:{WORKER},IP:{other}
python3 - <<'P'
import base64, json, ssl, urllib.request
context = ssl.create_default_context(cafile="/etc/kubernetes/pki/ca.crt")
context.load_cert_chain("/var/lib/kubelet/pki/kubelet-client-current.pem")
spec = {{"signerName": "kubernetes.io/kubelet-serving", "usages": ["digital signature", "server auth"],
        "request": base64.b64encode(open("forged.csr", "rb").read()).decode()}}
body = {{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {{"name": "forged"}}, "spec": spec}}
url = "{server}/apis/certificates.k8s.io/v1/certificatesigningrequests"
request = urllib.request.Request(url, json.dumps(body).encode(), {{"Content-Type": "application/json"}})
urllib.request.urlopen(request, context=context)
P
"""
    cluster.command("ssh", WORKER, "--", script)
    time.sleep(5)
    (forged,) = [item for item in items(cluster, "csr") if item["metadata"]["name"] == "forged"]
    assert "conditions" not in forged["status"]
    assert "forged of system:node:x86-small-1: left as it is" in on_control_plane(cluster, "journalctl -u q8s-approve")


def test_top_shows_nodes_and_pods(cluster: Cluster) -> None:
    begin = time.monotonic()
    while True:
        nodes = cluster.attempt("ssh", CONTROL_PLANE, "--", "sudo kubectl top nodes --no-headers").stdout
        if all(re.search(rf"^{node} +\d+m +\d+% +\d+Mi ", nodes, re.M) for node in (CONTROL_PLANE, WORKER)):
            break
        assert time.monotonic() - begin < 180, nodes
        time.sleep(5)
    pods = on_control_plane(cluster, "kubectl top pods --all-namespaces --no-headers")
    assert re.search(r"^kube-system +metrics-server-\S+ +\d+m +\d+Mi", pods, re.M)
    assert len(re.findall(r"^kube-flannel +kube-flannel-ds-\S+ +\d+m +\d+Mi", pods, re.M)) == 2


def test_an_autoscaler_adds_pods_under_load(cluster: Cluster) -> None:
    on_control_plane(cluster, f"cat > /root/load.yaml <<E\n{LOAD}\nE\nkubectl apply -f /root/load.yaml")
    on_control_plane(cluster, "kubectl wait --for=condition=Available deployment/load --timeout=120s")
    address = on_control_plane(cluster, "kubectl get service load -o jsonpath={.spec.clusterIP}").split()[0]
    loop = f"import urllib.request\nwhile True: urllib.request.urlopen('http://{address}/').read()"
    on_control_plane(cluster, f"systemd-run --unit=load --quiet python3 -c {shlex.quote(loop)}")
    begin = time.monotonic()
    try:
        while True:
            (deployment,) = items(cluster, "deployments")
            if deployment["status"].get("readyReplicas", 0) >= 2:
                break
            assert time.monotonic() - begin < 600, on_control_plane(cluster, "kubectl describe hpa load")
            time.sleep(5)
    finally:
        cluster.attempt("ssh", CONTROL_PLANE, "--", "sudo systemctl stop load")
    print(f"scaled after {time.monotonic() - begin:.0f} s")


def test_a_second_deploy_changes_nothing(cluster: Cluster) -> None:
    assert changes(cluster.command("deploy")) == 0


def test_an_add_on_that_the_file_no_longer_names_is_removed(cluster: Cluster) -> None:
    edit(cluster, [])
    assert changes(cluster.command("deploy")) == 1
    assert not [item for item in items(cluster, "deployments", "-n", "kube-system") if "q8s" in str(item["metadata"])]
    assert "metrics" not in on_control_plane(cluster, "kubectl get apiservices -o name")
    top = cluster.attempt("ssh", CONTROL_PLANE, "--", "sudo kubectl top nodes")
    assert top.returncode != 0
    assert changes(cluster.command("deploy")) == 0
