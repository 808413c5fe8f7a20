# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: the changes that a cloud needs, in their order.

Check mode, diff and the change itself all read the same plan, so that they cannot disagree: a module applies the very
changes that it announces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# Kinds of what a cluster has in a cloud
KEYPAIR = "key pair"
SECURITY_GROUP = "security group"
RULE = "rule"
MEMBER = "member"
PORT = "port"
SERVER_GROUP = "server group"
SERVER = "server"
FLOATING_IP = "floating IP"


@dataclass(frozen=True)
class Change:
    """One change of the cloud. ``before`` and ``after`` are a line each, empty where there is nothing.

    ``subject`` is what the change is made with: what a plan knows of the thing, for the code that applies it.
    """

    kind: str
    action: str  # create, delete, replace, start or attach
    name: str
    before: str = ""
    after: str = ""
    subject: Any = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.action} {self.kind} {self.name}"

    def to_mapping(self) -> dict[str, str]:
        """Return the change without its subject, fit for JSON."""
        return {
            "kind": self.kind,
            "action": self.action,
            "name": self.name,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True)
class Plan:
    """What has to be done, in this order.

    ``kept`` are the lines of what is there and stays. ``notes`` say what is left alone although it is not as the file
    says. ``problems`` say why nothing can be done.
    """

    changes: tuple[Change, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the cloud differs from what is wanted."""
        return bool(self.changes)

    def of(self, kind: str, *actions: str) -> list[Change]:
        """Return the changes of one kind; of some actions only, if these are given."""
        return [c for c in self.changes if c.kind == kind and (not actions or c.action in actions)]

    def diff(self) -> dict[str, str]:
        """Return before and after, in lines that are sorted."""
        before = [*self.kept, *(change.before for change in self.changes)]
        after = [*self.kept, *(change.after for change in self.changes)]
        return {"before": _lines(before), "after": _lines(after)}

    def to_mapping(self) -> dict[str, Any]:
        """Return what every module returns of its plan, in check mode and after the change alike."""
        return {
            "changed": self.changed,
            "changes": [change.to_mapping() for change in self.changes],
            "notes": list(self.notes),
            "diff": self.diff(),
        }


def joined(plans: Iterable[Plan]) -> Plan:
    """Return several plans as one, in their order."""
    parts = list(plans)
    return Plan(
        tuple(change for plan in parts for change in plan.changes),
        tuple(line for plan in parts for line in plan.kept),
        tuple(note for plan in parts for note in plan.notes),
        tuple(problem for plan in parts for problem in plan.problems),
    )


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in sorted(lines) if line)
