# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of a benchmark's results, as Markdown and CSV. Pure functions of the document that ``results.json`` holds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _bench_resume

# Round-trip times of the paper, section 3.2, in ms.
PAPER_LATENCY = {
    "worker to worker": 3.1,
    "pod to pod, different nodes": 4.8,
    "pod to pod, same node": 1.1,
    "worker to control plane": 1.5,
    "control plane to control plane": 0.5,
}
# Durations in the text of the paper, section 3.2, for 52 nodes. The paper gives no other number in its text.
PAPER_DEPLOY = {"whole deploy": "77 min", "setup of hosts": "24 min", "setup of emulated nodes": "23 to 39 min"}
_NAMED_PROBLEMS = 20  # the others are counted
# Units of figures that tell a speed, and that can be compared between nodes.
UNITS = {
    "ops_per_s": "operations/s",
    "mb_per_s": "MB/s",
    "read_mb_per_s": "MB/s read",
    "write_mb_per_s": "MB/s written",
    "compress_mips": "MIPS",
}


@dataclass(frozen=True)
class Table:
    """A table: its title, a note below it, the headings, and the cells as text.

    :param name: file name of the CSV form, without suffix
    """

    name: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Return all tables that have rows."""
    found = [_bandwidth(document), _latency(document), *_loads(document), _machines(document), _disks(document)]
    found.append(_deploy(document))
    return [table for table in found if table.rows]


def markdown(document: Mapping[str, Any]) -> str:
    """Return all tables as one Markdown document."""
    kind = "quick" if document["quick"] else "full"
    lines = [
        f"# Benchmark of {document['cluster']}",
        "",
        f"{document['created']}, {kind}, {'complete' if document['complete'] else 'PARTIAL: see problems below'}. "
        f"{load_text(document)}.",
        "",
    ]
    sessions = _bench_resume.describe(document)
    lines += [sessions, ""] if sessions else []
    for table in tables(document):
        lines += [f"## {table.title}", "", *table_lines(table), ""]
        lines += [table.note, ""] if table.note else []
    found = problems(document)
    if found:
        lines += ["## Problems", "", *(f"- {problem}" for problem in found), ""]
    return "\n".join(lines)


def load_text(document: Mapping[str, Any]) -> str:
    """Return the load averages of the initial control plane over 1, 5 and 15 minutes, before and after."""
    before, after = (
        " ".join(str(document["machine"].get(f"load_{when}") or "?").split()[:3]) for when in ("before", "after")
    )
    return f"Load averages of the initial control plane before and after: {before} / {after}"


def table_lines(table: Table) -> list[str]:
    """Return the lines of a table in Markdown, with columns of one width."""
    widths = [max(len(row[column]) for row in (table.heads, *table.rows)) for column in range(len(table.heads))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in (table.heads, *table.rows)]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def csv_text(table: Table) -> str:
    """Return a table as CSV (RFC 4180)."""
    stream = io.StringIO()
    csv.writer(stream).writerows([table.heads, *table.rows])
    return stream.getvalue()


def summary_csv(document: Mapping[str, Any]) -> str:
    """Return the median and the spread of every figure as CSV."""
    stream = io.StringIO()
    heads = [
        "group",
        "metric",
        "path",
        "protocol",
        "client",
        "server",
        "figure",
        "median",
        "minimum",
        "maximum",
        "count",
    ]
    writer = csv.DictWriter(stream, heads)
    writer.writeheader()
    writer.writerows(document["summary"])
    return stream.getvalue()


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what could not be measured, each with the reason."""
    failed = [f"{result['name']}: {result['error']}" for result in document["measurements"] if result["error"]]
    missing = document["missing"]
    # An interrupted benchmark may lack hundreds.
    named = missing if len(missing) <= _NAMED_PROBLEMS else missing[: _NAMED_PROBLEMS - 1]
    rest = len(missing) - len(named)
    more = [f"and {rest} more measurements were not run"] if rest else []
    return failed + [f"{name}: it was not run" for name in named] + more


