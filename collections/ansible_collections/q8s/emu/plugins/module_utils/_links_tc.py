# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links of one node as text for ``tc -batch``: an HTB class with a netem for each other node.

What the node sends is shaped on its network interface, by the destination's address. What other nodes send and cannot
shape themselves is shaped on an ifb device, by the source's address. VXLAN packets carry nodes' addresses outside.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment

# Ports of traffic that is not shaped, by the word of the cluster file. Guests have their ssh on port 22.
EXEMPT_PORTS = {"ssh": 22, "apiserver": 6443}

# Pings with these values of the IP header's type of service measure a link beside the path that it shapes: of FREE,
# neither request nor reply is shaped; of REQUEST, the request alone; of REPLY, the reply alone. The kernel answers with
# the request's value. The code points are of the pool for local use (RFC 2474).
FREE, REQUEST, REPLY = 0xFC, 0xEC, 0xDC
_ECHO_REPLY, _ECHO_REQUEST = 0, 8

_DEFAULT_CLASS = 0xFFFF
_UNLIMITED = 100_000_000_000  # bit/s; HTB has no class without a rate
_ASSUMED_RATE = 1_000_000_000  # of a direction without a rate, for the length of its queue
_PACKET = 1514
_QUEUE_SECONDS = 0.2
_MIN_QUEUE = 1000  # netem's own default, for directions without a rate
_MIN_RATED_QUEUE = 50
MAX_QUEUE = 100_000  # packets; the kernel needs 2304 bytes for each, so one full queue takes 230 MB of a guest
_BURST_SECONDS = 0.004
_PROBE_PRIORITY = 90

Links = Mapping[str, Impairment]  # by the other node's address


def queue_limit(impairment: Impairment) -> int:
    """Return netem's limit in packets: what is under way during the delay, and a queue of 200 ms in front of a rate."""
    seconds = (impairment.delay + 3 * impairment.jitter) / 1_000_000
    if not impairment.rate:
        wanted = max(_MIN_QUEUE, math.ceil(_ASSUMED_RATE * seconds / 8 / _PACKET))
    else:
        wanted = max(_MIN_RATED_QUEUE, math.ceil(impairment.rate * (seconds + _QUEUE_SECONDS) / 8 / _PACKET))
    return min(wanted, MAX_QUEUE)


def rate_of_queue(impairment: Impairment) -> int:
    """Return the rate in bit/s above which packets are lost because the queue is full; 0 if the link's rate is not above."""
    rate = impairment.rate or _ASSUMED_RATE
    possible = MAX_QUEUE * 8 * _PACKET * 1_000_000 // impairment.delay if impairment.delay else rate
    return possible if possible < rate else 0


def setup_batch(device: str, links: Links, match: str, exempt: Sequence[str] = ()) -> str:
    """Return the commands that shape a device that has no HTB yet.

    :param match: dst_ip for what the node sends, src_ip for what it receives through an ifb device
    :param exempt: words of EXEMPT_PORTS
    """
    lines = [
        f"qdisc replace dev {device} root handle 1: htb default {_DEFAULT_CLASS:x}",
        f"class replace dev {device} parent 1: {_class(_DEFAULT_CLASS, 0)}",
    ]
    for number, word in enumerate(exempt):
        for offset, side in enumerate(("src_port", "dst_port")):
            lines.append(
                f"filter replace dev {device} parent 1: protocol ip prio {2 * number + offset + 1} handle 1 "
                f"flower ip_proto tcp {side} {EXEMPT_PORTS[word]} classid 1:{_DEFAULT_CLASS:x}"
            )
    probes = ("", f" type {_ECHO_REPLY}", f" type {_ECHO_REQUEST}")
    for number, (value, kind) in enumerate(zip((FREE, REQUEST, REPLY), probes)):
        lines.append(
            f"filter replace dev {device} parent 1: protocol ip prio {_PROBE_PRIORITY + number} handle 1 "
            f"flower ip_proto icmp{kind} ip_tos {value:#x} classid 1:{_DEFAULT_CLASS:x}"
        )
    return _text(lines + _changes(device, {}, links, match))


def update_batch(device: str, before: Links, after: Links, match: str) -> str:
    """Return the commands that change a shaped device from some links to others. Links that stay keep their packets."""
    return _text(_changes(device, before, after, match))


def redirect_batch(device: str, ifb: str, before: Sequence[str], after: Sequence[str]) -> str:
    """Return the commands that send what arrives from some addresses through an ifb device."""
    lines = [f"qdisc replace dev {device} clsact"] if after and not before else []
    for source in _sorted(set(after) - set(before)):
        lines.append(
            f"filter replace dev {device} ingress protocol ip prio 1 handle {minor(source):#x} flower "
            f"src_ip {source} action mirred egress redirect dev {ifb}"
        )
    for source in _sorted(set(before) - set(after)):
        lines.append(f"filter del dev {device} ingress protocol ip prio 1 handle {minor(source):#x} flower")
    return _text(lines)


def _changes(device: str, before: Links, after: Links, match: str) -> list[str]:
    lines = []
    for address in _sorted(after):
        link, number, old = after[address], minor(address), before.get(address)
        if link == old:
            continue
        lines.append(f"class replace dev {device} parent 1: {_class(number, link.rate)}")
        lines.append(f"qdisc replace dev {device} parent 1:{number:x} {_netem(link)}")
        if old is None:
            lines.append(f"filter replace dev {device} {_filter(number)} flower {match} {address} classid 1:{number:x}")
    for address in _sorted(set(before) - set(after)):
        number = minor(address)
        lines.append(f"filter del dev {device} {_filter(number)} flower")
        lines.append(f"class del dev {device} classid 1:{number:x}")
    return lines


def _sorted(addresses: Iterable[str]) -> list[str]:
    return sorted(addresses, key=ipaddress.IPv4Address)


def minor(address: str) -> int:
    """Return the number of an address's class, which stays the same whatever other nodes there are.

    Nodes share a network of at most 65536 addresses, of which the first and the last are no node's.
    """
    return int(ipaddress.IPv4Address(address)) & 0xFFFF


def _filter(number: int) -> str:
    return f"parent 1: protocol ip prio 100 handle {number:#x}"


def _class(number: int, rate: int) -> str:
    """Return a class's id and rate. Without a quantum, HTB computes one from the rate and warns in the kernel's log."""
    size = burst(rate or _ASSUMED_RATE)
    return f"classid 1:{number:x} htb rate {rate or _UNLIMITED}bit burst {size} cburst {size} quantum {_PACKET}"


def burst(rate: int) -> int:
    """Return how many bytes a class may send at once."""
    return max(2 * _PACKET, round(rate * _BURST_SECONDS / 8))


def _netem(link: Impairment) -> str:
    """Return netem with its parameters.

    Those which are zero are written too: a netem that is changed keeps what the command does not name.
    """
    parts = [f"netem limit {queue_limit(link)} delay {link.delay}us"]
    if link.jitter:
        parts.append(f"{link.jitter}us distribution {link.distribution}")
    if link.loss is not None and link.loss.recover is not None:
        parts.append(f"loss gemodel {link.loss.percent:g}% {link.loss.recover:g}%")
    else:
        parts.append(f"loss {link.loss.percent if link.loss else 0:g}%")
    parts += [f"duplicate {link.duplicate:g}%", f"corrupt {link.corrupt:g}%", f"reorder {link.reorder:g}%"]
    return " ".join(parts)


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
