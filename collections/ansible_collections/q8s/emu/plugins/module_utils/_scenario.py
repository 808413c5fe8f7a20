# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario of a cluster: pure functions from events to a schedule of faults.

A fault begins and ends: a link that is changed for a time, or a node that is away for a time. Times are in
milliseconds since the scenario's begin. The same events, nodes and seed give the same schedule.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils._links import (
    Endpoint,
    Impairment,
    Loss,
    Rule,
    describe,
    selects,
)

STOP, START, REBOOT, CPU = "stop", "start", "reboot", "cpu"
CHURN = ("destroy", "pause", "netdown", "reboot")
LINK, PARTITION = "set", "partition"
MAX_TIME = 24 * 3_600_000
CUT = Impairment(loss=Loss(100.0))

_REBOOT_TIME = 60_000  # a node that reboots has no other fault meanwhile
_TIME = re.compile(r"([0-9]{1,8}(?:\.[0-9]{1,3})?)(ms|s|min|h)")
_MILLISECONDS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
TIME = "a number with ms, s, min or h, such as 90s, at most 24h"


@dataclass(frozen=True)
class LinkEvent:
    """Links that are changed from ``begin`` to ``end``. A ``partition`` applies before other changes.

    With ``period``, they are changed in the first half of each period only.
    """

    begin: int
    end: int
    rule: Rule
    partition: bool = False
    period: int = 0


@dataclass(frozen=True)
class NodeEvent:
    """Workers that are stopped or slowed down from ``begin`` to ``end``, or started or rebooted at ``begin``.

    A stop whose ``end`` is its ``begin`` lasts until the node is started, or until the scenario's end.
    ``quota`` is what each of a slowed worker's CPUs gets of one of its host's CPUs, in percent.
    """

    begin: int
    end: int
    selector: str
    how: str
    quota: float = 0.0


@dataclass(frozen=True)
class Churn:
    """Workers that fail at random from ``begin`` to ``end``. ``mtbf`` and ``mttr`` are means of exponential times."""

    begin: int
    end: int
    selector: str
    mtbf: int
    mttr: int
    how: tuple[str, ...]


Event = Union[LinkEvent, NodeEvent, Churn]


@dataclass(frozen=True)
class Scenario:
    """Events in the order of the file."""

    seed: int = 0
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Fault:
    """What happens from ``begin`` to ``end``: a link's ``rule``, or ``kind`` at a ``node``. ``event`` is its position.

    ``quota`` is in percent, for the kind ``cpu``.
    """

    begin: int
    end: int
    event: int
    kind: str
    node: str = ""
    rule: Optional[Rule] = None
    quota: float = 0.0

    @property
    def text(self) -> str:
        """The fault in words."""
        if self.kind == CPU:
            return f"{self.kind} {self.node}: at most {self.quota:g}%"
        if self.rule is None:
            return f"{self.kind} {self.node}"
        arrow = "<->" if self.rule.symmetric or self.rule.reverse_rate is not None else "->"
        what = "" if self.kind == PARTITION else f": {describe(self.rule.impairment) or 'nothing'}"
        return f"{self.kind} {self.rule.source} {arrow} {self.rule.target}{what}"


@dataclass(frozen=True)
class Action:
    """The begin of a fault, or its end (``undo``)."""

    at: int
    fault: Fault
    undo: bool = False

    @property
    def text(self) -> str:
        """The action in words."""
        return f"end of {self.fault.text}" if self.undo else self.fault.text


def parse_time(text: str) -> int:
    """Return a time such as 90s in milliseconds.

    :raises ValueError: with what is allowed
    """
    match = _TIME.fullmatch(text)
    value = round(float(match[1]) * _MILLISECONDS[match[2]]) if match else -1
    if not 0 <= value <= MAX_TIME:
        raise ValueError(TIME)
    return value


def format_time(milliseconds: int) -> str:
    """Return a time in the form that parse_time() reads."""
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def selected_workers(selector: str, endpoints: Iterable[Endpoint]) -> list[str]:
    """Return the names of the workers that a selector matches, sorted."""
    return sorted(one.name for one in endpoints if not one.control_plane and selects(selector, one))


