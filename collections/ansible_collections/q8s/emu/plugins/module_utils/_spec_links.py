# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The field ``network`` of a cluster file: its fields, and the rules that it gives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Callable, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _links, _links_sources, _text
from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint, Impairment, Loss, Rule
from ansible_collections.q8s.emu.plugins.module_utils._links_tc import EXEMPT_PORTS, MAX_QUEUE, rate_of_queue
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import LIVE
from ansible_collections.q8s.emu.plugins.module_utils._spec_kinds import (
    Choice,
    Field,
    Group,
    Items,
    Kind,
    Names,
    Text,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import Report, Value, found, join

_MAX_TABLE = 1 << 20  # characters: delays between 300 nodes are 600 kB


@dataclass(frozen=True)
class Measure(Kind):
    """Text with a unit. ``parse`` raises ValueError for others; ``pattern`` is for JSON Schema."""

    parse: Callable[[str], Any]
    what: str
    pattern: str

    def read(self, value: Value, path: str, report: Report) -> Any:
        try:
            if isinstance(value.data, str):
                return self.parse(value.data)
        except ValueError:
            pass
        report.fail(value, path, f"is {found(value.data)}; must be {self.what}")
        return None

    def description(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({self.pattern})$"}


@dataclass(frozen=True)
class OneOrGroup(Kind):
    """A single value, or a mapping with the fields of a group."""

    one: Kind
    group: Group

    def read(self, value: Value, path: str, report: Report) -> Any:
        kind = self.group if isinstance(value.data, dict) else self.one
        return kind.read(value, path, report)

    def description(self) -> str:
        return f"{self.one.description()}; or {self.group.description()}"

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.one.schema(), self.group.schema()]}


@dataclass(frozen=True)
class Rows(Kind):
    """A list of mappings with the same fields."""

    of: Group
    what: str

    def read(self, value: Value, path: str, report: Report) -> Optional[list[Any]]:
        if not isinstance(value.data, list):
            report.fail(value, path, f"is {found(value.data)}; must be {self.what}")
            return None
        return [self.of.read(item, f"{path}[{number}]", report) for number, item in enumerate(value.data)]

    def description(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.of.schema()}


@dataclass(frozen=True)
class Flag(Kind):
    """true or false."""

    def read(self, value: Value, path: str, report: Report) -> Optional[bool]:
        if isinstance(value.data, bool):
            return value.data
        report.fail(value, path, f"is {found(value.data)}; must be {self.description()}")
        return None

    def description(self) -> str:
        return "true or false"

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Degrees(Kind):
    """A latitude or a longitude."""

    limit: int

    def read(self, value: Value, path: str, report: Report) -> Optional[float]:
        data = value.data
        if isinstance(data, (int, float)) and not isinstance(data, bool) and -self.limit <= data <= self.limit:
            return float(data)
        report.fail(value, path, f"is {found(data)}; must be a {self.description()}")
        return None

    def description(self) -> str:
        return f"number (degrees) from -{self.limit} to {self.limit}"

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": -self.limit, "maximum": self.limit}


