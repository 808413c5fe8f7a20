"""The process between ``q8s-run`` and Ansible: ``child.py LOCK PIDFILE PARENT COMMAND...``

If ``q8s-run`` is killed, it cannot clean up. This process then stops Ansible and the processes that Ansible leaves:
Ansible's workers have their own sessions and may wait for minutes. All of them hold the cluster's lock until they exit.
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
    """Run a command, and stop it when the parent process exits.

    :param argv: the lock file, the file for the command's process id, the parent's process id, and the command
    :returns: the command's exit code; 128 plus the signal's number if a signal killed it
    """
    lock, pid_file, parent, *command = argv
    try:
        _end_with_parent()
        adopt_orphans()
    except OSError as error:
        return _refuse(f"prctl: {error.strerror}")
    if os.getppid() != int(parent):
        return _refuse("q8s-run has exited")
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _refuse("another run holds the cluster")
    # The user's umask may be strict. Ansible builds bundles here, whose files other users must be able to read.
    os.umask(0o022)
    # preexec_fn is safe here: this process has no threads.
    process = subprocess.Popen(command, pass_fds=[descriptor], preexec_fn=_end_with_parent)  # noqa: PLW1509
    Path(pid_file).write_text(str(process.pid))
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        process.terminate()
        signal.alarm(_SECONDS_TO_STOP)

    signal.signal(signal.SIGALRM, lambda number, frame: process.kill())
    # SIGHUP: the kernel sends it when ansible-runner's pseudo terminal closes
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    code = process.wait()
    if code < 0 and not stopping:
        # "ERROR!" is Ansible's own prefix. Orphans are killed, or they would hold the lock for some seconds.
        name = signal.Signals(-code).name
        memory = "; this machine may have run out of memory (dmesg shows it)" if name == "SIGKILL" else ""
        print(f"ERROR! Ansible was killed by {name}{memory}", flush=True)
    if stopping or code < 0:
        end_orphans()
    return code if code >= 0 else 128 - code


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants (PR_SET_CHILD_SUBREAPER), so that :func:`end_orphans` can kill them.

    :raises OSError: the kernel refuses
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def release_orphans() -> None:
    """Undo :func:`adopt_orphans`: later orphans get the parent that they would have without it.

    :raises OSError: the kernel refuses
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def end_orphans() -> None:
    """Kill all descendants of this process."""
    while pids := {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)  # the kernel reparents its children to this process


def _end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent exits (PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    """Call prctl(2).

    :raises OSError: the call failed
    """
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _refuse(reason: str) -> int:
    """Print why Ansible is not started, and return the exit code."""
    print(f"Failed to start Ansible: {reason}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
