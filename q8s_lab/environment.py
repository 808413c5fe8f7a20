"""The virtual environment of the OpenStack services, installed from a lock file and kept in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_lab.errors import LabError

LOCK: Final = Path(__file__).parent / "requirements.lock"


def ensure() -> tuple[Path, bool]:
    """Create the virtual environment if it is not in the cache.

    :returns: its folder, and whether this call created it
    :raises LabError: uv is missing, or could not install the locked packages
    """
    version = ".".join(map(str, sys.version_info[:3]))
    # A virtual environment contains its own path, so it is created in its final place. A marker file marks it complete.
    folder = cache.cache_root() / "lab-venv" / cache.content_key(LOCK, version, "compiled")
    marker = folder / ".complete"
    if marker.exists():
        return folder, False
    with cache.locked(folder.parent / f".{folder.name}.lock"):  # only one of several starting labs creates it
        if marker.exists():
            return folder, False
        _create(folder)
        marker.touch()
    return folder, True


def _create(folder: Path) -> None:
    """Create the virtual environment and install the locked packages with uv."""
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    )
    if uv is None:
        raise LabError(
            "Failed to install the OpenStack services: uv is not installed",
            hint="run `make setup`, or install the wheel with its extra: uv tool install 'FILE.whl[lab]'",
        )
    for command in (
        [uv, "venv", "-q", "--clear", "--python", sys.executable, folder],
        [
            uv,
            "pip",
            "sync",
            "-q",
            "--compile-bytecode",
            "--require-hashes",
            "--python",
            folder / "bin" / "python",
            LOCK,
        ],
    ):
        done = subprocess.run(
            list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LabError(f"Failed to install the OpenStack services: {done.stderr.strip()[-800:]}")
