# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh's ProxyCommand to a host behind another: ``_jump.py SOCKET HOST PORT SSH_OPTIONS... JUMP_HOST``

All connections go through one connection to the jump host. If each logged in there by itself, fifty at once would
exceed the logins that sshd lets wait (``MaxStartups 10:30:100``), and ssh's own ``ControlMaster=auto`` does not help:
those that start together find no connection to share. Here one opens it while the others wait.
"""

# A program of ssh's own, not part of a module.
# pylint: disable=ansible-bad-function

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

_SECONDS_KEPT = 120
# what ssh itself ends with when it cannot connect
_FAILED = 255


def main(argv: Sequence[str]) -> int:
    """Become the ssh that forwards its input and output to the host; return only when there is no connection."""
    path, host, port, *ssh = argv
    shared = ["-o", "ControlPath=none"]
    if path:
        escaped = path.replace("%", "%%")
        shared = ["-o", 'ControlPath="%s"' % escaped]
        if not _is_open(path):
            problem = _open(path, [*shared, *ssh])
            if problem:
                sys.stderr.write(problem)
                return _FAILED
    target = "[%s]:%s" % (host, port) if ":" in host else "%s:%s" % (host, port)
    # If the shared connection has ended meanwhile, this ssh logs in by itself.
    command = ["ssh", "-o", "ControlMaster=no", *shared, "-W", target, *ssh]
    os.execvp(command[0], command)


def _open(path: str, ssh: Sequence[str]) -> str:
    """Open the shared connection, unless another process just did. Return what ssh says when that fails.

    Whoever waited for an attempt that failed takes its answer: fifty attempts in a row would take minutes.
    """
    began = time.time()
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path + ".lock", "a+", encoding="utf-8", errors="replace") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_open(path):
            return ""
        lock.seek(0)
        failed, _newline, message = lock.read().partition("\n")
        if failed and float(failed) > began:
            return message
        if os.path.exists(path):
            os.unlink(path)  # of a connection that was killed
        with open(path + ".log", "w+", encoding="utf-8", errors="replace") as log:
            # not a pipe: the connection stays when this ssh has ended
            command = ["ssh", "-f", "-N", "-o", "ControlMaster=yes", "-o", "ControlPersist=%d" % _SECONDS_KEPT, *ssh]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, check=False)
            log.seek(0)
            message = log.read() or "ssh ended with %d\n" % done.returncode
        lock.seek(0)
        lock.truncate()
        if done.returncode != 0:
            lock.write("%f\n%s" % (time.time(), message))
            return message
    return ""


def _is_open(path: str) -> bool:
    """Return whether a shared connection listens at the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
