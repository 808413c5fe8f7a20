"""Damage to files: what a full disk, a text editor or another version of Q8S may leave of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_VALUES: Final = (
    None,
    "",
    "x",
    0,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    1e300,
    True,
    [],
    ["x"],
    [None],
    {},
    {"x": 1},
)


def variants(data: Any) -> Iterator[Any]:
    """Return data in which one value is another one, one key is missing, or one key is more."""
    yield from _VALUES
    if isinstance(data, Mapping):
        yield {**data, "of another version": 1}
        for key, value in data.items():
            yield {name: other for name, other in data.items() if name != key}
            for changed in variants(value):
                yield {**data, key: changed}
    elif isinstance(data, list):
        for number, value in enumerate(data):
            for changed in variants(value):
                yield [*data[:number], changed, *data[number + 1 :]]


def texts(data: Any) -> Iterator[str]:
    """Return ``variants`` as JSON."""
    for changed in variants(data):
        yield json.dumps(changed)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _unreadable(path: Path) -> None:
    """Make a file unreadable for root, too."""
    path.unlink()
    path.symlink_to(path.name)


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _latin(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'": "', b'": "\xe4', 1))


# What happens to a whole file, and what the message says of it.
FILES: Final[Mapping[str, tuple[Callable[[Path], Any], str]]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty; must be JSON"),
    "cut": (_cut, "is not JSON: "),
    "not UTF-8": (_latin, "byte 0xe4 is not UTF-8 text"),
    "zeros": (lambda path: path.write_bytes(bytes(512)), "is not JSON: "),
    "nested": (lambda path: path.write_text("[" * 200_000), "is nested too deeply"),
    "long number": (lambda path: path.write_text("9" * 9000), "has a number that is too large"),
    "folder": (_folder, "is a folder"),
    "unreadable": (_unreadable, "Too many levels of symbolic links"),
}
