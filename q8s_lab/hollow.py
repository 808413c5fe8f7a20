"""Servers with nothing behind them: Nova and Neutron keep books of them as of any other, and hundreds fit on a machine.

For tests of scale and of failure. A flavor says so in an extra spec, and only the lab's own driver reads it: what uses
the cloud sees a flavor with a name. Standard library only, as ``q8s_lab.machine``.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

SPEC: Final = "q8s:hollow"
PLAIN, ERROR, STUCK = "plain", "error", "stuck"
FAULT: Final = "hollow.error: this flavor's servers never start"


class Hollow:
    """A hollow server's folder: it remembers whether it is switched on."""

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
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "console.log").write_text("a hollow server: there is no machine behind it\n")
        self._power.write_text("off")

    def running(self) -> bool:
        return self._power.read_text() == "on"

    def start(self) -> None:
        self._power.write_text("on")

    def stop(self, timeout: float) -> None:
        """There is nothing to wait for."""
        self._power.write_text("off")

    def reboot(self, timeout: float) -> bool:
        """Whether it was on, as for a machine."""
        return self.running()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
