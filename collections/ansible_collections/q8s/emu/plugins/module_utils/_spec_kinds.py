# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of fields that a cluster file has: how each is read, what the documentation says of it, its JSON Schema."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import Edit
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import UNUSABLE, Odd, Report, Value, found, join

REQUIRED: Any = object()  # the default of a field that has none


class Kind:
    """What may stand in a field."""

    def read(self, value: Value, path: str, report: Report) -> Any:
        """Return the value, or None after a problem was reported."""
        raise NotImplementedError

    def description(self) -> str:
        """Return what is allowed, for messages and the documentation."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """Return what is allowed, as far as JSON Schema can say it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Anything(Kind):
    """A field of the prototype that is not used. Its value is never looked at: it may hold a secret."""

    def read(self, value: Value, path: str, report: Report) -> Any:
        return None

    def description(self) -> str:
        return "anything"

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Text(Kind):
    """Text of one line. ``pattern`` means the same to Python and to JSON Schema; the value of a ``secret`` is not shown."""

    rule: str = "1 to 255 printable characters, no space at either end"
    pattern: str = r"\S(.{0,253}\S)?"
    hint: str = ""
    secret: bool = False

    def read(self, value: Value, path: str, report: Report) -> Optional[str]:
        data = value.data
        if not isinstance(data, str):
            hint = "put it in quotes" if isinstance(data, (int, float, Odd)) else self.hint
            rule = "" if self.rule == Text.rule else f": {self.rule}"
            report.fail(value, path, f"is {found(data)}; must be text{rule}", hint)
            return None
        if not re.fullmatch(self.pattern, data) or not (data.isprintable() or data == ""):
            report.fail(
                value, path, f"is {'not valid' if self.secret else found(data)}; must be {self.rule}", self.hint
            )
            return None
        return data

    def description(self) -> str:
        return "text" if self.rule == Text.rule else self.rule

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({self.pattern})$"}


@dataclass(frozen=True)
class Line(Kind):
    """One line of text, or nothing. The ``placeholder`` means nothing, too."""

    placeholder: str

    def read(self, value: Value, path: str, report: Report) -> Optional[str]:
        data = value.data
        if data is None:
            return ""
        if not isinstance(data, str) or not (data.isprintable() and len(data) <= 4096):
            report.fail(value, path, f"is {found(data)}; must be {self.description()}")
            return None
        if data.strip() == self.placeholder:
            report.warn(value, path, f"the placeholder {self.placeholder!r} is ignored")
            return ""
        return data.strip()

    def description(self) -> str:
        return "one line of text"

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "null"], "maxLength": 4096, "pattern": r"^[^\r\n]*$"}


@dataclass(frozen=True)
class Number(Kind):
    """A whole number."""

    low: int
    high: int
    unit: str = ""

    def read(self, value: Value, path: str, report: Report) -> Optional[int]:
        data = value.data
        if isinstance(data, bool) or not isinstance(data, int) or not self.low <= data <= self.high:
            report.fail(value, path, f"is {found(data)}; must be a {self.description()}", self._hint(data))
            return None
        return int(data)

    def _hint(self, data: Any) -> str:
        if isinstance(data, Odd) and re.fullmatch("[0-9]{1,9}", data.meaning):
            return f"write {data.meaning}, if that was meant"
        if isinstance(data, float) and abs(data) < 1e9 and data.is_integer():
            return f"write {int(data)}"
        if not isinstance(data, str):
            return ""
        if re.fullmatch(r"[0-9]{1,9}", data):
            return "remove the quotes"
        if re.fullmatch(r"[0-9]+ ?- ?[0-9]+", data):
            return "a range is not possible here; write each number"
        if re.fullmatch(r"[0-9]{1,4}[eE]\+?[0-9]", data):
            return f"write {int(float(data))}"
        if self.unit and re.fullmatch(r"[0-9.]+ ?[kKMGTmgt]?i?[bB]?", data):
            return f"write the number alone, in {self.unit}"
        return ""

    def description(self) -> str:
        return f"whole number{f' ({self.unit})' if self.unit else ''} from {self.low} to {self.high}"

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Choice(Kind):
    """One of some words; each spelling gives what is meant. ``fold``: in any case of letters.

    Without ``suggest``, no similar word is suggested: the words mean something else than those that look like them.
    """

    spellings: Mapping[str, str]
    fold: bool = False
    hint: str = ""
    suggest: bool = True

    def read(self, value: Value, path: str, report: Report) -> Optional[str]:
        data = value.data
        text = data.lower() if isinstance(data, str) and self.fold else data
        if isinstance(text, str) and text in self.spellings:
            return self.spellings[text]
        close = report.close(text, list(self.spellings)) if isinstance(text, str) and self.suggest else ""
        hint = f"did you mean {close}?" if close else self.hint
        report.fail(value, path, f"is {found(data)}; allowed: {self.description()}", hint)
        return None

    def description(self) -> str:
        groups: dict[str, list[str]] = {}
        for spelling, meant in self.spellings.items():
            groups.setdefault(meant, []).append(spelling)
        return ", ".join(f"{one[0]} (or {', '.join(one[1:])})" if one[1:] else one[0] for one in groups.values())

    def schema(self) -> dict[str, Any]:
        known = list(self.spellings)
        if not self.fold:
            return {"type": "string", "enum": known}
        letters = ("".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in word) for word in known)
        return {"type": "string", "pattern": f"^({'|'.join(letters)})$"}


