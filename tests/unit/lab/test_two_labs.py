"""Two labs on one machine: shared kernel settings, separate package folders, and locks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from q8s_lab import locks, network, package_proxy
from q8s_lab.errors import LabError


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /proc/sys, with one setting; gives the setting's file."""
    monkeypatch.setattr(network, "_KERNEL", tmp_path / "sys")
    monkeypatch.setattr(network, "_RECORD", tmp_path / "run")
    setting = tmp_path / "sys" / "kernel" / "panic"
    setting.parent.mkdir(parents=True)
    setting.write_text("0\n")
    return setting


@pytest.fixture
def labs(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    return first, second


def test_the_last_lab_puts_the_kernel_settings_back(kernel: Path, labs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = labs
    network.hold_kernel_settings(first)
    kernel.write_text("10\n")
    network.hold_kernel_settings(second)
    network.release_kernel_settings(first)
    assert kernel.read_text() == "10\n", "the second lab's kubelets set it, too"
    network.release_kernel_settings(second)
    assert kernel.read_text().strip() == "0"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"values": 3, "users": []}', '{"values": {}}', "\ufffd", "[" * 100_000])
def test_a_damaged_record_of_kernel_settings_is_named(
    text: str, kernel: Path, labs: tuple[Path, Path], tmp_path: Path
) -> None:
    network.hold_kernel_settings(labs[0])
    record = tmp_path / "run" / "kernel.json"
    record.write_text(text)
    for change in (network.hold_kernel_settings, network.release_kernel_settings):
        with pytest.raises(LabError, match=f"Failed to read {record}: it is damaged") as refused:
            change(labs[0])
        assert refused.value.hint.startswith("remove it: ")
    record.unlink()
    network.release_kernel_settings(labs[0])


def test_the_lab_raises_the_number_of_inotify_instances(kernel: Path, labs: tuple[Path, Path], tmp_path: Path) -> None:
    """All containers share it: nine of them used up the kernel's default of 128."""
    limit = tmp_path / "sys" / "fs" / "inotify" / "max_user_instances"
    limit.parent.mkdir(parents=True)
    limit.write_text("128\n")
    network.hold_kernel_settings(labs[0])
    network.hold_kernel_settings(labs[1])
    assert int(limit.read_text()) >= 8192
    for lab in labs:
        network.release_kernel_settings(lab)
    assert limit.read_text().strip() == "128"
    limit.write_text("99999\n")
    network.hold_kernel_settings(labs[0])
    assert limit.read_text().strip() == "99999", "a machine that has more keeps it"


def test_a_lab_that_was_removed_by_hand_holds_nothing(kernel: Path, labs: tuple[Path, Path]) -> None:
    first, second = labs
    network.hold_kernel_settings(first)
    network.hold_kernel_settings(second)
    kernel.write_text("10\n")
    shutil.rmtree(second)
    network.release_kernel_settings(first)
    assert kernel.read_text().strip() == "0"


def test_release_without_hold_changes_nothing(kernel: Path, labs: tuple[Path, Path], tmp_path: Path) -> None:
    network.release_kernel_settings(labs[0])
    assert kernel.read_text() == "0\n" and not (tmp_path / "run").exists()


def test_two_proxies_never_write_to_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path))
    first, held = package_proxy._package_store()
    second, other = package_proxy._package_store()
    assert (first.name, second.name) == ("lab-packages", "lab-packages-2")
    os.close(other)
    # the proxy inherits the lock: it is free when that process has ended, and not before
    with subprocess.Popen(["sleep", "60"], pass_fds=[held]) as proxy:
        os.close(held)
        third, lock = package_proxy._package_store()
        assert third == second
        os.close(lock)
        proxy.kill()
    again, lock = package_proxy._package_store()
    assert again == first
    os.close(lock)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    script = f"""\
from pathlib import Path
from q8s_lab.locks import locked
with locked(Path({str(folder)!r}), wait=False):
    print("held", flush=True)
    input()
"""
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError), locks.locked(folder, wait=False):
        pass
    holder.kill()
    holder.communicate()
    with locks.locked(folder, wait=False):
        pass


def test_a_lock_on_a_folder_that_its_holder_removed(tmp_path: Path) -> None:
    """The next one locks the folder that is there now."""
    folder = tmp_path / "lab"
    with locks.locked(folder, wait=False):
        folder.rmdir()
        with locks.locked(folder, wait=False):
            assert folder.exists()
            with pytest.raises(BlockingIOError), locks.locked(folder, wait=False):
                pass
