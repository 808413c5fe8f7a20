"""The lab's kinds of servers: container, virtual machine, hollow.

Standard library only, like ``q8s_lab.machine``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from q8s_lab.hollow import Hollow
from q8s_lab.machine import Machine
from q8s_lab.vm import VirtualMachine

SPEC: Final = "q8s:machine"  # extra spec of a flavor that selects container or vm
CONTAINER, VM, HOLLOW = "container", "vm", "hollow"


class Server(Protocol):
    """The operations of every kind of server."""

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
    """Return the server in a folder, or None if there is none."""
    return next((server for kind in _CLASSES if (server := kind(folder)).exists), None)


def with_machines(folder: Path) -> list[Machine | VirtualMachine]:
    """Return the servers in the subfolders of a folder, without hollow servers."""
    found = map(find, sorted(folder.glob("*")))
    return [server for server in found if server and not isinstance(server, Hollow)]


def remove(folder: Path) -> None:
    """Remove the server in a folder, also one whose creation did not finish."""
    (find(folder) or Machine(folder)).remove()
