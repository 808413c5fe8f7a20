"""The lock against concurrent runs on a cluster: a file in its state folder, with the owner's process and command."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_wrapper.errors import WrapperError

_LOCK: Final = "lock"


@contextmanager
def locked(folder: Path, what: str) -> Iterator[Path]:
    """Hold the cluster's lock within the context.

    :param what: the command, for the message of a run that finds the lock taken
    :returns: yields the lock file. Child processes take a shared lock on it, and so hold the cluster, too
    :raises WrapperError: another run holds the lock; the message names it
    """
    path = folder / _LOCK
    with path.open("a+", errors="replace") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise _lock_error(folder.name, _parse_owner(stream.read())) from None
        _write_owner(
            path, f"{os.getpid()}\nq8s-run {what} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})\n"
        )
        # Downgrade the lock: child processes can share it, and no other run can take it exclusively.
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield path


@dataclass(frozen=True)
class Owner:
    """The process that holds a cluster's lock, and its command in words."""

    pid: int
    what: str


def owner(folder: Path) -> Owner | None:
    """Return who holds the cluster's lock, or None if nobody does."""
    try:
        with (folder / _LOCK).open("r+", errors="replace") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse_owner(stream.read()) or Owner(0, "another process")
    except FileNotFoundError:
        pass
    return None


def _parse_owner(text: str) -> Owner | None:
    """Return the owner from the content of a lock file, or None if it names none."""
    pid, _, what = text.partition("\n")
    known = re.fullmatch(r"[1-9][0-9]{0,6}", pid) and what  # Linux has at most 2^22 processes
    return Owner(int(pid), what.splitlines()[0]) if known else None


def _write_owner(path: Path, text: str) -> None:
    """Write the owner of a lock into the lock file.

    :raises OSError: the file cannot be written. Unlike Python's error for a full disk, it has the path
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def shared(folder: Path) -> Path:
    """Return the lock file of read-only runs. Any number of them may run, also beside a run that holds the cluster."""
    path = folder / "reading"
    path.touch(mode=0o600)
    return path


def _lock_error(cluster_name: str, owner: Owner | None) -> WrapperError:
    """Return the error for a cluster whose lock is taken.

    :param owner: who holds it, or None if that is not known
    """
    if owner is None:
        return WrapperError(f"Failed to start: another process is working on cluster {cluster_name}")
    pid, holder = owner.pid, owner.what
    if _process_exists(pid):
        return WrapperError(
            f"Failed to start: {holder} is working on cluster {cluster_name}",
            f"wait for it, or stop it: kill -INT {pid}",
        )
    return WrapperError(
        f"Failed to start: {holder} was killed, and its processes on cluster {cluster_name} have not exited yet",
        "try again in a few seconds",
    )


def _process_exists(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
