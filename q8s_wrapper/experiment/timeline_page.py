"""Show a timeline as one self-contained HTML page. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from q8s_wrapper.experiment.timeline_record import MILESTONES
from q8s_wrapper.experiment.timeline_svg import svg
from q8s_wrapper.experiment.timeline_text import MILESTONE_NAMES, SHARE_NAMES, describe_segment, started_text
from q8s_wrapper.history import format_duration


def page(analysis: Mapping[str, Any]) -> str:
    """Return the page."""
    # The collection can be imported once the cluster file is loaded.
    from ansible_collections.q8s.emu.plugins.module_utils import _html

    title = f"Deploy of {analysis['cluster']}"
    shares, seconds = analysis["shares"], analysis["seconds"] or 1.0
    failed = "" if analysis["exit_code"] == 0 else f" It failed with exit code {analysis['exit_code']}."
    parts = [
        f"<h1>{_html.escape(title)}</h1>",
        f"<p>{_html.escape(started_text(analysis))}, {format_duration(analysis['seconds'])}, "
        f"{analysis['servers_created']} servers created. No machine worked for {shares['no_machine_percent']:.1f} % "
        f"of it.{failed}</p>",
        _html.figure(svg(analysis)),
        "<h2>Critical path</h2>",
        _html.note("The chain of work that determined the duration, followed back from the last task."),
        _html.table(
            ("start", "took", "host or guest", "what"),
            [
                (f"{s['start']:.1f} s", f"{s['end'] - s['start']:.1f} s", s["host"] or "-", describe_segment(s))
                for s in analysis["critical_path"]
            ],
        ),
        "<h2>Who works</h2>",
        _html.note(
            "Each moment counts once, for the first row that applies. Connecting to a host and copying a module there "
            "count as the host's work, so the share in which no machine works (the last two rows) is a lower bound."
        ),
        _html.table(
            ("", "seconds", "share"),
            [
                (what, f"{shares[name]:.1f}", f"{100 * shares[name] / seconds:.1f} %")
                for name, what in SHARE_NAMES.items()
            ],
        ),
        "<h2>Guests</h2>",
        _guest_table(analysis),
        "<h2>Hosts and stages</h2>",
        _html.table(
            ("host", "stage", "start", "took", "works"),
            [
                (c["host"], c["stage"], f"{c['start']:.1f} s", f"{c['end'] - c['start']:.1f} s", f"{c['work']:.1f} s")
                for c in analysis["stages"]
            ],
        ),
    ]
    return _html.page(title, parts)


def _guest_table(analysis: Mapping[str, Any]) -> str:
    """Return the table of milestones as HTML."""
    from ansible_collections.q8s.emu.plugins.module_utils import _html

    if not analysis["guests"]:
        return _html.note(
            "Their milestones are not known, so a guest that boots counts as waiting. "
            "q8s-run timeline reads them while the cluster runs; with --output, it writes this page with them."
        )
    rows = [
        (guest["node"], *(f"{guest['times'][name]:.1f} s" if name in guest["times"] else "-" for name in MILESTONES))
        for guest in analysis["guests"]
    ]
    return _html.table(("guest", *(MILESTONE_NAMES.get(name, name) for name in MILESTONES)), rows)
