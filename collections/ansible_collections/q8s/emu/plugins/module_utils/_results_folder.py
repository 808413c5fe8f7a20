# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of results: check, read and write them.

A folder is written under a temporary name beside it, and renamed when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = "results.json"


class OutputError(Exception):
    """The folder must not or cannot be written."""


def check(output: Path, *, force: bool, hint: str) -> None:
    """Check that the folder may be written.

    :param hint: what to do with results that are there
    :raises OutputError: it exists and must not be replaced, or the folder above it does not exist
    """
    if not output.parent.is_dir():
        raise OutputError(f"{output.parent} is no folder\nhint: create it, or choose another with --output")
    if not output.exists():
        return
    if not (output / RESULTS).is_file():
        raise OutputError(f"{output} exists and is no folder of results\nhint: choose another with --output")
    if not force:
        raise OutputError(f"{output} has results\nhint: {hint}")


def read(output: Path, schema: str) -> dict[str, Any]:
    """Return the results in a folder.

    :raises OutputError: it has none, or they are of another version
    """
    try:
        found = json.loads((output / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{output} has no results to resume\nhint: leave out --resume") from error
    if not isinstance(found, dict) or found.get("schema") != schema or "sessions" not in found:
        raise OutputError(f"the results in {output} are of another version of Q8S\nhint: replace them with --force")
    return found


def write(output: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder, and remove an earlier one after that.

    :param files: content of each file by its path in the folder
    :raises OSError: a file cannot be written; then nothing has changed. It names the folder
    """
    try:
        _write(output, files)
    except OSError as error:
        # That of a full disk names no file, and others would name a temporary one.
        raise OSError(error.errno, error.strerror or str(error), str(output)) from error


def _write(output: Path, files: Mapping[str, bytes]) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    try:
        for name, content in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        work.chmod(0o755)
        if output.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
            os.rename(output, old / output.name)
            try:
                os.rename(work, output)
            except OSError:
                os.rename(old / output.name, output)
                old.rmdir()
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(work, output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
