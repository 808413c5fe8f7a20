"""Folders of results: whether one may be written, and what is in one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypedDict

from q8s_wrapper import damage
from q8s_wrapper.errors import ExitCode, WrapperError

RESULTS: Final = "results.json"


def check(output: Path, marker: str, *, force: bool) -> None:
    """Check that a folder may be written.

    :param marker: a file that only a folder of this kind has
    :raises WrapperError: the folder exists and must not be replaced, or the folder above it does not exist
    """
    if not output.parent.is_dir():
        raise WrapperError(f"Failed to write {output}: {output.parent} is not a folder", code=ExitCode.WRONG_INPUT)
    if not output.exists() and not output.is_symlink():
        return
    if not (output / marker).is_file():
        raise WrapperError(
            f"{output} exists, and has no {marker}: nothing was changed", "choose another folder", ExitCode.WRONG_INPUT
        )
    if not force:
        raise WrapperError(
            f"{output} exists: nothing was changed",
            "choose another folder, or replace this one with --force",
            ExitCode.WRONG_INPUT,
        )


def read(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below a folder by its path in it. Links are not followed.

    :raises OSError: a file cannot be read
    """
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


class _Results(TypedDict):
    complete: bool


def read_results(output: Path) -> dict[str, Any] | None:
    """Return the results in a folder, None if there are none that can be read."""
    with suppress(FileNotFoundError, damage.DamagedError), damage.explained() as read:
        found: dict[str, Any] = read.json_file(output / RESULTS, _Results)
        return found
    return None


def check_results(
    arguments: argparse.Namespace, output: Path, kind: Any, *, verb: str, kept: str, selection: Sequence[str]
) -> None:
    """Check that results can be written to a folder, or with ``--resume`` be completed there.

    :param kind: the kind of results, a ``_results_folder.Kind`` of the collection
    :param verb: what is done with what is missing, for the message
    :param kept: what ``--resume`` takes from the earlier run, for the message
    :param selection: options that contradict ``--resume``
    :raises WrapperError: the folder is not as the options want it, or they contradict one another
    """
    if not arguments.resume:
        if output.exists() and not arguments.force:
            raise WrapperError(
                f"--output: {output} exists",
                f"{verb} what is missing there with --resume, replace it with --force, or choose another folder",
                ExitCode.WRONG_INPUT,
            )
        return
    if given := [name for name in selection if getattr(arguments, name)]:
        raise WrapperError(
            f"--resume: goes on with the {kept} of the earlier run, so --{given[0]} is not possible",
            code=ExitCode.WRONG_INPUT,
        )
    results = output / RESULTS
    if not results.exists() and not results.is_symlink():
        raise WrapperError(f"--resume: {output} has no {RESULTS}", "leave out --resume", ExitCode.WRONG_INPUT)
    document = read_results(output)
    if document and document["complete"]:
        raise WrapperError(f"--resume: the results in {output} are complete", code=ExitCode.WRONG_INPUT)
    from ansible_collections.q8s.emu.plugins.module_utils import _results_folder

    try:
        _results_folder.read(output, kind)
    except _results_folder.OutputError as error:
        message, _, hint = str(error).partition("\nhint: ")
        raise WrapperError(message, hint, ExitCode.WRONG_INPUT) from None
