"""Artifacts of earlier deploys: hosts and the artifact server remove what nothing uses."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from q8s_bundle.cli import served_name

ROLES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles"
OLD, NEW = "a" * 64, "b" * 64
KINDS = ("root", "kernel", "initrd", "bundle")
CURRENT = [served_name(f"{kind}-x86_64", NEW) for kind in KINDS]


def name(kind: str, checksum: str = OLD) -> str:
    return served_name(f"{kind}-x86_64", checksum)


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "remove_artifacts", ROLES / "emulated_worker/files/remove_artifacts.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def definition(folder: Path, kernel: str) -> str:
    disks = "".join(f"<disk><source file='{folder}/x86-1{part}'/></disk>" for part in (".qcow2", "-bundle.qcow2"))
    data = f"<disk><source file='{folder}/x86-1-data.img'/></disk>"
    boot = f"<kernel>{folder}/{kernel}</kernel><initrd>{folder}/{kernel.replace('kernel', 'initrd')}</initrd>"
    return f"<domain><name>x86-1</name><os>{boot}</os><devices>{disks}{data}</devices></domain>"


class Host:
    """A host with one guest, whose disks are real, and whose libvirt prints these definitions."""

    def __init__(self, folder: Path, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._script = script
        self.xml: Mapping[str, str] = {}
        self._output = script.output
        monkeypatch.setattr(script, "output", self.output)

    def output(self, *command: str) -> str:
        if command[0] == "qemu-img":
            return str(self._output(*command))
        if "list" in command:
            return "x86-1\n\n" if self.xml else "\n"
        return self.xml["next" if "--inactive" in command else "now"]

    def add(self, *names: str) -> None:
        for file in names:
            (self.folder / file).write_bytes(b"x" * 512)

    def disk(self, file: str, backing: str) -> None:
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, str(self.folder / file)]
        subprocess.run(command, check=True)

    def clean(self, check: bool = False) -> list[str]:
        found = self._script.main(str(self.folder), check, CURRENT)
        assert found["problem"] == ""
        removed: list[str] = found["removed"]
        for file in removed:
            assert (self.folder / file).exists() == check
        return removed


@pytest.fixture
def host(tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch) -> Host:
    if not shutil.which("qemu-img"):
        pytest.skip("needs qemu-img")
    return Host(tmp_path, script, monkeypatch)


def test_what_the_guest_is_based_on_is_kept(host: Host) -> None:
    """The guest keeps the image that it was created from, and the kernel with it, after a deploy with another image."""
    host.add(*(name(kind) for kind in KINDS), *CURRENT, "x86-1-data.img", "notes.txt")
    host.disk("x86-1.qcow2", name("root"))
    host.disk("x86-1-bundle.qcow2", name("bundle", NEW))
    text = definition(host.folder, name("kernel"))
    host.xml = {"now": text, "next": text}
    assert host.clean(check=True) == [name("bundle")]
    assert host.clean() == [name("bundle")]
    assert host.clean() == []
    kept = {file.name for file in host.folder.iterdir()}
    assert kept >= {name("root"), name("kernel"), name("initrd"), *CURRENT, "notes.txt"}


def test_a_running_machine_keeps_what_its_next_start_does_not_need(host: Host) -> None:
    host.add(*(name(kind) for kind in KINDS), *CURRENT)
    host.disk("x86-1.qcow2", name("root"))
    (host.folder / "next").mkdir()
    host.disk("next/x86-1.qcow2", f"../{name('root', NEW)}")
    host.disk("x86-1-bundle.qcow2", name("bundle"))
    host.xml = {"now": definition(host.folder, name("kernel")), "next": definition(host.folder, name("kernel", NEW))}
    assert host.clean() == []


def test_what_a_recreated_guest_was_based_on_goes(host: Host) -> None:
    unsuffixed = f"root-x86_64-{OLD[:12]}"
    host.add(*(name(kind) for kind in KINDS), unsuffixed, *CURRENT)
    host.disk("x86-1.qcow2", name("root", NEW))
    host.disk("x86-1-bundle.qcow2", name("bundle", NEW))
    text = definition(host.folder, name("kernel", NEW))
    host.xml = {"now": text, "next": text}
    assert host.clean() == sorted([unsuffixed, *(name(kind) for kind in KINDS)])


def test_a_chain_of_several_files_is_kept_to_its_end(host: Host) -> None:
    host.add(name("root"), *CURRENT)
    host.disk("snapshot.qcow2", name("root"))
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "snapshot.qcow2", "x86-1.qcow2"]
    subprocess.run(command, check=True, cwd=host.folder)
    assert host.clean() == []


def test_nothing_goes_where_a_disk_cannot_be_read(host: Host, script: Any) -> None:
    host.add(name("root"), name("bundle"), *CURRENT)
    host.disk("x86-1.qcow2", name("root"))
    (host.folder / name("root")).unlink()
    found = script.main(str(host.folder), False, CURRENT)
    assert found["removed"] == [] and "No such file" in found["problem"]
    assert (host.folder / name("bundle")).exists()


def test_nothing_goes_where_libvirt_does_not_answer(
    tmp_path: Path, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name("root")).touch()

    def refuse(*command: str) -> str:
        raise subprocess.CalledProcessError(1, command, stderr="error: failed to connect to the hypervisor\n")

    monkeypatch.setattr(script, "output", refuse)
    assert script.main(str(tmp_path), False, CURRENT) == {
        "removed": [],
        "problem": "error: failed to connect to the hypervisor",
    }
    assert (tmp_path / name("root")).exists()


def test_a_host_without_old_files_is_not_asked(script: Any) -> None:
    (pattern,) = [yaml.safe_load((ROLES / "emulated_worker/vars/main.yml").read_text())["__emulated_worker_artifact"]]
    names = [name(kind) for kind in KINDS] + [f"root-x86_64-{OLD[:12]}", "x86-1.qcow2", "root-1.qcow2", "next", "x.xml"]
    for file in names:
        assert bool(re.match(pattern, file)) == bool(script.ARTIFACT.fullmatch(file)), file
    assert script.ARTIFACT.fullmatch(names[0]) and not script.ARTIFACT.fullmatch("root-1.qcow2")


def serve(folder: Path, keep: list[str], check: bool = False) -> list[str]:
    tasks = yaml.safe_load((ROLES / "artifact_server/tasks/install.yml").read_text())
    (task,) = [task for task in tasks if "ansible.builtin.shell" in task]
    environment = {**os.environ, "FOLDER": str(folder), "KEEP": " ".join(keep), "CHECK": str(check)}
    command = ["sh", "-c", task["ansible.builtin.shell"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_artifact_server_keeps_what_this_deploy_serves(tmp_path: Path) -> None:
    keep = [*CURRENT, served_name("control-plane-x86_64", NEW)]
    old = [name("root"), served_name("control-plane-x86_64", OLD), f"{name('bundle')}.part"]
    for file in (*keep, *old, "notes.txt", "root-x86_64.img"):
        (tmp_path / file).touch()
    assert sorted(serve(tmp_path, keep, check=True)) == sorted(old)
    assert sorted(serve(tmp_path, keep)) == sorted(old)
    assert serve(tmp_path, keep) == []
    assert {file.name for file in tmp_path.iterdir()} == {*keep, "notes.txt", "root-x86_64.img"}
    assert serve(tmp_path / "none", keep) == [], "in check mode, the folder may be missing"