@dataclass(frozen=True)
class Table(Kind):
    """A table of delays in CSV, as text of several lines, or the name of a file beside the cluster file."""

    def read(self, value: Value, path: str, report: Report) -> Optional[dict[tuple[str, str], int]]:
        name = table_file(value.data)
        if name:
            return self._read_file(name, value, path, report)
        if not isinstance(value.data, str) or "\n" not in value.data.strip():
            hint = "write `matrix: |`, and below it the lines of the CSV file"
            report.fail(value, path, f"is {found(value.data)}; must be {self.description()}", hint)
            return None
        try:
            return _links_sources.parse_table(value.data)
        except ValueError as error:
            report.fail(value, path, str(error))
            return None

    @staticmethod
    def _read_file(name: str, value: Value, path: str, report: Report) -> Optional[dict[tuple[str, str], int]]:
        if report.folder is None:
            hint = (
                "write `matrix: |`, and below it the file's lines; with Ansible, pass q8s_cluster_file instead of -e @"
            )
            report.fail(value, path, f"is {name}, but the folder of the cluster file is not known", hint)
            return None
        try:
            with open(os.path.join(report.folder, name), encoding="utf-8-sig") as stream:
                text = stream.read(_MAX_TABLE + 1)
            if len(text) > _MAX_TABLE:
                raise ValueError(f"is larger than {_MAX_TABLE} characters")
            return _links_sources.parse_table(text)
        except UnicodeDecodeError:
            report.fail(value, path, f"{name}: is not text in UTF-8")
        except OSError as error:
            hint = "the file must be beside the cluster file"
            report.fail(value, path, f"{name} cannot be read: {error.strerror or error}", hint)
        except ValueError as error:
            report.fail(value, path, f"{name}: {error}")
        return None

    def description(self) -> str:
        return "CSV: names of columns, then lines of a name and delays in ms; or a file beside this one, such as delays.csv"

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


def table_file(text: Any) -> str:
    """Return the name of the file that has the table of delays; empty for none."""
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.csv", text) else ""


def _selector(text: str) -> str:
    _links.check_selector(text)
    return text


_NUMBER = r"[0-9]{1,9}(\.[0-9]{1,6})?"
_DELAY = Measure(_links.parse_delay, "a number with us, ms or s, such as 45ms, at most 60s", f"{_NUMBER}(us|ms|s)")
_RATE = Measure(
    _links.parse_rate,
    "a number with kbit, mbit or gbit, such as 30mbit, from 8kbit to 100gbit",
    f"{_NUMBER}(kbit|mbit|gbit)",
)
PERCENT = Measure(_links.parse_percent, "a number with %, such as 0.1%, at most 100%", r"[0-9]{1,3}(\.[0-9]{1,6})?%")
SELECTOR = Measure(_selector, f"{_links.SELECTORS}", rf"\*|{_links.CONTROL_PLANES}|(node|type|zone):.+")
_RECOVERY = Measure(
    partial(_links.parse_percent, least=_links.SMALLEST_PERCENT),
    "a number with %, such as 30%, above 0% and at most 100%: with 0%, no packet passes after the first loss",
    PERCENT.pattern,
)
_WORD = Text("a name: a-z, 0-9 and -, at most 63", r"[a-z0-9][a-z0-9-]{0,62}")

