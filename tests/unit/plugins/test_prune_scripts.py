"""Artifacts of earlier builds are removed from the initial control plane and from hosts. What is in use stays."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from q8s_wrapper.config import REPOSITORY

ROLES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles"
OLD, NEW = "0" * 12, "f" * 12


def run(role: str, folder: Path, **variables: str) -> list[str]:
    script = (ROLES / role / "files/prune.sh").read_text()
    environment = {**os.environ, "FOLDER": str(folder), **variables}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def test_the_artifact_server_keeps_what_it_serves(tmp_path: Path) -> None:
    addon = "addon-metrics_server-x86_64"
    served = [f"bundle-x86_64-{NEW}.qcow2", f"control-plane-x86_64-{NEW}", f"{addon}-{NEW}.tar.gz"]
    uploading = f"{addon}-{NEW}.tar.gz.part"
    others = [
        uploading,
        f"notes-x86_64-{OLD}.part",
        "notes-x86_64",
        f"root-x86_64-{OLD}.qcow2.old",
        f"backup-x86_64-{OLD}.tar.gz",
    ]
    earlier = [
        f"bundle-x86_64-{OLD}.qcow2",
        f"control-plane-x86_64-{OLD}",
        f"root-aarch64-{OLD}.qcow2",
        f"{addon}-{OLD}.tar.gz",
        f"bench-x86_64-{OLD}.tar.gz",
        f"conformance-tests-x86_64-{OLD}.tar.gz",
        f"bundle-aarch64-{OLD}.qcow2.part",
        f"kernel-aarch64-{OLD}.part",
    ]
    for name in (*served, *others, *earlier):
        (tmp_path / name).touch()
    assert run("artifact_server", tmp_path, SERVED=" ".join(served)) == sorted(earlier)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*served, *others])
    assert run("artifact_server", tmp_path, SERVED=" ".join(served)) == []


def test_a_host_keeps_what_its_guest_boots_from(tmp_path: Path) -> None:
    for name in ("root-x86_64", "bundle-x86_64"):
        for build in (OLD, NEW):
            disk = tmp_path / f"{name}-{build}.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    for name, base in {"arm-1": f"root-x86_64-{NEW}.qcow2", "arm-1-bundle": f"bundle-x86_64-{NEW}.qcow2"}.items():
        disk, backing = tmp_path / f"{name}.qcow2", tmp_path / base
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, disk]
        subprocess.run(command, check=True)
    for name in (f"root-x86_64-{NEW}.qcow2.part", f"kernel-aarch64-{OLD}.part"):
        (tmp_path / name).touch()
    # The guest has an older kernel than the newest image.
    for name in (f"kernel-x86_64-{OLD}", f"kernel-x86_64-{NEW}", f"initrd-x86_64-{OLD}", "own-file", "own.part"):
        (tmp_path / name).touch()
    kernel = (
        f"    <kernel>{tmp_path}/kernel-x86_64-{OLD}</kernel>\n    <initrd>{tmp_path}/initrd-x86_64-{OLD}</initrd>\n"
    )
    (tmp_path / "arm-1.xml").write_text(f"<domain>\n  <os>\n{kernel}  </os>\n</domain>\n")
    assert run("emulated_worker", tmp_path, NAME="arm-1") == [
        f"bundle-x86_64-{OLD}.qcow2",
        f"kernel-aarch64-{OLD}.part",
        f"kernel-x86_64-{NEW}",
        f"root-x86_64-{OLD}.qcow2",
        f"root-x86_64-{NEW}.qcow2.part",
    ]
    assert run("emulated_worker", tmp_path, NAME="arm-1") == []


def test_downloads_of_images_leave_nothing(tmp_path: Path) -> None:
    """The last task of load_images.yml removes what was downloaded, and what an interrupted download left."""
    (block,) = [
        task
        for task in yaml.safe_load((ROLES.parent / "playbooks/tasks/load_images.yml").read_text())
        if "always" in task
    ]
    (task,) = block["always"]
    command = task["ansible.builtin.raw"].replace("/var/tmp", str(tmp_path))
    for name in ("pause.tar.gz", "probe.tar.gz.part", "own.part"):
        (tmp_path / name).touch()
    command = command.replace("{{ q8s_images_files }}", "pause.tar.gz probe.tar.gz")
    subprocess.run(["sh", "-c", command], check=True)
    assert [file.name for file in tmp_path.iterdir()] == ["own.part"]


def test_images_that_are_loaded_later_are_pinned(tmp_path: Path) -> None:
    """Ansible runs the tasks of load_images.yml without the download, with another program in the place of ctr."""
    ctr = tmp_path / "q8s/bin/ctr"
    ctr.parent.mkdir(parents=True)
    ctr.write_text(f'#!/bin/sh\n[ "$3" != import ] || {{ echo "$@"; cat; }} >> {tmp_path}/imported\n')
    ctr.chmod(0o755)
    (tmp_path / "bench.tar.gz").write_bytes(gzip.compress(b"an archive\n"))
    text = (ROLES.parent / "playbooks/tasks/load_images.yml").read_text()
    tasks = yaml.safe_load(text.replace("/var/lib", str(tmp_path)).replace("/var/tmp", str(tmp_path)))
    block = tasks[1]["block"]
    tasks[1]["block"] = [task for task in block if "q8s.emu.download" not in task]
    assert len(tasks[1]["block"]) == len(block) - 1
    images = {"q8s_images": [{"name": "bench:1", "artifact": "bench"}]}
    artifacts = {"q8s_images_artifacts": {"bench": {"name": "bench.tar.gz", "sha256": "0"}}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": images | artifacts}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{**play, "tasks": tasks}]))
    done = play_on_this_machine(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    command, archive = (tmp_path / "imported").read_text().splitlines()
    assert "--label=io.cri-containerd.pinned=pinned" in command
    assert archive == "an archive"


def test_sources_that_were_unpacked_by_half_are_unpacked_again(tmp_path: Path) -> None:
    """Ansible runs the tasks of the build that pack and unpack its sources."""
    text = (ROLES.parent / "playbooks/tasks/unpack_build_sources.yml").read_text()
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"q8s_state_dir": str(tmp_path)},
        "tasks": yaml.safe_load(text.replace("/var/lib/", f"{tmp_path}/")),
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    with (tmp_path / "packed").open("wb") as output:
        command = [sys.executable, "-m", "q8s_bundle", "pack", tmp_path / "archive"]
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=output)
    checksum = json.loads((tmp_path / "packed").read_text())["sha256"]
    sources = tmp_path / f"q8s-build/sources-{checksum[:12]}"
    half = sources.with_name(f"{sources.name}.new")
    half.mkdir(parents=True)
    (half / "left").touch()
    for changed in (True, False):
        done = play_on_this_machine(tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("Rename the folder" in done.stdout and "changed=0" not in done.stdout) is changed
        assert (sources / "q8s_bundle/packages.txt").exists() and not (sources / "left").exists()
        assert not half.exists()
        assert time.time() - sources.stat().st_mtime < 600, "its age decides when it is removed"


def play_on_this_machine(folder: Path) -> subprocess.CompletedProcess[str]:
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    command = [programs / "ansible-playbook", folder / "play.yml"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_build_on_the_control_plane_removes_what_earlier_builds_left(tmp_path: Path) -> None:
    """Ansible runs the last tasks of the build, from the one that serves what was built."""
    old, new, same = f"bundle-x86_64-{OLD}.qcow2", f"bundle-x86_64-{NEW}.qcow2", f"kernel-x86_64-{NEW}"
    served, cache = tmp_path / "q8s-artifacts", tmp_path / "q8s-build"
    for folder in (served, cache):
        folder.mkdir()
    for file in (served / old, served / "own-file", cache / new, served / same, cache / same):
        file.write_text("x")
    (cache / "earlier").hardlink_to(served / same)
    for name in ("build_on_cluster.yml", "prune_cluster_build.yml"):
        text = (ROLES.parent / "playbooks/tasks" / name).read_text()
        (tmp_path / name).write_text(text.replace("/var/lib/", f"{tmp_path}/"))
    tasks = yaml.safe_load((tmp_path / "build_on_cluster.yml").read_text())
    tasks = tasks[[task["name"] for task in tasks].index("Serve what was built") :]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "artifact_server_directory": str(served),
            "q8s_build_sources": str(REPOSITORY),
            "q8s_built": {},
            "q8s_remote": {"bundle": {"artifacts": {n: {"name": n, "path": str(cache / n)} for n in (new, same)}}},
        },
        "tasks": [{"ansible.builtin.set_fact": {"q8s_built": {}}}, *tasks],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    for changed in (2, 0):  # the links, and the file of the earlier build
        done = play_on_this_machine(tmp_path)
        assert done.returncode == 0 and f"changed={changed} " in done.stdout, done.stdout + done.stderr
        assert sorted(file.name for file in served.iterdir()) == [new, same, "own-file"]
        assert (served / same).samefile(cache / same), "the link to the earlier build's kernel is replaced"
