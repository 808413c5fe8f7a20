"""The content-addressed cache: keys follow from the content, and an entry is complete or absent."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from q8s_bundle import cache, progress
from q8s_bundle.errors import BundleError
from q8s_lab.machine import wait


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    assert cache.cache_root() == root
    monkeypatch.delenv("Q8S_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.cache_root() == Path("/xdg/q8s")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_CACHE_HOME", "xdg")
    assert cache.cache_root() == Path("/home/ada/.cache/q8s"), "relative paths are ignored"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path("/home/ada/.cache/q8s")


def test_key_is_stable_and_depends_on_where_parts_end() -> None:
    assert cache.content_key("a", "b") == cache.content_key("a", "b")
    assert len(cache.content_key("a")) == 16
    assert cache.content_key("ab", "c") != cache.content_key("a", "bc")
    assert cache.content_key("a") != cache.content_key(b"a")


def test_the_names_of_our_packages_do_not_count(tmp_path: Path) -> None:
    """Entries that were built when the packages were called ``lab`` and ``bundle`` are still found."""
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    old.write_text("from bundle import cache\nfrom lab import vm\n")
    new.write_text("from q8s_bundle import cache\nfrom q8s_lab import vm\n")
    assert cache.content_key(old) == cache.content_key(new)


def test_key_of_a_folder_is_its_names_and_content(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "x").write_text("1")
    before = cache.content_key(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("1")
    assert cache.content_key(folder) == before
    (folder / "x").rename(folder / "y")
    assert cache.content_key(folder) != before


def test_an_entry_is_built_once(root: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("made")

    first = cache.entry("kind", "name", "0123", build)
    assert first == (root / "kind" / "name-0123", True)
    assert cache.entry("kind", "name", "0123", build) == (first[0], False)
    assert (first[0] / "file").read_text() == "made"
    assert len(calls) == 1


def test_a_failed_build_leaves_nothing(root: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.entry("kind", "name", "0123", build)
    assert [path.name for path in (root / "kind").iterdir() if path.is_dir()] == []


def test_what_a_killed_build_left_is_removed(root: Path) -> None:
    abandoned = root / "kind" / ".name-0123.abc.tmp"
    abandoned.mkdir(parents=True)
    cache.entry("kind", "name", "0123", lambda folder: None)
    assert not abandoned.exists()


def test_two_at_once_build_once() -> None:
    calls: list[Path] = []
    results: list[bool] = []

    def build(folder: Path) -> None:
        calls.append(folder)

    def ask() -> None:
        results.append(cache.entry("kind", "name", "0123", build)[1])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(results) == [False, False, False, True]


@pytest.fixture
def other_build(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of an entry, until it is killed."""
    lock = root / "kind" / ".name-0123.lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(["flock", "--no-fork", lock, "sleep", "60"]) as process:
        assert wait(lambda: lock.exists() and not free(lock), 10)
        yield process
        process.kill()


def free(lock: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", lock, "true"], check=False).returncode == 0


def test_a_wait_for_another_build_is_said_once(
    other_build: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    done = threading.Thread(target=lambda: cache.entry("kind", "name", "0123", lambda folder: None))
    done.start()
    assert wait(lambda: bool(progress._stops), 20), "the message is written before"
    time.sleep(3 * cache._POLL_SECONDS)
    assert done.is_alive()
    other_build.kill()
    done.join(20)
    assert not done.is_alive()
    said = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said[0] == "wait for another build of name ..." and len(said) == 2, "and when it ends"


def test_a_wait_for_another_build_can_be_stopped(other_build: subprocess.Popen[bytes]) -> None:
    errors: list[str] = []

    def ask() -> None:
        try:
            cache.entry("kind", "name", "0123", lambda folder: None)
        except BundleError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert wait(lambda: bool(progress._stops), 20)
    progress.end_running()
    thread.join(20)
    assert errors == ["Failed to wait for another build of name: the build was stopped"]
    assert other_build.poll() is None


def test_record_and_recall_survive_the_rename(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    made = tmp_path / "a" / "file"
    made.write_bytes(b"abc")
    recorded = cache.record(made)
    (tmp_path / "a").rename(tmp_path / "b")
    recalled = cache.recall(tmp_path / "b" / "file")
    assert recalled == cache.Artifact(tmp_path / "b" / "file", recorded.sha256, 3)
    assert recalled.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_generation_has_entries_of_its_own_for_what_contains_packages() -> None:
    def build(folder: Path) -> None:
        (folder / "day").write_text(day)

    def day_of(kind: str) -> str:
        return (cache.entry(kind, "x86_64", "0123", build)[0] / "day").read_text()

    kinds = ("debs", "trees", "rootfs", "kernels", "images", "bundles", "bench", "conformance")
    day = "monday"
    assert {day_of(kind) for kind in (*kinds, "programs")} == {"monday"}
    day = "tuesday"
    cache.set_generation("2026-11-24")
    assert {day_of(kind) for kind in kinds} == {"tuesday"}
    assert day_of("programs") == "monday", "Debian's packages are not in it"
    day = "wednesday"
    assert {day_of(kind) for kind in kinds} == {"tuesday"}, "a generation is built once"
    cache.set_generation("")
    assert {day_of(kind) for kind in kinds} == {"monday"}
