"""Hatchling's hook: add what ``q8s-run`` gives to Ansible to the wheel, in the layout that a checkout has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_WRITTEN: Final = frozenset({"__pycache__", ".ansible", ".pytest_cache"})
_DATA: Final = ("ansible.cfg", "collections", "inventory")


class DataHook(BuildHookInterface[Any]):
    """Adds files from outside the packages. An editable installation uses those of the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by Hatchling before it builds a wheel."""
        if version != "editable":
            root = Path(self.root)
            files = [file for name in _DATA for file in _files(root / name)]
            build_data["force_include"] |= {
                str(file): f"q8s_wrapper/data/{file.relative_to(root).as_posix()}" for file in files
            }


def _files(path: Path) -> Iterator[Path]:
    """Yield the file, or the files of the folder. Leave out what tools of the developers have written there."""
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path).parts
        if file.is_file() and not _WRITTEN & {*inside} and not {"tests", "output"} <= {*inside}:
            yield file
