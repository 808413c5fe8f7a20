"""The exact output of real runs: on terminals of 80 and 160 columns, in a log, and as JSON.

``streams`` has the events of runs on the lab (see record.py), ``golden`` the output of each. After an intended change
of the output, ``python tests/unit/wrapper/test_golden.py`` updates the files; review the diff.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from functools import reduce as fold
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import render, report
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.events import reduce
from q8s_wrapper.history import Estimate
from q8s_wrapper.invocation import Invocation
from q8s_wrapper.run_state import State

HERE = Path(__file__).parent
# Of each run: the command that was given, and what it ended with.
RUNS = {
    "deploy": ("deploy", ExitCode.DONE),
    "again": ("deploy", ExitCode.DONE),  # a second deploy, of another cluster
    "failed": ("deploy", ExitCode.FAILED),
    "interrupted": ("deploy", ExitCode.INTERRUPTED),
}
EARLIER = Estimate(150.0, {"Check the cloud and the quota": 0.4, "Create servers": 6.2, "Serve artifacts": 24.8}, 3)
MOMENTS = (5.0, 20.0, 45.0, 90.0)  # seconds after the start


def events(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / "streams" / f"{run}.jsonl").read_text().splitlines()]


def ending(run: str, state: State, width: int) -> str:
    """What stands below the last of the progress, on stdout and stderr."""
    what, code = RUNS[run]
    exists = report.describe_servers(["small-control-plane"]) if code == ExitCode.INTERRUPTED else ""
    again = f"q8s-run {what} cluster.yaml"
    invocation = Invocation(file="cluster.yaml")
    shown = report.nodes(state.results.get("q8s_node_table", []), invocation, width)
    page = "/state/timeline.html" if what == "deploy" else ""
    end = report.End(what, invocation, again, code, timeline=page)
    shown += report.ending(end, state, log="/state/ansible.log", exists=exists, width=width)
    return "".join(f"{line}\n" for line in shown)


def terminal(run: str, width: int) -> str:
    """Frames of the live display at some moments, with the plan above them as it is, and the end."""
    state = State()
    parts = []
    moments = list(MOMENTS)
    for event in events(run):
        after = reduce(state, event)
        while moments and after.seconds >= moments[0]:
            now = moments.pop(0)
            lines = [text for _, text in render.frame(state, now, EARLIER.left(state, now), width, 24)]
            parts.append("\n".join([f"== after {now:.0f} s ==", *lines, ""]))
        if "q8s_plan" in after.results and "q8s_plan" not in state.results:
            parts.append("\n".join([*report.plan(after.results["q8s_plan"], EARLIER, width), ""]))
        state = after
    return "\n".join([*parts, "== the end ==", ending(run, state, width)])


def lines(run: str, kind: type[render.Plain] | type[render.JsonLines]) -> str:
    """What a renderer writes, on either stream."""
    written = io.StringIO()
    estimator = lambda state: EARLIER  # noqa: E731
    shown = render.Plain(estimator, True) if kind is render.Plain else render.JsonLines(estimator)
    state = State()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        for event in events(run):
            before, state = state, reduce(state, event)
            shown.update(before, state)
    return written.getvalue()


def plain(run: str) -> str:
    return lines(run, render.Plain) + ending(run, fold(reduce, events(run), State()), 80)


def as_json(run: str) -> str:
    what, code = RUNS[run]
    end = report.result(what, code, fold(reduce, events(run), State()), "/state/ansible.log")
    return lines(run, render.JsonLines) + json.dumps(end) + "\n"


def forms(run: str) -> Iterator[tuple[str, str]]:
    yield f"{run}.terminal-80.txt", terminal(run, 80)
    yield f"{run}.terminal-160.txt", terminal(run, 160)
    yield f"{run}.plain.txt", plain(run)
    yield f"{run}.jsonl", as_json(run)


@pytest.mark.parametrize("run", RUNS)
def test_what_is_shown_of_a_run(run: str) -> None:
    for name, shown in forms(run):
        assert shown == (HERE / "golden" / name).read_text(), name


@pytest.mark.parametrize("run", RUNS)
def test_nothing_is_wider_than_the_terminal(run: str) -> None:
    for width in (80, 160):
        wide = [line for line in terminal(run, width).splitlines() if len(line) > width]
        assert wide == []


@pytest.mark.parametrize("run", RUNS)
def test_a_terminal_really_shows_its_frames(run: str) -> None:
    """The same lines through rich, which would wrap what it finds too long, and read markup in names."""
    from rich.console import Console
    from rich.text import Text

    state = fold(reduce, events(run)[: len(events(run)) // 2], State())
    frame = render.frame(state, state.seconds, 10.0, 80, 24)
    console = Console(width=80, file=io.StringIO(), no_color=True)
    console.print(Text("\n").join(Text(text, style=style, no_wrap=True, overflow="ellipsis") for style, text in frame))
    assert isinstance(console.file, io.StringIO)
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [text.rstrip() for _, text in frame]


if __name__ == "__main__":
    for each in RUNS:
        for name, text in forms(each):
            (HERE / "golden" / name).write_text(text)
