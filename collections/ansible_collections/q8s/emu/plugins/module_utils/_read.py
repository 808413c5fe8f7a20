# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read JSON and YAML files that may be damaged: edited by hand, cut by a full disk, or written by another version.

``parse`` compares data with a shape. A shape is a dataclass, a TypedDict, or a type of their fields: text, numbers,
truth values, literals, lists, tuples of any length, mappings with text as keys, ``Optional`` of these, and ``Any``. Keys
that a shape does not name are allowed: another version of Q8S may have written them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import stat
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

from ansible_collections.q8s.emu.plugins.module_utils import _yaml
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import found, join

_MOST = 10**15  # a larger number is no time, size or rate that Q8S has written
_NONE = type(None)
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
# What the constructors of PyYAML raise besides YAMLError, for values such as 2026-13-45 and !!bool 5.
_YAML_PROBLEMS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class ReadError(Exception):
    """A file cannot be read, or is damaged. ``str()`` names the file, the place in it, what is there and what must be.

    :param reason: the same without the file
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """A place in a file.

    :param line: number of the line; 0 if it is not known
    :param path: path to a value, such as ``tasks[3].start``
    """

    file: str
    line: int = 0
    path: str = ""

    def at(self, key: Union[str, int]) -> Place:
        """Return the place of a value in a mapping or a list."""
        return replace(self, path=f"{self.path}[{key}]" if isinstance(key, int) else join(self.path, key))

    def error(self, message: str) -> ReadError:
        """Return the error for this place."""
        where, line = (f"{self.file}:{self.line}", f"line {self.line}: ") if self.line else (self.file, "")
        reason = f"{self.path}: {message}" if self.path else message
        return ReadError(f"Failed to read {where}: {reason}", line + reason)


def text(path: Union[str, os.PathLike[str]]) -> str:
    """Return the text of a file.

    :raises FileNotFoundError: there is no such file
    :raises ReadError: it is not a regular file, may not be read, or is not UTF-8
    """
    place = Place(os.fspath(path))
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise place.error("is a folder" if os.path.isdir(path) else "is not a regular file")
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise place.error(error.strerror or str(error)) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise replace(place, line=line).error(f"byte 0x{data[error.start]:02x} is not UTF-8 text") from None


def json_data(content: str, place: Place) -> Any:
    """Return the data of a text in JSON.

    :param place: where the text begins
    :raises ReadError: it is not JSON
    """
    first = place.line or 1
    if not content.strip():
        raise place.error("is empty; must be JSON")
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        at = replace(place, line=first + error.lineno - 1)
        raise at.error(f"is not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise place.error("is nested too deeply") from None
    except ValueError:  # a number of thousands of digits
        raise place.error("has a number that is too large") from None


def json_file(path: Union[str, os.PathLike[str]], shape: Any) -> Any:
    """Return the data of a file in JSON that has a shape.

    :raises FileNotFoundError: there is no such file
    :raises ReadError: it cannot be read, is not JSON, or does not have the shape
    """
    place = Place(os.fspath(path))
    return parse(shape, json_data(text(path), place), place)


def json_lines(path: Union[str, os.PathLike[str]]) -> Iterator[tuple[Place, Any]]:
    """Return place and data of each line of a file in JSON Lines. A last line that is cut is left out: its writer was killed.

    :raises FileNotFoundError: there is no such file
    :raises ReadError: it cannot be read, or a line is not JSON
    """
    lines = text(path).split("\n")
    for number, line in enumerate(lines, 1):
        place = Place(os.fspath(path), number)
        if line.strip():
            try:
                data = json_data(line, place)
            except ReadError:
                if number == len(lines) and line.startswith("{"):
                    return
                raise
            yield place, data


def readable_lines(path: Union[str, os.PathLike[str]], shape: Any) -> Iterator[Any]:
    """Yield the data of each line of a file in JSON Lines that has a shape. Skip what cannot be read: a line, or the file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        place = Place(os.fspath(path), number)
        with suppress(ReadError):
            yield parse(shape, json_data(line, place), place)


def yaml_data(content: str, place: Place) -> Any:
    """Return the data of a text in YAML.

    :raises ReadError: it is not YAML
    """
    import yaml

    try:
        return yaml.load(content, Loader=_yaml.Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or str(error).splitlines()[0]).split())
        at = replace(place, line=mark.line + 1) if mark else place
        raise at.error(f"is not YAML: {reason}") from None
    except _YAML_PROBLEMS as error:
        raise place.error(f"is not YAML: {error or type(error).__name__}") from None


def parse(shape: Any, data: Any, place: Place) -> Any:
    """Return data that has a shape: objects of its dataclasses, and dictionaries with all keys of its TypedDicts.

    :raises ReadError: it does not have the shape
    """
    if shape in (Any, object):
        return data
    if dataclasses.is_dataclass(shape) or _is_typed_dict(shape):
        return _fields(shape, data, place)
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is Literal:
        if data not in arguments:
            raise place.error(f"is {found(data)}; must be {' or '.join(map(str, arguments))}")
        return data
    if _NONE in arguments:
        return None if data is None else parse(next(one for one in arguments if one is not _NONE), data, place)
    if origin in (list, tuple, Sequence):
        if not isinstance(data, list):
            raise place.error(f"is {found(data)}; must be a list")
        items = [parse(arguments[0], item, place.at(number)) for number, item in enumerate(data)]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping):
        return {key: parse(arguments[1], value, place.at(str(key))) for key, value in _mapping(data, place).items()}
    return _scalar(shape, data, place)


def _scalar(shape: Any, data: Any, place: Place) -> Any:
    """Return text, a number or a truth value."""
    kinds = (int, float) if shape is float else shape
    if not isinstance(data, kinds) or (isinstance(data, bool) and shape is not bool):
        raise place.error(f"is {found(data)}; must be {_WORDS[shape]}")
    if shape in (int, float) and not -_MOST <= data <= _MOST:  # neither is NaN
        raise place.error(f"is {found(data)}; must be {_WORDS[shape]} from -1e15 to 1e15")
    return data


def _mapping(data: Any, place: Place) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise place.error(f"is {found(data)}; must be a mapping")
    return data


def _fields(shape: Any, data: Any, place: Place) -> Any:
    """Return an object of a dataclass, or a dictionary with the keys of a TypedDict."""
    given = _mapping(data, place)
    values = {}
    for name, kind in _types(shape).items():
        if name in given:
            values[name] = parse(kind, given[name], place.at(name))
        elif name in _required(shape):
            raise place.at(name).error("is missing")
    return {**given, **values} if _is_typed_dict(shape) else shape(**values)


@functools.cache
def _types(shape: Any) -> dict[str, Any]:
    """Return the types of the fields of a dataclass or TypedDict."""
    return typing.get_type_hints(shape)


def _is_typed_dict(shape: Any) -> bool:
    """Return whether a shape is a TypedDict, as ``typing.is_typeddict`` does since Python 3.10."""
    return isinstance(shape, type) and hasattr(shape, "__required_keys__")


@functools.cache
def _required(shape: Any) -> frozenset[str]:
    """Return the names of the fields that must be there."""
    if _is_typed_dict(shape):
        return frozenset(shape.__required_keys__)
    missing = dataclasses.MISSING
    return frozenset(
        one.name for one in dataclasses.fields(shape) if one.default is missing and one.default_factory is missing
    )
