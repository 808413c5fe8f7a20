"""Show a timeline as text for terminals. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from q8s_wrapper import text_layout
from q8s_wrapper.experiment.timeline_record import MILESTONES
from q8s_wrapper.history import format_duration

_ROWS_OF_TEXT: Final = 40
_BARS: Final = ("█", "░")  # of the critical path, and others
SHARE_NAMES: Final = {
    "machines": "a host works, or a guest boots",
    "local": "only this machine works, or the cloud",
    "waiting": "every task that runs waits",
    "ansible": "no task runs, or only Ansible's own",
}
MILESTONE_NAMES: Final = {"power_on": "power-on", "ready": "Ready"}


def text(analysis: Mapping[str, Any], width: int) -> list[str]:
    """Return the timeline as lines for a terminal.

    :param width: columns of the terminal
    """
    failed = f", exit code {analysis['exit_code']}" if analysis["exit_code"] else ""
    took = format_duration(analysis["seconds"])
    lines = [f"deploy of {analysis['cluster']}, {started_text(analysis)}, {took}{failed}", ""]
    critical = {(segment["host"], segment["stage"]) for segment in analysis["critical_path"]}
    rows = [
        {
            "host": cell["host"],
            "stage": cell["stage"],
            "start": f"{cell['start']:.1f} s",
            "took": f"{cell['end'] - cell['start']:.1f} s",
            "works": f"{cell['work']:.1f} s",
            "": (cell["start"], cell["end"], (cell["host"], cell["stage"]) in critical),
        }
        for cell in analysis["stages"]
    ]
    lines += _bar_table(rows[:_ROWS_OF_TEXT], analysis["seconds"], width)
    if len(rows) > _ROWS_OF_TEXT:
        lines.append(f"… and {len(rows) - _ROWS_OF_TEXT} more rows: --json and --output show all")
    lines += ["", *_guest_lines(analysis), "critical path:"]
    lines += text_layout.table(
        [
            {
                "start": f"{segment['start']:.1f} s",
                "took": f"{segment['end'] - segment['start']:.1f} s",
                "host": segment["host"] or "-",
                "what": describe_segment(segment),
            }
            for segment in analysis["critical_path"]
        ]
    ).splitlines()
    lines += ["", *_share_lines(analysis)]
    return lines


def _bar_table(rows: Sequence[Mapping[str, Any]], seconds: float, width: int) -> list[str]:
    """Return a table whose last column has bars, if the terminal has room for them."""
    without = text_layout.table([{name: cell for name, cell in row.items() if name} for row in rows]).splitlines()
    room = min(width - max(map(len, without), default=0) - 3, 60)
    if room < 10 or not rows or not seconds:
        return without
    longest = max(map(len, without))
    lines = [without[0]]
    for line, row in zip(without[1:], rows, strict=True):
        start, end, critical = row[""]
        first = int(room * start / seconds)
        length = max(1, round(room * (end - start) / seconds))
        lines.append(f"{line:<{longest}}  {' ' * first}{_BARS[0 if critical else 1] * length}")
    return [*lines, f"{'':<{longest}}  {_BARS[0]} on the critical path"]


def _guest_lines(analysis: Mapping[str, Any]) -> list[str]:
    """Return the table of milestones."""
    if not analysis["guests"]:
        return ["guests: their milestones are not known", ""]
    rows = [
        {
            "guest": guest["node"],
            **{
                MILESTONE_NAMES.get(name, name): f"{guest['times'][name]:.1f} s" if name in guest["times"] else "-"
                for name in MILESTONES
            },
        }
        for guest in analysis["guests"]
    ]
    return [*text_layout.table(rows).splitlines(), ""]


def _share_lines(analysis: Mapping[str, Any]) -> list[str]:
    """Return who worked for how long."""
    shares, seconds = analysis["shares"], analysis["seconds"] or 1.0
    rows = [
        {"of the deploy": what, "seconds": f"{shares[name]:.1f}", "share": f"{100 * shares[name] / seconds:.1f} %"}
        for name, what in SHARE_NAMES.items()
    ]
    unknown = "" if analysis["guests"] else "; a guest that boots counts as waiting, as its milestones are not known"
    last = f"no machine works (the last two): {shares['no_machine_percent']:.1f} %{unknown}"
    return [*text_layout.table(rows).splitlines(), last]


def describe_segment(segment: Mapping[str, Any]) -> str:
    """Describe a segment of the critical path."""
    stage, what = segment["stage"], segment["what"]
    return str(what) if segment["kind"] in ("boot", "ansible") or stage == what else f"{stage}: {what}"


def started_text(record: Mapping[str, Any]) -> str:
    """Return when the deploy began and ended, in UTC: ``2026-11-27 19:30:05 to 19:31:10 UTC``."""
    began = datetime.fromisoformat(record["started"])
    ended = began + timedelta(seconds=record["seconds"])
    return f"{began:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S} UTC"
