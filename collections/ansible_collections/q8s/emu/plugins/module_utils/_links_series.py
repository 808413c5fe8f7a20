# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the series that a guest measures of its links: see _links_measure. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional


@dataclass(frozen=True)
class Pings:
    """A series of free or link: round trip times in ms, and whether there was any answer."""

    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Many:
    """A series of many: pings sent, answered and answered twice; packets that netem passed on and dropped meanwhile."""

    sent: int
    answered: int
    duplicates: int
    passed: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class Sample:
    """Counters of a class, read between two moments (µs): bytes sent so far, and whether the rate held packets back."""

    before: int
    after: int
    sent: int
    waiting: bool


@dataclass(frozen=True)
class Load:
    """A series of load. ``stalled`` is the share of the time for which the guest stood still for too long."""

    samples: tuple[Sample, ...]
    stalled: float


_REPLY = re.compile(r"icmp_seq=[0-9]+ .*time=([0-9.]+) ms$")
_SENT = re.compile(r"([0-9]+) packets transmitted, ([0-9]+) received(?:, \+([0-9]+) duplicates)?")
_COUNTERS = re.compile(r"Sent ([0-9]+) bytes ([0-9]+) pkt \(dropped ([0-9]+),")
_SAMPLE = re.compile(r"^at ([0-9]+) ([0-9]+)\n(.*?)tokens: (-?[0-9]+)", re.MULTILINE | re.DOTALL)
_STALLED = re.compile(r"^stalled ([0-9]+) ([0-9]+)", re.MULTILINE)


def read_series(text: str) -> dict[tuple[int, str], str]:
    """Return what the shell command printed, by the probe's number and the kind of the series."""
    found = {}
    for block in re.split(r"^# ", text.replace("\r", ""), flags=re.MULTILINE)[1:]:
        head, _newline, body = block.partition("\n")
        number, kind = head.split()
        found[int(number), kind] = body
    return found


def read_pings(text: str) -> Pings:
    """Read a series of free or link. The answers that arrive twice count once."""
    replies = (_REPLY.match(line.strip()) for line in text.splitlines())
    return Pings(tuple(float(reply[1]) for reply in replies if reply))


def read_many(text: str) -> Optional[Many]:
    """Read a series of many; None if there is none."""
    pings = _SENT.search(text)
    if not pings:
        return None
    sent, answered, twice = (int(number or 0) for number in pings.groups())
    counters = [(int(found[2]), int(found[3])) for found in _COUNTERS.finditer(text)]
    if len(counters) != 2:
        return Many(sent, answered, twice)
    (passed, dropped), (passed_after, dropped_after) = counters
    return Many(sent, answered, twice, passed_after - passed, dropped_after - dropped)


def read_load(text: str) -> Load:
    """Read a series of load."""
    samples = []
    for found in _SAMPLE.finditer(text):
        counters = _COUNTERS.search(found[3])
        if counters:
            samples.append(Sample(int(found[1]), int(found[2]), int(counters[1]), int(found[4]) < 0))
    stalled = _STALLED.search(text)
    share: Any = int(stalled[1]) / int(stalled[2]) if stalled and int(stalled[2]) else 0.0
    return Load(tuple(samples), float(share))
