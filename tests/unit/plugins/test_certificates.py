"""Certificates of control planes: when they end, what a user is told of it, and the scripts that renew them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.certificates import certificates
from ansible_collections.q8s.emu.plugins.filter.renewed_certificates import renewed_certificates

FILES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files"
NOW = 1795737600  # 2026-11-27T00:00:00Z


def entry(name: str, end: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "expirationDate": f"{end}T08:00:00Z", "residualTime": 0, "missing": False, **more}


def report(*entries: dict[str, Any], ca: str = "2036-11-24", kubelet: str = "Nov 24 08:00:00 2027 GMT") -> str:
    authorities = [entry("ca", ca), entry("etcd-ca", ca)]
    data = {"certificates": list(entries), "certificateAuthorities": authorities}
    return f"now {NOW}\nkubelet notAfter={kubelet}\n{json.dumps(data, indent=4)}\n"


def summary(text: str, stderr: str = "") -> dict[str, Any]:
    return certificates({"rc": 0, "stdout": text, "stderr": stderr}, "demo-control-plane")


MISSING = {"name": "super-admin.conf", "expirationDate": None, "residualTime": 0, "missing": True}


def test_certificates_that_are_valid_for_months() -> None:
    found = summary(report(entry("apiserver", "2027-11-24"), MISSING))
    assert found == {
        "ends": {"apiserver": "2027-11-24T08:00:00Z", "kubelet": "2027-11-24T08:00:00Z"},
        "expired": [],
        "renew_kubelet": False,
        "restart_due": False,
        "problem": "",
        "warnings": [],
    }


@pytest.mark.parametrize(("end", "warned"), [("2026-12-26", True), ("2026-12-28", False)])
def test_a_warning_thirty_days_before(end: str, warned: bool) -> None:
    found = summary(report(entry("apiserver", end)))
    text = f"the certificate apiserver of demo-control-plane ends on {end}; renew: q8s-run renew FILE"
    assert found["warnings"] == ([text] if warned else [])
    assert not found["expired"] and not found["problem"]


def test_several_certificates_are_one_warning_with_the_first_day() -> None:
    (text,) = summary(report(entry("b", "2026-12-20"), entry("a", "2026-12-10"), entry("c", "2026-12-11")))["warnings"]
    assert text == ("the certificate a of demo-control-plane and 2 others end on 2026-12-10; renew: q8s-run renew FILE")


def test_an_expired_certificate_is_the_problem() -> None:
    found = summary(report(entry("admin.conf", "2026-11-26"), entry("apiserver", "2026-11-26")))
    assert found["expired"] == ["admin.conf", "apiserver"]
    assert found["problem"] == "the certificate admin.conf of demo-control-plane and 1 other ended on 2026-11-26"
    assert found["warnings"] == []
    assert not found["renew_kubelet"]


def test_a_ca_cannot_be_renewed() -> None:
    first, second = summary(report(entry("apiserver", "2027-11-24"), ca="2026-12-01"))["warnings"]
    assert first == (
        "the CA ca of demo-control-plane ends on 2026-12-01, and it cannot be renewed: "
        "deploy a new cluster before that day"
    )
    assert "etcd-ca" in second


@pytest.mark.parametrize("kubelet", ["Nov 20 08:00:00 2026 GMT", "Dec  1 08:00:00 2026 GMT"])
def test_a_kubelet_that_was_off_for_too_long_gets_a_certificate(kubelet: str) -> None:
    assert summary(report(entry("apiserver", "2027-11-24"), kubelet=kubelet))["renew_kubelet"]
    assert summary(report(entry("apiserver", "2027-11-24")).replace("notAfter=", ""))["renew_kubelet"]


def test_an_interrupted_renewal_is_seen() -> None:
    assert summary(f"restart-due\n{report(entry('apiserver', '2027-11-24'))}")["restart_due"]


def test_a_host_that_is_no_control_plane_has_none() -> None:
    found = summary("")
    assert found["ends"] == {} and not found["renew_kubelet"] and not found["warnings"]


def test_certificates_that_cannot_be_read() -> None:
    found = summary(f"now {NOW}\nkubelet \n", "error: failed to load certificate apiserver\n")
    text = "the certificates of demo-control-plane cannot be read: error: failed to load certificate apiserver"
    assert found["warnings"] == [text] and found["problem"] == text and found["expired"] == []


def test_dates_before_and_after() -> None:
    before = {"apiserver": "2026-12-10T08:00:00Z", "admin.conf": "2026-12-10T08:00:01Z"}
    before["kubelet"] = "2027-05-01T00:00:00Z"
    after = {**before, "apiserver": "2027-11-27T08:00:00Z", "admin.conf": "2027-11-27T08:00:00Z"}
    assert renewed_certificates(before) == ["admin.conf, apiserver: end on 2026-12-10", "kubelet: ends on 2027-05-01"]
    assert renewed_certificates(before, after) == ["admin.conf, apiserver: ended on 2026-12-10, now on 2027-11-27"], (
        "the kubelet's was not renewed"
    )


def run_renewal(folder: Path, kubelet: bool) -> str:
    """Run renew.sh below a folder that has a CA, with a kubeadm that renews nothing."""
    script = (FILES / "renew.sh").read_text()
    for name in ("/etc/", "/var/"):
        script = script.replace(f"={name}", f"={folder}{name}").replace(f" {name}", f" {folder}{name}")
    environment = {**os.environ, "NODE": "demo-control-plane", "KUBELET": str(kubelet)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def control_plane(tmp_path: Path) -> Path:
    pki = tmp_path / "etc/kubernetes/pki"
    for folder in (pki, tmp_path / "etc/kubernetes/q8s", tmp_path / "var/lib/q8s/bin"):
        folder.mkdir(parents=True)
    ca = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kubernetes"]
    subprocess.run([*ca, "-keyout", pki / "ca.key", "-out", pki / "ca.crt"], check=True, capture_output=True)
    kubeadm = tmp_path / "var/lib/q8s/bin/kubeadm"
    kubeadm.write_text('#!/bin/sh\nif [ "$1" = version ]; then echo v1.36.3; else echo "$@"; cat; fi\n')
    kubeadm.chmod(0o755)
    embedded = "    client-certificate-data: AAAA\n    client-key-data: BBBB\n"
    (tmp_path / "etc/kubernetes/kubelet.conf").write_text(embedded)
    return tmp_path


def test_a_renewal_asks_no_api_server(control_plane: Path) -> None:
    printed = run_renewal(control_plane, kubelet=False)
    assert printed.splitlines() == [
        "certs renew all --config=/dev/stdin",
        "apiVersion: kubeadm.k8s.io/v1beta4",
        "kind: ClusterConfiguration",
        "kubernetesVersion: v1.36.3",
    ]
    assert (control_plane / "etc/kubernetes/q8s/restart-due").exists()
    assert not (control_plane / "var/lib/kubelet/pki").exists()


def test_the_kubelet_gets_a_certificate_that_the_ca_signed(control_plane: Path) -> None:
    run_renewal(control_plane, kubelet=True)
    pki = control_plane / "var/lib/kubelet/pki"
    current = pki / "kubelet-client-current.pem"
    assert sorted(pki.iterdir()) == sorted([current, current.resolve()]), "no key is left beside it"
    assert current.resolve().stat().st_mode & 0o777 == 0o600
    show = ["openssl", "x509", "-noout", "-subject", "-ext", "extendedKeyUsage", "-in", str(current)]
    text = subprocess.run(show, check=True, capture_output=True, text=True).stdout.replace(" ", "")
    assert "O=system:nodes,CN=system:node:demo-control-plane" in text
    assert "TLSWebClientAuthentication" in text
    verify = ["openssl", "verify", "-CAfile", str(control_plane / "etc/kubernetes/pki/ca.crt"), str(current)]
    subprocess.run(verify, check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-noout", "-in", current], check=True)
    kubeconfig = (control_plane / "etc/kubernetes/kubelet.conf").read_text()
    assert kubeconfig == f"    client-certificate: {current}\n    client-key: {current}\n"


class Machine:
    """A control plane whose kubelet starts another container some looks after one was stopped."""

    def __init__(self, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, healthy: bool = True) -> None:
        self.calls: list[str] = []
        self._running = {name: f"{name}-1" for name, *_ in script.PODS}
        self._looks = 0
        self._now = 0.0
        monkeypatch.setattr(script, "run", self.run)
        monkeypatch.setattr(script, "is_healthy", lambda *_: healthy)
        monkeypatch.setattr(script.time, "sleep", self.sleep)
        monkeypatch.setattr(script.time, "monotonic", lambda: self._now)
        monkeypatch.setattr(script, "MANIFESTS", str(tmp_path))
        monkeypatch.setattr(script, "DUE", str(tmp_path / "restart-due"))
        (tmp_path / "restart-due").touch()
        for name, *_ in script.PODS:
            (tmp_path / f"{name}.yaml").touch()

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        for name, container in self._running.items():
            if not container:
                self._running[name] = f"{name}-2"

    def run(self, *command: str) -> str:
        if "ps" in command:
            return self._running[command[-1].strip("^$")] + "\n"
        self.calls.append(" ".join(command[3:] if "stop" in command else command))
        if "stop" in command:
            self._running[command[-1][:-2]] = ""
        return ""


@pytest.fixture
def restart() -> Any:
    spec = importlib.util.spec_from_file_location("restart_pods", FILES / "restart_pods.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pods_are_restarted_one_after_the_other(restart: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(restart, monkeypatch, tmp_path)
    (tmp_path / "etcd.yaml").unlink()
    assert restart.main(60) == ["kube-apiserver", "kube-controller-manager", "kube-scheduler"]
    assert machine.calls == [
        "systemctl restart kubelet.service",
        "stop --timeout 30 kube-apiserver-1",
        "stop --timeout 30 kube-controller-manager-1",
        "stop --timeout 30 kube-scheduler-1",
    ]
    assert not (tmp_path / "restart-due").exists()


def test_a_pod_that_does_not_come_back_ends_the_restart(
    restart: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(restart, monkeypatch, tmp_path, healthy=False)
    with pytest.raises(SystemExit, match="etcd is not healthy 60 s after its container was stopped"):
        restart.main(60)
    assert len(machine.calls) == 2, "the API server was not stopped, too"
    assert (tmp_path / "restart-due").exists(), "the next deploy tries again"
