"""Locks on folders. The kernel releases a lock when the process that holds it exits."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder within the context. Create the folder if it is missing.

    The holder may remove the folder.

    :param wait: whether to wait for the lock
    :raises BlockingIOError: another process holds the lock, and ``wait`` is false
    """
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The previous holder may have removed the folder. Then this lock is on a deleted folder: try again.
            if _same(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)


def _same(descriptor: int, folder: Path) -> bool:
    """Return whether a descriptor refers to the folder at that path."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
