# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the certificates of a control plane end. Pure functions."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

WARN_DAYS = 30
_DAY = 86400
_KUBELET = "kubelet"
_RENEW = "q8s-run renew FILE"


class Certificate(NamedTuple):
    """A certificate of a control plane.

    :param name: kubeadm's name of it, or ``kubelet``
    :param end: when it ends, as Unix time
    :param authority: whether it is a CA, which cannot be renewed
    """

    name: str
    end: float
    authority: bool = False


class Report(NamedTuple):
    """What a control plane reports of its certificates.

    :param now: the time on the control plane, as Unix time
    :param restart_due: whether certificates were renewed, and what uses them was not restarted
    """

    certificates: tuple[Certificate, ...] = ()
    now: float = 0.0
    restart_due: bool = False


def read_report(lines: Iterable[str]) -> Report:
    """Read what certificates.sh of the role control_plane printed. No lines are a host that is not a control plane.

    :raises ValueError: kubeadm's JSON is not there, or is something else
    """
    found: list[Certificate] = []
    now, restart_due, rest = 0.0, False, []
    for line in lines:
        key, _, value = line.strip().partition(" ")
        if key == "restart-due":
            restart_due = True
        elif key == "now":
            now = float(value)
        elif key == _KUBELET:
            if value.startswith("notAfter="):
                found.append(Certificate(_KUBELET, ssl.cert_time_to_seconds(value.partition("=")[2])))
        else:
            rest.append(line)
    if not now:
        return Report()
    data = json.loads("\n".join(rest))
    for key, authority in (("certificates", False), ("certificateAuthorities", True)):
        for entry in data.get(key) or []:
            if not entry.get("missing") and not entry.get("externallyManaged"):
                found.append(Certificate(entry["name"], _parse(entry["expirationDate"]), authority))
    return Report(tuple(sorted(found, key=lambda certificate: (certificate.end, certificate.name))), now, restart_due)


def summarize(lines: Iterable[str], node: str) -> dict[str, Any]:
    """Return what playbooks need of a control plane's report.

    :param node: the node's name, for messages
    :returns: ``ends`` by name of the certificate; ``expired``, the names of those that have ended; ``renew_kubelet``, whether
        the kubelet's needs help; ``restart_due``; ``problem``, an expired certificate as text; ``warnings`` of those that end
        soon
    :raises ValueError: as read_report()
    """
    report = read_report(lines)
    leaves = [certificate for certificate in report.certificates if not certificate.authority]
    expired = [certificate for certificate in leaves if certificate.end <= report.now]
    limit = report.now + WARN_DAYS * _DAY
    soon = [certificate for certificate in leaves if report.now < certificate.end <= limit]
    warnings = [f"{_describe(soon, node)} on {_date(soon[0].end)}; renew: {_RENEW}"] if soon else []
    warnings += [
        f"the CA {authority.name} of {node} ends on {_date(authority.end)}, and it cannot be renewed: "
        "deploy a new cluster before that day"
        for authority in report.certificates
        if authority.authority and authority.end <= limit
    ]
    kubelet = [certificate for certificate in leaves if certificate.name == _KUBELET]
    return {
        "ends": {certificate.name: _format(certificate.end) for certificate in leaves},
        "expired": [certificate.name for certificate in expired],
        # A kubelet renews its own long before that.
        "renew_kubelet": bool(leaves) and (not kubelet or kubelet[0].end <= limit),
        "restart_due": report.restart_due,
        "problem": f"{_describe(expired, node, 'ended')} on {_date(expired[0].end)}" if expired else "",
        "warnings": warnings,
    }


def describe_ends(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Describe certificates by when they end: a text for each pair of days before and after the renewal.

    :param before: ends by name
    :param after: ends by name after the renewal; empty if nothing was renewed. Those that are the same are left out
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, end in before.items():
        if after.get(name) == end:
            continue
        groups.setdefault((end[:10], after.get(name, "")[:10]), []).append(name)
    texts = []
    for (old, new), names in sorted(groups.items()):
        if new:
            texts.append(f"{', '.join(sorted(names))}: ended on {old}, now on {new}")
        else:
            texts.append(f"{', '.join(sorted(names))}: {'ends' if len(names) == 1 else 'end'} on {old}")
    return texts


def _describe(certificates: list[Certificate], node: str, verb: str = "") -> str:
    """Return ``the certificate apiserver of demo-control-plane and 10 others end``."""
    others = len(certificates) - 1
    more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
    return f"the certificate {certificates[0].name} of {node}{more} {verb or ('end' if others else 'ends')}"


def _parse(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def _format(end: float) -> str:
    return datetime.fromtimestamp(end, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _date(end: float) -> str:
    return _format(end)[:10]
