"""Required shared libraries, read from the ELF headers of programs on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from q8s_bundle.errors import BundleError
from q8s_bundle.node import elf
from q8s_bundle.node.store import machine

SHELL = Path("/bin/sh").resolve()
LIBRARIES = f"/usr/lib/{machine().gnu}"

pytestmark = pytest.mark.skipif(
    not (Path(LIBRARIES) / "libc.so.6").exists(), reason="needs a machine with Debian's library folders"
)


def test_a_programs_libraries_and_interpreter() -> None:
    names = elf.needed(SHELL)
    assert "libc.so.6" in names
    assert any(name.startswith("/lib") and "ld-linux" in name for name in names)


def test_the_closure_is_found_below_the_root() -> None:
    found = elf.closure([SHELL], Path("/"), (LIBRARIES,))
    assert f"{LIBRARIES}/libc.so.6" in found
    assert all(file.is_file() for file in found.values())


def test_a_library_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"Failed to collect libraries: \S+ needs \S+, which no fetched package holds"
    ):
        elf.closure([SHELL], tmp_path, (LIBRARIES,))


def test_a_file_that_is_no_elf_file_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    with pytest.raises(BundleError, match="no ELF file"):
        elf.needed(text)
