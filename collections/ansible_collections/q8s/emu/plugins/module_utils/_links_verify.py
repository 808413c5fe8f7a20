# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure links with ping, and compare them with what was promised. Pure functions.

Every direction is measured alone: the type of service of a ping decides whether its request, its reply or neither is
shaped (see _links_tc.py). The delay is what a shaped direction adds to pings that are not shaped and sent meanwhile.
The rate is that at which the packets of a burst arrive. The loss is the share of requests without a reply.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _links_tc
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment, Matrix, describe

_PINGS, _PINGS_FOR_LOSS = 40, 400
_INTERVAL, _INTERVAL_FOR_LOSS = 0.05, 0.01  # seconds
_BURSTS = 3
_PAYLOAD = 1372  # fits an MTU of 1400
_FRAME = _PAYLOAD + 8 + 20 + 14  # with the headers of ICMP, IP and Ethernet: what HTB counts
_BURST_SECONDS = 0.15  # less than the queue in front of a rate holds
_MIN_BURST, _MAX_BURST = 12, 1000
_Z = 3.29  # of an interval that has the true value 999 times of 1000

MAX_OFF_MS, MAX_OFF_DELAY, MAX_OFF_RATE = 1.0, 0.01, 0.05


@dataclass(frozen=True)
class Probe:
    """A direction, and the guest that measures it.

    ``address`` is the other node's. ``service`` is the type of service of the pings.
    """

    source: str
    target: str
    link: Impairment
    guest: str
    address: str
    service: int


@dataclass(frozen=True)
class Finding:
    """A promise, and what was measured: in ms, Mbit/s or percent.

    ``low`` and ``high`` bound what the measurement allows for the true value. ``kept`` is None where the measurement
    does not tell; ``note`` says why, or what the reader should know.
    """

    source: str
    target: str
    what: str
    unit: str
    promised: float
    measured: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    kept: Optional[bool] = None
    note: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """The finding in a form that is fit for JSON."""
        values = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {"from": values.pop("source"), "to": values.pop("target"), **values}


def probes(matrix: Matrix, guests: frozenset[str], addresses: Mapping[str, str]) -> list[Probe]:
    """Return how each direction is measured. A guest measures what it sends, and what control planes send to it.

    :param addresses: addresses of the nodes, by name; directions of nodes without one are left out
    """
    result = []
    for (source, target), link in matrix.items():
        if source not in addresses or target not in addresses:
            continue
        if source in guests:
            result.append(Probe(source, target, link, source, addresses[target], _links_tc.REQUEST))
        elif target in guests:
            result.append(Probe(source, target, link, target, addresses[source], _links_tc.REPLY))
    return result


def by_guest(found: Sequence[Probe]) -> dict[str, list[Probe]]:
    """Return the probes of each guest that measures something, by the guest's name."""
    return {guest: [probe for probe in found if probe.guest == guest] for guest in sorted({p.guest for p in found})}


def shell_command(of_guest: Sequence[Probe]) -> str:
    """Return the command with which a guest measures its probes, one after the other."""
    lines = ["d=$(mktemp -d) && cd $d || exit 1"]
    for number, probe in enumerate(of_guest):
        link, lossy = probe.link, loss_share(probe.link) > 0
        count, interval = (_PINGS_FOR_LOSS, _INTERVAL_FOR_LOSS) if lossy else (_PINGS, _INTERVAL)
        if link.rate:  # the pings themselves may take a tenth of the rate
            interval = max(interval, 98 * 8 * 10 / link.rate)
            count = max(10, min(count, int(10 / interval)))
        wait = 2 + math.ceil((link.delay + 3 * link.jitter) / 1_000_000)
        ping = f"ping -n -D -W {wait} {probe.address}"
        lines += [
            f"{ping} -Q {_links_tc.FREE:#x} -c {_PINGS} -i {_INTERVAL} >free &",
            f"{ping} -Q {probe.service:#x} -c {count} -i {interval:g} >link; wait",
            f"echo '# {number} free'; sed -n '/icmp_seq/p;/transmitted/p' free",
            f"echo '# {number} link'; sed -n '/icmp_seq/p;/transmitted/p' link",
        ]
        if link.rate:
            size = _burst_size(link.rate)
            for kind, service in (("able", _links_tc.FREE), *[("rate", probe.service)] * _BURSTS):
                lines.append(
                    f"echo '# {number} {kind}'; {ping} -Q {service:#x} -s {_PAYLOAD} -c {size} -l {size} -i 0.002 | "
                    "sed -n '/icmp_seq/p'"
                )
    return "; ".join([*lines, "rm -r $d"]).replace("&;", "&")


