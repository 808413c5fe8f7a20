"""What stands between ``q8s-run`` and the Ansible that it starts: ``child.py LOCK PIDFILE PARENT COMMAND...``

``q8s-run`` may be killed with no chance to clean up. This process then ends Ansible, and what Ansible leaves: its
workers are in sessions of their own and may wait for minutes. All hold the cluster's lock until they have ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER: Final = 36
_SECONDS_TO_STOP: Final = 5


def main(argv: Sequence[str]) -> int:
    """Run the command, and end it when the parent has ended. Gives its exit code."""
    lock, pid_file, parent, *command = argv
    try:
        _end_with_parent()
        adopt_orphans()
    except OSError as error:
        return _refuse(f"prctl: {error.strerror}")
    if os.getppid() != int(parent):
        return _refuse("q8s-run has ended")
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _refuse("another run holds the cluster")
    # The user's may be any: what Ansible builds here, bundles for example, has files that others must read.
    os.umask(0o022)
    # This process has no threads, which would make preexec_fn unsafe.
    process = subprocess.Popen(command, pass_fds=[descriptor], preexec_fn=_end_with_parent)  # noqa: PLW1509
    Path(pid_file).write_text(str(process.pid))
    ending = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        process.terminate()
        signal.alarm(_SECONDS_TO_STOP)

    signal.signal(signal.SIGALRM, lambda number, frame: process.kill())
    # the terminal that ansible-runner made goes with it, too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    code = process.wait()
    if code < 0 and not ending:
        # Ansible's own mark of an error. What it leaves would hold the lock for some seconds.
        name = signal.Signals(-code).name
        memory = "; this machine may have run out of memory (dmesg shows it)" if name == "SIGKILL" else ""
        print(f"ERROR! Ansible was killed by {name}{memory}", flush=True)
    if ending or code < 0:
        end_orphans()
    return code if code >= 0 else 128 - code


def adopt_orphans() -> None:
    """Make what outlives a child of this process a child of it, which :func:`end_orphans` can then end.

    :raises OSError: the kernel refuses
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_orphans() -> None:
    """End all children of this process, theirs included."""
    while pids := {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)  # its own children are ours from here on


def _end_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _refuse(why: str) -> int:
    print(f"Failed to start Ansible: {why}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
