"""The lookup plugin ``program``: paths of programs on the controller."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.q8s.emu.plugins.lookup.program import find_program


def write_program(folder: Path) -> Path:
    """Write a program ``q8s-test`` into a folder."""
    folder.mkdir()
    program = folder / "q8s-test"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_a_program_beside_the_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, other = write_program(tmp_path / "venv"), write_program(tmp_path / "bin")
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    monkeypatch.setenv("PATH", str(other.parent))
    assert find_program("q8s-test") == str(beside)
    beside.unlink()
    assert find_program("q8s-test") == str(other)


def test_a_missing_program_is_reported_with_a_hint() -> None:
    with pytest.raises(
        AnsibleError, match=r"(?s)the program q8s-test: it is neither in .* nor on PATH\nhint: install it"
    ):
        find_program("q8s-test", "install it")


def test_a_missing_q8s_run_is_reported_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnsibleError, match=r"\nhint: install the Python package q8s, which has it: uv tool install"):
        find_program("q8s-run")
