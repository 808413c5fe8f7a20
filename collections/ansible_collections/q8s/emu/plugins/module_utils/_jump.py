# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh's ProxyCommand to a host behind another: ``_jump.py SOCKET HOST PORT SSH_OPTIONS... JUMP_HOST``

All connections go through one connection to the jump host. If each logged in there by itself, fifty at once would
exceed the logins that sshd lets wait (``MaxStartups 10:30:100``), and ssh's own ``ControlMaster=auto`` does not help:
those that start together find no connection to share. Here one opens it while the others wait.

When there is no connection, what ssh says of the jump host must not be taken for what the host behind it says. So each
line gets a mark and the jump host's destination, and it is sent twice. The ssh that started this one sends stderr to
/dev/null where it shares connections (``ControlPersist``), as Ansible does. It shows what the other side sends it as the
reason for a disconnect (RFC 4253, section 11.1), so the end of the message goes that way, too.
"""

# A program of ssh's own, not part of a module.
# pylint: disable=ansible-bad-function

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

MARK = "q8s jump host"
SEPARATOR = " | "  # between lines in the reason for a disconnect
_SECONDS_KEPT = 120
# what ssh itself ends with when it cannot connect
_FAILED = 255
_DISCONNECT = 1  # SSH_MSG_DISCONNECT
_BY_APPLICATION = 11  # SSH_DISCONNECT_BY_APPLICATION
_LONGEST_REASON = 400  # ssh cuts the rest
_SECONDS_TO_READ = 5  # for the ssh that started this one
# What an ssh that forwards says of the host, not of the jump host.
_OF_THE_HOST = ("open failed: connect failed", "stdio forwarding failed")


def main(argv: Sequence[str]) -> int:
    """Become the ssh that forwards its input and output to the host; return only when there is no connection."""
    path, host, port, *ssh = argv
    mark = "%s %s: " % (MARK, _destination(ssh))
    target = "[%s]:%s" % (host, port) if ":" in host else "%s:%s" % (host, port)
    forward = ["-o", "ControlMaster=no", "-W", target]
    if not path:
        return _forward_unshared(["ssh", "-o", "ControlPath=none", *forward, *ssh], mark)
    escaped = path.replace("%", "%%")
    shared = ["-o", 'ControlPath="%s"' % escaped]
    if not _is_open(path):
        problem = _open(path, [*shared, *ssh])
        if problem:
            _report(problem, mark)
            return _FAILED
    # If the shared connection has ended meanwhile, this ssh logs in by itself.
    command = ["ssh", *shared, *forward, *ssh]
    os.execvp(command[0], command)


def _destination(ssh: Sequence[str]) -> str:
    """Return user, host and port of the jump host, without the user and the port that ssh takes by default."""
    port = ssh[ssh.index("-p") + 1] if "-p" in ssh else "22"
    return ssh[-1] if port == "22" else "%s:%s" % (ssh[-1], port)


def _forward_unshared(command: Sequence[str], mark: str) -> int:
    """Run an ssh that logs in by itself, and mark what it says of the jump host. Return its exit code."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
        for line in process.stderr or ():
            sys.stderr.write(line if any(words in line for words in _OF_THE_HOST) else mark + line)
            sys.stderr.flush()
    return process.returncode


def _report(problem: str, mark: str) -> None:
    """Write why there is no connection to stderr, and to the ssh that started this program."""
    lines = [line for line in problem.splitlines() if line.strip()]
    sys.stderr.writelines("%s%s\n" % (mark, line) for line in lines)
    sys.stderr.flush()
    end = SEPARATOR.join(line.strip() for line in lines[-2:])
    reason = (mark + end[-(_LONGEST_REASON - len(mark)) :]).encode("ascii", "replace")
    # That ssh may have ended.
    with suppress(OSError):
        os.write(sys.stdout.fileno(), b"SSH-2.0-Q8S\r\n" + _disconnect(reason))
        # It sends its own messages first, and would only report that they cannot be sent.
        last = time.monotonic() + _SECONDS_TO_READ
        while select.select([0], [], [], max(0.0, last - time.monotonic()))[0] and os.read(0, 65536):
            pass


def _disconnect(reason: bytes) -> bytes:
    """Return SSH's message of a disconnect as an unencrypted packet (RFC 4253, sections 6 and 11.1)."""
    payload = struct.pack(">BII", _DISCONNECT, _BY_APPLICATION, len(reason)) + reason + struct.pack(">I", 0)
    padding = 4 + -(len(payload) + 5 + 4) % 8  # at least 4 bytes, and the whole is a multiple of 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


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
