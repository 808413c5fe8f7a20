"""Runs playbooks of a copy of the collections, whose modules and paths a test has replaced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from q8s_wrapper.config import REPOSITORY

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


def copy_collections(
    folder: Path, replacements: Mapping[str, str] | None = None, files: Sequence[str] = ("**/*.yml",)
) -> Path:
    """Copy the collections into a folder, and return the copy.

    :param replacements: what becomes of texts of these files, in this order, such as paths; each must occur
    """
    copy = folder / "ansible_collections"
    shutil.copytree(REPOSITORY / "collections" / "ansible_collections", copy)
    missing = set(replacements or {})
    for file in [file for pattern in files for file in copy.glob(pattern)] if replacements else []:
        old = new = file.read_text()
        for text, other in (replacements or {}).items():
            if text in new:
                missing.discard(text)
                new = new.replace(text, other)
        if new != old:
            file.write_text(new)
    assert not missing, f"no file of the collections has {missing}"
    return copy


def replace_text(file: Path, old: str, new: str) -> None:
    """Replace a text of a file, which must have it."""
    text = file.read_text()
    assert old in text, f"{file} does not have {old}"
    file.write_text(text.replace(old, new))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return what Ansible printed, without line breaks."""
    return " ".join((done.stdout + done.stderr).replace("\\n", " ").split())


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


def play(folder: Path, playbook: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the collections and the inventory.yml of a folder. Return how it ended."""
    program = Path(sys.executable).parent / "ansible-playbook"
    return subprocess.run(
        [program, "-i", folder / "inventory.yml", playbook, *arguments],
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(folder), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