_UP_DOWN = Group(
    (Field("up", _RATE, "From `from` to `to`.", example="7mbit"), Field("down", _RATE, "Back.", example="30mbit")),
    "a mapping with up and down, such as {up: 7mbit, down: 30mbit}",
)
_GILBERT_ELLIOTT = Group(
    (
        Field("model", Choice({"gilbert-elliott": "gilbert-elliott"}), "The model.", example="gilbert-elliott"),
        Field("p", PERCENT, "Probability of entering the state that loses every packet.", example="1%"),
        Field("r", _RECOVERY, "Probability of leaving it.", example="30%"),
    ),
    "a mapping such as {model: gilbert-elliott, p: 1%, r: 30%}",
)
_IMPAIRMENT = (
    Field("delay", _DELAY, "Delay of each packet, one way.", default=None, edit=LIVE),
    Field("jitter", _DELAY, "Standard deviation of the delay, at most the delay itself.", default=None, edit=LIVE),
    Field(
        "distribution",
        Choice({name: name for name in _links.DISTRIBUTIONS}, suggest=False),
        f"Distribution of the delay when there is jitter; {_links.DISTRIBUTIONS[0]} if not given.",
        default=None,
        edit=LIVE,
    ),
    Field(
        "rate",
        OneOrGroup(_RATE, _UP_DOWN),
        "Rate on the wire. With `up` and `down`, the rule applies in both directions.",
        default=None,
        edit=LIVE,
    ),
    Field("loss", OneOrGroup(PERCENT, _GILBERT_ELLIOTT), "Share of lost packets.", default=None, edit=LIVE),
    Field("duplicate", PERCENT, "Share of duplicated packets.", default=None, edit=LIVE),
    Field("corrupt", PERCENT, "Share of packets with a wrong bit.", default=None, edit=LIVE),
    Field("reorder", PERCENT, "Share of packets sent without the delay.", default=None, edit=LIVE),
)
_DEFAULTS = Group(
    tuple(
        Field("rate", _RATE, "Rate on the wire.", default=None, edit=LIVE) if one.name == "rate" else one
        for one in _IMPAIRMENT
    ),
    "a mapping with delay, rate, loss, ...",
)
LINK = Group(
    (
        Field("from", SELECTOR, "The nodes that send.", attribute="source", example="zone:edge", edit=LIVE),
        Field("to", SELECTOR, "The nodes that receive.", attribute="target", example="zone:cloud", edit=LIVE),
        Field(
            "profile",
            Text(),
            "A profile of `profiles`, or a published one: "
            f"{', '.join(_links_sources.PRESETS)}. Further fields of the link replace its own.",
            default=None,
            edit=LIVE,
        ),
        Field("symmetric", Flag(), "`true`: in both directions.", default=None, edit=LIVE),
        *_IMPAIRMENT,
    ),
    "a mapping with from, to and what happens to packets",
)
_PLACE = Group(
    (
        Field("lat", Degrees(90), "Latitude, north of the equator.", example="48.2", edit=LIVE),
        Field("lon", Degrees(180), "Longitude, east of Greenwich.", example="16.4", edit=LIVE),
    ),
    "a mapping with lat and lon",
)

NETWORK = Group(
    (
        Field("defaults", _DEFAULTS, "What happens to packets in directions that no link matches.", {}),
        Field(
            "profiles",
            Names(_WORD, Group(_IMPAIRMENT, "a mapping with delay, rate, loss, ..."), "a mapping"),
            "Named impairments, for `profile` of a link.",
            {},
        ),
        Field(
            "coordinates",
            Names(Text(), _PLACE, "a mapping from zones to places, such as {edge: {lat: 48.2, lon: 16.4}}"),
            "Places of zones. Packets from zone to zone are delayed by 2.1 times what light takes in a straight fibre.",
            {},
            edit=LIVE,
        ),
        Field(
            "matrix",
            Table(),
            "Delays, one way, from the row to the column. Names are those of zones or nodes, or as in `from`; an empty "
            "cell says nothing. It comes before `coordinates`, and a link of `links` that is as specific before both.",
            default=None,
            edit=LIVE,
        ),
        Field(
            "links",
            Rows(LINK, "a list, such as [{from: zone:edge, to: zone:cloud, delay: 45ms}]"),
            "Impairments between nodes. The most specific link applies: `node:` before `type:` and `control-planes`, "
            "these before `zone:`, and `zone:` before `*`; of equally specific ones, the last.",
            [],
            edit=LIVE,
        ),
        Field(
            "exempt",
            Items(Choice({word: word for word in EXEMPT_PORTS}), "a list of ssh and apiserver"),
            "Traffic that no link delays or limits.",
            ["ssh", "apiserver"],
            edit=LIVE,
        ),
    ),
    "a mapping with links",
)


@dataclass(frozen=True)
class Links:
    """The rules of a cluster's links. ``exempt`` are words of EXEMPT_PORTS."""

    rules: tuple[Rule, ...] = ()
    default: Impairment = field(default_factory=Impairment)
    exempt: tuple[str, ...] = ("ssh", "apiserver")
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # in the file's own form, for `link set`
    matrix_file: str = field(default="", compare=False)  # beside the cluster file; its delays are in the rules

    def to_mapping(self) -> dict[str, Any]:
        """Return the links in the file's own form, with the profiles' values in each."""
        return {
            "defaults": _fields_of(self.default),
            **({"profiles": {name: dict(one) for name, one in self.profiles.items()}} if self.profiles else {}),
            "links": [rule_mapping(rule) for rule in self.rules],
            "exempt": list(self.exempt),
        }


