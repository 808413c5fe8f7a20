"""Write a folder of results: under a temporary name beside it, and renamed when it is complete."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
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


def write(output: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder, and replace an earlier one after that.

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
            output.rename(old / output.name)
            work.rename(output)
            shutil.rmtree(old)
        else:
            work.rename(output)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def read(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below a folder by its path in it. Links are not followed.

    :raises OSError: a file cannot be read
    """
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
