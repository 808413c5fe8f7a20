"""List, prune and verify the entries of the cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from q8s_bundle import addons, bench, cache, conformance, debs, image, node, pod_image
from q8s_bundle.errors import BundleError
from q8s_bundle.image import rootfs
from q8s_bundle.node import gobuild, images, minors, toolchain, versions

# The kinds of entries of this package. The lab has other kinds in the same cache.
KINDS: Final = (
    "bundles",
    "images",
    "programs",
    "rootfs",
    "kernels",
    "debs",
    "trees",
    "cloud-images",
    toolchain.KIND,
    bench.KIND,
    addons.KIND,
    conformance.KIND,
)
_DAY: Final = 86400
_ENSURE: Final = (node.ensure_worker, node.ensure_control_plane)
_PROGRAMS: Final = gobuild.NODE_PROGRAMS + gobuild.CONTROL_PLANE_PROGRAMS


@dataclass(frozen=True)
class Entry:
    """An entry of the cache.

    :param size: bytes
    :param unused_seconds: seconds since its last use
    :param current: whether the current recipes use it; None for a cloud image, which only cluster files name
    """

    kind: str
    name: str
    path: Path
    size: int
    unused_seconds: float
    current: bool | None


def entries() -> list[Entry]:
    """Return the entries of this package's kinds, ordered by kind and name."""
    now = time.time()
    root = cache.cache_root()
    found = [
        (kind, folder, _last_used(folder))
        for kind in KINDS
        for folder in sorted((root / kind).glob("[!.]*"))
        if folder.is_dir()
    ]
    used = _used_by_recipes()
    return [
        Entry(kind, folder.name, folder, _size(folder), max(now - at, 0.0), _current(kind, folder.name, used))
        for kind, folder, at in found
    ]


def _current(kind: str, name: str, used: frozenset[tuple[str, str]]) -> bool | None:
    if kind == "cloud-images":
        return None
    # A tree is unpacked from the packages of the same name, which are not looked up while the tree exists.
    return (kind, name) in used or (kind == "debs" and ("trees", name) in used)


def _used_by_recipes() -> frozenset[tuple[str, str]]:
    """Return kind and folder name of every entry that builds use, for all architectures, versions and sources."""
    with cache.looking_only(), cache.recording() as used:
        _look_up([toolchain.find])
        for name, architecture in versions.ARCHITECTURES.items():
            looks: list[Callable[[], object]] = [
                partial(image.ensure, name),
                partial(rootfs.ensure, name),
                partial(image.kernel_tree, name),
                partial(debs.tree, architecture.debian, rootfs.SUITE, ["busybox-static"]),
                partial(debs.tree, architecture.debian, versions.DEBIAN_SUITE, images.IPTABLES_PACKAGES),
                partial(gobuild.seccomp_tree, architecture),
                partial(pod_image.ensure, bench.recipe(architecture)),
                partial(bench.look_up_packages, architecture),
                *conformance.parts(architecture),
            ]
            for addon in addons.ADDONS.values():
                looks += [
                    partial(pod_image.ensure, addons.recipe(addon, architecture)),
                    partial(gobuild.build, addon.program, architecture),
                ]
            _look_up(looks)
            for version, choice in product(minors.MINORS, node.CHOICES):
                with minors.selected(version) as minor:
                    supply = node.Supply(choice, replaced=minor.programs)
                    _look_up(partial(ensure, architecture, supply) for ensure in _ENSURE)
                    _look_up(partial(supply.obtain, program, architecture) for program in _PROGRAMS)
    return frozenset(used)


def _look_up(looks: Iterable[Callable[[], object]]) -> None:
    for look in looks:
        with suppress(BundleError):  # it is not cached, or this machine cannot build it
            look()


def _last_used(folder: Path) -> float:
    """Return the time of an entry's last use, in seconds since the epoch."""
    try:
        return cache.lock_file(folder).stat().st_mtime
    except OSError:  # a copied cache may lack the locks
        return folder.stat().st_ctime


