# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a folder of results: under a temporary name beside it, and renamed when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(output: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder, and remove an earlier one after that.

    :param files: content of each file by its path in the folder
    :raises OSError: a file cannot be written; then nothing has changed
    """
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    try:
        for name, content in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        work.chmod(0o755)
        if output.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
            os.rename(output, old / output.name)
            os.rename(work, output)
            shutil.rmtree(old)
        else:
            os.rename(work, output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
