"""Local state of one cluster: a folder of its own, a lock against a second run, and the logs of earlier runs.

Runs in check mode leave it alone: their logs are in the cache.

Nothing secret but the ssh key is in it, and all but that key can be made again from the cluster file and the cloud.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from q8s_wrapper.config import state_root
from q8s_wrapper.errors import ExitCode, WrapperError

_RUNS_KEPT: Final = 10  # of those that change the cluster, and as many of those that look at it
_CHANGING: Final = frozenset({"deploy", "replace", "destroy"})
_LOCK: Final = "lock"
LOG: Final = "ansible.log"


def create_root() -> Path:
    """Return the folder with the state of all clusters, created if it is missing.

    :raises WrapperError: it is not a folder that this user may write to
    """
    return _private_folder(state_root())


def cluster_folder(cluster_name: str) -> Path:
    """The cluster's folder, made if needed, readable by its owner only.

    :raises WrapperError: it is not a folder that this user may write to
    """
    return _private_folder(create_root() / cluster_name)


def _private_folder(folder: Path) -> Path:
    try:
        if not folder.is_dir():
            if folder.exists():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder != state_root():  # which may be the user's own choice, and shared
            folder.chmod(0o700)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise WrapperError(
            f"Failed to use the state folder {folder}{_origin()}: {error.strerror}",
            "set Q8S_STATE to a folder that you may write to",
            ExitCode.WRONG_INPUT,
        ) from None
    return folder


def _origin() -> str:
    """Return which variable names the state folder, in brackets."""
    for name in ("Q8S_STATE", "XDG_STATE_HOME", "HOME"):
        if value := os.environ.get(name):
            return f" ({name} is {value!r})"
    return ""


def check_folder(cluster_name: str) -> Path:
    """The folder for logs of runs in check mode, made if needed: one of the cache, because they change no state."""
    from q8s_bundle.cache import cache_root

    folder = cache_root() / "checks" / cluster_name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(folder: Path, what: str) -> Iterator[Path]:
    """Hold the cluster for one run. Gives the lock's file: who else takes it shared holds the cluster as well.

    :raises WrapperError: another run holds it; the message says which
    """
    path = folder / _LOCK
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stream.truncate(0)
            stream.write(f"{os.getpid()}\nq8s-run {what} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})\n")
            stream.flush()
            # From here on another may share it, but none may have it alone.
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            raise _refused(folder.name, stream.read()) from None
        yield path


def shared(folder: Path) -> Path:
    """The lock of runs that change nothing: any number of them may go on, beside one that holds the cluster too."""
    path = folder / "reading"
    path.touch(mode=0o600)
    return path


def _refused(cluster_name: str, told: str) -> WrapperError:
    """Why the cluster cannot be had; ``told`` is what its holder wrote into the lock."""
    lines = told.splitlines()
    if len(lines) < 2 or not lines[0].isdecimal():
        return WrapperError(f"Failed to start: another process is working on cluster {cluster_name}")
    pid, holder = int(lines[0]), lines[1]
    if _runs(pid):
        return WrapperError(
            f"Failed to start: {holder} is working on cluster {cluster_name}",
            f"wait for it, or end it: kill -INT {pid}",
        )
    return WrapperError(
        f"Failed to start: {holder} was killed, and what it started on cluster {cluster_name} is still ending",
        "try again in a few seconds",
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def new_run(folder: Path, what: str, alone: bool) -> Path:
    """A folder for the log of this run.

    Of earlier runs of its kind, all but the newest are removed: looks at a cluster never push out what a deploy wrote.

    :param alone: whether no other run goes on that may change the cluster
    """
    runs = folder / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    earlier = [run for run in past_runs(folder) if changing(run) == (what in _CHANGING)]
    for old in earlier[: -(_RUNS_KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    for killed in earlier[-(_RUNS_KEPT - 1) :] if alone else []:
        keep_log(killed)
    # Sorted by name they are sorted by time, also those of one command that runs two playbooks.
    run = runs / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{what}"
    run.mkdir(mode=0o700)
    return run


def changing(run: Path) -> bool:
    """Whether a run, by its folder's name, was one that may change the cluster."""
    return not _CHANGING.isdisjoint(run.name.split("-"))


def past_runs(folder: Path) -> list[Path]:
    """Folders of earlier runs, the oldest first."""
    runs = folder / "runs"
    return sorted(runs.iterdir()) if runs.is_dir() else []


def keep_log(run: Path) -> Path:
    """Keep the text of a run, and nothing else of what ansible-runner wrote: that has what tasks returned."""
    log = run / LOG
    if (run / "artifacts").exists():
        with suppress(OSError):
            (run / "artifacts" / "run" / "stdout").replace(log)
            log.chmod(0o600)
    for leftover in ("artifacts", "env", "inventory"):
        shutil.rmtree(run / leftover, ignore_errors=True)
    (run / "pid").unlink(missing_ok=True)
    return log
