# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links of a cluster, compared with what its guests answered. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _links, _links_cluster, _links_node, _links_verify

_NOTHING: Mapping[str, Mapping[str, Any]] = {"outgoing": {}, "incoming": {}}


def report(
    known: _links_cluster.LinkedCluster,
    found: Mapping[str, _links_node.Found],
    measured: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return rows for the links, a row for each promise that was measured, and how many of both are not kept.

    :param found: what guests have, by name; a guest that did not answer is not in it
    :param measured: what guests printed that measured their links, by name; None if none was asked to
    """
    matrix = known.matrix()
    in_force = {}
    for guest, has in found.items():
        links = has.in_force if has.in_force and has.in_force.count == has.netems else None
        in_force[guest] = {"outgoing": links.outgoing, "incoming": links.incoming} if links else _NOTHING
    states = _links_verify.states(matrix, known.guests, known.addresses, in_force)
    rows = [
        {"from": sources, "to": targets, "impairment": words, "state": state, "in_force": state == "in force"}
        for sources, targets, (words, state) in _links.group_pairs(states)
    ]
    findings = []
    probes = [] if measured is None else _links_verify.probes(matrix, known.guests, known.addresses)
    for guest, own in _links_verify.by_guest(probes).items():
        findings += [one.to_mapping() for one in _links_verify.findings(own, (measured or {}).get(guest, ""))]
    off = sum(not state.startswith(("in force", "not shaped")) for _words, state in states.values())
    broken = off + sum(finding["kept"] is False for finding in findings)
    return {"links": rows, "findings": findings, "broken": broken}
