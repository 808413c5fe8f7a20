"""Pack this package and its only library, elftools, for a build on another machine, which needs just Python."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import elftools

_FOLDERS: Final = (Path(__file__).parent, Path(elftools.__file__).parent)


def write_sources(target: Path) -> str:
    """Write the package and its library as a tar archive, compressed with gzip.

    The archive is reproducible: the same sources result in the same bytes.

    :returns: the archive's SHA-256
    :raises OSError: the archive cannot be written
    """
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as compressed,
        tarfile.open(mode="w", fileobj=compressed) as archive,
    ):
        for folder in _FOLDERS:
            for path, name in _files(folder):
                _add(archive, path, f"{folder.name}/{name}")
    return hashlib.sha256(target.read_bytes()).hexdigest()


def checksum() -> str:
    """Return the SHA-256 of what this package builds from: its programs and their data, not its texts for people."""
    digest = hashlib.sha256()
    for path, name in _files(_FOLDERS[0]):
        if path.suffix != ".md":
            digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a package, without compiled ones, and their names in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, str(path.relative_to(folder))


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file to the archive, without time and owner."""
    member = archive.gettarinfo(path, name)
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    with path.open("rb") as file:
        archive.addfile(member, file)
