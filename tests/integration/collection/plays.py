"""Runs playbooks of a copy of the collections, whose modules and paths a test has replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# The file "off" in the folder has how many connections fail.
_SSH = """\
#!/bin/sh
left=$(cat {folder}/off 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > {folder}/off; echo "ssh: connect to host cp port 22: Connection refused" >&2; exit 255
fi
for last do :; done
PATH={folder}/bin:$PATH exec sh -c "$last"
"""


def through_ssh(folder: Path) -> dict[str, Any]:
    """Return variables with which Ansible runs programs here, through a program of the folder in the place of ssh."""
    add_program(folder / "ssh", _SSH.format(folder=folder))
    return {
        "ansible_connection": "ssh",
        "ansible_ssh_executable": f"{folder}/ssh",
        "ansible_ssh_pipelining": True,
        "ansible_remote_tmp": f"{folder}/tmp",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
    }


def add_program(file: Path, text: str) -> None:
    """Write a program."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def play(folder: Path, playbook: Path) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the collections and the inventory.yml of a folder. Return how it ended."""
    program = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [program, "-i", folder / "inventory.yml", playbook],
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
