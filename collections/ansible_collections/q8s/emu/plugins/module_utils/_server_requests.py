# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The calls that create servers: which servers are asked for in one. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ansible_collections.q8s.emu.plugins.module_utils._spec import ServerSpec


@dataclass(frozen=True)
class Request:
    """Servers that are asked for in one call: one, or some that are numbered from 1 on."""

    specs: tuple[ServerSpec, ...]

    @property
    def name(self) -> str:
        """What the call has as name. Nova puts the number behind it, if the servers are several."""
        first = self.specs[0].name
        return first if len(self.specs) == 1 else first.rpartition("-")[0]

    def __str__(self) -> str:
        first, last = self.specs[0].name, self.specs[-1].name
        return f"server {first}" if len(self.specs) == 1 else f"{len(self.specs)} servers, {first} to {last}"

    def without(self, names: Collection[str]) -> list[Request]:
        """Return what is left to request when the servers of these names exist: all of it, or each other one alone."""
        left = [spec for spec in self.specs if spec.name not in names]
        return [self] if len(left) == len(self.specs) else [Request((spec,)) for spec in left]


def requests(specs: Iterable[ServerSpec]) -> list[Request]:
    """Return the fewest calls for these servers: one for all of a type that are numbered from 1 on, and one for each other.

    Servers of one call get the same user-data. A control plane shares none with another.
    """
    alone: list[Request] = []
    series: dict[str, list[ServerSpec]] = {}
    for spec in specs:
        kind = spec.vm_type.name if spec.vm_type else ""
        number = len(series.get(kind, ())) + 1
        if kind and spec.name.endswith(f"-{number}"):
            series.setdefault(kind, []).append(spec)
        else:
            alone.append(Request((spec,)))
    return alone + [Request(tuple(same)) for same in series.values()]
