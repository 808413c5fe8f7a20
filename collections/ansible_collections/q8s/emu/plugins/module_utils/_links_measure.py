# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command with which a guest measures its links, and what it prints. Pure functions.

Every direction is measured alone: the type of service of a ping decides whether its request, its reply or neither is
shaped (see _links_tc.py). Three series are taken of a direction:

- ``free`` and ``link``: pings that are not shaped and pings that are, sent meanwhile, for the delay;
- ``many``: more pings, with netem's counters before and after them, for losses, duplicates and corruption;
- ``load``: a flood of pings that keeps the queue of a rate full, with the counters of its class meanwhile.

Series of one kind are taken side by side, so that a guest with 49 links needs less than three minutes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.q8s.emu.plugins.module_utils import _links_node, _links_tc
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment

_LANES = 8  # series side by side
_INTERVAL = 0.05  # seconds between pings of a series of free or link
_MANY_PER_SECOND = 600  # pings of all series of many side by side
_LOSSES = 20  # that a series of many should meet
_LEAST_MANY = 400
_LANES_RATE = 10_000_000  # bit/s that series of load side by side send together, unless one alone is faster
_PAYLOAD = 1372  # fits an MTU of 1400
FRAME = _PAYLOAD + 8 + 20 + 14  # with the headers of ICMP, IP and Ethernet: what HTB counts
_FRAMES = 150  # that a series of load should meet
_SMALL_FRAME = 56 + 8 + 20 + 14
_MAX_WINDOW = 8000
# Seconds that all series of one kind have together, and the least and most for one
_FREE_SECONDS, _MANY_SECONDS, _LOAD_SECONDS = (22.0, 2.0, 5.0), (24.0, 2.0, 10.0), (50.0, 1.0, 5.0)
_MAX_LOAD = 8.0
_SLACK = 20  # seconds until a guest that does not end its measurement is interrupted

# bash, since its clock needs no process: starting one takes milliseconds in a guest. The pipe is never written to, so
# reading it waits.
_FUNCTIONS = r"""
export LC_ALL=C
folder=$(mktemp -d) && cd "$folder" || exit 1
trap 'rm -rf "$folder"' EXIT
mkfifo pipe && exec 3<>pipe
nic=$(ip -o route get ADDRESS | sed -n 's/.* dev \([^ ]*\) .*/\1/p')
now() { t=${EPOCHREALTIME/./}; }
show() { for kind in $2; do echo "# $1 $kind"; sed 's/^.* bytes from [^ ]* //' "$1.$kind"; done; }
netem() { tc -s qdisc show dev "$1" | sed -n "/ parent 1:$2 /,/backlog/p"; }
pair() {
  ping -n -W "$6" -Q FREE -c "$4" -i "$5" "$2" >"$1.free" 2>/dev/null &
  read -rt 0.025 -u 3
  ping -n -W "$6" -Q "$3" -c "$4" -i "$5" "$2" >"$1.link" 2>/dev/null
  wait $!
}
many() {
  {
    netem "$7" "$8"
    timeout -s INT "$9" ping -q -n -W "$6" -Q "$3" -c "$4" -i "$5" "$2"
    netem "$7" "$8"
  } >"$1.many" 2>/dev/null
}
stalls() {
  now; local last=$t begin=$t lost=0
  while ((t < $1)); do
    read -rt 0.001 -u 3; now
    ((t - last > $2)) && ((lost += t - last - $2))
    last=$t
  done
  echo "stalled $lost $((t - begin))"
}
load() {
  local stop before counters
  now; stop=$((t + $4))
  ping -q -n -f -l "$5" -S 212992 -s PAYLOAD -Q "$3" "$2" >/dev/null 2>&1 &
  sender=$!
  stalls $stop "$8" >"$1.stalls" &
  while now; ((t < stop)); do
    before=$t; counters=$(tc -s class show dev "$6" classid "1:$7"); now
    echo "at $before $t"; echo "$counters"
    read -rt 0.05 -u 3
  done >"$1.load"
  kill $sender; wait
  cat "$1.stalls" >>"$1.load"
}
"""


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

    @property
    def other(self) -> str:
        """The node at the other end."""
        return self.target if self.guest == self.source else self.source


def loss_share(link: Impairment) -> float:
    """Return the share of packets that netem drops."""
    if link.loss is None:
        return 0.0
    if link.loss.recover is not None and link.loss.percent:
        return link.loss.percent / (link.loss.percent + link.loss.recover)
    return link.loss.percent / 100


@dataclass(frozen=True)
class Step:
    """Shell commands that run side by side, of some probes, and how long they take at most."""

    kinds: str
    commands: Mapping[int, str]
    seconds: float


def steps(of_guest: Sequence[Probe], turn: int = 0) -> list[Step]:
    """Return how a guest measures its probes.

    :param turn: number of the probe to begin with: another one for each guest, so that not all measure one node at once
    """
    turn %= max(1, len(of_guest))
    ordered = [*enumerate(of_guest)][turn:] + [*enumerate(of_guest)][:turn]
    return [*_pairs(ordered), *_many(ordered), *_loads(ordered)]


