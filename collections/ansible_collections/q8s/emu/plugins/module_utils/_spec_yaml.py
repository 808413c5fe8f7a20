# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster file's text as values that know their place, and the report that collects its mistakes.

YAML is read by PyYAML's parser, but not by its constructors: what YAML 1.1 makes of 012, on or 22:22 is kept as it stands
in the file, so that a message can name it.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils import _yaml

if _yaml.HAS_YAML:
    import yaml

TAGS = ("!ClusterData", "!ClusterDefinition", "!VmTypes", "!VmType")
_CORE = "tag:yaml.org,2002:"
_KINDS = {
    "MappingNode": frozenset(["map"]),
    "SequenceNode": frozenset(["seq"]),
    "ScalarNode": frozenset(["str", "int", "float", "bool", "null", "timestamp", "value", "merge"]),
}
_MAX_DEPTH = 20
_SHOWN = 50  # mistakes of a file that is something else altogether
_MAX_MERGED = 10_000  # keys that << brings in; merges of merges could ask for any number
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")


@dataclass(frozen=True)
class Problem:
    """One mistake in a cluster file. ``line`` and ``column`` count from 1; both are 0 where there is no text."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"

    def text(self) -> str:
        """Return the problem on a line of its own, its hint below it."""
        return f"{self}\n  hint: {self.hint}" if self.hint else str(self)


class SpecError(Exception):
    """A cluster file has mistakes: all of them, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line, p.column)))
        super().__init__(self.text())

    def text(self) -> str:
        """Return every problem on a line of its own, each hint below it; of very many the first."""
        more = len(self.problems) - _SHOWN
        lines = [problem.text() for problem in self.problems[:_SHOWN]]
        return "\n".join([*lines, f"and {more} more mistakes"] if more > 0 else lines)


UNUSABLE: Any = object()  # the data of a value whose mistake was reported already


@dataclass(frozen=True)
class Odd:
    """A word that YAML 1.1 does not read as what it looks like."""

    text: str
    meaning: str


@dataclass(frozen=True)
class Value:
    """A value and where it stands. Mappings hold a Value by key, and each key's own place."""

    data: Any
    line: int = 0
    column: int = 0
    tag: str = ""
    keys: Mapping[str, Value] = field(default_factory=dict)

    def at(self, *keys: str) -> Value:
        """Return the value below these keys, or the last one on the way to it that exists."""
        value = self
        for key in keys:
            if not isinstance(value.data, dict) or key not in value.data:
                break
            value = value.data[key]
        return value

    def key(self, key: str) -> Value:
        """Return where a key of this mapping stands; without it, the mapping."""
        return self.keys.get(key, self)


class Report:
    """Collects what is wrong with a file, and what is only suspicious."""

    def __init__(self, origin: str, folder: Optional[str] = None) -> None:
        """``folder`` is that of the file, for files that it names; None if the file is not known."""
        self.origin = origin
        self.folder = folder
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def fail(self, place: Value, path: str, message: str, hint: str = "") -> None:
        """Add a mistake, for which the file is refused. A value whose mistake was reported already has no other."""
        if place.data is not UNUSABLE:
            self.problems.append(Problem(self.origin, place.line, place.column, path, message, hint))

    def warn(self, place: Value, path: str, message: str, hint: str = "") -> None:
        """Report a warning: the file is valid, but hardly what was meant."""
        self.warnings.append(Problem(self.origin, place.line, place.column, path, message, hint))

    def close(self, word: str, known: Sequence[str]) -> str:
        """Return the known word that is most like it, if any is. Comparing is slow: not with many words, nor for many mistakes."""
        if len(known) > 200 or len(word) > 100 or len(self.problems) > _SHOWN:
            return ""
        return next(iter(difflib.get_close_matches(word, known, 1, 0.6)), "")


def join(path: str, key: str) -> str:
    """Return the path of a key in a mapping. A key that is no plain word is quoted, and shortened."""
    if not re.fullmatch(r"[A-Za-z0-9_./!-]{1,80}", key):
        key = ascii(key if len(key) <= 40 else key[:37] + "...")
    return f"{path}.{key}" if path else key


def found(value: Any) -> str:
    """Describe what stands in the file, in words that fit a message; never long."""
    if value is None:
        return "nothing"
    if isinstance(value, Odd):
        return f"{_short(value.text)}, which YAML reads as {_short(value.meaning)}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a very large number"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else repr(value[:57])[:-1] + "...'"
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def from_data(data: Any) -> Value:
    """Return the values of what something else has read, such as Ansible; they have no place."""
    if isinstance(data, Mapping):
        keys = {str(key): Value(str(key)) for key in data}
        return Value({str(key): from_data(value) for key, value in data.items()}, keys=keys)
    if isinstance(data, (list, tuple)):
        return Value([from_data(item) for item in data])
    # Ansible marks text with subclasses of str; nothing of that belongs in a cluster.
    return Value(str(data) if isinstance(data, str) else data)


