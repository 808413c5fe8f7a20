"""The lab's processes: recorded by process id and start time, and marked in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from q8s_lab.machine import recorded_process, start_time, wait
from q8s_lab.settings import Settings

_SECONDS_TO_END: Final = 10
_MARK: Final = "Q8S_LAB_PROCESS"


def mark(settings: Settings) -> dict[str, str]:
    """Return the environment variables that mark processes of the lab and their child processes."""
    # gunicorn sets the titles of its workers. By default, setproctitle would overwrite the environment in /proc.
    return {_MARK: str(settings.folder), "SPT_NOENV": "1"}


def record(settings: Settings, name: str, pid: int) -> None:
    """Record a process by its id and start time."""
    folder = settings.folder / "pids"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{pid} {start_time(pid)}")


def running(settings: Settings) -> dict[str, int]:
    """Return the process ids of the lab's running processes, by name."""
    return {name: pid for name, pid in _recorded(settings).items() if pid}


def ended(settings: Settings) -> list[str]:
    """Return the names of the lab's processes that have exited."""
    return [name for name, pid in _recorded(settings).items() if not pid]


def _recorded(settings: Settings) -> dict[str, int | None]:
    """Return the process ids of all recorded processes, by name; None for a process that has exited."""
    return {path.name: recorded_process(path) for path in sorted((settings.folder / "pids").glob("*"))}


def stop_all(settings: Settings, *, signals: Mapping[str, signal.Signals], last: str) -> None:
    """Stop all recorded processes. Then kill the remaining processes that have the lab's mark.

    :param signals: the signal that stops a process, by its name; SIGTERM for others
    :param last: name of the process that the others need
    """
    alive = running(settings)
    needed = {name: pid for name, pid in alive.items() if name == last}
    for group in ({name: pid for name, pid in alive.items() if name not in needed}, needed):
        for name, pid in group.items():
            # Each process leads its own session and process group.
            _signal_group(pid, signals.get(name, signal.SIGTERM))
        end = time.monotonic() + _SECONDS_TO_END
        for pid in group.values():
            if not wait(partial(_ended, pid), max(0, end - time.monotonic())):
                _signal_group(pid, signal.SIGKILL)
                wait(partial(_ended, pid), 5)

    def none_left() -> bool:
        left = _marked_processes(settings)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait(none_left, 10)


def _marked_processes(settings: Settings) -> list[int]:
    """Return the ids of all processes with the lab's mark in their environment, recorded or not."""
    mark = f"{_MARK}={settings.folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it has exited, or has no environment
            continue
    return [pid for pid in found if start_time(pid)]


def _ended(pid: int) -> bool:
    return start_time(pid) is None


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