def read_links(
    values: Optional[Mapping[str, Any]], endpoints: Iterable[Endpoint], root: Value, report: Report
) -> Links:
    """Return the links of a file whose fields were read; what does not fit is reported."""
    if not values or "network" not in root.data:
        return Links()
    endpoints = list(endpoints)
    rules = [
        *_coordinates(values["coordinates"] or {}, endpoints, root.at("network"), report),
        *_matrix(values["matrix"] or {}, endpoints, root.at("network"), report),
    ]
    profiles, placed = known_profiles(values), []
    place = root.at("network", "links")
    for number, row in enumerate(values["links"] or ()):
        path = f"network.links[{number}]"
        if row is None:
            continue
        rule = read_rule(row, profiles, place.data[number], path, report)
        if rule is not None:
            rules.append(rule)
            placed.append((rule, place.data[number], path))
            if _links.unmatched_rules(endpoints, [rule]):
                end, message, hint = _links.unmatched_end(endpoints, rule)
                report.warn(place.data[number].at(end), join(path, end) if end else path, message, hint)
    default = _impairment(values["defaults"] or {})[0]
    if values["defaults"]:
        _check(values["defaults"], default, root.at("network", "defaults"), join("network", "defaults"), report)
    _check_nodes(endpoints, rules, default, root.at("network"), report)
    if default.duplicate or any(rule.impairment.duplicate for rule in rules):
        conflict = _links.duplicate_conflict(endpoints, _links.link_matrix(endpoints, rules, default))
        if conflict:
            defaults = (Rule("*", "*", default), root.at("network", "defaults"), "network.defaults")
            _report_duplicate(conflict, endpoints, [defaults, *placed], report)
    own = {name: _profile_mapping(one) for name, one in (values["profiles"] or {}).items() if one}
    file = table_file(root.at("network", "matrix").data)
    return Links(tuple(rules), default, tuple(values["exempt"] or ()), own, file)


