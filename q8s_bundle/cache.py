"""A content-addressed cache of build results.

Every entry is a folder ``<cache>/<kind>/<name>-<key>``. The key is a hash of everything that the result depends on, so
an entry never becomes stale: it is complete, or it does not exist. Concurrent processes build an entry only once.

Only Debian's packages change without any of our sources: what contains them depends on the generation as well, a text
in the cache that ``bundle refresh`` changes when its build has succeeded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle.errors import BundleError
from q8s_bundle.progress import ended_by, step

# The names of our packages, each with its original one: renaming a package must not change the keys of its sources.
_PACKAGES: Final = ((b"q8s_bundle", b"bundle"), (b"q8s_lab", b"lab"))
# kinds of entries
_WITH_PACKAGES: Final = frozenset({"debs", "trees", "rootfs", "kernels", "images", "bundles", "bench", "conformance"})
_GENERATION: Final = "generation"
_NEXT_GENERATION: Final = "Q8S_BUNDLE_GENERATION"  # environment variable of a process that builds the next generation
_POLL_SECONDS: Final = 0.2
_KEY_LENGTH = 16  # hex digits of SHA-256: 64 bits are plenty for hundreds of entries, and short to read


@dataclass(frozen=True)
class Artifact:
    """A finished file: its path, its SHA-256 (hex) and its size in bytes."""

    path: Path
    sha256: str
    size: int


class NotCachedError(BundleError):
    """An entry is not in the cache, and builds and downloads are not allowed (``looking_only``)."""


_builds_allowed = True
_looked_up: set[tuple[str, str]] | None = None  # see recording()


@contextmanager
def looking_only() -> Iterator[None]:
    """Forbid builds and downloads within the context, in all threads: they raise ``NotCachedError``."""
    global _builds_allowed  # noqa: PLW0603
    before, _builds_allowed = _builds_allowed, False
    try:
        yield
    finally:
        _builds_allowed = before


def require_builds(name: str) -> None:
    """Check that builds and downloads are allowed.

    :param name: name of the missing entry, for the message
    :raises NotCachedError: they are not allowed
    """
    if not _builds_allowed:
        raise NotCachedError(f"{name} is not in the cache")


def cache_root() -> Path:
    """Return the folder of the cache: ``Q8S_CACHE``, else ``q8s`` in the user's cache folder (XDG)."""
    if own := os.environ.get("Q8S_CACHE"):
        return Path(own).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG base directory specification says to ignore relative paths.
    return (base if base.is_absolute() else Path.home() / ".cache") / "q8s"


def content_key(*parts: str | bytes | Path) -> str:
    """Return a key of 16 hex digits, the hash of all parts.

    :param parts: text, bytes, or paths. A path stands for its content: the bytes of a file, or the relative names and
        bytes of a folder's regular files (without ``__pycache__``). The names of our packages in a file do not count
    :raises FileNotFoundError: a path does not exist
    """
    digest = hashlib.sha256()
    for part in parts:
        for tag, data in _flatten(part):
            # Hash the length before the data: ("ab", "c") and ("a", "bc") must differ.
            digest.update(f"{tag}:{len(data)}:".encode())
            digest.update(data)
    return digest.hexdigest()[:_KEY_LENGTH]


def _flatten(part: str | bytes | Path) -> Iterator[tuple[str, bytes]]:
    """Yield the kind and the data of everything that a part of a key stands for."""
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
    """Return a file's bytes, with the names of our packages replaced by their original ones."""
    content = file.read_bytes()
    for name, first in _PACKAGES:
        content = content.replace(name, first)
    return content


def entry(kind: str, name: str, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
    """Build an entry if it is not in the cache. A concurrent caller for the same entry waits, and says so.

    :param build: fills the folder that it is called with, which is then renamed to the entry. If it raises, the folder
        is removed
    :returns: the folder of the entry, and whether this call built it
    :raises NotCachedError: the entry is not in the cache, and builds are not allowed
    :raises BundleError: ``end_running`` was called during the wait
    """
    if found := find(kind, name, key):
        return found, False
    require_builds(name)
    home = cache_root() / kind
    final = _folder(kind, name, key)
    with patiently_locked(lock_file(final), f"wait for another build of {name}"):
        if final.is_dir():
            return final, False
        _remove_abandoned(home, f".{final.name}.")
        work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=home))
        try:
            work.chmod(0o755)
            build(work)
            work.rename(final)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return final, True


def find(kind: str, name: str, key: str) -> Path | None:
    """Return the folder of an entry, or None if it is not in the cache or still being built."""
    final = _folder(kind, name, key)
    if _looked_up is not None:
        _looked_up.add((kind, final.name))
    return final if final.is_dir() else None


def _folder(kind: str, name: str, key: str) -> Path:
    """Return the folder of an entry."""
    if kind in _WITH_PACKAGES and (text := generation()):
        key = content_key(key, text)
    return cache_root() / kind / f"{name}-{key}"


