"""Runs on a worker's host: serves packages and images, and runs a guest until its stdin ends.

    python3 host.py COMMAND PORT FOLDER CONSOLE DEADLINE

COMMAND is QEMU's command line as JSON. The guest reaches the server as 10.0.2.2: QEMU's user network maps that address
to this host's loopback. When stdin ends (the node is Ready), or when the guest fails, the guest is killed, and one line
of JSON is printed: ``started`` (seconds since the epoch), ``phases`` (name -> seconds since then, as the guest printed
``q8s-phase NAME`` on its console), ``cpu`` (seconds of QEMU's processor time), ``failed`` (why the guest was given up,
or null) and ``console`` (its last lines). It runs with the Python of any host.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_POLL = 0.2  # seconds
_HANGS = 60  # seconds of doing nothing: a guest that sets itself up is never idle


class _Server(http.server.SimpleHTTPRequestHandler):
    """The files of a folder, with the media type that a container engine wants of a manifest."""

    protocol_version = "HTTP/1.1"

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        return _MANIFEST if "/manifests/" in str(path) else "application/octet-stream"

    def log_message(self, format: str, *args: object) -> None:
        pass


def _console(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _watch(
    machine: subprocess.Popen[bytes], console: str, deadline: float, ended: threading.Event
) -> dict[str, object]:
    """Watch the guest until stdin has ended, or it hangs, ends or takes too long."""
    started, since, busy = time.time(), time.monotonic(), 0.0
    phases: dict[str, float] = {}
    failed = None
    while failed is None and not ended.wait(_POLL):
        text = _console(console)
        now = time.time() - started
        if "Linux version" in text:
            phases.setdefault("kernel", now)
        for name in re.findall(r"q8s-phase (\w+)", text):
            phases.setdefault(name, now)
        if machine.poll() is not None:
            assert machine.stderr is not None
            failed = "ended: " + machine.stderr.read().decode().strip().rpartition("\n")[2]
            break
        if "Kernel panic" in text:
            failed = "panicked"
        elif now > deadline:
            failed = f"was not Ready after {deadline:.0f} s"
        elif time.monotonic() - since > _HANGS:
            before, busy, since = busy, _cpu_seconds(machine.pid), time.monotonic()
            if busy - before < _HANGS / 20:
                failed = f"hangs: it did nothing for {_HANGS} s"
    cpu = _cpu_seconds(machine.pid) if machine.returncode is None else None
    lines = re.sub(r"\x1b\[[0-9;?!]*[A-Za-z]", "", _console(console)).splitlines()
    return {
        "started": started,
        "phases": phases,
        "cpu": cpu,
        "failed": failed,
        "console": [line.strip() for line in lines if line.strip()][-20:],
    }


def main(command: str, port: str, folder: str, console: str, deadline: str) -> None:
    """Serve, run and watch, and print what was seen."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), functools.partial(_Server, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ended = threading.Event()

    def read() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    machine = subprocess.Popen(
        json.loads(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        answer = _watch(machine, console, float(deadline), ended)
    finally:
        machine.kill()
        machine.wait()
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
