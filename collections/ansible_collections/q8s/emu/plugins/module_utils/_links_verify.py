# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare what guests measured of their links with what was promised. Pure functions.

A promise is broken only if the measurement excludes that it is kept: on a busy machine, the answer is "cannot tell".

- Delay: machines add to a round trip and never shorten it, so the shortest round trips of a series are compared.
- Rate: what a class sent while packets waited for it is what the rate let through, whatever the receiver's load is.
- Loss: what netem dropped, and the requests without a reply. Duplicates and corruption: the pings' replies.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _links_measure, _links_series, _links_tc
from ansible_collections.q8s.emu.plugins.module_utils._links import Matrix, describe
from ansible_collections.q8s.emu.plugins.module_utils._links_measure import Probe, loss_share
from ansible_collections.q8s.emu.plugins.module_utils._links_series import Many

_Z = 3.29  # of an interval that has the true value 999 times of 1000
_NEAREST = 10  # shortest round trips of which the distance to the shortest possible one is estimated
_WIDEST = 4  # width of the interval of a delay that can be kept, in parts of what it may be off
_LEAST_SAMPLES = 3

MAX_OFF_MS, MAX_OFF_DELAY, MAX_OFF_RATE = 1.0, 0.01, 0.02


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
        """Return the finding in a form that is fit for JSON."""
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


def findings(of_guest: Sequence[Probe], text: str) -> list[Finding]:
    """Compare what a guest measured with what was promised."""
    series = _links_series.read_series(text)
    result = []
    for number, probe in enumerate(of_guest):
        if text and (number, "link") not in series:
            result.append(_with(_promise(probe, "delay", "ms", probe.link.delay / 1000), note="no time was left"))
            continue
        free = _links_series.read_pings(series.get((number, "free"), "")).times
        link = _links_series.read_pings(series.get((number, "link"), "")).times
        result.append(_delay(probe, free, link))
        if probe.link.jitter:
            result.append(_jitter(probe, free, link))
        if probe.link.rate:
            result.append(_rate(probe, _links_series.read_load(series.get((number, "load"), ""))))
        many = _links_series.read_many(series.get((number, "many"), ""))
        if loss_share(probe.link):
            result.append(_loss(probe, many, bool(text)))
        if probe.link.duplicate:
            result.append(_duplicate(probe, many))
        if probe.link.corrupt:
            result.append(_corrupt(probe, many))
        if probe.link.reorder:
            result.append(_reorder(probe, free, link))
    return result


def _promise(probe: Probe, what: str, unit: str, promised: float) -> Finding:
    return Finding(probe.source, probe.target, what, unit, promised)


def _delay(probe: Probe, free: Sequence[float], link: Sequence[float]) -> Finding:
    promised = probe.link.delay / 1000
    finding = _promise(probe, "delay", "ms", promised)
    if not free or not link:
        everything = loss_share(probe.link) == 1 and free
        note = "everything is lost" if everything else f"{probe.other} does not answer {probe.guest}"
        return _with(finding, note=note, kept=None if everything else False)
    if probe.link.reorder:
        link = _behind(free, link, promised)
    if probe.link.jitter:
        skewed = probe.link.distribution != "normal"  # its median is not its mean
        (base, below), (shaped, above) = _middle(free, skewed), _middle(link, skewed)
        below = above = math.hypot(below, above) + _quartile_range(free) / 2
    else:
        (base, above), (shaped, below) = _floor(free), _floor(link)
    measured = shaped - base
    low, high = measured - below, measured + above
    off, allowed = abs(measured - promised), max(MAX_OFF_MS, MAX_OFF_DELAY * promised)
    # Where round trips differ much, even the shortest ones of a series may be far from the shortest possible one.
    noise = 0.0 if probe.link.jitter else _quartile(link if measured > promised else free)
    kept: Optional[bool] = None
    if off <= allowed and high - low <= _WIDEST * allowed:
        kept = True
    elif not low - noise <= promised + allowed or not high + noise >= promised - allowed:
        kept = False
    busy = "" if kept is not None else "the pings differ too much to tell; "
    note = f"{busy}besides the path's own {base:.1f} ms there and back"
    return _with(finding, measured=measured, low=low, high=high, kept=kept, note=note)


def _floor(values: Sequence[float]) -> tuple[float, float]:
    """Return the shortest round trip, and how much shorter the shortest possible one may be.

    Delays of a machine are only added. Near the shortest possible round trip they are taken to be as dense as those of
    an exponential distribution: the distance to it is then to that of the nearest ones as F-distributed values are.
    """
    nearest = sorted(values)[:_NEAREST]
    if len(nearest) < 4:
        return nearest[0], max(values) - nearest[0] + _resolution(nearest[0])
    factor = 0.001 ** (-1 / (len(nearest) - 1)) - 1
    return nearest[0], (nearest[-1] - nearest[0]) * factor + _resolution(nearest[0])


