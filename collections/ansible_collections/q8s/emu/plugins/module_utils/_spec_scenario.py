# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The field ``scenario`` of a cluster file: its fields, and the events that it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils import _links, _scenario, _spec_links
from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint, Rule
from ansible_collections.q8s.emu.plugins.module_utils._scenario import Churn, LinkEvent, NodeEvent, Scenario
from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import NONE
from ansible_collections.q8s.emu.plugins.module_utils._spec_kinds import Choice, Field, Group, Items, Kind, Number, Text
from ansible_collections.q8s.emu.plugins.module_utils._spec_links import LINK, SELECTOR, Links, Measure, Rows
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import Report, Value, found

_MIN_PERIOD = 4_000  # a change of links takes up to a second on an emulated node


@dataclass(frozen=True)
class Pair(Kind):
    """A list of two values of one kind."""

    of: Kind
    what: str

    def read(self, value: Value, path: str, report: Report) -> Optional[tuple[Any, Any]]:
        if not isinstance(value.data, list) or len(value.data) != 2:
            report.fail(value, path, f"is {found(value.data)}; must be {self.what}")
            return None
        first, second = (self.of.read(item, f"{path}[{number}]", report) for number, item in enumerate(value.data))
        return (first, second) if first is not None and second is not None else None

    def words(self) -> str:
        return self.what

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.of.schema(), "minItems": 2, "maxItems": 2}


_TIME = Measure(_scenario.parse_time, _scenario.TIME, r"[0-9]{1,8}(\.[0-9]{1,3})?(ms|s|min|h)")
_ENDS = Pair(SELECTOR, "a list of two groups of nodes, such as [zone:edge, zone:cloud]")
_ALL_HOW = list(_scenario.CHURN)

CHURN = Group(
    (
        Field("type", Text(), "The workers of this type.", default=None, edit=NONE),
        Field("zone", Text(), "The workers of this zone.", default=None, edit=NONE),
        Field("node", Text(), "This worker.", default=None, edit=NONE),
        Field("mtbf", _TIME, "Mean time between the end of a fault and the next one.", example="20min", edit=NONE),
        Field("mttr", _TIME, "Mean duration of a fault.", example="2min", edit=NONE),
        Field(
            "how",
            Items(
                Choice({word: word for word in _scenario.CHURN}), f"a list of some of {', '.join(_scenario.CHURN)}"
            ),
            "Kinds of faults, each as likely as the others. `destroy`: the guest's power is off. `pause`: its CPUs stand "
            "still. `netdown`: its host passes nothing on to it or from it. `reboot`: its reset button is pressed.",
            _ALL_HOW,
            edit=NONE,
        ),
    ),
    "a mapping such as {type: arm-mid, mtbf: 20min, mttr: 2min}",
)

_SET = Group(tuple(replace(one, edit=NONE) for one in LINK.fields), LINK.what)

