# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of results: check, read and write them.

A folder is written under a temporary name beside it, and renamed when it is complete.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _read

RESULTS = "results.json"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


class OutputError(Exception):
    """The folder must not or cannot be written."""


@dataclass(frozen=True)
class Kind:
    """A kind of results.

    :param schema: what ``results.json`` has as ``schema``
    :param shape: a TypedDict with what is read of it
    :param check: raises a ReadError for what fits the shape, but not together
    """

    schema: str
    shape: Any
    check: Callable[[Any, _read.Place], None] = lambda _results, _place: None


def check(output: Path, *, force: bool, hint: str) -> None:
    """Check that the folder may be written.

    :param hint: what to do with results that are there
    :raises OutputError: it exists and must not be replaced, or the folder above it does not exist
    """
    parent = output.resolve().parent
    if not parent.is_dir():
        raise OutputError(f"{parent} is not a folder\nhint: create it, or choose another with --output")
    if not output.exists():
        return
    if not (output / RESULTS).is_file():
        raise OutputError(f"{output} exists and is not a folder of results\nhint: choose another with --output")
    if not force:
        raise OutputError(f"{output} has results\nhint: {hint}")


def read(output: Path, kind: Kind) -> dict[str, Any]:
    """Return the results in a folder.

    :raises OutputError: it has none, or they are damaged or of another version
    """
    place = _read.Place(str(output / RESULTS))
    try:
        found = _read.json_data(_read.text(output / RESULTS), place)
        if isinstance(found, dict) and found.get("schema", kind.schema) != kind.schema:
            raise OutputError(f"the results in {output} are of another version of Q8S\nhint: replace them with --force")
        checked: dict[str, Any] = _read.parse(kind.shape, found, place)
        kind.check(checked, place)
    except FileNotFoundError as error:
        raise OutputError(f"{output} has no results to resume\nhint: leave out --resume") from error
    except _read.ReadError as error:
        raise OutputError(f"{error}\nhint: fix the file, or replace the results with --force") from error
    return checked


def write(output: Path, files: Mapping[str, bytes], *, keep: bool = False) -> None:
    """Write a folder, and remove an earlier one after that. A link to a folder stays one.

    :param files: content of each file by its path in the folder
    :param keep: whether the new folder also has the other files of the earlier one
    :raises OSError: a file cannot be written; then nothing has changed. It names the folder
    """
    try:
        _write(output.resolve(), files, keep)
    except OSError as error:
        # That of a full disk names no file, and others would name a temporary one.
        raise OSError(error.errno, error.strerror or str(error), str(output)) from error


def _write(output: Path, files: Mapping[str, bytes], keep: bool) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    try:
        for name, content in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        work.chmod(0o755)
        if keep and output.exists():
            shutil.copymode(output, work)
            _carry_over(output, work)
        if not output.exists():
            os.rename(work, output)
        elif _exchange(work, output):
            shutil.rmtree(work, ignore_errors=True)
        else:
            old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
            os.rename(output, old / output.name)
            try:
                os.rename(work, output)
            except OSError:
                os.rename(old / output.name, output)
                old.rmdir()
                raise
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _carry_over(old: Path, new: Path) -> None:
    """Add the files of a folder to another one, except those that it has.

    They are linked: that takes no space, and a program that has one open writes to the same file.
    """
    for entry in os.scandir(old):
        target = new / entry.name
        if entry.is_dir(follow_symlinks=False) and (target.is_dir() or not os.path.lexists(target)):
            target.mkdir(exist_ok=True)
            _carry_over(Path(entry.path), target)
            shutil.copystat(entry.path, target)
        elif not os.path.lexists(target):
            try:
                os.link(entry.path, target, follow_symlinks=False)
            except OSError:  # not every file system has links
                shutil.copy2(entry.path, target, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, so that a run that is killed leaves one of them. Return whether that was possible.

    Linux has renameat2(2), but not on every file system; Python does not have it.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    failed: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return not failed