def _spread(entry: Mapping[str, Any], digits: int = 1) -> str:
    """Format a median, with the spread if there is more than one value: ``42.1 (40.0 to 43.5)``."""
    text = f"{entry['median']:.{digits}f}"
    if entry["count"] < 2:
        return text
    return f"{text} ({entry['minimum']:.{digits}f} to {entry['maximum']:.{digits}f})"


def _summary(document: Mapping[str, Any], **wanted: str) -> list[Mapping[str, Any]]:
    return [entry for entry in document["summary"] if all(entry[key] == value for key, value in wanted.items())]


def _kinds(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {node["name"]: node for node in document["nodes"]}


def _describe(node: Mapping[str, Any]) -> str:
    return f"{node['name']} ({node['architecture']}{', emulated' if node['emulated'] else ''})"


def _bandwidth(document: Mapping[str, Any]) -> Table:
    """Return the bandwidth in Mbit/s of each pair of nodes (the paper's Table 2)."""
    nodes = _kinds(document)
    columns = [(path, protocol) for path in ("pod-pod", "pod-service") for protocol in ("tcp", "udp")]
    found: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for entry in _summary(document, metric="bandwidth", figure="received_mbit_s"):
        row = found.setdefault((entry["client"], entry["server"]), {})
        row[(entry["path"], entry["protocol"])] = _spread(entry, 0)
    rows = tuple(
        (_describe(nodes[client]), _describe(nodes[server]), *(cells.get(column, "-") for column in columns))
        for (client, server), cells in found.items()
    )
    heads = ("from", "to", "pod to pod TCP", "pod to pod UDP", "pod to Service TCP", "pod to Service UDP")
    note = "Mbit/s that arrived at the server. The paper's Table 2 has the same columns for emulated and other nodes."
    return Table("bandwidth", "Bandwidth (Table 2)", heads, rows, note)


def _path_of(entry: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which of the paper's paths a latency belongs to."""
    if entry["path"] == "pod-pod-same-node":
        return "pod to pod, same node"
    if entry["path"] == "pod-pod":
        return "pod to pod, different nodes"
    workers = sum(1 for name in (entry["client"], entry["server"]) if nodes[name]["kind"] != "control-plane")
    return ("control plane to control plane", "worker to control plane", "worker to worker")[workers]


def _latency(document: Mapping[str, Any]) -> Table:
    """Return the round-trip times of ping, and of sockperf with small messages."""
    nodes = _kinds(document)
    rows = []
    for entry in _summary(document, metric="latency", figure="rtt_mean_ms"):
        path = _path_of(entry, nodes)
        between = f"{entry['client']} to {entry['server']}" if entry["client"] != entry["server"] else entry["client"]
        rows.append((path, between, "ICMP", _spread(entry, 2), f"{PAPER_LATENCY[path]:.1f}"))
    for entry in _summary(document, metric="round-trip", figure="rtt_median_ms"):
        between = f"{entry['client']} to {entry['server']}"
        rows.append(("pod to pod, different nodes", between, entry["protocol"].upper(), _spread(entry, 2), "-"))
    heads = ("path", "nodes", "protocol", "round trip, ms", "paper, ms")
    note = "ICMP: mean of ping. TCP and UDP: median of sockperf ping-pong. The paper does not say how it measured."
    return Table("latency", "Latency", heads, tuple(sorted(rows)), note)


def _loads(document: Mapping[str, Any]) -> list[Table]:
    """Return CPU (Table 3) and memory (Table 4) of client and server, idle and under load."""
    nodes = _kinds(document)
    cpu: list[tuple[str, ...]] = []
    memory: list[tuple[str, ...]] = []
    for node in nodes.values():
        cpu += _load_rows(document, node, "cpu_percent_of_node", "cpu_percent")
        memory += _load_rows(document, node, "memory_mib", "memory_mib")
    heads = ("node", "side", "idle", "client TCP", "client UDP", "server TCP", "server UDP")
    note = "From the node's /proc/stat, in percent of its cores. QEMU: its process on the host, in percent of one core."
    return [
        Table("cpu", "CPU during the bandwidth tests (Table 3)", heads, tuple(cpu), note),
        Table("memory", "Memory in MiB during the bandwidth tests (Table 4)", heads, tuple(memory)),
    ]


def _load_rows(
    document: Mapping[str, Any], node: Mapping[str, Any], node_figure: str, qemu_figure: str
) -> list[tuple[str, ...]]:
    name = node["name"]
    sides = [("node", node_figure)] + ([("qemu", qemu_figure)] if node["emulated"] else [])
    rows = []
    for side, figure in sides:
        key = f"{side}/{name}"
        cells = [document["idle"].get(key, {}).get(figure)]
        for role in ("client", "server"):
            for protocol in ("tcp", "udp"):
                values = [
                    result["load"][key][figure]
                    for result in document["measurements"]
                    if result["metric"] == "bandwidth" and result["protocol"] == protocol and result[role] == name
                    and not result["error"] and figure in result["load"].get(key, {})
                ]  # fmt: skip
                cells.append(statistics.median(values) if values else None)
        label = "node" if side == "node" else "QEMU on its host"
        if any(cell is not None for cell in cells):
            rows.append((_describe(node), label, *map(_number, cells)))
    return rows


def _number(value: Optional[float]) -> str:
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _machines(document: Mapping[str, Any]) -> Table:
    """Return the speed of each kind of node in CPU and memory, and relative to a native core of the same run."""
    nodes = _kinds(document)
    measured = [node for node in nodes.values() if any(e["client"] == node["name"] for e in _machine_entries(document))]
    native = next((node["name"] for node in measured if not node["emulated"]), None)
    by_metric: dict[str, dict[str, Mapping[str, Any]]] = {}
    for entry in _machine_entries(document):
        by_metric.setdefault(f"{entry['metric']}, {UNITS[entry['figure']]}", {})[entry["client"]] = entry
    rows = []
    for metric, entries in by_metric.items():
        cells = []
        for node in measured:
            found = entries.get(node["name"])
            reference = entries.get(native or "")
            text = "-" if found is None else _spread(found, 0 if found["median"] >= 10 else 2)
            if found and reference and node["name"] != native and reference["median"]:
                text += f" = {found['median'] / reference['median']:.3f}×"
            cells.append(text)
        rows.append((metric, *cells))
    note = (
        f"After the equals sign: the speed relative to {native}, a node that is not emulated."
        if native
        else "No node that is not emulated was measured, so there is no relative speed: measure a control plane, too."
    )
    return Table("machines", "Speed of each type", ("metric", *map(_describe, measured)), tuple(rows), note)


def _machine_entries(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        entry
        for entry in document["summary"]
        if entry["group"] in ("cpu", "memory") and entry["figure"] in UNITS and not entry["path"]
    ]


def _disks(document: Mapping[str, Any]) -> Table:
    """Return rate and operations of each node's disk."""
    nodes = _kinds(document)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for entry in _summary(document, group="disk"):
        found.setdefault((entry["client"], entry["metric"]), {})[entry["figure"]] = _spread(entry)
    rows = tuple(
        (_describe(nodes[name]), metric, cells["mb_per_s"], cells["iops"], cells["latency_mean_ms"])
        for (name, metric), cells in found.items()
    )
    return Table("disk", "Disk of each type", ("node", "pattern", "MB/s", "operations/s", "mean latency, ms"), rows)


def _deploy(document: Mapping[str, Any]) -> Table:
    """Return the durations of the deploy's stages (Table 5)."""
    rows = tuple(
        (stage["stage"], f"{stage['start_s']:.1f}", f"{stage['seconds']:.1f}") for stage in document["deploy_stages"]
    )
    paper = ", ".join(f"{what} {took}" for what, took in PAPER_DEPLOY.items())
    servers = document.get("deploy_servers")  # results of an earlier release have none
    created = f"created {servers['created']} of {servers['all']} servers" if servers else "created servers"
    note = f"Seconds, from q8s-run's record of the last deploy that {created}. The paper, 52 nodes: {paper}."
    return Table("deploy", "Stages of the deploy (Table 5)", ("stage", "start", "until the next"), rows, note)
