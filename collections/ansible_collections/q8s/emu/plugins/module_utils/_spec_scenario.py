# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The field ``scenario`` of a cluster file: its fields, and the events that it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils import _links, _scenario, _spec_links
from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint, Rule
from ansible_collections.q8s.emu.plugins.module_utils._scenario import Churn, LinkEvent, NodeEvent, Scenario
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import NONE
from ansible_collections.q8s.emu.plugins.module_utils._spec_kinds import Choice, Field, Group, Items, Kind, Number, Text
from ansible_collections.q8s.emu.plugins.module_utils._spec_links import (
    LINK,
    PERCENT,
    SELECTOR,
    Links,
    Measure,
    Rows,
    place_of,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import Report, Value, found

_MIN_MEAN = 1_000
_MIN_PERIOD = 4_000  # a change of links takes up to a second on an emulated node


@dataclass(frozen=True)
class Pair(Kind):
    """A list of two values of one kind."""

    of: Kind
    what: str

    def read(self, value: Value, path: str, report: Report) -> Optional[tuple[Any, Any]]:
        if not isinstance(value.data, list) or len(value.data) != 2:
            given = f"a list of {len(value.data)}" if isinstance(value.data, list) else found(value.data)
            report.fail(value, path, f"is {given}; must be {self.what}")
            return None
        first, second = (self.of.read(item, f"{path}[{number}]", report) for number, item in enumerate(value.data))
        return (first, second) if first is not None and second is not None else None

    def description(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.of.schema(), "minItems": 2, "maxItems": 2}


_TIME = Measure(_scenario.parse_time, _scenario.TIME, r"[0-9]{1,8}(\.[0-9]{1,3})?(ms|s|min|h)")
_ENDS = Pair(SELECTOR, "a list of two groups of nodes, such as [zone:edge, zone:cloud]")
_QUOTA = Measure(  # libvirt limits to no less than 1%
    partial(_links.parse_percent, least=1), "a number with %, such as 25%, from 1% to 100%", PERCENT.pattern
)
_ALL_HOW = list(_scenario.CHURN)

_WORKERS = (
    Field("type", Text(), "The workers of this type.", default=None, edit=NONE),
    Field("zone", Text(), "The workers of this zone.", default=None, edit=NONE),
    Field("node", Text(), "This worker.", default=None, edit=NONE),
)
CHURN = Group(
    (
        *_WORKERS,
        Field("mtbf", _TIME, "Mean time between the end of a fault and the next one.", example="20min", edit=NONE),
        Field("mttr", _TIME, "Mean duration of a fault.", example="2min", edit=NONE),
        Field(
            "how",
            Items(Choice({word: word for word in _scenario.CHURN}), f"a list of some of {', '.join(_scenario.CHURN)}"),
            "Kinds of faults, each as likely as the others. `destroy`: the guest's power is off. `pause`: its CPUs stand "
            "still. `netdown`: its host passes nothing on to it or from it. `reboot`: its reset button is pressed.",
            _ALL_HOW,
            edit=NONE,
        ),
    ),
    "a mapping such as {type: arm-mid, mtbf: 20min, mttr: 2min}",
)

CPU = Group(
    (
        *_WORKERS,
        Field(
            "quota",
            _QUOTA,
            "What each CPU of the worker gets of one CPU of its host, at least 1%.",
            example="25%",
            edit=NONE,
        ),
    ),
    "a mapping such as {type: arm-mid, quota: 25%}",
)

_SET = Group(tuple(replace(one, edit=NONE) for one in LINK.fields), LINK.what)

EVENT = Group(
    (
        Field("at", _TIME, "Time of `set`, `partition`, `stop`, `start`, `cpu` or `reboot`.", default=None, edit=NONE),
        Field(
            "for",
            _TIME,
            "Duration of `set`, `partition`, `stop` or `cpu`. `stop` may be without: it lasts until `start`, or until the "
            "scenario's end.",
            default=None,
            attribute="length",
            edit=NONE,
        ),
        Field("from", _TIME, "Begin of `churn` or `flap`.", default=None, attribute="begin", edit=NONE),
        Field("to", _TIME, "End of `churn` or `flap`.", default=None, attribute="end", edit=NONE),
        Field("set", _SET, "A link that applies instead of those of `network`.", default=None),
        Field("partition", _ENDS, "No packet passes between these nodes, in both directions.", default=None, edit=NONE),
        Field(
            "flap",
            _ENDS,
            "No packet passes between these nodes in the first half of each `period`.",
            default=None,
            edit=NONE,
        ),
        Field("period", _TIME, "Period of `flap`, at least 4s.", default=None, edit=NONE),
        Field("churn", CHURN, "Workers that fail at random. The seed decides when and how.", default=None),
        Field("stop", SELECTOR, "Workers whose power is off.", default=None, edit=NONE),
        Field(
            "start", SELECTOR, "Workers whose power is on again, after `stop` without `for`.", default=None, edit=NONE
        ),
        Field("cpu", CPU, "Workers whose CPUs are slower.", default=None),
        Field("reboot", SELECTOR, "Workers whose reset button is pressed.", default=None, edit=NONE),
    ),
    "a mapping with at or from, and what happens",
)

SCENARIO = Group(
    (
        Field("seed", Number(0, 2**31 - 1), "Seed of all that is random.", 0, edit=NONE),
        Field(
            "events",
            Rows(EVENT, "a list, such as [{at: 60s, for: 30s, partition: [zone:edge, zone:cloud]}]"),
            "What happens, each at its time since the scenario's begin.",
            [],
            edit=NONE,
        ),
    ),
    "a mapping with seed and events",
)

_BY_KIND = {
    "set": ("at", "for"),
    "partition": ("at", "for"),
    "flap": ("from", "to", "period"),
    "churn": ("from", "to"),
    "stop": ("at", "for"),
    "start": ("at",),
    "cpu": ("at", "for"),
    "reboot": ("at",),
}
_OPTIONAL = {"stop": ("for",)}
_TIMES = {"at": "at", "for": "length", "from": "begin", "to": "end", "period": "period"}


def read_scenario(
    values: Optional[Mapping[str, Any]],
    root: Value,
    report: Report,
    *,
    profiles: Mapping[str, Any],
    links: Links,
    endpoints: Iterable[Endpoint],
) -> Scenario:
    """Return the scenario of a file whose fields were read; what does not fit is reported."""
    if not values or "scenario" not in root.data:
        return Scenario()
    endpoints, place = list(endpoints), root.at("scenario", "events")
    reader, problems, events = _Reader(profiles, links, endpoints, report), len(report.problems), []
    for number, row in enumerate(values["events"] or ()):
        path = f"scenario.events[{number}]"
        if row is not None and reader.fits(row, place.data[number], path):
            events.append(reader.event(row, place.data[number], path))
    scenario = Scenario(values["seed"] or 0, tuple(event for event in events if event is not None))
    if len(report.problems) == problems:
        for number, node, message in _scenario.unpaired(scenario, endpoints):
            how = getattr(scenario.events[number], "how", "")
            report.fail(place.data[number].at(how), f"scenario.events[{number}].{how}", f"{node} {message}")
    if len(report.problems) == problems:
        both = _scenario.overlapping(_scenario.planned_faults(scenario, endpoints))
        if both:
            first, second = both
            report.fail(
                place.data[second.event],
                f"scenario.events[{second.event}]",
                f"{second.text} begins at {_scenario.format_time(second.begin)}, while {first.text} of "
                f"events[{first.event}] lasts until {_scenario.format_time(first.end)}",
                "a node has one fault at a time",
            )
    return scenario


_KNOWN = frozenset(one.name for one in EVENT.fields)


@dataclass(frozen=True)
class _Reader:
    """Reads events whose fields were read; what does not fit is reported."""

    profiles: Mapping[str, Any]
    links: Links
    endpoints: Sequence[Endpoint]
    report: Report

    def fits(self, row: Mapping[str, Any], place: Value, path: str) -> bool:
        """Report an event that is not of exactly one kind, or does not have that kind's times."""
        kinds = [kind for kind in _BY_KIND if kind in place.data]
        if not kinds and any(key not in _KNOWN for key in place.data):
            return False  # an unknown key was reported
        if len(kinds) != 1:
            given = " and ".join(kinds) or "nothing that happens"
            self.report.fail(place, path, f"has {given}; must have one of {', '.join(_BY_KIND)}")
            return False
        wanted, fits = _BY_KIND[kinds[0]], row[kinds[0]] is not None
        optional = _OPTIONAL.get(kinds[0], ())
        takes = f"{kinds[0]} takes {', '.join(wanted)}"
        for name, key in _TIMES.items():
            if name in optional and name not in place.data:
                continue
            if name in wanted and name not in place.data:
                self.report.fail(place, f"{path}.{name}", "is missing", takes)
            elif name not in wanted and name in place.data:
                self.report.fail(place.key(name), f"{path}.{name}", f"does not go with {kinds[0]}", takes)
            fits = fits and (name in wanted) == (row[key] is not None)
        return fits

    def event(self, row: Mapping[str, Any], place: Value, path: str) -> Optional[_scenario.Event]:
        """Return an event that fits."""
        begin = row["at"] if row["at"] is not None else row["begin"]
        end = row["end"] if row["end"] is not None else begin + (row["length"] or 0)
        if end > _scenario.MAX_TIME:
            self.report.fail(place, path, f"ends after {_scenario.format_time(end)}; must end within 24h")
        elif row["length"] == 0:
            self.report.fail(place.at("for"), f"{path}.for", "is 0s; must be longer")
        elif row["end"] is not None and end <= begin:
            message = f"is {_scenario.format_time(end)}; must be after from, {_scenario.format_time(begin)}"
            self.report.fail(place.at("to"), f"{path}.to", message)
        if row["churn"] is not None:
            return self._churn(row["churn"], (begin, end), place.at("churn"), f"{path}.churn")
        if row["cpu"] is not None:
            return self._cpu(row["cpu"], (begin, end), place.at("cpu"), f"{path}.cpu")
        for how in (_scenario.STOP, _scenario.START, _scenario.REBOOT):
            if row[how] is not None:
                self._require_workers(row[how], place.at(how), f"{path}.{how}")
                return NodeEvent(begin, end, row[how], how)
        if row["set"] is not None:
            return self._set(row["set"], (begin, end), place.at("set"), f"{path}.set")
        key = "partition" if row["partition"] is not None else "flap"
        if key == "flap" and row["period"] < _MIN_PERIOD:
            given = _scenario.format_time(row["period"])
            self.report.fail(place.at("period"), f"{path}.period", f"is {given}; must be at least 4s")
            return None
        rule = Rule(row[key][0], row[key][1], _scenario.CUT, symmetric=True)
        self._require_pair(rule, place.at(key), f"{path}.{key}")
        if "ssh" not in self.links.exempt:
            message = "needs ssh in network.exempt: Q8S ends a partition through ssh"
            self.report.fail(place.at(key), f"{path}.{key}", message)
        return LinkEvent(begin, end, rule, True, row["period"] if key == "flap" else 0)

    def _set(
        self, row: Mapping[str, Any], times: tuple[int, int], place: Value, path: str
    ) -> Optional[_scenario.Event]:
        rule = _spec_links.read_rule(row, self.profiles, place, path, self.report)
        if rule is None:
            return None
        self._require_pair(rule, place, path)
        matrix = _links.link_matrix(self.endpoints, self.links.rules, self.links.default, [rule])
        if rule.impairment.duplicate and _links.duplicate_conflict(self.endpoints, matrix):
            share = f"{rule.impairment.duplicate:g}%"
            message = f"is {share} beside another link of the same node, which Linux does not allow"
            self.report.fail(*place_of("duplicate", place, path), message, "leave duplicate out")
        return LinkEvent(*times, rule)

    def _churn(
        self, values: Mapping[str, Any], times: tuple[int, int], place: Value, path: str
    ) -> Optional[_scenario.Event]:
        selector = self._selector(values, place, path)
        for key in ("mtbf", "mttr"):
            if values[key] is not None and values[key] < _MIN_MEAN:
                given = _scenario.format_time(values[key])
                self.report.fail(place.at(key), f"{path}.{key}", f"is {given}; must be at least 1s")
        if values["how"] == () and place.at("how").data == []:
            message = f"is empty; must be some of {', '.join(_scenario.CHURN)}"
            self.report.fail(place.at("how"), f"{path}.how", message)
        if selector is None or None in (values["mtbf"], values["mttr"]) or not values["how"]:
            return None
        return Churn(*times, selector, values["mtbf"], values["mttr"], values["how"])

    def _cpu(
        self, values: Mapping[str, Any], times: tuple[int, int], place: Value, path: str
    ) -> Optional[_scenario.Event]:
        selector, quota = self._selector(values, place, path), values["quota"]
        if selector is None or quota is None:
            return None
        return NodeEvent(*times, selector, _scenario.CPU, quota)

    def _selector(self, values: Mapping[str, Any], place: Value, path: str) -> Optional[str]:
        """Return the workers that type, zone or node names."""
        chosen = [(key, values[key]) for key in ("type", "zone", "node") if values[key] is not None]
        if len(chosen) != 1:
            given = " and ".join(key for key, _name in chosen) or "no target"
            hint = "; ".join(_links.known_names(key, self._workers) for key in ("type", "zone", "node"))
            self.report.fail(place, path, f"has {given}; must have one of type, zone and node", hint)
            return None
        selector = ":".join(chosen[0])
        self._require_workers(selector, place, path)
        return selector

    def _require_pair(self, rule: Rule, place: Value, path: str) -> None:
        if _links.unmatched_rules(self.endpoints, [rule]):
            end, message, hint = _links.unmatched_end(self.endpoints, rule)
            if end and isinstance(place.data, list):
                number = ("from", "to").index(end)
                self.report.fail(place.data[number], f"{path}[{number}]", message, hint)
            else:
                self.report.fail(place.at(end), f"{path}.{end}" if end else path, message, hint)
        elif not any(not endpoint.control_plane for endpoint in self._matched(rule)):
            message = "is between control planes, whose links are not shaped"
            self.report.fail(place, path, message, "links work where one end is a worker")

    def _matched(self, rule: Rule) -> list[Endpoint]:
        ends = (rule.source, rule.target)
        return [one for one in self.endpoints if any(_links.selects(end, one) for end in ends)]

    def _require_workers(self, selector: str, place: Value, path: str) -> None:
        if not _scenario.selected_workers(selector, self.endpoints):
            kind = selector if selector.startswith(("type:", "zone:")) else "node"
            hint = _links.known_names(kind, self._workers)
            self.report.fail(place, path, f"{selector} matches no worker of this cluster", hint)

    @property
    def _workers(self) -> list[Endpoint]:
        return [one for one in self.endpoints if not one.control_plane]


def scenario_mapping(scenario: Scenario) -> dict[str, Any]:
    """Return the scenario in the file's own form."""
    return {"seed": scenario.seed, "events": [_event_mapping(event) for event in scenario.events]}


def _event_mapping(event: Union[LinkEvent, NodeEvent, Churn]) -> dict[str, Any]:
    time = _scenario.format_time
    if isinstance(event, Churn):
        key, name = event.selector.split(":", 1)
        churn = {key: name, "mtbf": time(event.mtbf), "mttr": time(event.mttr), "how": list(event.how)}
        return {"from": time(event.begin), "to": time(event.end), "churn": churn}
    if isinstance(event, LinkEvent) and event.period:
        ends = [event.rule.source, event.rule.target]
        return {"from": time(event.begin), "to": time(event.end), "flap": ends, "period": time(event.period)}
    if isinstance(event, NodeEvent) and event.how == _scenario.CPU:
        key, name = event.selector.split(":", 1)
        quota = {key: name, "quota": f"{event.quota:g}%"}
        return {"at": time(event.begin), "for": time(event.end - event.begin), "cpu": quota}
    if isinstance(event, NodeEvent):
        length = {"for": time(event.end - event.begin)} if event.end > event.begin else {}
        return {"at": time(event.begin), **length, event.how: event.selector}
    lasting = {"at": time(event.begin), "for": time(event.end - event.begin)}
    if event.partition:
        return {**lasting, "partition": [event.rule.source, event.rule.target]}
    return {**lasting, "set": _spec_links.rule_mapping(event.rule)}