def read(text: Union[str, bytes], report: Report) -> Value:
    """Return the values of a file. Report what is wrong with single keys and tags.

    :raises SpecError: it is no YAML, or not one document; or there is no PyYAML to read it
    """
    if not _yaml.HAS_YAML:
        message = f"cannot be read: the Python package PyYAML is missing in {sys.executable}"
        raise SpecError([Problem(report.origin, 0, 0, "", message, "install it there, or run make setup")])
    content = text if isinstance(text, str) else _decoded(text, report)

    def stop(line: int, column: int, message: str, hint: str = "") -> SpecError:
        return SpecError([Problem(report.origin, line, column, "", message, hint)])

    try:
        loader = _yaml.Loader(content)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
        if root is not None:
            return _Reader(report).convert(root, "", 0)
    except yaml.MarkedYAMLError as error:
        raise stop(*_syntax(error, content)) from None
    except yaml.reader.ReaderError as error:
        lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", content[: error.position])
        message = f"has the character U+{ord(content[error.position]):04X}, which YAML does not allow"
        raise stop(len(lines), len(lines[-1]) + 1, message) from None
    except RecursionError:
        raise stop(1, 1, "nested too deeply: this is not a cluster file") from None
    raise stop(
        1,
        1,
        "empty; a cluster file is a mapping",
        "remove it; then `q8s-run init FILE` writes one from what your cloud offers",
    )


def _decoded(text: bytes, report: Report) -> str:
    """Return the text of bytes. Refuse others than UTF-8: Ansible takes nothing else."""
    line, message = 1, ""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        message = "the text is UTF-16; a cluster file is UTF-8"
    elif b"\0" in text:
        line, message = text[: text.index(b"\0")].count(b"\n") + 1, "has a NUL byte; a cluster file is UTF-8 text"
    else:
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            line = text[: error.start].count(b"\n") + 1
            message = f"byte 0x{text[error.start]:02x} is not UTF-8; a cluster file is UTF-8 text"
    raise SpecError([Problem(report.origin, line, 1, "", message, "save it as UTF-8")])


def _syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[int, int, str, str]:
    """Return line, column, message and hint for an error of PyYAML."""
    what, context = error.problem or "it cannot be read", error.context or ""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    message, hint = f"not YAML: {what}", ""
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        message, hint = "not YAML: a tab", "indent with spaces"
    elif "another document" in what:
        message, hint = "a second document begins here; a cluster file is one", "remove the line --- and what follows"
    elif begin is not None and ("flow sequence" in context or "flow mapping" in context):
        # where it begins: what follows a bracket that is not closed is read as part of it
        mark, message = begin, "not YAML: this bracket is not closed, or a comma in it is missing"
    elif begin is not None and "quoted scalar" in context and "end of stream" in what:
        mark, message = begin, "not YAML: this quote is not closed"
    else:
        hint = next((hint for words, hint in _HINTS.items() if words in what), "")
    return (mark.line + 1, mark.column + 1, message, hint) if mark else (1, 1, message, hint)


_HINTS = {
    "mapping values are not allowed": "put a value that has a colon in quotes, or fix the line above: its colon, its indentation",
    "expected <block end>": "compare the indentation of this line with the lines above it",
    "could not find expected ':'": "a key needs a colon and a space after it",
    "found undefined alias": "*NAME stands for what &NAME marks above it; put text that begins with * in quotes",
    "cannot start any token": "put text that begins with @, ` or % in quotes",
}


