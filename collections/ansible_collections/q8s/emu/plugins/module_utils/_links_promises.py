# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The promises of a cluster file for links, in the rows of ``verify``. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _promises, _text

_NAMES = 3  # of the nodes that a row names; a link to all nodes of a large cluster has hundreds


@dataclass(frozen=True)
class _Promise:
    """A promise for one direction.

    :param values: what was promised and measured as numbers; empty where nothing was measured
    :param text: what was found, where there are no numbers
    """

    source: str
    target: str
    what: str
    promised: str
    kept: Optional[bool]
    text: str = ""
    unit: str = ""
    values: tuple[float, ...] = ()


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for the promises of each sender, in the form of _promises.rows().

    A promise that is kept, or that cannot be judged, shares its row with equal ones to other nodes: ``measured`` is then
    a range. A broken one has its own.

    :param report: what the filter link_report returns
    """
    measured = {(finding["from"], finding["to"]) for finding in report["findings"]}
    found = [*_of_links(report["links"], measured), *_of_findings(report["findings"])]
    groups: dict[tuple[str, ...], list[_Promise]] = {}
    for one in found:
        alone = one.target if one.kept is False else ""
        groups.setdefault((one.source, one.what, one.promised, str(one.kept), one.text, alone), []).append(one)
    return sorted((_row(group) for group in groups.values()), key=lambda row: str(row["node"]))


def _of_links(links: Sequence[Mapping[str, Any]], measured: set[tuple[str, str]]) -> Iterator[_Promise]:
    """Yield the links that were not measured, and those that are not in force."""
    for link in links:
        kept = True if link["in_force"] else None if str(link["state"]).startswith("not shaped") else False
        for source in link["from"]:
            for target in link["to"]:
                if kept is not True or (source, target) not in measured:
                    yield _Promise(source, target, "link", link["impairment"], kept, link["state"])


def _of_findings(findings: Sequence[Mapping[str, Any]]) -> Iterator[_Promise]:
    """Yield what was measured."""
    for finding in findings:
        unit, promised, measured = finding["unit"], finding["promised"], finding["measured"]
        values = (promised, measured) if measured is not None else ()
        yield _Promise(
            finding["from"],
            finding["to"],
            finding["what"],
            f"{promised:g} {unit}",
            finding["kept"],
            "" if values else finding["note"],
            unit,
            values,
        )


def _row(group: Sequence[_Promise]) -> dict[str, Any]:
    first = group[0]
    names = [one.target for one in group]
    promise = f"{first.what} to {_text.join_names(names, _NAMES)}"
    measured, off = first.text, ""
    if first.values:
        found = sorted(one.values[1] for one in group)
        ends = [f"{value:.4g}" for value in (found[0], found[-1])]
        measured = f"{ends[0] if ends[0] == ends[1] else ' to '.join(ends)} {first.unit}"
        off = f"{max((one.values[1] - one.values[0] for one in group), key=abs):+.3g} {first.unit}"
    row = {"promise": promise, "promised": first.promised, "measured": measured, "off": off, "kept": first.kept}
    return {"node": first.source, **row, "problem": _promises.problem(first.source, row)}
