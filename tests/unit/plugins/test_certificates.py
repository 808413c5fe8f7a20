"""When certificates of a control plane end, and which of the cluster's nodes need a token to join."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.certificates import certificates
from ansible_collections.q8s.emu.plugins.filter.gone_control_planes import gone_control_planes
from ansible_collections.q8s.emu.plugins.filter.joining_nodes import joining_nodes

SCRIPTS = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files"
DAY = 86400
NOW = 1795771200  # 2026-11-27 at noon, in UTC
QUIET = {"end": "", "first": "", "ended": "", "soon": "", "lacks": []}


def printed(**ends: float) -> str:
    """Return what certificates.sh prints of certificates that end in some days."""
    return "\n".join([f"now {NOW}", *(f"ends {int(NOW + days * DAY)} {name}" for name, days in ends.items())])


@pytest.mark.parametrize(
    ("ends", "what"),
    [
        ({"apiserver": 365, "admin": 31}, {"end": "2026-12-28", "first": "admin"}),
        (
            {"apiserver": 365, "admin": 29.5},
            {"soon": "the certificate admin of cp ends in 29 days, on 2026-12-26; renew all: q8s-run renew FILE"},
        ),
        (
            {"apiserver": 1.5},
            {"soon": "the certificate apiserver of cp ends in 1 day, on 2026-11-28; renew all: q8s-run renew FILE"},
        ),
        (
            {"apiserver": 0.1},
            {
                "soon": "the certificate apiserver of cp ends in less than a day, on 2026-11-27; "
                "renew all: q8s-run renew FILE"
            },
        ),
        (
            {"apiserver": 3, "etcd/server": -2, "admin": -1},
            {"ended": "certificates of cp have ended, the first on 2026-11-25, and are refused: etcd/server, admin"},
        ),
    ],
    ids=["far", "soon", "tomorrow", "today", "ended"],
)
def test_the_first_certificate_that_ends_is_named(ends: dict[str, float], what: dict[str, str]) -> None:
    report = certificates(printed(**ends), "cp")
    expected: dict[str, Any] = {**QUIET, "end": report["end"], "first": report["first"], **what}
    assert report == expected


def test_another_number_of_days() -> None:
    assert certificates(printed(apiserver=364), "cp", days=400)["soon"]
    assert certificates("", "cp") == QUIET, "the host answered nothing, or is no control plane yet"


def certificate(path: Path, days: int, *names: str) -> None:
    """Write a certificate that ends in some days, and its key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=test", "-days", str(days), "-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    command += ["-addext", f"subjectAltName={','.join(names)}"] if names else []
    subprocess.run(command, check=True, capture_output=True)


def test_the_certificates_of_a_control_plane_are_read(tmp_path: Path) -> None:
    pki = tmp_path / "etc/kubernetes/pki"
    certificate(pki / "apiserver.crt", 40, "DNS:demo-api", "IP:10.0.0.3")
    certificate(pki / "etcd/server.crt", 50)
    for authority in ("ca", "front-proxy-ca", "etcd/ca"):
        certificate(pki / f"{authority}.crt", 2)
    certificate(tmp_path / "admin.crt", 1)
    encoded = base64.b64encode((tmp_path / "admin.crt").read_bytes()).decode()
    (tmp_path / "etc/kubernetes/admin.conf").write_text(f"users:\n- user:\n    client-certificate-data: {encoded}\n")
    environment = {**os.environ, "ROOT": str(tmp_path), "NAMES": "demo-api 10.0.0.3 10.0.0 203.0.113.9"}
    script = ["sh", "-c", (SCRIPTS / "certificates.sh").read_text()]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == [
        "apiserver",
        "etcd/server",
        "admin.conf",
        "10.0.0",
        "203.0.113.9",
    ]
    report = certificates(done.stdout, "cp")
    assert report["soon"].startswith("the certificate admin.conf of cp ends in ")
    assert report["lacks"] == ["10.0.0", "203.0.113.9"]


FOUND = {"emulated_worker_found": {"state": "running"}, "q8s_vm": {}}
HOSTS: dict[str, dict[str, Any]] = {
    "demo-cp": {"q8s_node_name": "cp"},
    "demo-one": {"q8s_node_name": "one", **FOUND},
    "demo-two": {"q8s_node_name": "two", **FOUND},
}
READY = "cp True\none True\ntwo True\n"


@pytest.mark.parametrize(
    ("host", "kubernetes", "recreated", "joining"),
    [
        ({}, READY, [], []),
        ({}, "", [], ["cp", "one", "two"]),
        ({}, "cp True\none True\n", [], ["two"]),
        ({}, "cp True\none True\ntwo Unknown\n", [], ["two"]),
        ({}, READY, ["one"], ["one"]),
        # Kubernetes has its node still
        ({"emulated_worker_found": None}, READY, [], ["two"]),
        ({"emulated_worker_found": {"state": "none"}}, READY, [], ["two"]),
        ({"emulated_worker_found": {"state": "shut off"}}, "cp True\none True\ntwo Unknown\n", [], []),
    ],
    ids=["none", "first deploy", "not registered", "not Ready", "recreated", "new server", "no guest", "switched off"],
)
def test_which_nodes_may_have_to_join(
    host: dict[str, Any], kubernetes: str, recreated: list[str], joining: list[str]
) -> None:
    hosts = {**HOSTS, "demo-two": {**HOSTS["demo-two"], **host}}
    assert joining_nodes(hosts, HOSTS, kubernetes, recreated) == joining


def test_guests_that_were_not_inspected_are_not_taken_for_new() -> None:
    hosts = {name: {key: host[key] for key in host if not key.startswith("emulated")} for name, host in HOSTS.items()}
    assert joining_nodes(hosts, hosts, READY, inspected=False) == []
    assert joining_nodes(hosts, hosts, "cp True\n", inspected=False) == ["one", "two"]


def test_control_planes_that_are_gone() -> None:
    hosts = {"cp": {"q8s_node_name": "cp"}, "x": {"q8s_node_name": "demo-control-plane-2"}, "localhost": {}}
    additional = "".join(f"demo-control-plane-{end}\n" for end in ("2 Unknown", "3 Unknown", "4 True", "x Unknown"))
    nodes = f"cp Unknown\ncp-3 Unknown\n{additional}other-3 False\ndemo-control-plane-5 False\n"
    assert gone_control_planes(hosts, nodes, "demo") == ["demo-control-plane-3", "demo-control-plane-5"]
    assert gone_control_planes(hosts, "", "demo") == []
