# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links of each node: who shapes which direction, what a guest has, and the shell command that changes it.

A guest shapes what it sends to every other node, and what it receives from control planes, whose kernel is the cloud's.
Directions between control planes are not shaped. Pure functions.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _links_tc
from ansible_collections.q8s.emu.plugins.module_utils._links import Impairment, Loss, Rule
from ansible_collections.q8s.emu.plugins.module_utils._spec_model import Cluster

NIC = "NIC"  # in place of the network interface's name, which the guest's program knows
INGRESS = "q8s-in"  # the ifb device

_PROGRAM = "/usr/local/sbin/q8s-links"
_UNIT = "/etc/systemd/system/q8s-links.service"
_ENABLED = "/etc/systemd/system/multi-user.target.wants/q8s-links.service"
_BATCH = "/etc/q8s/links.tc"
_KEPT = "/etc/q8s/links.json"  # what the guest shapes from its next boot on
_NEXT_BATCH, _NEXT = "/run/q8s/next.tc", "/run/q8s/next.json"
_NO_FILES = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class NodeLinks:
    """What one guest shapes, by the other node's address. ``exempt`` are words of EXEMPT_PORTS."""

    outgoing: Mapping[str, Impairment] = field(default_factory=dict)
    incoming: Mapping[str, Impairment] = field(default_factory=dict)
    exempt: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of directions."""
        return len(self.outgoing) + len(self.incoming)

    def to_mapping(self) -> dict[str, Any]:
        """Return the links in a form that is fit for JSON."""
        return {
            "outgoing": {address: asdict(link) for address, link in self.outgoing.items()},
            "incoming": {address: asdict(link) for address, link in self.incoming.items()},
            "exempt": list(self.exempt),
        }


def from_mapping(data: Mapping[str, Any]) -> NodeLinks:
    """Return links from the form of JSON.

    :raises KeyError, TypeError, AttributeError: it is of another version
    """
    return NodeLinks(
        {address: _impairment(link) for address, link in data["outgoing"].items()},
        {address: _impairment(link) for address, link in data["incoming"].items()},
        tuple(data["exempt"]),
    )


def _impairment(data: Mapping[str, Any]) -> Impairment:
    loss = data["loss"]
    return Impairment(**{**data, "loss": Loss(**loss) if loss is not None else None})


def node_links(cluster: Cluster, addresses: Mapping[str, str], overrides: Iterable[Rule] = ()) -> dict[str, NodeLinks]:
    """Return what each guest shapes, by its node's name. A guest that shapes nothing is not in it.

    :param addresses: addresses of the nodes, by name; a node without one has no server yet
    :param overrides: rules that apply instead of the file's
    """
    guests = {server.node for server in cluster.servers() if server.vm_type}
    outgoing: dict[str, dict[str, Impairment]] = {}
    incoming: dict[str, dict[str, Impairment]] = {}
    for (source, target), impairment in cluster.link_matrix(overrides).items():
        if source in guests and target in addresses:
            outgoing.setdefault(source, {})[addresses[target]] = impairment
        elif target in guests and source in addresses:
            incoming.setdefault(target, {})[addresses[source]] = impairment
    return {
        node: NodeLinks(outgoing.get(node, {}), incoming.get(node, {}), cluster.links.exempt)
        for node in sorted({*outgoing, *incoming})
    }


def full_batch(links: NodeLinks) -> str:
    """Return the commands of tc for a guest that shapes nothing."""
    batch = _links_tc.setup_batch(NIC, links.outgoing, "dst_ip", links.exempt)
    return batch + _incoming_batch({}, links.incoming, links.exempt)


def update_batch(before: NodeLinks, after: NodeLinks) -> str:
    """Return the commands of tc for a guest that shapes something. ``exempt`` must be equal."""
    batch = _links_tc.update_batch(NIC, before.outgoing, after.outgoing, "dst_ip")
    return batch + _incoming_batch(before.incoming, after.incoming, after.exempt)


def _incoming_batch(before: Mapping[str, Impairment], after: Mapping[str, Impairment], exempt: tuple[str, ...]) -> str:
    if not after:
        return f"qdisc del dev {NIC} clsact\nqdisc del dev {INGRESS} root\n" if before else ""
    if before:
        shaped = _links_tc.update_batch(INGRESS, before, after, "src_ip")
    else:
        shaped = _links_tc.setup_batch(INGRESS, after, "src_ip", exempt)
    return shaped + _links_tc.redirect_batch(NIC, INGRESS, list(before), list(after))


@dataclass(frozen=True)
class Found:
    """What a guest has: the links of its next boot, those in force, its files' checksum, and the number of its netems."""

    kept: Optional[NodeLinks]
    in_force: Optional[NodeLinks]
    checksum: str
    netems: int

    @property
    def has_files(self) -> bool:
        """Whether the guest has the files of links."""
        return self.checksum != _NO_FILES


