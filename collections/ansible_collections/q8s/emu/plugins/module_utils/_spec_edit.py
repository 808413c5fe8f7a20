# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classes of edits: what changing a field of the cluster file does to a cluster that is running."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Effect(Enum):
    """What `deploy` does to a running cluster when a field has changed."""

    LIVE = "live"
    RESTART = "restart"
    RECREATE = "recreate"
    REPLACE = "replace"
    NEW = "new servers"
    UPGRADE = "upgrade"
    REFUSED = "refused"
    NONE = "none"


# What each class means, for the documentation, in the order of how much it costs.
MEANINGS = {
    Effect.LIVE: "`deploy` changes the running cluster. No guest restarts.",
    Effect.RESTART: "`deploy` drains the node, restarts its guest and waits until it is Ready. Its root disk stays.",
    Effect.RECREATE: "`deploy` drains the node, deletes it, and starts its guest from a new root disk on the same host.",
    Effect.REPLACE: "`deploy` keeps the server and reports it. `q8s-run replace FILE NODE` creates the server again.",
    Effect.NEW: "Servers that are created afterwards have the new value. Existing servers stay as they are, and `plan` "
    "and `deploy` name those that differ.",
    Effect.UPGRADE: "`q8s-run upgrade FILE` changes the running cluster. `deploy` and `plan` refuse the edit and name that command.",
    Effect.REFUSED: "`deploy`, `deploy --check` and `plan` fail before they change anything, and name both values.",
    Effect.NONE: "Nothing in the cluster depends on it.",
}


@dataclass(frozen=True)
class Edit:
    """The class of a field's edits. ``text`` adds what the class does not say; of a refused edit it is the reason.

    ``remedy`` says what to do instead of a refused edit, beside setting the field back.
    """

    effect: Effect
    text: str = ""
    remedy: str = ""


LIVE = Edit(Effect.LIVE)
RESTART = Edit(Effect.RESTART)
RECREATE = Edit(Effect.RECREATE)
NEW = Edit(Effect.NEW)
NONE = Edit(Effect.NONE)
DEPLOY_AGAIN = "destroy the cluster and deploy it again"


def refused(reason: str, remedy: str = DEPLOY_AGAIN) -> Edit:
    """Return the class of an edit that is refused."""
    return Edit(Effect.REFUSED, reason, remedy)
