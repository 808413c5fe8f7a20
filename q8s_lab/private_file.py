"""Write files that only their owner may read. Standard library only, see machine.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO


def open_private(path: Path) -> TextIO:
    """Open a text file for writing. It is created with mode 0600."""
    return open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600))