def known_profiles(values: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the published profiles and those of a file whose fields were read."""
    return {**_links_sources.PRESETS, **((values or {}).get("profiles") or {})}


def read_rule(
    row: Mapping[str, Any], profiles: Mapping[str, Any], place: Value, path: str, report: Report
) -> Optional[Rule]:
    """Return the rule of a link whose fields were read, or None if its ends are not known."""
    profile = row["profile"]
    if profile is not None and profile not in profiles:
        published = f"webpagetest-{profile}"
        close = published if published in profiles else report.close(profile, list(profiles))
        hint = f"did you mean {close}?" if close else f"defined: {', '.join(profiles)}"
        report.fail(place.at("profile"), f"{path}.profile", f"{profile} is not in network.profiles", hint)
        return None
    values = {**(profiles.get(profile) or {}), **{key: value for key, value in row.items() if value is not None}}
    if "source" not in values or "target" not in values:
        return None
    impairment, back = _impairment(values)
    _check(values, impairment, place, path, report)
    if values.get("symmetric") and back is not None:
        message = "has no effect beside a rate with up and down, with which the link applies in both directions already"
        report.warn(place.at("symmetric"), f"{path}.symmetric", message, "leave it out")
    if profile is None and not any(one.name in place.data for one in _IMPAIRMENT):
        message = "has nothing that happens to packets: they pass at once"
        report.warn(
            place, path, message, f"add one of {', '.join(one.name for one in _IMPAIRMENT)}; delay: 0ms says so"
        )
    symmetric = bool(values.get("symmetric")) and back is None
    return Rule(values["source"], values["target"], impairment, symmetric, back)


def _coordinates(
    places: Mapping[str, Any], endpoints: Sequence[Endpoint], network: Value, report: Report
) -> list[Rule]:
    """Return a rule for each two zones that have a place."""
    zones = {endpoint.zone for endpoint in endpoints if endpoint.zone}
    for zone in set(places) - zones:
        path = join("network.coordinates", zone)
        report.warn(network.at("coordinates", zone), path, "is not the zone of a node of this cluster")
    known = {
        zone: (place["lat"], place["lon"]) for zone, place in places.items() if place and None not in place.values()
    }
    return [
        Rule(
            f"zone:{here}",
            f"zone:{there}",
            Impairment(delay=_links_sources.delay_of_distance(known[here], known[there])),
        )
        for here in known
        for there in known
        if here != there
    ]


def _matrix(
    delays: Mapping[tuple[str, str], int], endpoints: Sequence[Endpoint], network: Value, report: Report
) -> list[Rule]:
    """Return a rule for each delay of the matrix."""
    zones = {endpoint.zone for endpoint in endpoints if endpoint.zone}
    nodes = {endpoint.name for endpoint in endpoints}
    selectors, unknown = {}, []
    for name in dict.fromkeys(name for pair in delays for name in pair):
        if name in zones or name in nodes:
            selectors[name] = f"{'zone' if name in zones else 'node'}:{name}"
        else:
            try:
                selectors[name] = _selector(name)
            except ValueError:
                unknown.append(name)
    if unknown:
        words = _text.join_names(unknown, 5)
        report.warn(network.at("matrix"), "network.matrix", f"names neither zones nor nodes of this cluster: {words}")
    return [
        Rule(selectors[source], selectors[target], Impairment(delay=delay))
        for (source, target), delay in delays.items()
        if source in selectors and target in selectors
    ]


def _check_nodes(
    endpoints: Sequence[Endpoint], rules: Sequence[Rule], default: Impairment, place: Value, report: Report
) -> None:
    """Report what no guest shapes."""
    control_planes = [endpoint for endpoint in endpoints if endpoint.control_plane]
    left = _links.link_matrix(control_planes, rules, default)
    if left:
        pairs = ", ".join(f"{source} -> {target}" for source, target in left)
        report.warn(
            place,
            "network",
            f"directions between control planes are not shaped: {pairs}",
            "links work where one end is a worker; control planes run on the cloud's servers",
        )


def place_of(name: str, place: Value, path: str) -> tuple[Value, str]:
    """Return the place and the path of a link's field: of the link itself, if the field is its profile's."""
    return (place.at(name), f"{path}.{name}") if name in place.data else (place, path)


def _report_duplicate(
    pair: tuple[str, str],
    endpoints: Sequence[Endpoint],
    placed: Sequence[tuple[Rule, Value, str]],
    report: Report,
) -> None:
    """Report duplicates that a guest's kernel refuses, at the last rule that has them for this direction."""
    for rule, place, path in reversed(placed):
        if rule.impairment.duplicate and pair in _links.link_matrix(endpoints, [rule]):
            where = place_of("duplicate", place, path)
            share = f"{rule.impairment.duplicate:g}%"
            message = f"is {share} from {pair[0]} to {pair[1]}; Linux allows no other link beside it on that node"
            report.fail(*where, message, "leave duplicate out, or let it be the only link of the node")
            return


def _check(values: Mapping[str, Any], impairment: Impairment, place: Value, path: str, report: Report) -> None:
    """Report what does not fit together in an impairment.

    :param values: its fields as they were read, a profile's among them
    """
    at = partial(place_of, place=place, path=path)
    delay, jitter = impairment.delay, impairment.jitter
    if "delay" in place.data and values.get("delay") is None:
        return  # its own error was reported
    if jitter and not delay:
        hint = "give it a delay that is larger than the jitter"
        report.fail(*at("jitter"), f"is {_milliseconds(jitter)}, without a delay", hint)
    elif jitter > delay:
        message = f"is {_milliseconds(jitter)}; must be at most the delay, {_milliseconds(delay)}"
        report.fail(*at("jitter"), message, "Linux sends packets at once whose delay would be below 0")
    elif 2 * jitter > delay:
        message = f"is {_milliseconds(jitter)}, more than half of the delay, {_milliseconds(delay)}"
        report.warn(*at("jitter"), message, "Linux cuts delays below 0, so that the mean is longer than the delay")
    if impairment.reorder and not delay:
        hint = "give it a delay: reordered packets are those without it"
        report.fail(*at("reorder"), f"is {impairment.reorder:g}%, without a delay", hint)
    if values.get("distribution") and not jitter:
        message = f"is {values['distribution']}, but has no effect without jitter"
        report.warn(*at("distribution"), message, "add a jitter, such as 5ms")
    back = values["rate"]["down"] if isinstance(values.get("rate"), dict) else None
    for rate in (impairment.rate, back):
        possible = rate_of_queue(replace(impairment, rate=rate or 0)) if rate is not None else 0
        if possible:
            message = (
                f"is {_milliseconds(delay)}, too long for "
                f"{f'a rate of {rate / 1_000_000:g} Mbit/s' if rate else 'an unlimited rate'}: "
                f"a guest's queue holds {MAX_QUEUE} packets, and packets are lost above {possible / 1_000_000:.3g} Mbit/s"
            )
            report.warn(*at("delay"), message, "give it a lower rate or a shorter delay")
            break


def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:g} ms"


