"""Hollow servers: servers without a machine, for tests of scale and of failures.

Nova and Neutron manage them like any other server, and hundreds fit on a machine. An extra spec of the flavor selects
them. Only the lab's compute driver reads it: users of the cloud see an ordinary flavor.

Standard library only, like ``q8s_lab.machine``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

SPEC: Final = "q8s:hollow"
PLAIN, ERROR, STUCK = "plain", "error", "stuck"
FAULT: Final = "hollow.error: this flavor's servers never start"


class Hollow:
    """A hollow server. Its folder records whether it is powered on."""

    soft_reboot_seconds: Final = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        return self._power.exists()

    @property
    def _power(self) -> Path:
        return self.folder / "hollow"

    def create(self) -> None:
        """Create the server's folder. The server is powered off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "console.log").write_text("a hollow server: there is no machine behind it\n")
        self._power.write_text("off")

    def running(self) -> bool:
        return self._power.read_text() == "on"

    def start(self) -> None:
        self._power.write_text("on")

    def stop(self, timeout: float) -> None:
        """Power the server off at once."""
        self._power.write_text("off")

    def reboot(self, timeout: float) -> bool:
        """Return whether the server is powered on, which counts as a successful reboot."""
        return self.running()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
