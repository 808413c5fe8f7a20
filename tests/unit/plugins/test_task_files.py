"""Ansible loads every task file. A syntax check of the playbooks would skip included roles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.splitter import parse_kv

ROOT = Path(__file__).parents[3]
FILES = [
    *ROOT.glob("collections/ansible_collections/q8s/emu/roles/*/*/*.yml"),
    *ROOT.glob("collections/ansible_collections/q8s/emu/playbooks/**/*.yml"),
]
SCRIPTS = ("ansible.builtin.shell", "ansible.builtin.command", "ansible.builtin.raw")


def scripts(value: Any) -> Iterator[str]:
    """Yield the free-form text of all commands in a file."""
    if isinstance(value, list):
        for item in value:
            yield from scripts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in SCRIPTS and isinstance(item, str):
                yield item
            else:
                yield from scripts(item)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_quotes_of_scripts_are_balanced(file: Path) -> None:
    """Ansible counts those in a script's comments, too, and refuses to load the file."""
    for text in scripts(yaml.safe_load(file.read_text())):
        parse_kv(text, check_raw=True)


def commands(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments of all modules in a file that have ``argv``."""
    if isinstance(value, list):
        for item in value:
            yield from commands(item)
    elif isinstance(value, dict):
        if "argv" in value:
            yield value
        for item in value.values():
            yield from commands(item)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_shell_expands_the_variables_of_its_script(file: Path) -> None:
    """Ansible would replace ``$NAME`` by the text first, and the shell would run what is in that text."""
    for arguments in commands(yaml.safe_load(file.read_text())):
        argv = arguments["argv"]
        if isinstance(argv, list) and argv[0] in ("sh", "bash") and "-c" in argv:
            assert arguments.get("expand_argument_vars") is False, argv
