# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where values of links come from besides the cluster file's own: published profiles, distances, and tables of delays."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Rate to the user and back in kbit/s, and the round trip in ms. The connectivity profiles of WebPageTest
# (connectivity.ini.sample of its repository). "from" is the user's side.
_WEBPAGETEST = {
    "cable": (5000, 1000, 28),
    "dsl": (1500, 384, 50),
    "fios": (20000, 5000, 4),
    "dial": (49, 30, 120),
    "3g": (1600, 768, 300),
    "3gfast": (1600, 768, 150),
    "4g": (9000, 9000, 170),
    "lte": (12000, 12000, 70),
}
# The fields of a profile, as the kinds of the cluster file read them: half of the round trip in each direction.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        f"webpagetest-{name}": {"delay": trip * 500, "rate": {"up": back * 1000, "down": to * 1000}}
        for name, (to, back, trip) in _WEBPAGETEST.items()
    }
)

_EARTH_RADIUS = 6371.0088  # km: the mean radius of IUGG
_FIBRE_KM_PER_MS = 299.792458 * 2 / 3  # light in fibre
_DETOUR = 2.1  # measured round trips over those of light in a straight fibre; Bozkurt et al., PAM 2017
_MAX_DELAY = 60_000.0  # ms


def delay_of_distance(here: tuple[float, float], there: tuple[float, float]) -> int:
    """Return the delay, one way, in microseconds, between two places on Earth.

    It is 2.1 times what light takes in a straight fibre along the great circle (haversine formula).

    :param here: latitude and longitude in degrees
    """
    (lat1, lon1), (lat2, lon2) = (tuple(map(math.radians, place)) for place in (here, there))
    chord = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    distance = 2 * _EARTH_RADIUS * math.asin(min(1.0, math.sqrt(chord)))
    return round(_DETOUR * distance / _FIBRE_KM_PER_MS * 1000)


def parse_table(text: str) -> dict[tuple[str, str], int]:
    """Return the delays of a table in CSV, in microseconds, by row and column.

    The first line names the columns, the first cell of each further line the row. A cell is the delay from the row to
    the column, one way, in ms, or empty.

    :raises ValueError: with the line of the table and what is wrong there
    """
    try:
        lines = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), strict=True)]
    except csv.Error:
        number = next((n for n, line in enumerate(text.splitlines(), 1) if line.count('"') % 2), 1)
        raise ValueError(f"line {number}: is not CSV; quotes must enclose a whole cell") from None
    if len(lines) < 2:
        raise ValueError("has no line of delays; must be CSV: the names of the columns, then a line for each row")
    columns, result, seen = lines[0][1:], {}, set()
    if not columns:
        raise ValueError(f"line 1: is {lines[0][0][:60]!r}, which has no columns; commas must separate the cells")
    for name in columns:
        if not name or columns.count(name) > 1:
            raise ValueError(f"line 1: {f'the column {name} is there twice' if name else 'a column has no name'}")
    for number, cells in enumerate(lines[1:], 2):
        if not any(cells):
            continue
        row, values = cells[0], cells[1:]
        if not row or row in seen:
            raise ValueError(f"line {number}: {f'the row {row} is there twice' if row else 'the row has no name'}")
        seen.add(row)
        if len(values) != len(columns):
            cells_found = f"{len(values)} cell{'' if len(values) == 1 else 's'}"
            raise ValueError(
                f"line {number}: has {cells_found} after the name; must have {len(columns)}: {', '.join(columns)[:80]}"
            )
        for column, cell in zip(columns, values):
            if cell:
                result[row, column] = _delay(cell, f"line {number}, column {column}")
    if not result:
        raise ValueError("has no delay: every cell is empty")
    return result


def _delay(cell: str, place: str) -> int:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_DELAY:
        raise ValueError(f"{place}: {cell!r} must be a delay in ms, from 0 to {_MAX_DELAY:.0f}, or empty")
    return round(value * 1000)
