"""A content-keyed store of build results.

Every result is a folder ``<cache>/<kind>/<name>-<key>``. The key names everything that the result depends on, so an
entry never goes stale: it is there, whole, or it is not there. Two processes that want the same entry build it once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle.errors import BundleError

# Our packages in the sources of a key, each with its first name: what is built does not depend on what they are called.
_PACKAGES: Final = ((b"q8s_bundle", b"bundle"), (b"q8s_lab", b"lab"))
_KEY_LENGTH = 16  # hex digits of sha256: 64 bits, plenty for some hundred entries, and short enough to read


@dataclass(frozen=True)
class Artifact:
    """One finished file: where it is, its sha256 (hex) and its size in bytes."""

    path: Path
    sha256: str
    size: int


class NotCachedError(BundleError):
    """An entry is not in the cache, and nothing may be built or downloaded now."""


_builds_allowed = True
_asked_for: set[tuple[str, str]] = set()


@contextmanager
def looking_only() -> Iterator[None]:
    """Let everything that would have to be built or downloaded raise ``NotCachedError``, in all threads."""
    global _builds_allowed  # noqa: PLW0603
    _builds_allowed = False
    try:
        yield
    finally:
        _builds_allowed = True


def require_builds(name: str) -> None:
    """Return only where what is not in the cache may be built or downloaded.

    :raises NotCachedError: nothing may
    """
    if not _builds_allowed:
        raise NotCachedError(f"{name} is not in the cache")


def cache_root() -> Path:
    """The folder that holds every cached result: ``Q8S_CACHE``, else ``q8s`` in the user's cache folder (XDG)."""
    if own := os.environ.get("Q8S_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "q8s"


def content_key(*parts: str | bytes | Path) -> str:
    """A key of 16 hex digits for what the parts say.

    A ``Path`` stands for its content: a file's bytes, or a folder's regular files by sorted relative name and bytes
    (Python's own caches left out). The names of our packages in a file do not count. A path that does not exist raises
    ``FileNotFoundError``.
    """
    digest = hashlib.sha256()
    for part in parts:
        for tag, data in _flatten(part):
            # Length before data, so that ("ab", "c") and ("a", "bc") differ.
            digest.update(f"{tag}:{len(data)}:".encode())
            digest.update(data)
    return digest.hexdigest()[:_KEY_LENGTH]


def _flatten(part: str | bytes | Path) -> Iterator[tuple[str, bytes]]:
    if isinstance(part, str):
        yield "text", part.encode()
    elif isinstance(part, bytes):
        yield "bytes", part
    elif part.is_dir():
        yield "folder", b""
        for file in sorted(part.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield "name", file.relative_to(part).as_posix().encode()
                yield "file", _content(file)
    else:
        yield "file", _content(part)


def _content(file: Path) -> bytes:
    """Return a file's bytes, with the first names of our packages."""
    content = file.read_bytes()
    for name, first in _PACKAGES:
        content = content.replace(name, first)
    return content


def entry(kind: str, name: str, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of an entry, and whether this call built it.

    ``build`` fills the folder that it is given; it becomes the entry by one rename. If ``build`` raises, nothing is
    left. A second caller of the same entry waits for the first.
    """
    if found := find(kind, name, key):
        return found, False
    require_builds(name)
    home = cache_root() / kind
    final = home / f"{name}-{key}"
    with locked(lock_file(final)):
        if final.is_dir():
            return final, False
        _remove_abandoned(home, f".{name}-{key}.")
        work = Path(tempfile.mkdtemp(prefix=f".{name}-{key}.", suffix=".tmp", dir=home))
        try:
            work.chmod(0o755)
            build(work)
            work.rename(final)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return final, True


def find(kind: str, name: str, key: str) -> Path | None:
    """The folder of an entry, or None if it is not there (or not yet)."""
    final = cache_root() / kind / f"{name}-{key}"
    _asked_for.add((kind, final.name))
    return final if final.is_dir() else None


@contextmanager
def recording() -> Iterator[set[tuple[str, str]]]:
    """Collect kind and folder name of every entry that is asked for, cached or not. It does not count as use."""
    global _asked_for  # noqa: PLW0603
    before, _asked_for = _asked_for, set()
    try:
        yield _asked_for
    finally:
        _asked_for = before


def mark_used() -> None:
    """Let the age of every entry that this process has asked for count from now."""
    for kind, name in _asked_for:
        # There is no such entry, or another user owns the cache.
        with suppress(OSError):
            os.utime(lock_file(cache_root() / kind / name))


def lock_file(folder: Path) -> Path:
    """Return the lock of an entry. Its time is when the entry was last used."""
    return folder.with_name(f".{folder.name}.lock")


def _remove_abandoned(home: Path, prefix: str) -> None:
    """Remove what a killed builder of this entry left behind. The caller holds the entry's lock, so nobody uses it."""
    for folder in home.glob(f"{prefix}*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the lock of that file, whose folder is created if it is missing; who else wants it waits.

    :param mode: how to lock, as for :func:`fcntl.flock`
    :raises BlockingIOError: another process has it, and ``mode`` has ``LOCK_NB``
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, mode)
        yield


def builds_lock() -> Path:
    """Return the lock that every build holds (shared), and that removing entries needs (alone)."""
    return cache_root() / ".builds.lock"


def sha256_of(path: Path) -> str:
    """The sha256 (hex) of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def record(path: Path) -> Artifact:
    """Describe a finished file and keep its checksum beside it, so that a later ``recall`` need not read the file."""
    artifact = Artifact(path, sha256_of(path), path.stat().st_size)
    checksum_file(path).write_text(artifact.sha256 + "\n", encoding="ascii")
    return artifact


def recall(path: Path) -> Artifact:
    """The artifact that ``record`` described when the file was made (the entry may have been renamed since)."""
    return Artifact(path, checksum_file(path).read_text(encoding="ascii").strip(), path.stat().st_size)


def checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