class _Reader:
    """PyYAML's nodes to values. Our own tags are kept for the checker, which knows which one belongs where."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._done: dict[int, Value] = {}
        self._merged = 0
        self._constructor = yaml.constructor.SafeConstructor()

    def convert(self, node: yaml.Node, path: str, depth: int) -> Value:
        """Convert each node once, however often an alias names it."""
        known = self._done.get(id(node))
        if known is not None:
            return known
        place = Value(None, node.start_mark.line + 1, node.start_mark.column + 1)
        self._done[id(node)] = place  # what an alias to a parent of itself finds
        tag = self._tag(node, place, path)
        keys: dict[str, Value] = {}
        data: Any = None
        if depth > _MAX_DEPTH:
            data = UNUSABLE
            self.report.fail(place, path, "nested too deeply: this is not a cluster file")
        elif tag is None:
            data = UNUSABLE
        elif isinstance(node, yaml.MappingNode):
            data, keys = self._mapping(node, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            data = []
            for number, item in enumerate(node.value):
                data.append(self.convert(item, f"{path}[{number}]", depth + 1))
        elif isinstance(node, yaml.ScalarNode):
            data = self._scalar(node)
        value = Value(data, place.line, place.column, tag or "", keys)
        self._done[id(node)] = value
        return value

    def _tag(self, node: yaml.Node, place: Value, path: str) -> Optional[str]:
        """Return one of our own tags, or an empty one; None after a problem was reported that leaves nothing to check."""
        tag = str(node.tag)
        if tag == "!" or (tag.startswith(_CORE) and tag[len(_CORE) :] in _KINDS[type(node).__name__]):
            return ""
        if tag in TAGS and isinstance(node, yaml.MappingNode):
            return tag
        shown = ascii(tag.replace(_CORE, "!!"))[1:-1]
        self.report.fail(
            place, path, f"the tag is {_short(shown)}; the tags of a cluster file are {', '.join(TAGS)}", "remove it"
        )
        return "" if isinstance(node, yaml.MappingNode) and not tag.startswith(_CORE) else None

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> tuple[dict[str, Value], dict[str, Value]]:
        data: dict[str, Value] = {}
        keys: dict[str, Value] = {}
        merged: list[Value] = []
        for key_node, value_node in node.value:
            place = Value(None, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.report.fail(place, path, "a key must be a word")
                continue
            key = str(key_node.value)
            self._key(key_node, place, join(path, key))
            value = self.convert(value_node, join(path, key), depth + 1)
            if key_node.tag == _CORE + "merge":
                merged += self._mergeable(value, path)
            elif key in data:
                message = f"is a duplicate key; the first is in line {keys[key].line}"
                self.report.fail(place, join(path, key), message, "keep one of the two")
            else:
                data[key], keys[key] = value, Value(key, place.line, place.column)
        for other in merged:
            self._merged += len(other.data)
            if self._merged > _MAX_MERGED:
                self.report.fail(other, path, f"<< brings in more than {_MAX_MERGED} keys: this is not a cluster file")
                break
            for key, value in other.data.items():
                data.setdefault(key, value)
                keys.setdefault(key, other.keys[key])
        return data, keys

    def _key(self, node: yaml.ScalarNode, place: Value, path: str) -> None:
        """Refuse a key that is not text: YAML 1.1 reads on as true, and Ansible would too."""
        kind = node.tag[len(_CORE) :] if node.tag.startswith(_CORE) else ""
        if kind == "":
            self._tag(node, place, path)
        elif kind not in ("str", "merge", "value"):
            self.report.fail(place, path, f"the key is {found(self._scalar(node))}; must be text", "put it in quotes")

    def _mergeable(self, value: Value, path: str) -> list[Value]:
        parts = value.data if isinstance(value.data, list) else [value]
        for part in parts:
            if not isinstance(part.data, dict):
                self.report.fail(part, path, f"<< is given {found(part.data)}; it takes a mapping or a list of them")
        return [part for part in parts if isinstance(part.data, dict)]

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        """Return a word as it was most likely meant; as Odd, if YAML means something else by it."""
        kind, text = node.tag[len(_CORE) :], str(node.value)
        if not node.tag.startswith(_CORE) or kind not in ("int", "float", "bool", "null", "timestamp"):
            return text
        if kind == "null":
            return None
        if kind == "bool":
            meant = str(self._constructor.bool_values.get(text.lower(), text)).lower()
            return meant == "true" if text.lower() == meant else Odd(text, f"the truth value {meant}")
        if kind == "int" and _DECIMAL.fullmatch(text):
            return int(text)
        if kind == "timestamp":
            return Odd(text, "a date")
        return self._number(node, kind, text)

    def _number(self, node: yaml.ScalarNode, kind: str, text: str) -> Any:
        meaning: Optional[Union[int, float]] = None
        try:
            if kind == "float":
                meaning = self._constructor.construct_yaml_float(node)
            elif len(text) <= 40:
                meaning = self._constructor.construct_yaml_int(node)
        except (ValueError, KeyError, OverflowError, IndexError):
            return text
        if meaning is None:
            return Odd(text, "a very large number")
        if kind == "float" and ":" not in text:
            return meaning
        return Odd(text, str(meaning))
