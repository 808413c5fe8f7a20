"""Which shared libraries programs need, read from their ELF headers: no foreign code is run, unlike with ldd."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from q8s_bundle.errors import BundleError


def needed(path: Path) -> tuple[str, ...]:
    """The library names (DT_NEEDED) of an ELF file, and the path of its program interpreter if it has one."""
    with path.open("rb") as handle:
        try:
            elf = ELFFile(handle)
        except ELFError as error:
            raise BundleError(f"Failed to read {path}: it is no ELF file ({error})") from error
        names = [
            str(tag.needed)  # type: ignore[attr-defined]  # pyelftools sets it on DT_NEEDED tags
            for section in elf.iter_sections()
            if isinstance(section, DynamicSection)
            for tag in section.iter_tags()
            if tag.entry.d_tag == "DT_NEEDED"
        ]
        names += [segment.get_interp_name() for segment in elf.iter_segments() if isinstance(segment, InterpSegment)]
    return tuple(names)


def closure(programs: Iterable[Path], root: Path, folders: Iterable[str]) -> dict[str, Path]:
    """Every library that ``programs`` need, directly or through each other: path in the image -> file below ``root``.

    ``folders`` are searched below ``root``, in order; a library that is in none of them is a ``BundleError``.
    """
    places = tuple(folders)
    found: dict[str, Path] = {}
    waiting = [(name, program) for program in programs for name in needed(program)]
    while waiting:
        name, wanted_by = waiting.pop()
        inside = _locate(name, root, places)
        if inside is None:
            raise BundleError(
                f"Failed to collect libraries: {wanted_by.name} needs {name}, which no fetched package holds"
            )
        if inside not in found:
            found[inside] = (root / inside.lstrip("/")).resolve()
            waiting += [(further, found[inside]) for further in needed(found[inside])]
    return found


def _locate(name: str, root: Path, folders: tuple[str, ...]) -> str | None:
    candidates = (name,) if name.startswith("/") else tuple(f"{folder}/{name}" for folder in folders)
    return next((inside for inside in candidates if (root / inside.lstrip("/")).exists()), None)
