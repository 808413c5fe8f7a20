"""Wait until no other package manager holds a lock: a cloud image upgrades itself at its first boot.

    await_packages.py TIMEOUT

Prints {"waited": SECONDS, "for": [WHO, ...]} as JSON. Exit code 1 and the holder on stderr, if it made no progress for
TIMEOUT seconds.
"""

import fcntl
import glob
import json
import os
import struct
import sys
import time

LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock")
# What grows while packages are fetched and installed.
SIGNS = ("/var/log/dpkg.log", "/var/cache/apt/archives/partial/*", "/var/lib/apt/lists/partial/*")
FLOCK = "hhqqi"  # struct flock: type, whence, start, length, pid


def holder(path):
    """Return the pid of the process that holds a lock file; 0 if none does."""
    try:
        with open(path, "rb+") as stream:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(stream, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return 0
    return 0 if kind == fcntl.F_UNLCK else pid


def describe(pid, path):
    """Return who holds the lock, in words."""
    try:
        with open(f"/proc/{pid}/cmdline") as stream:
            command = " ".join(stream.read().split("\0")).strip()
    except OSError:
        command = "a process that has just ended"
    return f"{command} (pid {pid}) holds {path}"


def progress():
    """Return what changes while packages are fetched and installed."""
    files = sorted(path for pattern in SIGNS for path in glob.glob(pattern))
    sizes = []
    for path in files:
        try:
            sizes.append((path, os.stat(path).st_size))
        except FileNotFoundError:
            continue
    return sizes


def main(timeout):
    """Wait; return how long, and for whom."""
    start = since = time.monotonic()
    seen, last = [], None
    while True:
        held = [(pid, path) for path in LOCKS for pid in [holder(path)] if pid]
        if not held:
            return {"waited": round(time.monotonic() - start), "for": seen}
        who = describe(*held[0])
        if who not in seen:
            seen.append(who)
        now = [pid for pid, _ in held], progress()
        if now != last:
            since, last = time.monotonic(), now
        elif time.monotonic() - since > timeout:
            sys.exit(f"Failed to install packages: {who}, and has made no progress for {timeout:.0f} s")
        time.sleep(1)


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]))))
