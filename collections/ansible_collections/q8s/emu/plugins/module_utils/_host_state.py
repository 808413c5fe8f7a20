# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of Q8S is not in force on a host: its rules, its units, and what it needs to start its guest again. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_FINDING = re.compile(
    r"(rules .*|unit \S+ \S+ \S+|definition is missing|autostart is off|network is cut|kubelet refuses)"
)


class HostState(NamedTuple):
    """The findings of ``host_state.sh`` and ``guest_state.sh``; all empty where all is well."""

    rules: tuple[str, ...] = ()
    units: tuple[tuple[str, str, str], ...] = ()
    lacks_definition: bool = False
    lacks_autostart: bool = False
    network_is_cut: bool = False
    kubelet_refuses: bool = False


def split(text: str) -> tuple[HostState, str]:
    """Return the findings in what a host printed, and the rest of it, which is the answer of virsh or kubectl."""
    lines = text.splitlines()
    found = [line.strip() for line in lines if _FINDING.fullmatch(line.strip())]
    rest = [line for line in lines if not _FINDING.fullmatch(line.strip())]
    return _parse(found), "\n".join(rest)


def _parse(lines: Iterable[str]) -> HostState:
    rules: list[str] = []
    units: list[tuple[str, str, str]] = []
    facts: dict[str, Any] = {}
    for line in lines:
        kind, text = line.split(" ", 1)
        if kind == "rules":
            rules.append(text)
        elif kind == "unit":
            name, active, enabled = text.split()
            units.append((name, active, enabled))
        else:
            facts[kind] = True
    return HostState(
        tuple(rules), tuple(units), "definition" in facts, "autostart" in facts, "network" in facts, "kubelet" in facts
    )


def problems(state: HostState, host: str, guest: str = "") -> list[str]:
    """Return what is not in force on a host, each in a clause.

    :param guest: name of the host's guest, empty on a control plane
    """
    found = []
    if state.rules:
        more = f" and {len(state.rules) - 1} more" if len(state.rules) > 1 else ""
        found.append(f"Q8S's rules on the host {host} are not in force ({state.rules[0]}{more})")
    found += [
        f"the unit {name} on the host {host} is {_unit(active, enabled)}" for name, active, enabled in state.units
    ]
    if state.network_is_cut:
        found.append(
            f"the guest {guest} is cut off: its network interface is not in the network q8s of libvirt on the host {host}"
        )
    if state.lacks_definition:
        found.append(f"libvirt has no definition of the guest {guest} any more, and would forget it when it ends")
    elif state.lacks_autostart:
        found.append(f"the guest {guest} would not start with its host: its autostart is off")
    return found


def _unit(active: str, enabled: str) -> str:
    """Return what is wrong with a unit, in systemd's words."""
    wrong = [] if active in ("active", "activating", "reloading") else [active]
    if enabled not in ("enabled", active):
        wrong.append(enabled)
    return " and ".join(wrong)