def generation() -> str:
    """Return the text of the current generation, or of the one that is being built; empty for the first one.

    :raises BundleError: the file is not text
    """
    if own := os.environ.get(_NEXT_GENERATION):
        return own
    file = cache_root() / _GENERATION
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise BundleError(
            f"Failed to read {file}: is not ASCII text",
            "remove it: builds then use the first generation's packages; `q8s-run bundle refresh` begins a new one",
        ) from None


@contextmanager
def building_generation(text: str) -> Iterator[None]:
    """Use a generation in this process and its children within the context. Other processes use the current one.

    :param text: what no earlier generation has
    """
    before = os.environ.get(_NEXT_GENERATION)
    os.environ[_NEXT_GENERATION] = text
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NEXT_GENERATION]
        else:
            os.environ[_NEXT_GENERATION] = before


def set_generation(text: str) -> None:
    """Begin a generation, or return to an earlier one.

    What contains Debian's packages is built again in a new one, with the packages of the day. Entries of earlier
    generations stay until they are pruned.

    :param text: what no earlier generation has, or the text of the one to return to
    """
    file = cache_root() / _GENERATION
    if not text:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="ascii")
    new.rename(file)


@contextmanager
def recording() -> Iterator[set[tuple[str, str]]]:
    """Record kind and folder name of every entry that is looked up within the context, in all threads.

    A context around it does not record them.
    """
    global _looked_up  # noqa: PLW0603
    before, found = _looked_up, set[tuple[str, str]]()
    _looked_up = found
    try:
        yield found
    finally:
        _looked_up = before


def mark_used(entries: Iterable[tuple[str, str]]) -> None:
    """Set the time of last use of entries to now.

    :param entries: kind and folder name of each, as ``recording`` yields them
    """
    for kind, name in entries:
        # The entry does not exist, or another user owns the cache.
        with suppress(OSError):
            os.utime(lock_file(cache_root() / kind / name))


def lock_file(folder: Path) -> Path:
    """Return the lock file of an entry. Its modification time is the time of the entry's last use."""
    return folder.with_name(f".{folder.name}.lock")


def _remove_abandoned(home: Path, prefix: str) -> None:
    """Remove the folders of killed builds of an entry. The caller holds the entry's lock, so they are not in use."""
    for folder in home.glob(f"{prefix}*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(path: Path, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock on a file within the context. Create the file and its folder if they are missing.

    :param mode: how to lock, as for :func:`fcntl.flock`
    :raises BlockingIOError: another process holds the lock, and ``mode`` has ``LOCK_NB``
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, mode)
        yield


@contextmanager
def patiently_locked(path: Path, what: str, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock as ``locked`` does. While another process holds it, show a step, and stop on ``end_running``.

    ``flock`` without a timeout would not end in a thread that is not the main one: signals do not interrupt it there.

    :param what: the step, for example "wait for another build of pause-x86_64"
    :raises BundleError: ``end_running`` was called
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        if not _lock(handle.fileno(), mode):
            stop = threading.Event()
            with step(what), ended_by(stop.set):
                while not _lock(handle.fileno(), mode):
                    if stop.wait(_POLL_SECONDS):
                        raise BundleError(f"Failed to {what}: the build was stopped")
        yield


def _lock(descriptor: int, mode: int) -> bool:
    """Lock a file if no other process holds a lock on it, and return whether it is locked."""
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def builds_lock() -> Path:
    """Return the lock file that builds lock shared, and the removal of entries exclusively."""
    return cache_root() / ".builds.lock"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def record(path: Path) -> Artifact:
    """Return a finished file as an artifact, and write its checksum beside it for later calls of ``recall``."""
    artifact = Artifact(path, sha256_of(path), path.stat().st_size)
    checksum_file(path).write_text(artifact.sha256 + "\n", encoding="ascii")
    return artifact


def recall(path: Path) -> Artifact:
    """Return a file as an artifact, with the checksum that ``record`` wrote: the file is not read.

    :raises BundleError: the file or its checksum is missing or damaged
    """
    checksum = recorded_checksum(path)
    try:
        return Artifact(path, checksum, path.stat().st_size)
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None


def recorded_checksum(path: Path) -> str:
    """Return the checksum that ``record`` wrote beside a file.

    :raises BundleError: it is missing or damaged
    """
    file = checksum_file(path)
    try:
        text = file.read_bytes().strip()
    except FileNotFoundError:
        raise _damaged(file, "is missing") from None
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        raise _damaged(file, f"is {text[:60].decode('latin-1')!a}; must be a SHA-256 in 64 hex digits")
    return text.decode("ascii")


def _damaged(file: Path, reason: str) -> BundleError:
    return BundleError(
        f"Failed to read {file}: {reason}", f"remove the folder {file.parent}: the next build creates it again"
    )


def checksum_file(path: Path) -> Path:
    """Return the path of the file with an artifact's checksum."""
    return path.with_name(path.name + ".sha256")
