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
    """A server of any kind, stored in a folder."""

    folder: Path

    @property
    def soft_reboot_seconds(self) -> int:
        """Return the timeout of a soft reboot in seconds."""

    @property
    def exists(self) -> bool:
        """Return whether the folder holds a complete server of this kind."""

    def running(self) -> bool:
        """Return whether the server is powered on."""

    def start(self) -> None:
        """Start the server, unless it runs."""

    def stop(self, timeout: float) -> None:
        """Shut the server down. Kill it after ``timeout`` seconds; with 0, at once."""

    def reboot(self, timeout: float) -> bool:
        """Reboot the server. Return whether it shut down within ``timeout`` seconds."""

    def remove(self) -> None:
        """Stop the server and remove its folder."""


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