def seconds(of_guest: Sequence[Probe]) -> float:
    """Return how long a guest measures at most."""
    return sum(step.seconds for step in steps(of_guest))


def shell_command(of_guest: Sequence[Probe], turn: int = 0) -> str:
    """Return the command with which a guest measures its probes."""
    functions = _FUNCTIONS.replace("ADDRESS", of_guest[0].address).replace("PAYLOAD", str(_PAYLOAD))
    lines = [functions.strip().replace("FREE", f"{_links_tc.FREE:#x}")]
    for step in steps(of_guest, turn):
        shown = "; ".join(f'show {number} "{step.kinds}"' for number in step.commands)
        lines.append(" & ".join(step.commands.values()) + f" & wait; {shown}")
    limit = math.ceil(seconds(of_guest)) + _SLACK
    return f"timeout {limit} bash -c {shlex.quote(chr(10).join(lines))} || :"


Numbered = Sequence[tuple[int, Probe]]


def _groups(ordered: Numbered) -> list[Numbered]:
    return [ordered[first : first + _LANES] for first in range(0, len(ordered), _LANES)]


def _share(limits: tuple[float, float, float], count: int) -> float:
    """Return the seconds of each of some steps."""
    together, least, most = limits
    return max(least, min(most, together / max(1, count)))


def _wait(link: Impairment) -> int:
    """Return how many seconds a reply may take."""
    return max(2, 1 + math.ceil((link.delay + 3 * link.jitter) / 1_000_000))


def _small_interval(link: Impairment, interval: float) -> float:
    """Return an interval with which pings take at most a tenth of the rate."""
    return max(interval, _SMALL_FRAME * 8 * 10 / link.rate) if link.rate else interval


def _pairs(ordered: Numbered) -> list[Step]:
    groups = _groups(ordered)
    time = _share(_FREE_SECONDS, len(groups))
    result = []
    for group in groups:
        commands, longest = {}, 0.0
        for number, probe in group:
            interval = _small_interval(probe.link, _INTERVAL)
            count, wait = max(10, round(time / interval)), _wait(probe.link)
            commands[number] = f"pair {number} {probe.address} {probe.service:#x} {count} {interval:g} {wait}"
            longest = max(longest, count * interval + wait)
        result.append(Step("free link", commands, longest))
    return result


def _many(ordered: Numbered) -> list[Step]:
    counted = [(number, probe) for number, probe in ordered if _rarest(probe.link)]
    groups = _groups(counted)
    time = _share(_MANY_SECONDS, len(groups))
    result = []
    for group in groups:
        commands, longest = {}, 0.0
        for number, probe in group:
            interval = _small_interval(probe.link, max(0.002, len(group) / _MANY_PER_SECOND))
            wanted = max(_LEAST_MANY, math.ceil(_LOSSES / _rarest(probe.link)))
            count, wait = max(10, min(wanted, round(time / interval))), _wait(probe.link)
            # A guest may be slower than the interval.
            limit = math.ceil(1.3 * count * interval) + wait
            commands[number] = (
                f"many {number} {probe.address} {probe.service:#x} {count} {interval:.4g} {wait} {_class(probe)} {limit}"
            )
            longest = max(longest, limit)
        result.append(Step("many", commands, longest))
    return result


def _rarest(link: Impairment) -> float:
    """Return the smallest of the shares that are counted; 0 if there is none."""
    shares = (loss_share(link), link.duplicate / 100, link.corrupt / 100)
    return min((share for share in shares if share), default=0.0)


def _loads(ordered: Numbered) -> list[Step]:
    groups: list[list[tuple[int, Probe]]] = []
    for number, probe in ordered:
        if not probe.link.rate:
            continue
        last = groups[-1] if groups else []
        if last and len(last) < _LANES and sum(p.link.rate for _n, p in last) + probe.link.rate <= _LANES_RATE:
            last.append((number, probe))
        else:
            groups.append([(number, probe)])
    time = _share(_LOAD_SECONDS, len(groups))
    result = []
    for group in groups:
        commands, longest = {}, 0.0
        for number, probe in group:
            link = probe.link
            lasts = min(_MAX_LOAD, max(time, _FRAMES * FRAME * 8 / link.rate)) + link.delay / 1_000_000
            window = min(_MAX_WINDOW, _links_tc.queue_limit(link))
            commands[number] = (
                f"load {number} {probe.address} {probe.service:#x} {round(lasts * 1_000_000)} {window} {_class(probe)} "
                f"{round(_links_tc.burst(link.rate) * 8 / link.rate * 1_000_000)}"
            )
            longest = max(longest, lasts + 0.4)
        result.append(Step("load", commands, longest))
    return result


def _class(probe: Probe) -> str:
    """Return the device and the class that shape a direction."""
    device = '"$nic"' if probe.guest == probe.source else _links_node.INGRESS
    return f"{device} {_links_tc.minor(probe.address):x}"
