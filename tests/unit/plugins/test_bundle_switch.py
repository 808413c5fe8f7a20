"""A node that runs gets another bundle: unpacked beside the one in use, then put in its place. It is safe to repeat."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/k8s_common/files"
OLD, NEW = "0" * 8, "1" * 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node with the bundle OLD, an archive of the bundle NEW, and a systemctl that records its arguments."""
    for name, text in {
        "root/bin/kubelet": "old",
        "root/bin/only-old": "old",
        "root/containerd/store": "pods live here",
        "root/manifest.json": "old",
        f"root/.unpacked-{OLD}": "",
        "source/bin/kubelet": "new",
        "source/cni/bridge": "new",
        "source/etc/containerd.toml": "new",
        "source/containerd/store": "of the bundle",
        "source/manifest.json": "new",
        "path/systemctl": f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n',
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    (tmp_path / "next").mkdir()
    packed = ["tar", "--create", "--zstd", "--directory", tmp_path / "source", "--file", tmp_path / "archive", "."]
    subprocess.run(packed, check=True)
    return tmp_path


def run(folder: Path, script: str) -> str:
    variables = {
        "ARCHIVE": str(folder / "archive"),
        "NEXT": str(folder / "next"),
        "ROOT": str(folder / "root"),
        "SHA256": NEW,
        "PATH": f"{folder}/path:{os.environ['PATH']}",
    }
    command = ["sh", "-c", (FILES / script).read_text()]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True).stdout


def records(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "root").glob(".unpacked-*"))


def test_a_bundle_is_unpacked_beside_the_one_in_use_once(folder: Path) -> None:
    assert run(folder, "stage.sh") == "unpacked\n"
    assert (folder / "next/bundle/bin/kubelet").read_text() == "new"
    assert (folder / "root/bin/kubelet").read_text() == "old"
    assert run(folder, "stage.sh") == ""


def test_an_interrupted_unpacking_is_repeated(folder: Path) -> None:
    (folder / "next/bundle").mkdir()
    (folder / "next/bundle/half").touch()
    assert run(folder, "stage.sh") == "unpacked\n"
    assert not (folder / "next/bundle/half").exists()


def test_the_programs_are_replaced_and_the_store_of_the_running_pods_stays(folder: Path) -> None:
    run(folder, "stage.sh")
    held = (folder / "root/bin/kubelet").open()  # as a program that runs
    run(folder, "switch.sh")
    with held:
        assert held.read() == "old"
    for name in ("bin/kubelet", "cni/bridge", "etc/containerd.toml", "manifest.json"):
        assert (folder / "root" / name).read_text() == "new"
    assert os.access(folder / "root/bin/kubelet", os.X_OK)
    assert (folder / "root/containerd/store").read_text() == "pods live here"
    assert (folder / "called").read_text() == "restart q8s-containerd.service kubelet.service\n"
    assert records(folder) == [f".unpacked-{NEW}"]
    assert not (folder / "next").exists()


def test_a_switch_that_fails_leaves_the_record_of_the_old_bundle(folder: Path) -> None:
    run(folder, "stage.sh")
    (folder / "path/systemctl").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        run(folder, "switch.sh")
    assert records(folder) == [f".unpacked-{OLD}"]
    (folder / "path/systemctl").write_text("#!/bin/sh\n")
    assert run(folder, "stage.sh") == "", "it is still there"
    run(folder, "switch.sh")
    assert records(folder) == [f".unpacked-{NEW}"]