_NOT_FOR_HOSTS = [ipaddress.IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")]


@dataclass(frozen=True)
class Network(Kind):
    """An IPv4 network with the prefix lengths that are allowed, and why."""

    shortest: int = 1
    longest: int = 30
    reason: str = "the prefix length must be"
    any_address: bool = False  # also those that no machine may have

    def read(self, value: Value, path: str, report: Report) -> Optional[ipaddress.IPv4Network]:
        data = value.data
        if not isinstance(data, str):
            report.fail(value, path, f"is {found(data)}; must be {self._example()}")
            return None
        network = None
        with contextlib.suppress(ValueError):
            network = ipaddress.IPv4Network(data, strict=False)
        if network is None or data != str(network):
            hint = f"write {network}" if network else ""
            if network and "/" not in data and self.longest < 32:
                hint = "add the prefix length, such as /24"
            report.fail(value, path, f"is {found(data)}; must be {self._example()}", hint)
            return None
        if not self.shortest <= network.prefixlen <= self.longest:
            message = f"is {found(data)}; {self.reason} from /{self.shortest} to /{self.longest}"
            report.fail(value, path, message)
            return None
        for other in [] if self.any_address else _NOT_FOR_HOSTS:
            if network.overlaps(other):
                report.fail(value, path, f"is {network}, but addresses of {other} are not for machines")
                return None
        return network

    def description(self) -> str:
        return f"IPv4 network, /{self.shortest} to /{self.longest}"

    def _example(self) -> str:
        return f"an IPv4 network, such as 10.254.1.0/{min(max(24, self.shortest), self.longest)}"

    def schema(self) -> dict[str, Any]:
        byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
        lengths = "|".join(str(length) for length in range(self.shortest, self.longest + 1))
        return {"type": "string", "pattern": rf"^{byte}(\.{byte}){{3}}/({lengths})$"}


@dataclass(frozen=True)
class Items(Kind):
    """A list of values of one kind, each of which counts once."""

    of: Kind
    what: str
    must_hold: str = ""
    why: str = ""

    def read(self, value: Value, path: str, report: Report) -> Optional[tuple[Any, ...]]:
        if not isinstance(value.data, list):
            report.fail(value, path, f"is {found(value.data)}; must be {self.what}")
            return None
        result: dict[Any, None] = {}  # in the file's order
        for number, item in enumerate(value.data):
            one = _read(self.of, item, f"{path}[{number}]", report)
            if one in result and one is not None:
                report.warn(item, f"{path}[{number}]", f"{one} is in the list twice")
            elif one is not None:
                result[one] = None
        if self.must_hold and self.must_hold not in result:
            report.fail(value, path, f"has no {self.must_hold}, {self.why}", f"add - {self.must_hold}")
        return tuple(result)

    def description(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        result: dict[str, Any] = {"type": "array", "items": self.of.schema()}
        if self.must_hold:
            result["contains"] = {"const": self.must_hold}
        return result


@dataclass(frozen=True)
class Names(Kind):
    """A mapping whose keys are names of the user's."""

    key: Text
    of: Kind
    what: str

    def read(self, value: Value, path: str, report: Report) -> Optional[dict[str, Any]]:
        if not is_mapping(value, path, self.what, "", report):
            return None
        result = {}
        for name, item in value.data.items():
            if not re.fullmatch(self.key.pattern, name):
                report.fail(value.key(name), join(path, name), f"the name {found(name)} must be {self.key.rule}")
            result[name] = _read(self.of, item, join(path, name), report)
        return result

    def description(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^({self.key.pattern})$"},
            "additionalProperties": self.of.schema(),
        }


@dataclass(frozen=True)
class Field:
    """One field: its place is in a Group. ``default`` is in the file's own form; None means that nothing is there.

    ``edit`` is the class of its edits on a running cluster. A mapping has none; each field in it has its own.
    """

    name: str
    kind: Kind
    about: str
    default: Any = REQUIRED
    example: str = ""  # of a required field
    spelling: str = ""  # another name that is read too
    attribute: str = ""  # what a Cluster calls it, where that differs
    edit: Optional[Edit] = None

    @property
    def key(self) -> str:
        """The name of the field in the result."""
        return self.attribute or self.name


@dataclass(frozen=True)
class Group(Kind):
    """A mapping with fields that are known. What stands there instead of a ``secret`` one is not shown."""

    fields: Sequence[Field]
    what: str
    tag: str = ""
    secret: bool = False

    def edit(self, name: str) -> Edit:
        """Return the class of the edits of a field.

        :raises ValueError: the field has none
        """
        found = next(one.edit for one in self.fields if one.name == name)
        if found is None:
            raise ValueError(f"{name} has no class")
        return found

    def read(self, value: Value, path: str, report: Report) -> Optional[dict[str, Any]]:
        if self.secret and isinstance(value.data, str):
            report.fail(value, path, f"is text; must be {self.what}")
            return None
        if not is_mapping(value, path, self.what, self.tag, report):
            return None
        known = [name for one in self.fields for name in (one.name, one.spelling) if name]
        for key in value.data:
            if key not in known:
                close = report.close(key, known)
                listed = (
                    f"known here: {', '.join(known)}"
                    if len(known) < 20
                    else "docs/reference/cluster-file.md lists the fields"
                )
                hint = f"did you mean {close}?" if close else listed
                report.fail(value.key(key), join(path, key), "unknown key", hint)
        return {one.key: self._field(one, value, path, report) for one in self.fields}

    @staticmethod
    def _field(one: Field, value: Value, path: str, report: Report) -> Any:
        given = [name for name in (one.name, one.spelling) if name and name in value.data]
        if len(given) == 2:
            place = join(path, one.spelling)
            report.fail(value.key(one.spelling), place, f"{one.name} is given too", "keep one of the two")
        if given:
            return _read(one.kind, value.data[given[0]], join(path, given[0]), report)
        if one.default is REQUIRED:
            hint = getattr(one.kind, "hint", "")
            report.fail(
                value,
                join(path, one.name),
                "is missing",
                f"such as {one.name}: {one.example}" + (f"; {hint}" if hint else ""),
            )
            return None
        return None if one.default is None else one.kind.read(from_default(one.default, value), path, report)

    def description(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for one in self.fields:
            edited = f" An edit on a running cluster: {one.edit.effect.value}." if one.edit else ""
            shown = {**one.kind.schema(), "description": f"{one.about}{edited}"}
            if one.default not in (REQUIRED, None):
                shown["default"] = one.default
            for name in filter(None, (one.name, one.spelling)):
                properties[name] = shown
        required = [one.name for one in self.fields if one.default is REQUIRED]
        result: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**result, "required": required} if required else result


def _read(kind: Kind, value: Value, path: str, report: Report) -> Any:
    return None if value.data is UNUSABLE else kind.read(value, path, report)


def from_default(default: Any, place: Value) -> Value:
    """Return a default as if it stood in the file."""
    if isinstance(default, dict):
        return Value({key: from_default(value, place) for key, value in default.items()}, place.line, place.column)
    data = [from_default(item, place) for item in default] if isinstance(default, list) else default
    return Value(data, place.line, place.column)


def is_mapping(value: Value, path: str, what: str, tag: str, report: Report) -> bool:
    """Return whether it is a mapping; a tag must be the one that belongs there."""
    if value.tag and value.tag != tag:
        report.fail(value, path, f"the tag is {value.tag}; allowed: {f'{tag} or no tag' if tag else 'no tag'}")
    if not isinstance(value.data, dict):
        report.fail(value, path, f"is {found(value.data)}; must be {what}")
        return False
    return True
