"""Runs playbooks of a copy of the collections, whose modules and paths a test has replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


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
