# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the certificates of control planes and kubelets end. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

DAYS = 30  # before the end of a certificate that it is warned of
_DAY = 86400
# FILE is replaced by the cluster file's name where the message is shown.
RENEW = "q8s-run renew FILE"
_DEPLOY = "q8s-run deploy FILE"
_JOURNAL = "journalctl -u q8s-approve"
_NOT_APPROVED = f"whether its request was approved, each control plane's journal says: {_JOURNAL}"
_NOT_RENEWED = (
    f"it should have been renewed, and each control plane's journal says whether that was approved: {_JOURNAL}"
)


def report(lines: Iterable[str], node: str, days: int = DAYS) -> dict[str, Any]:
    """Return what the certificates of a control plane need.

    The keys: ``end`` is the day on which the first certificate ends, ``first`` its name; ``ended`` says which have
    ended, ``soon`` that one will within ``days``; ``lacks`` are names that the API server's certificate does not
    have. All are empty where there is nothing to say.

    :param lines: what ``certificates.sh`` of the role control_plane printed
    :param node: name of the control plane's node
    """
    parts = [line.split() for line in lines]
    now = next((int(part[1]) for part in parts if part[:1] == ["now"]), 0)
    ends = sorted((int(part[1]), part[2]) for part in parts if part[:1] == ["ends"])
    lacks = [part[1] for part in parts if part[:1] == ["lacks"]]
    if not ends:
        return {"end": "", "first": "", "ended": "", "soon": "", "lacks": lacks}
    end, first = ends[0]
    day = _day(end)
    ended, soon = "", ""
    if end <= now:
        names = ", ".join(name for seconds, name in ends if seconds <= now)
        ended = f"certificates of {node} have ended, the first on {day}, and are refused: {names}"
    elif end <= now + days * _DAY:
        soon = f"the certificate {first} of {node} ends {_when(end - now)}, on {day}; renew all: {RENEW}"
    return {"end": day, "first": first, "ended": ended, "soon": soon, "lacks": lacks}


def kubelets(lines: Iterable[str], days: int = DAYS) -> dict[str, list[str]]:
    """Return what the kubelets' serving certificates need.

    The keys: ``other`` are the nodes whose kubelets serve a certificate that the cluster's CA has not signed for them;
    ``problems`` says so of these, and of kubelets that have none; ``unheard`` says which do not answer; ``warnings`` are
    those of ``other``, and of certificates that end within ``days`` or have ended. All are empty where all is well.

    :param lines: what ``kubelets.sh`` of the role control_plane printed
    """
    parts = [line.split() for line in lines]
    now = next((int(part[1]) for part in parts if part[:1] == ["now"]), 0)
    other, without, silent = (
        sorted(part[1] for part in parts if part[:1] == [word]) for word in ("other", "without", "silent")
    )
    untrusted = [
        f"the kubelet of {node} serves a certificate that the cluster's CA has not signed for it" for node in other
    ]
    ending = []
    for end, node in sorted((int(part[1]), part[2]) for part in parts if part[:1] == ["ends"]):
        served = f"the certificate that the kubelet of {node} serves"
        if end <= now:
            ending.append(f"{served} ended on {_day(end)}; {_NOT_RENEWED}")
        elif end <= now + days * _DAY:
            ending.append(f"{served} ends {_when(end - now)}, on {_day(end)}; {_NOT_RENEWED}")
    return {
        "other": other,
        "problems": [f"the kubelet of {node} has no certificate to serve; {_NOT_APPROVED}" for node in without]
        + [f"{text}; a restart of its guest lets it ask for one" for text in untrusted],
        "unheard": [
            f"the kubelet of {node} does not answer control planes on port 10250, so kubectl logs and exec do not work"
            for node in silent
        ],
        "warnings": [f"{text}: {_DEPLOY}" for text in untrusted] + ending,
    }


def _day(seconds: int) -> str:
    """Return the day of a Unix time in UTC, such as 2027-11-27."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")


def _when(seconds: int) -> str:
    """Return in how many days something is."""
    days = seconds // _DAY
    return f"in {days} day{'' if days == 1 else 's'}" if days else "in less than a day"