def planned_faults(scenario: Scenario, endpoints: Sequence[Endpoint]) -> list[Fault]:
    """Return the faults that the file names one by one, in its order: all but those of churn."""
    result = []
    starts = _starts(scenario, endpoints)
    for number, event in enumerate(scenario.events):
        if isinstance(event, NodeEvent) and event.how != START:
            for node in selected_workers(event.selector, endpoints):
                end = event.begin + _REBOOT_TIME if event.how == REBOOT else event.end
                if _is_open(event):
                    later = [at for at in starts.get(node, ()) if at > event.begin]
                    end = min(later, default=last_moment(scenario))
                result.append(Fault(event.begin, end, number, event.how, node, quota=event.quota))
        elif isinstance(event, LinkEvent):
            kind, length = PARTITION if event.partition else LINK, event.end - event.begin
            for begin in range(event.begin, event.end, event.period or max(length, 1)):
                end = min(begin + event.period // 2 if event.period else event.end, event.end)
                result.append(Fault(begin, end, number, kind, rule=event.rule))
    return result


def _starts(scenario: Scenario, endpoints: Sequence[Endpoint]) -> dict[str, list[int]]:
    """Return when each node is started."""
    result: dict[str, list[int]] = {}
    for event in scenario.events:
        if isinstance(event, NodeEvent) and event.how == START:
            for node in selected_workers(event.selector, endpoints):
                result.setdefault(node, []).append(event.begin)
    return result


def unpaired(scenario: Scenario, endpoints: Sequence[Endpoint]) -> list[tuple[int, str, str]]:
    """Return the events that start a node which is not stopped, and that stop one for no time: position, node, why."""
    result = []
    faults = planned_faults(scenario, endpoints)
    for number, event in enumerate(scenario.events):
        if not isinstance(event, NodeEvent) or event.how not in (STOP, START):
            continue
        for node in selected_workers(event.selector, endpoints):
            ends = [
                fault.end
                for fault in faults
                if fault.node == node and fault.kind == STOP and _is_open(scenario.events[fault.event])
            ]
            if event.how == START and event.begin not in ends:
                at = format_time(event.begin)
                result.append((number, node, f"is not stopped at {at}; must be, by a stop without for"))
            elif _is_open(event) and any(one.event == number and one.end <= one.begin for one in faults):
                result.append((number, node, "is stopped at the scenario's end; must have for, or a later start"))
    return result


def _is_open(event: Event) -> bool:
    """Return whether an event stops nodes until they are started."""
    return isinstance(event, NodeEvent) and event.how == STOP and event.end == event.begin


def overlapping(faults: Sequence[Fault]) -> Optional[tuple[Fault, Fault]]:
    """Return two faults that are at the same node at the same time."""
    last: dict[str, Fault] = {}
    for fault in sorted(faults, key=lambda one: (one.begin, one.event)):
        before = last.get(fault.node)
        if fault.node and before is not None and fault.begin < before.end:
            return before, fault
        last[fault.node] = fault
    return None


def schedule(scenario: Scenario, endpoints: Sequence[Endpoint]) -> list[Fault]:
    """Return all faults, sorted. A node never has two at once: faults of churn give way to those of the file."""
    faults = planned_faults(scenario, endpoints)
    for number, event in enumerate(scenario.events):
        if isinstance(event, Churn):
            for node in selected_workers(event.selector, endpoints):
                faults += _churn(scenario.seed, number, event, node, [one for one in faults if one.node == node])
    return sorted(faults, key=lambda one: (one.begin, one.event, one.node))


def _churn(seed: int, number: int, churn: Churn, node: str, taken: Sequence[Fault]) -> list[Fault]:
    """Return the faults of one node. Each node has numbers of its own, so that others do not change its faults."""
    numbers = random.Random(f"{seed}:{number}:{node}")  # random() alone is the same in every version of Python
    faults: list[Fault] = []
    now = churn.begin
    while True:
        up, down, choice = (numbers.random() for _number in range(3))
        begin = now + round(-math.log(1 - up) * churn.mtbf)
        length = max(1000, round(-math.log(1 - down) * churn.mttr))
        kind = churn.how[int(choice * len(churn.how))]
        if kind == REBOOT:
            length = max(length, _REBOOT_TIME)
        if begin >= churn.end:
            return faults
        now = begin + length
        end = min(now, churn.end) if kind != REBOOT else now
        if not any(begin < other.end and other.begin < end for other in taken):
            faults.append(Fault(begin, end, number, kind, node))


def actions(faults: Iterable[Fault]) -> list[Action]:
    """Return what to do, sorted by time. At one moment, faults end before others begin. A reboot ends by itself."""
    result = []
    for fault in faults:
        result.append(Action(fault.begin, fault))
        if fault.kind != REBOOT:
            result.append(Action(fault.end, fault, undo=True))
    return sorted(result, key=lambda one: (one.at, not one.undo, one.fault.event, one.fault.node))


def active_rules(faults: Iterable[Fault]) -> tuple[Rule, ...]:
    """Return the rules of faults that are active, so that the last one that matches applies: partitions last."""
    active = [fault for fault in faults if fault.rule is not None]
    ordered = sorted(active, key=lambda one: (one.kind == PARTITION, one.begin, one.event))
    return tuple(fault.rule for fault in ordered if fault.rule is not None)


def last_moment(scenario: Scenario) -> int:
    """Return the time at which the scenario ends."""
    return max((event.end for event in scenario.events), default=0)
