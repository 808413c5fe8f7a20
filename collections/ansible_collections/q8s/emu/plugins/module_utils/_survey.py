# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role's script prints about its host: one ``key value`` a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional


class Survey:
    """What a host said of itself. A key may occur more than once."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for line in lines:
            key, _space, value = line.strip().partition(" ")
            self._values.setdefault(key, []).append(value.strip())

    def all(self, key: str) -> list[str]:
        """Return all values of a key, in the order in which they were printed."""
        return self._values.get(key, [])

    def get(self, key: str) -> str:
        """Return the first value of a key, empty if there is none."""
        return next(iter(self.all(key)), "")

    def number(self, key: str) -> Optional[int]:
        """Return a value as a number, None if the host could not tell it."""
        text = self.get(key)
        return int(text) if text.isdecimal() else None