def _size(folder: Path) -> int:
    """Return the disk usage of a folder in bytes."""
    total = 0
    for parent, _, files in folder.walk():
        for name in files:
            with suppress(OSError):
                total += (parent / name).lstat().st_blocks * 512
    return total


def abandoned() -> list[Entry]:
    """Return the folders of builds and removals that were killed. ``check`` and ``prune`` look at nobody else's."""
    now = time.time()
    return [
        Entry(
            folder.parent.name,
            folder.name,
            folder,
            _size(folder),
            max(now - folder.lstat().st_mtime, 0.0),
            current=False,
        )
        for folder in _abandoned_folders()
    ]


def needs_namespace() -> bool:
    """Return whether another user owns files of an abandoned folder: builds in a user namespace have several owners."""
    return any(
        path.lstat().st_uid != os.geteuid() for folder in _abandoned_folders() for path in (folder, *folder.rglob("*"))
    )


def _abandoned_folders() -> Iterator[Path]:
    """Yield the folders of builds and removals that were killed."""
    for kind in KINDS:
        for folder in sorted((cache.cache_root() / kind).glob(".*.tmp")):
            if _is_free(_lock_of_abandoned(folder)):
                yield folder


def _lock_of_abandoned(folder: Path) -> Path:
    """Return the lock file of the entry that was to be built in a folder, or removed: ``.NAME-KEY.RANDOM.tmp``."""
    return cache.lock_file(folder.with_name(folder.name[1:].rsplit(".", 2)[0]))


def _is_free(lock: Path) -> bool:
    """Return whether no process holds a lock. A lock file that does not exist is not created."""
    if not lock.exists():
        return True
    try:
        with cache.locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


def prune(keep_days: float, *, check: bool) -> list[Entry]:
    """Remove the entries that current recipes do not use and that were not used for some days, and abandoned folders.

    :param keep_days: keep entries that were used within this number of days
    :param check: whether to remove nothing
    :returns: the entries that were removed, or would be
    :raises BundleError: a build is running
    """
    removed = []
    with ExitStack() as held:
        if not check:
            try:
                held.enter_context(cache.locked(cache.builds_lock(), fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                raise BundleError(
                    f"Failed to prune {cache.cache_root()}: a build is running", "run prune again when it has finished"
                ) from None
        for entry in entries():
            if not entry.current and entry.unused_seconds >= keep_days * _DAY and (check or _remove(entry)):
                removed.append(entry)
        for entry in abandoned():
            if not check:
                # Without a user namespace, files of other users cannot be removed: see needs_namespace().
                shutil.rmtree(entry.path, ignore_errors=True)
            if check or not entry.path.exists():
                removed.append(entry)
    return removed


def _remove(entry: Entry) -> bool:
    """Remove an entry, unless another process is building it. Return whether it was removed."""
    lock = cache.lock_file(entry.path)
    try:
        with cache.locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            # Rename it first, so that there is never an incomplete entry.
            going = lock.with_name(f".{entry.name}.removed.tmp")
            entry.path.rename(going)
            shutil.rmtree(going)
            lock.unlink()
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Checked:
    """A verified file and its problem; the problem is empty if the checksum is the recorded one."""

    path: Path
    problem: str


def verify() -> Iterator[Checked]:
    """Compare the checksum of every artifact in the cache with the one that was recorded when it was built."""
    root = cache.cache_root()
    for kind in KINDS:
        for record in sorted((root / kind).glob("[!.]*/*.sha256")):
            file = record.with_name(record.name.removesuffix(".sha256"))
            try:
                wanted, found = cache.recorded_checksum(file), cache.sha256_of(file)
            except FileNotFoundError:
                yield Checked(file, "the file is missing")
            except (BundleError, OSError) as error:
                yield Checked(file, str(error))
            else:
                yield Checked(file, "" if found == wanted else f"its sha256 is {found}, and {wanted} was recorded")
