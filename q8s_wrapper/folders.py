"""Folders of results: whether one may be written, and what is in one."""

from __future__ import annotations

from pathlib import Path

from q8s_wrapper.errors import ExitCode, WrapperError


def check(output: Path, marker: str, *, force: bool) -> None:
    """Check that a folder may be written.

    :param marker: a file that only a folder of this kind has
    :raises WrapperError: the folder exists and must not be replaced, or the folder above it does not exist
    """
    if not output.parent.is_dir():
        raise WrapperError(f"Failed to write {output}: {output.parent} is no folder", code=ExitCode.WRONG_INPUT)
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
