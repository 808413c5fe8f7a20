# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links between nodes: pure functions from rules to one impairment for each direction.

A rule applies from the nodes of one selector to those of another. Of the rules that match a direction, the most
specific one applies as a whole; of equally specific ones, the last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional, TypeVar

from ansible_collections.q8s.emu.plugins.module_utils import _text

DISTRIBUTIONS = ("normal", "pareto", "paretonormal")
CONTROL_PLANES = "control-planes"
SELECTORS = f"node:NAME, type:NAME, zone:NAME, {CONTROL_PLANES} or *"

_RANK = {"*": 0, "zone": 1, "type": 2, CONTROL_PLANES: 2, "node": 3}
_DELAY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(us|ms|s)")
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(kbit|mbit|gbit)")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")
SMALLEST_PERCENT = 0.000001  # above 0
_MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000}
_BITS = {"kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_MAX_DELAY = 60 * 1_000_000
_MIN_RATE, _MAX_RATE = 8_000, 100 * 1_000_000_000


@dataclass(frozen=True)
class Loss:
    """Loss of packets, in percent.

    With ``recover``, it is the Gilbert-Elliott model: ``percent`` is the probability of entering the bad state, in
    which every packet is lost, and ``recover`` the probability of leaving it.
    """

    percent: float
    recover: Optional[float] = None


@dataclass(frozen=True)
class Impairment:
    """What happens to the packets of one direction. Zero or None: nothing.

    ``delay`` and ``jitter`` are in microseconds, ``rate`` is in bit/s, the others are in percent.
    """

    delay: int = 0
    jitter: int = 0
    distribution: str = DISTRIBUTIONS[0]
    rate: int = 0
    loss: Optional[Loss] = None
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0


@dataclass(frozen=True)
class Endpoint:
    """A node as selectors see it. ``type`` and ``zone`` are empty for control planes."""

    name: str
    type: str = ""
    zone: str = ""
    control_plane: bool = False


@dataclass(frozen=True)
class Rule:
    """An impairment from the nodes of one selector to those of another.

    ``reverse_rate`` is the rate of the opposite direction. With it, or with ``symmetric``, the opposite direction has
    the same impairment besides.
    """

    source: str
    target: str
    impairment: Impairment
    symmetric: bool = False
    reverse_rate: Optional[int] = None


Value = TypeVar("Value", bound=Hashable)
Matrix = Mapping[tuple[str, str], Impairment]


def parse_delay(text: str) -> int:
    """Return a delay such as 45ms in microseconds.

    :raises ValueError: with what is allowed
    """
    match = _DELAY.fullmatch(text)
    value = round(float(match[1]) * _MICROSECONDS[match[2]]) if match else -1
    if not 0 <= value <= _MAX_DELAY:
        raise ValueError("a number with us, ms or s, such as 45ms, at most 60s")
    return value


def parse_rate(text: str) -> int:
    """Return a rate such as 30mbit in bit/s.

    :raises ValueError: with what is allowed
    """
    match = _RATE.fullmatch(text)
    value = round(float(match[1]) * _BITS[match[2]]) if match else 0
    if not _MIN_RATE <= value <= _MAX_RATE:
        raise ValueError("a number with kbit, mbit or gbit, such as 30mbit, from 8kbit to 100gbit")
    return value


def parse_percent(text: str, least: float = 0.0) -> float:
    """Return a share such as 0.1% in percent.

    :raises ValueError: with what is allowed
    """
    match = _PERCENT.fullmatch(text)
    value = float(match[1]) if match else -1.0
    if not least <= value <= 100:
        raise ValueError(f"a number with %, such as 0.1%, at least {least:g}% and at most 100%")
    return value


def check_selector(selector: str) -> None:
    """Check the form of a selector.

    :raises ValueError: with what is allowed
    """
    kind, _colon, name = selector.partition(":")
    if selector in ("*", CONTROL_PLANES) or (kind in ("node", "type", "zone") and name):
        return
    raise ValueError(SELECTORS)


def selects(selector: str, endpoint: Endpoint) -> bool:
    """Return whether a selector matches a node."""
    kind, _colon, name = selector.partition(":")
    if kind == "*":
        return True
    if kind == CONTROL_PLANES:
        return endpoint.control_plane
    return name == {"node": endpoint.name, "type": endpoint.type, "zone": endpoint.zone}[kind]


def link_matrix(
    endpoints: Sequence[Endpoint],
    rules: Iterable[Rule],
    default: Optional[Impairment] = None,
    overrides: Iterable[Rule] = (),
) -> dict[tuple[str, str], Impairment]:
    """Return the impairment of every direction that has one, by names of source and target.

    :param default: of directions that no rule matches
    :param overrides: rules that apply instead of all others, the last of those that match
    """
    nothing = Impairment()
    # stable: of equally specific rules, the last applies
    ranked = [*sorted(directed(rules), key=_specificity), *directed(overrides)]
    everything = [Rule("*", "*", default or nothing), *ranked]
    selectors = {selector for rule in everything for selector in (rule.source, rule.target)}
    members = {selector: [e.name for e in endpoints if selects(selector, e)] for selector in selectors}
    matrix: dict[tuple[str, str], Impairment] = {}
    for rule in everything:
        for source in members[rule.source]:
            matrix.update(((source, target), rule.impairment) for target in members[rule.target] if target != source)
    return {pair: matrix[pair] for pair in sorted(matrix) if _effect(matrix[pair]) != nothing}


def unmatched_rules(endpoints: Sequence[Endpoint], rules: Sequence[Rule]) -> list[int]:
    """Return the positions of the rules that match no pair of different nodes."""

    def matches(rule: Rule) -> bool:
        sources = {e.name for e in endpoints if selects(rule.source, e)}
        targets = {e.name for e in endpoints if selects(rule.target, e)}
        return bool(sources) and bool(targets) and len(sources | targets) > 1

    return [position for position, rule in enumerate(rules) if not matches(rule)]


def unmatched_end(endpoints: Sequence[Endpoint], rule: Rule) -> tuple[str, str, str]:
    """Return which end of a rule that matches no two nodes is wrong (``from``, ``to`` or none), why, and what is known."""
    for end, selector in (("from", rule.source), ("to", rule.target)):
        if not any(selects(selector, one) for one in endpoints):
            return end, f"is {selector}, which matches no node of this cluster", known_names(selector, endpoints)
    name = next(one.name for one in endpoints if selects(rule.source, one))
    message = f"{rule.source} -> {rule.target} matches no two nodes of this cluster, only {name}"
    return "", message, "a link needs two nodes"


def known_names(selector: str, endpoints: Iterable[Endpoint]) -> str:
    """Return the names that a selector of this kind may have, in words."""
    kind = selector.partition(":")[0]
    known = [{"node": one.name, "type": one.type, "zone": one.zone}.get(kind, "") for one in endpoints]
    names = sorted({name for name in known if name})
    return f"{kind}s: {_text.join_names(names, 8) or 'none'}"


def directed(rules: Iterable[Rule]) -> list[Rule]:
    """Return rules of one direction each, in the order of the given ones."""
    result = []
    for rule in rules:
        result.append(Rule(rule.source, rule.target, rule.impairment))
        if rule.symmetric or rule.reverse_rate is not None:
            rate = rule.impairment.rate if rule.reverse_rate is None else rule.reverse_rate
            result.append(Rule(rule.target, rule.source, replace(rule.impairment, rate=rate)))
    return result


def _specificity(rule: Rule) -> tuple[int, int]:
    """Return a sort key of a rule: its more specific end decides, then the other one."""
    ranks = [_RANK[selector.partition(":")[0]] for selector in (rule.source, rule.target)]
    return max(ranks), min(ranks)


def _effect(impairment: Impairment) -> Impairment:
    """Return the impairment without what has no effect: a distribution without jitter."""
    return impairment if impairment.jitter else replace(impairment, distribution=DISTRIBUTIONS[0])


def describe(impairment: Impairment) -> str:
    """Return an impairment in words, such as ``delay 45 ms +- 5 ms (normal), 7 Mbit/s``."""
    parts = []
    if impairment.delay:
        spread = f" +- {impairment.jitter / 1000:g} ms ({impairment.distribution})" if impairment.jitter else ""
        parts.append(f"delay {impairment.delay / 1000:g} ms{spread}")
    if impairment.rate:
        parts.append(f"{impairment.rate / 1_000_000:g} Mbit/s")
    loss = impairment.loss
    if loss is not None and (loss.percent or loss.recover):
        bursts = f" in bursts (recovery {loss.recover:g}%)" if loss.recover is not None else ""
        parts.append(f"loss {loss.percent:g}%{bursts}")
    for name in ("duplicate", "corrupt", "reorder"):
        if getattr(impairment, name):
            parts.append(f"{name} {getattr(impairment, name):g}%")
    return ", ".join(parts)


def duplicate_conflict(endpoints: Iterable[Endpoint], matrix: Matrix) -> Optional[tuple[str, str]]:
    """Return a direction with duplicates that its kernel refuses.

    Since Linux 6.12.50, a netem that duplicates packets cannot share its network interface with another netem. A guest
    has one interface for what it sends, and one for what it receives from control planes.
    """
    control_planes = {endpoint.name for endpoint in endpoints if endpoint.control_plane}

    def interface(pair: tuple[str, str]) -> tuple[str, bool]:
        return (pair[1], True) if pair[0] in control_planes else (pair[0], False)

    count = Counter(map(interface, matrix))
    return next((pair for pair, link in matrix.items() if link.duplicate and count[interface(pair)] > 1), None)


def matrix_rows(matrix: Matrix) -> list[dict[str, object]]:
    """Return the matrix in rows: sources that have the same impairment to the same targets share one."""
    return [
        {"from": sources, "to": targets, "impairment": text}
        for sources, targets, text in group_pairs({pair: describe(link) for pair, link in matrix.items()})
    ]


def group_pairs(values: Mapping[tuple[str, str], Value]) -> list[tuple[list[str], list[str], Value]]:
    """Return pairs of nodes in rows: sources that have the same value to the same targets share one.

    Nodes of one type that also reach each other make one row each, because a node has no link with itself.
    """
    targets: dict[tuple[str, Value], list[str]] = {}
    for (source, target), value in values.items():
        targets.setdefault((source, value), []).append(target)
    sources: dict[tuple[tuple[str, ...], Value], list[str]] = {}
    for (source, value), names in targets.items():
        sources.setdefault((tuple(names), value), []).append(source)
    return [(names, list(reached), value) for (reached, value), names in sources.items()]
