# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text for messages."""

from __future__ import annotations

from collections.abc import Sequence


def first_line(text: object) -> str:
    """Return the first line of a text, or of an error's message."""
    return str(text).split("\n", maxsplit=1)[0]


def join_names(names: Sequence[str], most: int) -> str:
    """Join names, and count those after the first ones: ``a, b and 3 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