def _impairment(values: Mapping[str, Any]) -> tuple[Impairment, Optional[int]]:
    """Return the impairment, and the rate of the opposite direction if it has one of its own."""
    given = {f.name: values[f.name] for f in fields(Impairment) if values.get(f.name) is not None}
    rate, loss, back = given.get("rate"), given.get("loss"), None
    if isinstance(rate, dict):
        given["rate"], back = rate["up"] or 0, rate["down"]
    if loss is not None:
        given["loss"] = Loss(loss["p"] or 0.0, loss["r"]) if isinstance(loss, dict) else Loss(loss)
    if not given.get("jitter"):
        given.pop("distribution", None)
    return Impairment(**given), back


def rule_mapping(rule: Rule) -> dict[str, Any]:
    """Return a rule in the file's own form."""
    fields_of = _fields_of(rule.impairment, rule.reverse_rate)
    return {"from": rule.source, "to": rule.target, "symmetric": rule.symmetric, **fields_of}


def _fields_of(impairment: Impairment, back: Optional[int] = None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    result["delay"] = f"{impairment.delay}us"  # always, so that a link that changes nothing says so
    if impairment.jitter:
        result["jitter"] = f"{impairment.jitter}us"
        result["distribution"] = impairment.distribution
    if back is not None:
        result["rate"] = {"up": _rate(impairment.rate), "down": _rate(back)}
    elif impairment.rate:
        result["rate"] = _rate(impairment.rate)
    loss = impairment.loss
    if loss is not None and loss.recover is not None:
        result["loss"] = {"model": "gilbert-elliott", "p": _percent(loss.percent), "r": _percent(loss.recover)}
    elif loss is not None:
        result["loss"] = _percent(loss.percent)
    for name in ("duplicate", "corrupt", "reorder"):
        if getattr(impairment, name):
            result[name] = _percent(getattr(impairment, name))
    return result


def _profile_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a profile in the file's own form. A link may add the jitter that its distribution is of."""
    chosen = values.get("distribution")
    return {**_fields_of(*_impairment(values)), **({"distribution": chosen} if chosen else {})}


def _rate(bits: int) -> str:
    return f"{bits // 1000}.{bits % 1000:03d}kbit"


def _percent(share: float) -> str:
    return f"{share:.6f}%"
