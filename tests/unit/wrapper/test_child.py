"""The process between q8s-run and Ansible: its message and its cleanup when Ansible is killed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from q8s_wrapper import child


def test_a_killed_ansible_is_said_and_leaves_nobody_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    command = [sys.executable, "-IS", child.__file__, str(lock), str(tmp_path / "pid"), str(os.getpid())]
    script = f"sleep 60 & echo $! > {tmp_path}/left; kill -9 $$"
    done = subprocess.run([*command, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert "ERROR! Ansible was killed by SIGKILL; this machine may have run out of memory" in done.stdout
    assert done.returncode == 128 + 9
    assert not Path(f"/proc/{(tmp_path / 'left').read_text().strip()}").exists()
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
