"""Hatchling's hook: add what ``q8s-run`` gives to Ansible to the wheel, in the layout that a checkout has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_DATA: Final = ("ansible.cfg", "collections", "inventory")


class DataHook(BuildHookInterface[Any]):
    """Adds files from outside the packages. An editable installation uses those of the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by Hatchling before it builds a wheel."""
        if version != "editable":
            build_data["force_include"] |= {str(Path(self.root, name)): f"q8s_wrapper/data/{name}" for name in _DATA}
