"""The kinds of servers that the lab has, and which one a folder holds.

Standard library only, as ``q8s_lab.machine``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from q8s_lab.hollow import Hollow
from q8s_lab.machine import Machine
from q8s_lab.vm import VirtualMachine

SPEC: Final = "q8s:machine"  # the flavor's extra spec that chooses between the first two
CONTAINER, VM, HOLLOW = "container", "vm", "hollow"


class Server(Protocol):
    """What every kind of server can do."""

    folder: Path

    @property
    def soft_reboot_seconds(self) -> int: ...
    @property
    def exists(self) -> bool: ...
    def running(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self, timeout: float) -> None: ...
    def reboot(self, timeout: float) -> bool: ...
    def remove(self) -> None: ...


_CLASSES: Final = (Machine, VirtualMachine, Hollow)


def find(folder: Path) -> Machine | VirtualMachine | Hollow | None:
    """Return the server of a folder, or None if it holds none."""
    return next((server for kind in _CLASSES if (server := kind(folder)).exists), None)


def with_machines(folder: Path) -> list[Machine | VirtualMachine]:
    """Return the servers of all folders below one, without the hollow ones."""
    found = map(find, sorted(folder.glob("*")))
    return [server for server in found if server and not isinstance(server, Hollow)]


def remove(folder: Path) -> None:
    """Remove the server of a folder, also one that was never finished."""
    (find(folder) or Machine(folder)).remove()
