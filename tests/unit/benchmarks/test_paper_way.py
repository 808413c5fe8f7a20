"""The baseline without a cluster: what a host runs, a guest's seed, packages and images. A stub replaces QEMU."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.deployed import Api
from benchmarks.paper_way import guest, host, packages
from q8s_bundle.node import gobuild, oci, versions

_SETS_ITSELF_UP = """
import sys, time
with open(sys.argv[1], "w", buffering=1) as console:
    console.write("Linux version 6.12\\n")
    time.sleep(1)
    console.write("[   9.1] q8s-phase installed\\n")
    time.sleep(60)
"""
_PANICS = """
import sys, time
open(sys.argv[1], "w").write("Kernel panic - not syncing: Fatal exception in interrupt\\n")
time.sleep(60)
"""
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Any]:
    """Start a machine on "the host", with a served folder and a console."""
    running: list[subprocess.Popen[str]] = []

    def run(machine: str) -> subprocess.Popen[str]:
        console = tmp_path / "console"
        command = json.dumps([sys.executable, "-c", machine, str(console)])
        program = [sys.executable, str(host.__file__), command, str(port), str(tmp_path), str(console), "30"]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return running[0]

    yield run
    for process in running:
        process.communicate(timeout=30)


def test_a_guest_runs_until_its_node_is_ready(start: Any, tmp_path: Path, port: int) -> None:
    (tmp_path / "v2/pause/manifests").mkdir(parents=True)
    (tmp_path / "v2/pause/manifests/3").write_text("{}")
    process = start(_SETS_ITSELF_UP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/v2/pause/manifests/3?ns=registry.k8s.io", timeout=10
    ) as answer:
        assert answer.headers["Content-Type"] == _MANIFEST_TYPE
    seen = json.loads(process.communicate(timeout=30)[0])
    assert seen["failed"] is None
    assert seen["phases"]["kernel"] < 1 < seen["phases"]["installed"] < 4


def test_a_guest_that_panics_is_given_up(start: Any) -> None:
    process = start(_PANICS)
    assert process.wait(20) == 0
    seen = json.loads(process.stdout.read())
    assert seen["failed"] == "panicked"
    assert "Kernel panic" in seen["console"][-1]


def test_a_seed_installs_pulls_and_joins() -> None:
    files = guest.seed(
        "arm-mid-1-paper", Api("demo-api", "10.254.1.3", "c0ffee"), "abcdef.0123456789abcdef", "http://10.254.1.1:3142"
    )
    config = yaml.safe_load(files["user-data"])
    assert files["user-data"].startswith("#cloud-config\n")
    assert {"containerd.io", "kubelet", "kubeadm"} <= set(config["packages"])
    assert 'Acquire::http::Proxy "http://10.254.1.1:3142";' in config["apt"]["conf"]
    join = next(json.loads(file["content"]) for file in config["write_files"] if "join" in file["path"])
    assert join["discovery"]["bootstrapToken"]["caCertHashes"] == ["sha256:c0ffee"]
    assert join["nodeRegistration"]["name"] == "arm-mid-1-paper"
    commands = config["runcmd"]
    hosts, joined = (
        next(i for i, text in enumerate(commands) if word in text) for word in ("demo-api", "kubeadm join")
    )
    assert hosts < joined


def test_packages_are_a_repository_that_names_their_checksums(tmp_path: Path) -> None:
    architecture = versions.ARCHITECTURES["aarch64"]
    programs = {}
    for program in gobuild.NODE_PROGRAMS:
        programs[program.name] = tmp_path / program.name
        programs[program.name].mkdir()
        for name in program.packages:
            (programs[program.name] / name).write_text(name)
    packages._write_repository(tmp_path / "apt", architecture, programs)
    index = (tmp_path / "apt/Packages").read_text()
    stanzas = [dict(line.split(": ", 1) for line in text.splitlines()) for text in index.split("\n\n")]
    assert {stanza["Architecture"] for stanza in stanzas} == {"arm64"}
    for stanza in stanzas:
        file = tmp_path / "apt" / stanza["Filename"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == stanza["SHA256"]
    kubelet = next(stanza for stanza in stanzas if stanza["Package"] == "kubelet")
    command = ["dpkg-deb", "--contents", tmp_path / "apt" / kubelet["Filename"]]
    contents = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "./usr/bin/kubelet\n" in contents
    assert "kubeadm\n" not in contents
    assert hashlib.sha256(index.encode()).hexdigest() in (tmp_path / "apt/Release").read_text()


def test_an_image_has_the_files_of_a_registry(tmp_path: Path) -> None:
    (tmp_path / "pause").write_text("pause")
    image = oci.Image(("registry.k8s.io/pause:3",), ("/pause",), {"/pause": tmp_path / "pause"})
    packages._write_image(tmp_path / "v2", image, versions.ARCHITECTURES["x86_64"])
    manifest = json.loads((tmp_path / "v2/pause/manifests/3").read_text())
    assert manifest["mediaType"] == _MANIFEST_TYPE
    for blob in (manifest["config"], *manifest["layers"]):
        content = (tmp_path / "v2/pause/blobs" / blob["digest"]).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob["digest"]
        assert len(content) == blob["size"]
