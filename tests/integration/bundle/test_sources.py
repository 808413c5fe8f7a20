"""A worker's bundle is the same from either source: the programs that we have, published in upstream's layout.

It needs root, for images are unpacked, and what a bundle is made from in the cache: an hour of building if nothing is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from q8s_bundle import cache
from q8s_bundle.cache import Artifact
from q8s_bundle.node import Supply, ensure_worker, gobuild, store
from tests.upstream import Server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: containerd mounts while it unpacks images"),
    pytest.mark.long("two minutes"),
]


def content(bundle: Artifact, folder: Path) -> dict[str, str]:
    """The files of a bundle's disk: path -> sha256 and mode, without those that containerd puts times or a name in."""
    raw = folder.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", bundle.path, raw], check=True)
    folder.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {folder}", raw], check=True, capture_output=True)
    raw.unlink()
    return {
        file.relative_to(folder).as_posix(): f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.stat().st_mode:o}"
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink() and file.name not in ("meta.db", "metadata.db", "uuid")
    }


def reader(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def test_a_bundle_is_the_same_from_either_source(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = store.machine()
    ours = Supply("auto")
    first = ensure_worker(architecture, ours)
    home = cache.cache_root()
    folders = {program.name: ours.obtain(program, architecture)[0] for program in gobuild.NODE_PROGRAMS}
    for program in gobuild.NODE_PROGRAMS:
        published = server.publish(program, architecture, reader(folders[program.name]))

    # A cache without what has a release, and without bundles; the rest is as it was.
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/programs").mkdir(parents=True)
    for name in ("debs", "trees"):
        (tmp_path / "cache" / name).symlink_to(home / name)
    for program in gobuild.NODE_PROGRAMS:
        if not published.files(program, architecture):
            folder = folders[program.name]
            (tmp_path / "cache/programs" / folder.name).symlink_to(folder)
    second = ensure_worker(architecture, Supply("upstream", published))

    released = {"cni", "cni-flannel", "crictl", "kubernetes-node", "runc"}
    assert {name for name, origin in second.origins.items() if origin == "upstream"} == released
    assert second.changed
    one, other = content(first.bundle, tmp_path / "one"), content(second.bundle, tmp_path / "other")
    assert other == one
    assert {"bin/kubelet", "bin/runc", "cni/bridge", "cni/flannel"} < set(one)
    manifest = json.loads((tmp_path / "other/manifest.json").read_text())
    assert f"registry.k8s.io/kube-proxy:{manifest['kubernetes_version']}" in manifest["images"]

    # A finished bundle is taken as it is, whichever its source: nobody is asked, and its programs are not needed.
    server.asked.clear()
    shutil.rmtree(tmp_path / "cache/programs")
    again = ensure_worker(architecture, Supply("auto", published))
    assert (again.bundle, again.changed, again.origins) == (second.bundle, False, second.origins)
    assert server.asked == []
