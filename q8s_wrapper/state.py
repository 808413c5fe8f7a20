"""Local state of one cluster: a folder of its own, a lock against a second run, and the logs of earlier runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from q8s_wrapper.config import state_root
from q8s_wrapper.errors import WrapperError

_RUNS_KEPT: Final = 10


def cluster_folder(cluster_name: str) -> Path:
    """The cluster's folder, made if needed, readable by its owner only."""
    folder = state_root() / cluster_name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the cluster for one run.

    :raises WrapperError: another run holds it; the message says which
    """
    with (folder / "lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise WrapperError(
                f"Failed to start: {holder} is working on cluster {folder.name}", hint="wait for it, or end it first"
            ) from None
        stream.truncate(0)
        stream.write(f"q8s-run {what} (process {os.getpid()}, since {time.strftime('%H:%M:%S')})")
        stream.flush()
        yield


def new_run(folder: Path, what: str) -> Path:
    """A folder for the log of this run; all but the newest of earlier runs are removed."""
    runs = folder / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(runs.iterdir())[: -(_RUNS_KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    run = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{what}-{os.getpid()}"
    run.mkdir(mode=0o700)
    return run