def _burst_size(rate: int) -> int:
    return max(_MIN_BURST, min(_MAX_BURST, math.ceil(rate * _BURST_SECONDS / 8 / _FRAME)))


@dataclass(frozen=True)
class Pings:
    """The replies to a series of pings: round trip times in ms and times of arrival in s, and how many were sent."""

    times: tuple[float, ...]
    arrivals: tuple[float, ...]
    answered: int
    sent: int


_REPLY = re.compile(r"^\[([0-9.]+)\] .*icmp_seq=([0-9]+) .*time=([0-9.]+) ms(?! \(DUP)")
_SENT = re.compile(r"^([0-9]+) packets transmitted")


def read_pings(text: str) -> dict[tuple[int, str], list[Pings]]:
    """Read what the shell command printed, by the probe's number and the kind of the series."""
    series: dict[tuple[int, str], list[Pings]] = {}
    for block in re.split(r"^# ", text.replace("\r", ""), flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        number, kind = head.split()
        replies = [match for match in map(_REPLY.match, lines) if match]
        sent = next((int(match[1]) for match in map(_SENT.match, lines) if match), 0)
        series.setdefault((int(number), kind), []).append(
            Pings(
                tuple(float(match[3]) for match in replies),
                tuple(sorted(float(match[1]) for match in replies)),
                len({match[2] for match in replies}),
                sent,
            )
        )
    return series


def findings(of_guest: Sequence[Probe], text: str) -> list[Finding]:
    """Compare what a guest measured with what was promised."""
    series = read_pings(text)
    result = []
    for number, probe in enumerate(of_guest):
        free = series.get((number, "free"), [Pings((), (), 0, 0)])[0]
        link = series.get((number, "link"), [Pings((), (), 0, 0)])[0]
        result.append(_delay(probe, free, link))
        if probe.link.rate:
            result.append(_rate(probe, series.get((number, "able"), []), series.get((number, "rate"), [])))
        if loss_share(probe.link):
            result.append(_loss(probe, link))
    return result


def _delay(probe: Probe, free: Pings, link: Pings) -> Finding:
    promised = probe.link.delay / 1000
    finding = Finding(probe.source, probe.target, "delay", "ms", promised)
    if not free.times or not link.times:
        who = probe.target if probe.guest == probe.source else probe.source
        everything = loss_share(probe.link) == 1 and free.times
        note = "everything is lost" if everything else f"{who} does not answer {probe.guest}"
        return _with(finding, note=note, kept=None if everything else False)
    heavy = probe.link.jitter and probe.link.distribution != "normal"  # its median is not its mean
    (base, base_error), (shaped, error) = _middle(free.times, False), _middle(link.times, bool(heavy))
    measured, error = shaped - base, math.hypot(base_error, error)
    off, allowed = abs(measured - promised), max(MAX_OFF_MS, MAX_OFF_DELAY * promised)
    kept: Optional[bool] = True if off <= allowed else None if off <= allowed + error else False
    busy = "" if kept is not None else "the pings differ too much to tell; "
    spread = f", +- {_spread(link.times):.1f} ms of {probe.link.jitter / 1000:g} ms" if probe.link.jitter else ""
    return _with(
        finding,
        measured=measured,
        low=measured - error,
        high=measured + error,
        kept=kept,
        note=f"{busy}besides the path's own {base:.1f} ms there and back{spread}",
    )


def _middle(values: Sequence[float], mean: bool) -> tuple[float, float]:
    """Return the median or mean, and half of its interval."""
    count = len(values)
    if count < 4:
        return statistics.median(values), max(values) - min(values)
    if mean:
        return statistics.fmean(values), _Z * statistics.stdev(values) / math.sqrt(count)
    return statistics.median(values), 1.57 * _quartile_range(values) / math.sqrt(count)


def _quartile_range(values: Sequence[float]) -> float:
    low, _middle, high = statistics.quantiles(values, n=4)
    return high - low


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation, whatever a few outliers are."""
    return _quartile_range(values) / 1.349 if len(values) >= 4 else 0.0


def _rate(probe: Probe, able: Sequence[Pings], bursts: Sequence[Pings]) -> Finding:
    promised = probe.link.rate / 1e6
    finding = Finding(probe.source, probe.target, "rate", "Mbit/s", promised)
    rates = sorted(rate for rate in (_arrival_rate(burst, probe.link.rate) for burst in bursts) if rate)
    path = max((rate for rate in (_arrival_rate(burst, probe.link.rate) for burst in able) if rate), default=0.0)
    if not rates:
        return _with(finding, note="too few packets arrived")
    measured = statistics.median(rates)
    kept: Optional[bool] = abs(measured - promised) <= MAX_OFF_RATE * promised
    note = ""
    if not kept and rates[0] <= promised <= rates[-1]:
        kept, note = None, "the bursts differ too much to tell"
    elif not kept and measured < promised and path < 1.2 * promised:
        kept, note = None, f"the path without the limit carries {path:.1f} Mbit/s"
    return _with(finding, measured=measured, low=rates[0], high=rates[-1], kept=kept, note=note)


def _arrival_rate(burst: Pings, rate: int) -> float:
    """Return the rate in Mbit/s at which a burst arrived, without the packets that HTB lets through at once."""
    first = math.ceil(max(2 * 1514, rate * 0.004 / 8) / _FRAME)
    arrivals = burst.arrivals[first:]
    if len(arrivals) < 5 or arrivals[-1] <= arrivals[0]:
        return 0.0
    return (len(arrivals) - 1) * _FRAME * 8 / (arrivals[-1] - arrivals[0]) / 1e6


def loss_share(link: Impairment) -> float:
    """Return the share of packets that do not arrive. Corrupted ones fail their checksum."""
    lost = link.loss.percent / 100 if link.loss else 0.0
    if link.loss and link.loss.recover is not None and link.loss.percent:
        lost = link.loss.percent / (link.loss.percent + link.loss.recover)
    return 1 - (1 - lost) * (1 - link.corrupt / 100)


def _loss(probe: Probe, link: Pings) -> Finding:
    promised = loss_share(probe.link)
    finding = Finding(probe.source, probe.target, "loss", "%", promised * 100)
    if not link.sent:
        return _with(finding, kept=False, note="no ping was sent")
    share, count = 1 - link.answered / link.sent, float(link.sent)
    loss = probe.link.loss
    if loss and loss.recover is not None:
        # In bursts, one loss follows another: fewer independent ones.
        stays = 1 - (loss.percent + loss.recover) / 100
        count *= (1 - stays) / (1 + stays)
    # Wilson's interval
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return _with(
        finding,
        measured=share * 100,
        low=low * 100,
        high=high * 100,
        kept=low <= promised <= high,
        note=f"{link.sent - link.answered} of {link.sent} pings" + (", with corrupted" if probe.link.corrupt else ""),
    )


def _with(finding: Finding, **values: Any) -> Finding:
    return Finding(**{**asdict(finding), **values})


def states(
    matrix: Matrix, guests: frozenset[str], addresses: Mapping[str, str], in_force: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Return what each direction's link is, in words, and whether it is in force.

    :param in_force: of each guest that answered, ``outgoing`` and ``incoming``: links by the other node's address
    """
    names = {address: node for node, address in addresses.items()}
    result: dict[tuple[str, str], tuple[str, str]] = {}
    for pair, link in matrix.items():
        shaper = pair[0] if pair[0] in guests else pair[1]
        other = addresses.get(pair[1] if shaper == pair[0] else pair[0], "")
        if shaper not in guests:
            state = "not shaped: control planes run on the cloud's servers"
        elif shaper not in in_force:
            state = f"unknown: {shaper} did not answer"
        else:
            found = in_force[shaper]["outgoing" if shaper == pair[0] else "incoming"].get(other)
            state = "in force" if found == link else f"not in force: {describe(found) if found else 'nothing'} is"
        result[pair] = (describe(link), state)
    for guest, found in in_force.items():
        for side in ("outgoing", "incoming"):
            for address, link in found[side].items():
                other = names.get(address, address)
                pair = (guest, other) if side == "outgoing" else (other, guest)
                if pair not in result:
                    result[pair] = ("nothing", f"not in force: {describe(link)} is")
    return result