def read_found(text: str) -> Found:
    """Read what the role's first task printed.

    :raises ValueError: it is something else
    """
    lines = text.splitlines()
    if len(lines) != 4 or not lines[3].strip().isdecimal():
        raise ValueError(f"The guest's answer is not understood: {text[-200:]!r}")
    return Found(_parsed(lines[0]), _parsed(lines[1]), lines[2].split()[0], int(lines[3]))


def _parsed(line: str) -> Optional[NodeLinks]:
    """Return the links of a file; None if there is none, or it is of another version."""
    try:
        return from_mapping(json.loads(base64.b64decode(line))) if line.strip() else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Change:
    """What a guest needs: the shell command, and what it does. Both are empty for nothing.

    ``has_links`` tells whether the guest has links afterwards, and ``installed`` whether the command gives it some.
    """

    has_links: bool
    command: str = ""
    text: str = ""

    @property
    def installed(self) -> bool:
        return self.has_links and bool(self.command)


def change(found: Found, kept: NodeLinks, now: NodeLinks, program: str, unit: str) -> Change:
    """Return what a guest needs.

    :param kept: what it shall shape from its next boot on
    :param now: what it shall shape at once; ``exempt`` is that of ``kept``
    :param program: text of the guest's program q8s-links
    :param unit: text of its unit
    """
    if not kept.count and not now.count:
        if found.kept is None and found.in_force is None and not found.has_files:
            return Change(False)
        paths = " ".join((_ENABLED, _UNIT, _PROGRAM, _BATCH, _KEPT))
        return Change(False, f"set -e; [ ! -x {_PROGRAM} ] || {_PROGRAM} stop; rm -f {paths}", "no links")
    same_files = found.checksum == hashlib.sha256((program + unit).encode()).hexdigest()
    files: dict[str, tuple[str, int]] = {}
    if not same_files:
        files = {_PROGRAM: (program, 0o755), _UNIT: (unit, 0o644)}
    if not same_files or found.kept != kept:
        files[_BATCH] = (full_batch(kept), 0o644)
        files[_KEPT] = (_json(kept), 0o644)
    steps, before = [], found.in_force
    if before is None or before.exempt != now.exempt or before.count != found.netems or not same_files:
        steps.append(f"{_PROGRAM} start")
        before = kept
    if before != now:
        files[_NEXT_BATCH] = (update_batch(before, now), 0o644)
        files[_NEXT] = (_json(now), 0o644)
        steps.append(f"{_PROGRAM} update {_NEXT_BATCH} {_NEXT}")
    if not files and not steps:
        return Change(True)
    unpack = f"echo {_archive(files)} | base64 -d | tar -xzf - -C /" if files else ":"
    text = f"{now.count} link{'s' if now.count != 1 else ''}"
    return Change(True, "; ".join(["set -e", "mkdir -p /run/q8s", unpack, *steps]), text)


def found_after(kept: NodeLinks, now: NodeLinks, program: str, unit: str) -> Found:
    """Return what a guest has after the command of change() with the same arguments."""
    if not kept.count and not now.count:
        return Found(None, None, _NO_FILES, 0)
    return Found(kept, now, hashlib.sha256((program + unit).encode()).hexdigest(), now.count)


def _json(links: NodeLinks) -> str:
    return json.dumps(links.to_mapping(), sort_keys=True) + "\n"


def _archive(files: Mapping[str, tuple[str, int]]) -> str:
    """Return files as a compressed tar in base64, the same one for the same files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, (text, mode) in files.items():
            data = text.encode()
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
        if _UNIT in files:
            link = tarfile.TarInfo(_ENABLED.lstrip("/"))
            link.type, link.linkname = tarfile.SYMTYPE, "../q8s-links.service"
            archive.addfile(link)
    return base64.b64encode(gzip.compress(stream.getvalue(), mtime=0)).decode()
