"""The logs of runs on a cluster, each in a folder below its state folder, or in the cache for check mode."""

from __future__ import annotations

import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

_RUNS_KEPT: Final = 10  # logs of runs that change the cluster, and as many of each other command
_CHANGING: Final = frozenset({"deploy", "replace", "upgrade", "renew", "destroy"})
LOG: Final = "ansible.log"


def new_run(folder: Path, what: str, alone: bool) -> Path:
    """Create the folder for the log of a run, and remove the oldest logs.

    Logs of runs that change the cluster are counted together, those of each other command separately. So a look at the
    cluster removes no log of a longer run, whose files it may still need.

    :param folder: the cluster's folder
    :param what: the command, or ``plan`` for the plan on which a deploy asks for confirmation: it changes nothing
    :param alone: whether runs of this kind hold the cluster's lock, so that logs of killed runs can be completed
    """
    runs = folder / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    # The order of names is the order of time; with microseconds, also for two playbooks of one command.
    run = runs / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{what}"
    earlier_runs = [earlier for earlier in past_runs(folder) if _kind(earlier) == _kind(run)]
    for old in earlier_runs[: -(_RUNS_KEPT - 1)]:
        shutil.rmtree(old, ignore_errors=True)
    for killed in earlier_runs[-(_RUNS_KEPT - 1) :] if alone else []:
        keep_log(killed)
    run.mkdir(mode=0o700)
    return run


def _kind(run: Path) -> str:
    """Return the kind of runs among which a log is counted: all that change the cluster, or those of its command."""
    return "changing" if changing(run) else run.name.lstrip("0123456789-")


def changing(run: Path) -> bool:
    """Return whether a run is of a command that may change the cluster, by the name of its folder."""
    return not _CHANGING.isdisjoint(run.name.split("-"))


def past_runs(folder: Path) -> list[Path]:
    """Return the folders of earlier runs, oldest first. Other files beside them are a user's."""
    runs = folder / "runs"
    return sorted(run for run in runs.iterdir() if run.is_dir()) if runs.is_dir() else []


def keep_log(run: Path) -> Path:
    """Keep Ansible's output of a run as its log, and delete ansible-runner's other files, which may hold secrets.

    :returns: path of the log
    """
    log = run / LOG
    if (run / "artifacts").exists():
        with suppress(OSError):
            (run / "artifacts" / "run" / "stdout").replace(log)
            log.chmod(0o600)
    for leftover in ("artifacts", "env", "inventory"):
        shutil.rmtree(run / leftover, ignore_errors=True)
    (run / "pid").unlink(missing_ok=True)
    return log
