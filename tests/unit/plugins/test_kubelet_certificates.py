"""Which requests for serving certificates are approved, and what is reported of those that kubelets serve."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.kubelet_certificates import kubelet_certificates
from ansible_collections.q8s.emu.plugins.filter.node_addresses import node_addresses

FILES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files"
NODES = {"arm-mid-1": "10.254.1.3", "x86-mid-1": "10.254.1.4"}
DAY = 86400
NOW = 1795771200  # 2026-11-27 at noon, in UTC
QUIET: dict[str, list[str]] = {"other": [], "problems": [], "unheard": [], "warnings": []}
SUBJECT = "/O=system:nodes/CN=system:node:arm-mid-1"
NAMES = "DNS:arm-mid-1,IP:10.254.1.3"


@pytest.fixture(scope="module")
def approver() -> Any:
    """The program approve.py as a module."""
    spec = importlib.util.spec_from_file_location("approve", FILES / "approve.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path], check=True
    )
    return path


def request_pem(key: Path, subject: str, names: str) -> bytes:
    """Return a request as a kubelet makes it, for a subject and names."""
    argv: list[str | Path] = ["openssl", "req", "-new", "-key", key, "-subj", subject]
    argv += ["-addext", f"subjectAltName={names}"] if names else []
    return subprocess.run(argv, check=True, capture_output=True).stdout


def spec(pem: bytes, **changes: Any) -> dict[str, Any]:
    """Return the spec of a request that the node arm-mid-1 made."""
    return {
        "signerName": "kubernetes.io/kubelet-serving",
        "username": "system:node:arm-mid-1",
        "groups": ["system:nodes", "system:authenticated"],
        "usages": ["digital signature", "server auth"],
        "request": base64.b64encode(pem).decode(),
        **changes,
    }


def test_a_node_gets_a_certificate_with_its_own_name_and_address(approver: Any, key: Path) -> None:
    assert approver.refusal(spec(request_pem(key, SUBJECT, NAMES)), NODES) == ""
    assert approver.refusal(spec(request_pem(key, SUBJECT, "IP:10.254.1.3")), NODES) == ""


@pytest.mark.parametrize(
    ("subject", "names", "why"),
    [
        (SUBJECT, "DNS:arm-mid-1,IP:10.254.1.4", "not for arm-mid-1 and 10.254.1.3 alone"),
        (SUBJECT, "DNS:arm-mid-1,IP:10.254.1.3,IP:10.254.1.4", "not for arm-mid-1 and 10.254.1.3 alone"),
        (SUBJECT, "DNS:x86-mid-1,IP:10.254.1.3", "not for arm-mid-1 and 10.254.1.3 alone"),
        (SUBJECT, "DNS:arm-mid-1", "not for arm-mid-1 and 10.254.1.3 alone"),
        (SUBJECT, f"{NAMES},URI:https://10.254.1.4", "not for arm-mid-1 and 10.254.1.3 alone"),
        (SUBJECT, "", "0 lists of names"),
        ("/O=system:nodes/CN=system:node:x86-mid-1", NAMES, "its subject is not that of system:node:arm-mid-1"),
        ("/O=system:masters/CN=system:node:arm-mid-1", NAMES, "its subject is not that of system:node:arm-mid-1"),
        (f"/O=system:masters{SUBJECT}", NAMES, "its subject is not that of system:node:arm-mid-1"),
    ],
)
def test_other_names_are_refused(approver: Any, key: Path, subject: str, names: str, why: str) -> None:
    assert why in approver.refusal(spec(request_pem(key, subject, names)), NODES)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"signerName": "kubernetes.io/kube-apiserver-client-kubelet"}, "not for a kubelet's serving certificate"),
        ({"username": "kubernetes-admin"}, "kubernetes-admin is not a node"),
        ({"groups": ["system:authenticated"]}, "system:node:arm-mid-1 is not a node"),
        ({"username": "system:node:gone-1"}, "gone-1 is not a node of the cluster file"),
        ({"usages": ["digital signature", "server auth", "client auth"]}, "it is for client auth"),
        ({"usages": ["digital signature"]}, "it is for digital signature"),
        ({"request": "bm90aGluZw=="}, "cannot be read"),
    ],
)
def test_other_requests_are_refused(approver: Any, key: Path, changes: dict[str, Any], why: str) -> None:
    assert why in approver.refusal(spec(request_pem(key, SUBJECT, NAMES), **changes), NODES)


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        ("", 0),
        ('Error from server (Conflict): Operation cannot be fulfilled on certificatesigningrequests "csr-1"', 0),
        ("Unable to connect to the server: context deadline exceeded", 1),
    ],
)
def test_an_approval_that_failed_is_tried_again_by_a_new_watch(
    approver: Any, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, code: int
) -> None:
    (tmp_path / "nodes.json").write_text(json.dumps(NODES))
    request = {"metadata": {"name": "csr-1"}, "spec": spec(request_pem(key, SUBJECT, NAMES))}
    events = tmp_path / "events"
    events.write_text(json.dumps({"type": "ADDED", "object": request}) + "\n")
    monkeypatch.setattr(approver, "approve", lambda request: problem)
    monkeypatch.setattr(approver, "KUBECTL", ["sh", "-c", f"cat {events}"])
    assert approver.main(str(tmp_path / "nodes.json")) == code


def test_what_other_readers_of_pem_take_for_a_header_is_refused(approver: Any, key: Path) -> None:
    honest, other = (request_pem(key, SUBJECT, names) for names in (NAMES, "IP:10.254.1.4"))
    hidden = b"".join(honest.splitlines()[1:-1])
    begin, _, rest = other.partition(b"\n")
    for pem in (begin + b"\nA: " + hidden + b"\n\n" + rest, honest + other, b"x" + honest):
        assert "not PEM" in approver.refusal(spec(pem), NODES)
    lines = honest.splitlines(keepends=True)
    assert "cannot be read" in approver.refusal(spec(b"".join([lines[0], *lines[2:]])), NODES)


def certificate(folder: Path, name: str, key: Path, names: str, authority: str = "") -> Path:
    """Write a certificate that an authority signs, by default itself."""
    argv = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", f"/CN={name}", "-days", "20"]
    argv += ["-addext", f"subjectAltName={names}"] if names else []
    argv += ["-CA", folder / f"{authority}.crt", "-CAkey", key] if authority else []
    subprocess.run([*argv, "-out", folder / f"{name}.crt"], check=True, capture_output=True)
    return folder / f"{name}.crt"


def wait_for(address: str) -> None:
    """Wait until something listens on the kubelets' port of an address."""
    for _ in range(200):
        try:
            socket.create_connection((address, 10250), timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def test_what_kubelets_serve_is_read(tmp_path: Path, key: Path) -> None:
    pki = tmp_path / "etc/kubernetes/pki"
    pki.mkdir(parents=True)
    certificate(pki, "ca", key, "")
    served = {
        "127.10.250.1": certificate(pki, "good", key, "DNS:good,IP:127.10.250.1", "ca"),
        "127.10.250.2": certificate(pki, "own", key, "DNS:own,IP:127.10.250.2"),
        "127.10.250.3": certificate(pki, "moved", key, "DNS:moved,IP:127.10.250.9", "ca"),
    }
    ways = {address: ["-cert", path, "-key", key] for address, path in served.items()} | {"127.10.250.4": ["-nocert"]}
    servers = [
        subprocess.Popen(
            ["openssl", "s_server", "-accept", f"{address}:10250", *way, "-quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for address, way in ways.items()
    ]
    try:
        for address in ways:
            wait_for(address)
        nodes = "good=127.10.250.1 own=127.10.250.2 moved=127.10.250.3 none=127.10.250.4 off=127.10.250.5"
        environment = {**os.environ, "ROOT": str(tmp_path), "NODES": nodes}
        script = ["sh", "-c", (FILES / "kubelets.sh").read_text()]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    report = kubelet_certificates(done.stdout)
    assert report["other"] == ["moved", "own"]
    assert "the kubelet of none has no certificate" in report["problems"][0] and len(report["problems"]) == 3
    assert "the kubelet of off does not answer" in report["unheard"][0] and len(report["unheard"]) == 1
    assert "the kubelet of good serves ends in " in report["warnings"][-1]


def printed(*lines: str) -> str:
    """Return what kubelets.sh prints."""
    return "\n".join([f"now {NOW}", *lines])


def test_certificates_that_end_in_a_year_are_quiet() -> None:
    assert kubelet_certificates(printed(f"ends {NOW + 365 * DAY} arm-mid-1")) == QUIET
    assert kubelet_certificates("") == QUIET


def test_certificates_that_end_soon_are_warned_of() -> None:
    report = kubelet_certificates(printed(f"ends {NOW + 29 * DAY} arm-mid-1", f"ends {NOW - DAY} x86-mid-1"))
    assert report["problems"] == []
    ended, soon = report["warnings"]
    assert ended.startswith("the certificate that the kubelet of x86-mid-1 serves ended on 2026-11-26; ")
    assert soon.startswith("the certificate that the kubelet of arm-mid-1 serves ends in 29 days, on 2026-12-26; ")
    assert kubelet_certificates(printed(f"ends {NOW + 31 * DAY} arm-mid-1"), days=40)["warnings"]


def test_kubelets_without_a_certificate_of_the_cluster() -> None:
    report = kubelet_certificates(printed("without arm-mid-1", "other x86-mid-1", "silent off-1"))
    assert report["other"] == ["x86-mid-1"]
    assert [text.split(" does not")[0] for text in report["unheard"]] == ["the kubelet of off-1"]
    assert [text.split(";")[0] for text in report["problems"]] == [
        "the kubelet of arm-mid-1 has no certificate to serve",
        "the kubelet of x86-mid-1 serves a certificate that the cluster's CA has not signed for it",
    ]
    assert report["warnings"] == [
        "the kubelet of x86-mid-1 serves a certificate that the cluster's CA has not signed for it: q8s-run deploy FILE"
    ]


def test_addresses_of_nodes() -> None:
    hosts = {
        "demo-control-plane": {"q8s_node_name": "demo-control-plane", "q8s_private_ip": "10.254.1.2"},
        "demo-arm-mid-1": {"q8s_node_name": "arm-mid-1", "q8s_private_ip": "10.254.1.3"},
        "demo-arm-mid-2": {"q8s_surplus": {"name": "arm-mid-2"}, "q8s_private_ip": "10.254.1.5"},
        "demo-arm-mid-3": {"q8s_node_name": "arm-mid-3"},
        "arm-mid-1": {"q8s_node_name": "arm-mid-1", "ansible_host": "10.254.1.3"},
    }
    assert node_addresses(hosts) == {
        "demo-control-plane": "10.254.1.2",
        "arm-mid-1": "10.254.1.3",
        "arm-mid-2": "10.254.1.5",
    }
    assert node_addresses(hosts, ["demo-arm-mid-1"]) == {"arm-mid-1": "10.254.1.3"}
