"""The measurement of a stock guest's boot. A stub replaces QEMU: it writes a console, and may answer on SSH."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.guest_boot import _BOOT_STOCK

_ANSWERS = """
import socket, sys, time
open(sys.argv[1], "w").write("Linux version 6.12\\n")
time.sleep(1)
with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as server:
    server.accept()[0].sendall(b"SSH-2.0-OpenSSH\\r\\n")
    time.sleep(60)
"""
_IS_SILENT = """
import sys, time
lines = [*(f"line {count}" for count in range(20)), "[\\x1b[0;32m  OK  \\x1b[0m] reached"]
open(sys.argv[1], "w").write("\\n".join(lines))
time.sleep(60)
"""
_ENDS = "import sys; sys.exit('a warning\\nno such machine')"


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _boot(machine: str, console: Path, port: int, deadline: float) -> subprocess.CompletedProcess[str]:
    command = json.dumps([sys.executable, "-c", machine, str(console), str(port)])
    arguments = [sys.executable, "-", command, str(port), str(console), str(deadline)]
    return subprocess.run(arguments, input=_BOOT_STOCK, capture_output=True, text=True, check=False, timeout=30)


def test_a_boot_is_timed_to_the_kernel_and_to_ssh(tmp_path: Path, port: int) -> None:
    answer = json.loads(_boot(_ANSWERS, tmp_path / "console", port, 20).stdout)
    assert answer["kernel"] < answer["ssh"]
    assert 1 <= answer["ssh"] < 20


def test_a_boot_that_takes_too_long_shows_the_end_of_its_console(tmp_path: Path, port: int) -> None:
    answer = json.loads(_boot(_IS_SILENT, tmp_path / "console", port, 3).stdout)
    assert "did not answer in 3 s" in answer["failed"]
    assert answer["console"][-2:] == ["line 19", "[  OK  ] reached"]
    assert len(answer["console"]) == 10


def test_a_machine_that_does_not_start_says_why(tmp_path: Path, port: int) -> None:
    done = _boot(_ENDS, tmp_path / "console", port, 20)
    assert done.returncode == 1
    assert done.stderr.strip() == "QEMU ended: no such machine"
