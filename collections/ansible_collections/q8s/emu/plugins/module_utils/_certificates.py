# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the certificates of a control plane end. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

DAYS = 30  # before the end of a certificate that it is warned of
_DAY = 86400
# FILE is replaced by the cluster file's name where the message is shown.
RENEW = "q8s-run renew FILE"


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
    day = datetime.fromtimestamp(end, timezone.utc).strftime("%Y-%m-%d")
    ended, soon = "", ""
    if end <= now:
        names = ", ".join(name for seconds, name in ends if seconds <= now)
        ended = f"certificates of {node} have ended, the first on {day}, and are refused: {names}"
    elif end <= now + days * _DAY:
        left = (end - now) // _DAY
        when = f"in {left} day{'' if left == 1 else 's'}" if left else "in less than a day"
        soon = f"the certificate {first} of {node} ends {when}, on {day}; renew all: {RENEW}"
    return {"end": day, "first": first, "ended": ended, "soon": soon, "lacks": lacks}
