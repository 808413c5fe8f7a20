"""The images of an unpacked bundle are loaded into a containerd that runs, as an upgrade of a control plane does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from q8s_bundle import cli
from q8s_bundle.node import Supply, ensure_control_plane
from q8s_bundle.node.store import machine

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
    pytest.mark.long("half a minute"),
]
SCRIPT = Path(cli.__file__).parents[1] / "collections/ansible_collections/q8s/emu/roles/k8s_common/files/load_images.py"
SMALL = ("q8s.local/probe:1", "registry.k8s.io/pause:3.10.2")
CONFIG = """
version = 3
root = '{folder}/root'
state = '{folder}/state'
disabled_plugins = ['io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri']
[grpc]
address = '{folder}/c.sock'
[ttrpc]
address = '{folder}/c.sock.ttrpc'
"""


@pytest.fixture(scope="module")
def bundle() -> Iterator[Path]:
    """The newest control plane's bundle, unpacked where an overlay can be, whose manifest names two small images."""
    archive = ensure_control_plane(machine(), Supply("auto")).bundle.path
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="q8s-test-") as folder:
        options = ["--use-compress-program=zstd -d", "--xattrs", "--xattrs-include=*", "--numeric-owner"]
        subprocess.run(["tar", *options, "-xpf", archive, "-C", folder], check=True)
        manifest = Path(folder) / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "images": SMALL}))
        yield Path(folder)


@pytest.fixture
def running(bundle: Path) -> Iterator[list[str]]:
    """The options of ctr for an empty containerd that runs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="q8s-test-") as folder:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG.format(folder=folder))
        environment = {**os.environ, "PATH": f"{bundle}/bin:{os.environ['PATH']}"}
        options = ["--address", f"{folder}/c.sock"]
        with subprocess.Popen([bundle / "bin/containerd", "--config", config], env=environment) as daemon:
            while subprocess.run(
                [bundle / "bin/ctr", *options, "version"], capture_output=True, check=False
            ).returncode:
                assert daemon.poll() is None
                time.sleep(0.1)
            yield options
            daemon.terminate()


def load(bundle: Path, options: list[str]) -> list[str]:
    done = subprocess.run([sys.executable, SCRIPT, bundle, *options], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_what_is_missing_is_loaded_once(bundle: Path, running: list[str]) -> None:
    assert load(bundle, running) == [*SMALL]
    assert load(bundle, running) == []
    ctr = [bundle / "bin/ctr", *running, "--namespace", "k8s.io"]
    listed = subprocess.run([*ctr, "images", "list", "--quiet"], capture_output=True, text=True, check=True).stdout
    assert listed.split() == [*SMALL]
    unpacked = subprocess.run([*ctr, "snapshots", "list"], capture_output=True, text=True, check=True).stdout
    assert unpacked.count("Committed") == len(SMALL)
    assert not list(bundle.glob(".load-*")), "nothing is left beside the bundle"
