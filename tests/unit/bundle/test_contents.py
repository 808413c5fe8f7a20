"""Listing, pruning and verifying the cache."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from q8s_bundle import cache, cli, contents
from q8s_bundle.errors import BundleError
from q8s_bundle.node import gobuild, versions

DAY = 86400


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def add(kind: str, name: str, key: str, days: float) -> Path:
    """Create an entry that was last used so many days ago."""
    folder, _ = cache.entry(kind, name, key, write)
    then = time.time() - days * DAY
    os.utime(cache.lock_file(folder), (then, then))
    return folder


def write(folder: Path) -> None:
    (folder / "file").write_bytes(b"content")
    cache.record(folder / "file")


@pytest.fixture
def current(root: Path) -> Path:
    return add("programs", "pause-x86_64", gobuild.key(gobuild.PAUSE, versions.ARCHITECTURES["x86_64"]), 100)


@pytest.fixture
def old(root: Path) -> Path:
    return add("programs", "pause-x86_64", "00000000", 100)


def test_list_tells_what_current_recipes_use(
    current: Path, old: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add("cloud-images", "image", "0", 1)
    add("lab-image", "debian", "0", 1)
    assert cli.main(["list", "--json"]) == 0
    listed = {entry["path"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed[str(current)]["current"] is True and listed[str(old)]["current"] is False
    assert [entry["current"] for entry in listed.values() if entry["kind"] == "cloud-images"] == [None]
    assert {entry["kind"] for entry in listed.values()} == {"programs", "cloud-images"}, "the lab's own are not listed"
    assert round(listed[str(old)]["unused_seconds"] / DAY) == 100, "a look is no use"


def test_prune_removes_what_is_old_and_unused(current: Path, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recent = add("programs", "pause-x86_64", "11111111", 1)
    assert cli.main(["prune", "--check"]) == 0
    assert "1 entries would be removed" in capsys.readouterr().out and old.exists()
    assert cli.main(["prune"]) == 0
    assert (current.exists(), recent.exists(), old.exists()) == (True, True, False)
    assert not cache.lock_file(old).exists()
    assert cli.main(["prune", "--keep-days", "0"]) == 0
    assert (current.exists(), recent.exists()) == (True, False)


def test_prune_waits_for_no_build(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with cache.locked(cache.builds_lock(), fcntl.LOCK_SH):
        assert cli.main(["prune"]) == 1
    assert "a build is running" in capsys.readouterr().err and old.exists()


def test_prune_leaves_an_entry_that_is_locked(old: Path) -> None:
    with cache.locked(cache.lock_file(old)):
        os.utime(cache.lock_file(old), (0, 0))
        assert contents.prune(1, check=False) == [] and old.exists()


@pytest.fixture
def killed(root: Path) -> Path:
    """What a build that was killed left, in a process of its own."""
    script = (
        "import os; from q8s_bundle import cache\n"
        "def build(folder):\n"
        "    (folder / 'half').write_bytes(b'x' * 100000); os.kill(os.getpid(), 9)\n"
        "cache.entry('rootfs', 'trixie-x86_64', '0123', build)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    (left,) = (root / "rootfs").glob(".*.tmp")
    return left


def test_prune_removes_what_killed_builds_left(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = killed.with_name(".trixie-x86_64-4567.removed.tmp")
    gone.mkdir()
    assert cli.main(["prune", "--check"]) == 0
    assert "2 entries would be removed, 102 kB" in capsys.readouterr().out and killed.exists()
    with cache.locked(killed.with_name(".trixie-x86_64-0123.lock")):
        assert [entry.path for entry in contents.prune(14, check=False)] == [gone]
    assert cli.main(["prune"]) == 0
    assert killed.name in capsys.readouterr().out and not killed.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
def test_files_of_other_users_are_removed_in_a_namespace(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str]) -> int:
        ran.append(argv)
        return 0

    ran: list[list[str]] = []
    monkeypatch.setattr(cli.namespace, "needed", lambda: True)
    monkeypatch.setattr(cli.namespace, "refusal", lambda: None)
    monkeypatch.setattr(cli.namespace, "run", run)
    assert not contents.needs_namespace()
    os.chown(killed / "half", 100001, 100001)
    assert cli.main(["prune", "--keep-days", "3"]) == 0
    assert ran == [["prune", "--keep-days", "3"]]


def test_use_makes_an_entry_young(current: Path) -> None:
    architecture = versions.ARCHITECTURES["x86_64"]
    with cache.recording() as used:
        gobuild.build(gobuild.PAUSE, architecture)
    cache.mark_used(used)
    assert time.time() - cache.lock_file(current).stat().st_mtime < 60


def test_verify_names_damaged_artifacts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("images", "good", "0", 0)
    damaged = add("images", "bad", "0", 0)
    lost = add("bundles", "lost", "0", 0)
    assert cli.main(["verify"]) == 0
    capsys.readouterr()
    (damaged / "file").write_bytes(b"other")
    (lost / "file").unlink()
    assert cli.main(["verify"]) == 1
    output = capsys.readouterr()
    assert "1 artifacts are intact, 2 are damaged" in output.out
    assert (
        f"error: {lost}/file: the file is missing" in output.err and f"error: {damaged}/file: its sha256" in output.err
    )


def test_verify_of_an_intact_cache(current: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify"]) == 0
    assert "1 artifacts are intact, 0 are damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "text"), [(800, "1 kB"), (171_300_000, "171 MB"), (2_049_000_000, "2.0 GB")]
)  # fmt: skip
def test_size(number: float, text: str) -> None:
    assert cli.size(number) == text


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"0" * 63 + b"\n", None])
def test_a_damaged_checksum_is_named_with_what_to_remove(
    content: bytes | None, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = add("images", "one", "0", 0)
    checksum = cache.checksum_file(folder / "file")
    if content is None:
        checksum.unlink()
    else:
        checksum.write_bytes(content)
        assert cli.main(["verify"]) == 1
        assert f"error: {folder}/file: Failed to read {checksum}: is '" in capsys.readouterr().err
    with pytest.raises(BundleError, match=f"Failed to read {checksum}: is ") as refused:
        cache.recall(folder / "file")
    assert refused.value.hint == f"remove the folder {folder}: the next build creates it again"


def test_an_artifact_that_is_missing_or_a_folder_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = add("images", "one", "0", 0) / "file"
    file.unlink()
    with pytest.raises(BundleError, match=f"Failed to read {file}: is missing"):
        cache.recall(file)
    file.mkdir()
    assert cli.main(["verify"]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_a_generation_that_is_not_text_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.mkdir()
    (root / "generation").write_bytes(b"\xff")
    assert cli.main(["ensure", "--check", "--arch", "x86_64"]) == 1
    assert f"error: Failed to read {root}/generation: is not ASCII text\nhint: remove it" in capsys.readouterr().err