def _resolution(milliseconds: float) -> float:
    """Return by how much a time that ping prints may be rounded: it prints three digits."""
    return 0.5 if milliseconds >= 100 else 0.05 if milliseconds >= 10 else 0.005


def _behind(free: Sequence[float], link: Sequence[float], delay: float) -> Sequence[float]:
    """Return the round trips that were delayed, without those which netem sent at once."""
    return [time for time in link if time >= min(free) + delay / 2] or link


def _middle(values: Sequence[float], mean: bool) -> tuple[float, float]:
    """Return the median or mean, and half of its interval."""
    count = len(values)
    if count < 4:
        return statistics.median(values), max(values) - min(values)
    if mean:
        return statistics.fmean(values), _Z * statistics.stdev(values) / math.sqrt(count)
    return statistics.median(values), 1.57 * _quartile_range(values) / math.sqrt(count)


def _quartile_range(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _middle, high = statistics.quantiles(values, n=4)
    return high - low


def _quartile(values: Sequence[float]) -> float:
    """Return how far the shorter quarter reaches."""
    return statistics.quantiles(values, n=4)[0] - min(values) if len(values) > 1 else 0.0


def _jitter(probe: Probe, free: Sequence[float], link: Sequence[float]) -> Finding:
    """Judge the standard deviation of a normal distribution, without that of the path."""
    promised = probe.link.jitter / 1000
    finding = _promise(probe, "jitter", "ms", promised)
    if len(free) < 4 or len(link) < 4:
        return _with(finding, note="too few pings were answered")
    # of a normal distribution, and whatever a few outliers are
    own, whole = _quartile_range(free) / 1.349, _quartile_range(link) / 1.349
    measured = math.sqrt(max(0.0, whole**2 - own**2))
    error = _Z * 1.17 * whole / math.sqrt(len(link)) + own / 2
    low, high = max(0.0, measured - error), measured + error
    inside = low <= promised <= high
    kept: Optional[bool] = inside
    note = "standard deviation"
    if probe.link.distribution != "normal":
        kept, note = None, f"not judged: the distribution is {probe.link.distribution}"
    elif probe.link.delay < 2 * probe.link.jitter or probe.link.reorder:
        kept, note = None, "not judged: not every packet has the whole jitter"
    elif own > promised / 2:
        kept, note = None, f"the path's own round trips differ too much to tell, by {own:.1f} ms"
    return _with(finding, measured=measured, low=low, high=high, kept=kept, note=note)


def _rate(probe: Probe, load: _links_series.Load) -> Finding:
    promised = probe.link.rate / 1e6
    finding = _promise(probe, "rate", "Mbit/s", promised)
    samples = _longest_wait(load.samples)
    if len(samples) < _LEAST_SAMPLES:
        return _with(finding, note=_too_slow(load.samples))
    third = len(samples) // 3
    first, last = _sharpest(samples[:third]), _sharpest(samples[-third:])
    bits = (last.sent - first.sent) * 8
    longest, shortest = last.after - first.before, last.before - first.after
    if shortest <= 0 or not bits:
        return _with(finding, note="the guest was too busy to count")
    measured = bits / ((longest + shortest) / 2)
    # The counters change by whole packets. A guest that stands still for longer than HTB makes up for sends less.
    frame = _links_measure.FRAME * 8
    low, high = (bits - frame) / longest, (bits + frame) / shortest / max(0.01, 1 - load.stalled)
    allowed = MAX_OFF_RATE * promised
    kept: Optional[bool] = True
    note = f"{bits / 8e6:.3g} MB in {longest / 1e6:.1f} s"
    if abs(measured - promised) > allowed:
        kept = None if low <= promised + allowed and high >= promised - allowed else False
        if kept is None:
            note = f"the guest stood still for {load.stalled:.0%} of the time: too much to tell; {note}"
    return _with(finding, measured=measured, low=low, high=high, kept=kept, note=note)


def _sharpest(samples: Sequence[_links_series.Sample]) -> _links_series.Sample:
    """Return the sample of which the time is known best."""
    return min(samples, key=lambda sample: sample.after - sample.before)


def _longest_wait(samples: Sequence[_links_series.Sample]) -> Sequence[_links_series.Sample]:
    """Return the longest run of samples at which packets waited for the rate."""
    best: Sequence[_links_series.Sample] = ()
    start = 0
    for position in range(len(samples) + 1):
        if position == len(samples) or not samples[position].waiting:
            if position - start > len(best):
                best = samples[start:position]
            start = position + 1
    return best


def _too_slow(samples: Sequence[_links_series.Sample]) -> str:
    if len(samples) < 2 or samples[-1].sent == samples[0].sent:
        return "nothing was sent"
    rate = (samples[-1].sent - samples[0].sent) * 8 / max(1, samples[-1].after - samples[0].before)
    return f"the guest did not fill the rate: it sent {rate:.3g} Mbit/s"


def _loss(probe: Probe, many: Optional[Many], answered: bool) -> Finding:
    """Judge what netem dropped. Pings that say something else tell that more than netem takes part."""
    promised = loss_share(probe.link)
    finding = _promise(probe, "loss", "%", promised * 100)
    if many is None or not many.sent:
        return _with(finding, kept=None if answered else False, note="no ping was sent")
    lost = many.sent - many.answered
    packets = many.passed + many.dropped
    corrupt = probe.link.corrupt / 100
    low, high = _interval(probe, lost, many.sent)
    kept: Optional[bool] = low <= 1 - (1 - promised) * (1 - corrupt) <= high
    note = f"{lost} of {many.sent} pings"
    share = lost / many.sent
    if packets >= many.sent * 0.9:
        pings_agree, share = kept, many.dropped / packets
        low, high = _interval(probe, many.dropped, packets)
        kept = low <= promised <= high
        note = f"{many.dropped} of {packets} packets, {note}"
        if kept != pings_agree:
            kept, note = None, f"packets are lost elsewhere, too, or held back: {note}"
    elif corrupt:
        note += ", with corrupted"
    return _with(finding, measured=share * 100, low=low * 100, high=high * 100, kept=kept, note=note)


def _interval(probe: Probe, lost: int, sent: int) -> tuple[float, float]:
    """Return Wilson's interval. In bursts, one loss follows another: fewer independent ones."""
    loss, count = probe.link.loss, float(sent)
    if loss and loss.recover is not None:
        stays = 1 - (loss.percent + loss.recover) / 100
        count *= (1 - stays) / (1 + stays) if stays > 0 else 1
    return _wilson(lost / sent, count)


def _wilson(share: float, count: float) -> tuple[float, float]:
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def _duplicate(probe: Probe, many: Optional[Many]) -> Finding:
    finding = _promise(probe, "duplicate", "%", probe.link.duplicate)
    if many is None or not many.answered:
        return _with(finding, note="no ping was answered")
    return _counted(finding, many.duplicates, many.answered, "replies twice")


def _corrupt(probe: Probe, many: Optional[Many]) -> Finding:
    """Judge the pings that netem did not drop: a corrupted one fails its checksum and has no reply."""
    finding = _promise(probe, "corrupt", "%", probe.link.corrupt)
    dropped = many.dropped if many else 0
    if many is None or many.sent <= dropped or (loss_share(probe.link) and not many.passed):
        return _with(finding, note="not measured: netem did not tell what it dropped")
    sent = many.sent - dropped
    return _counted(
        finding, max(0, sent - many.answered), sent, "pings without a reply, besides those which netem dropped"
    )


def _reorder(probe: Probe, free: Sequence[float], link: Sequence[float]) -> Finding:
    """Judge the pings without the delay."""
    finding = _promise(probe, "reorder", "%", probe.link.reorder)
    delay = probe.link.delay / 1000
    if not free or not link:
        return _with(finding, note="no ping was answered")
    if probe.link.jitter or statistics.quantiles([*free, *free], n=20)[-1] - min(free) > delay / 2:
        return _with(finding, note="not measured: round trips differ too much to see which ones had no delay")
    early = len(link) - sum(time >= min(free) + delay / 2 for time in link)
    return _counted(finding, early, len(link), "pings without the delay")


def _counted(finding: Finding, hits: int, count: int, what: str) -> Finding:
    low, high = (100 * bound for bound in _wilson(hits / count, count))
    kept = low <= finding.promised <= high
    note = f"{hits} of {count} {what}"
    return _with(finding, measured=100 * hits / count, low=low, high=high, kept=kept, note=note)


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
        peer = pair[1] if shaper == pair[0] else pair[0]
        other = addresses.get(peer, "")
        if shaper not in guests:
            state = "not shaped: control planes run on the cloud's servers"
        elif shaper not in in_force:
            state = f"unknown: {shaper} did not answer"
        elif not other:
            state = f"not shaped: {peer} has no server"
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