EVENT = Group(
    (
        Field("at", _TIME, "Begin of `set`, `partition`, `stop` or `reboot`.", default=None, edit=NONE),
        Field("for", _TIME, "Duration of `set`, `partition` or `stop`.", default=None, attribute="length", edit=NONE),
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
    "reboot": ("at",),
}
_TIMES = {"at": "at", "for": "length", "from": "begin", "to": "end", "period": "period"}


def read_scenario(
    values: Optional[Mapping[str, Any]],
    profiles: Mapping[str, Any],
    links: Links,
    endpoints: Iterable[Endpoint],
    root: Value,
    report: Report,
) -> Scenario:
    """Return the scenario of a file whose fields were read; what does not fit is reported."""
    if not values or "scenario" not in root.data:
        return Scenario()
    endpoints, place = list(endpoints), root.at("scenario", "events")
    problems = len(report.problems)
    events = []
    for number, row in enumerate(values["events"] or ()):
        if row is not None and _fits(row, place.data[number], f"scenario.events[{number}]", report):
            path = f"scenario.events[{number}]"
            events.append(_event(row, profiles, links, endpoints, place.data[number], path, report))
    scenario = Scenario(values["seed"] or 0, tuple(event for event in events if event is not None))
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


def _fits(row: Mapping[str, Any], place: Value, path: str, report: Report) -> bool:
    """Report an event that is not of exactly one kind, or does not have that kind's times."""
    if not isinstance(place.data, dict):
        return False
    kinds = [kind for kind in _BY_KIND if kind in place.data]
    if len(kinds) != 1:
        given = " and ".join(kinds) or "nothing that happens"
        report.fail(place, path, f"has {given}; must have one of {', '.join(_BY_KIND)}")
        return False
    wanted, fits = _BY_KIND[kinds[0]], True
    for name, key in _TIMES.items():
        if name in wanted and name not in place.data:
            report.fail(place, f"{path}.{name}", "is missing", f"{kinds[0]} takes {', '.join(wanted)}")
            fits = False
        elif name not in wanted and name in place.data:
            report.fail(
                place.key(name), f"{path}.{name}", f"does not go with {kinds[0]}, which takes {', '.join(wanted)}"
            )
            fits = False
        fits = fits and (name not in wanted or row[key] is not None)
    return fits and row[kinds[0]] is not None


def _event(
    row: Mapping[str, Any],
    profiles: Mapping[str, Any],
    links: Links,
    endpoints: Sequence[Endpoint],
    place: Value,
    path: str,
    report: Report,
) -> Optional[_scenario.Event]:
    begin = row["at"] if row["at"] is not None else row["begin"]
    end = row["end"] if row["end"] is not None else begin + (row["length"] or 0)
    if end > _scenario.MAX_TIME:
        report.fail(place, path, f"ends after {_scenario.format_time(end)}; must end within 24h")
    elif end <= begin and not row["reboot"]:
        report.fail(place, path, "ends when it begins; must last longer than that")
    if row["churn"] is not None:
        return _churn(row["churn"], begin, end, endpoints, place, path, report)
    for how in (_scenario.STOP, _scenario.REBOOT):
        if row[how] is not None:
            _require_workers(row[how], endpoints, place.at(how), f"{path}.{how}", report)
            return NodeEvent(begin, end, row[how], how)
    if row["set"] is not None:
        rule = _spec_links.read_rule(row["set"], profiles, place.at("set"), f"{path}.set", endpoints, report)
        if rule is None:
            return None
        _check_duplicates(rule, links, endpoints, place.at("set"), f"{path}.set", report)
        return LinkEvent(begin, end, rule)
    key = "partition" if row["partition"] is not None else "flap"
    rule = Rule(*row[key], _scenario.CUT, symmetric=True)
    if _links.unmatched_rules(endpoints, [rule]):
        report.fail(place.at(key), f"{path}.{key}", "matches no two nodes of this cluster")
    if "ssh" not in links.exempt:
        report.fail(
            place.at(key), f"{path}.{key}", "needs ssh in network.exempt: Q8S ends the partition through ssh"
        )
    if key == "flap" and row["period"] < _MIN_PERIOD:
        report.fail(place.at("period"), f"{path}.period", f"is {row['period']} ms; must be at least 4s")
        return None
    return LinkEvent(begin, end, rule, True, row["period"] if key == "flap" else 0)


def _churn(
    values: Mapping[str, Any],
    begin: int,
    end: int,
    endpoints: Sequence[Endpoint],
    place: Value,
    path: str,
    report: Report,
) -> Optional[Churn]:
    chosen = [(key, values[key]) for key in ("type", "zone", "node") if values[key] is not None]
    place, path = place.at("churn"), f"{path}.churn"
    if len(chosen) != 1:
        given = " and ".join(key for key, _name in chosen) or "none of them"
        report.fail(place, path, f"has {given}; must have one of type, zone and node")
        return None
    selector = ":".join(chosen[0])
    _require_workers(selector, endpoints, place, path, report)
    if values["mtbf"] is None or values["mttr"] is None:
        return None
    for key in ("mtbf", "mttr"):
        if values[key] < 1000:
            report.fail(place.at(key), f"{path}.{key}", f"is {values[key]} ms; must be at least 1s")
    if not values["how"]:
        report.fail(place.at("how"), f"{path}.how", f"is empty; must be some of {', '.join(_scenario.CHURN)}")
    return Churn(begin, end, selector, values["mtbf"], values["mttr"], tuple(values["how"] or ()))


def _require_workers(selector: str, endpoints: Sequence[Endpoint], place: Value, path: str, report: Report) -> None:
    if not _scenario.selected_workers(selector, endpoints):
        workers = ", ".join(sorted(one.name for one in endpoints if not one.control_plane)[:8])
        report.fail(place, path, f"{selector} matches no worker of this cluster", f"workers: {workers or 'none'}")


def _check_duplicates(
    rule: Rule, links: Links, endpoints: Sequence[Endpoint], place: Value, path: str, report: Report
) -> None:
    """Report what the guests' kernels refuse."""
    matrix = _links.link_matrix(endpoints, links.rules, links.default, [rule])
    if rule.impairment.duplicate and _links.duplicate_conflict(endpoints, matrix):
        report.fail(
            place, path, "has duplicate beside another link of the same node, which Linux does not allow", "remove one"
        )


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
    if isinstance(event, NodeEvent):
        length = {"for": time(event.end - event.begin)} if event.how == _scenario.STOP else {}
        return {"at": time(event.begin), **length, event.how: event.selector}
    lasting = {"at": time(event.begin), "for": time(event.end - event.begin)}
    if event.partition:
        return {**lasting, "partition": [event.rule.source, event.rule.target]}
    return {**lasting, "set": _spec_links.rule_mapping(event.rule)}
