"""What stands between ``q8s-run`` and the Ansible that it starts: ``child.py LOCK PIDFILE PARENT COMMAND...``

A run lives as long as its lock. ``q8s-run`` may be killed with no chance to clean up, so the kernel does it: Ansible
gets a SIGTERM when its parent ends, and holds the cluster's lock until it has ended too.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def main(argv: Sequence[str]) -> int:
    """Become the command. Gives an exit code only when that must not be."""
    lock, pid_file, parent, *command = argv
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        return _refuse(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):
        return _refuse("q8s-run has ended")
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _refuse("another run holds the cluster")
    os.set_inheritable(descriptor, True)
    Path(pid_file).write_text(str(os.getpid()))
    os.execvp(command[0], command)


def _refuse(why: str) -> int:
    print(f"Failed to start Ansible: {why}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
