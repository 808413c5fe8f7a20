"""Show a run: live on a terminal, as plain lines elsewhere, as JSON lines with ``--json``. Only JSON goes to stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from q8s_wrapper import messages, output, report
from q8s_wrapper.history import Estimate, building, format_duration
from q8s_wrapper.run_state import State, is_build

_RETRIES_PER_LINE: Final = 5
_NAME_WIDTH: Final = 38  # columns of a stage's name on a wide terminal
Estimator = Callable[[State], Estimate | None]


class Renderer(Protocol):
    """Shows the states of a run. Calling ``close`` twice is harmless."""

    def update(self, before: State, after: State) -> None:
        """Show a new state of the run."""

    def show_message(self, text: str) -> None:
        """Show a message."""

    def close(self) -> None:
        """End the display."""


def _new_result(name: str, before: State, after: State) -> Any:
    """Return the result of this name if ``after`` has it and ``before`` does not, else None."""
    return after.results.get(name) if name not in before.results else None


class Plain:
    """Renderer for logs: timestamped lines for the plan, started stages, repeated retries and failures."""

    def __init__(self, estimator: Estimator, show_plan: bool) -> None:
        self._estimator = estimator
        self._show_plan = show_plan
        self._state = State()
        self._at = time.monotonic()

    def update(self, before: State, after: State) -> None:
        self._state, self._at = after, time.monotonic()
        if self._show_plan and (plan := _new_result("q8s_plan", before, after)) is not None:
            for line in report.plan(plan, self._estimator(after), 70):
                self._line(after.seconds, f"  {line}".rstrip())
        if self._show_plan and (node_plan := _new_result("q8s_node_plan", before, after)) is not None:
            for line in report.node_plan(node_plan, 70):
                self._line(after.seconds, f"  {line}".rstrip())
        known = {stage.name for stage in before.stages}
        for stage in after.stages:
            if stage.name not in known:
                self._line(after.seconds, stage.name)
        for line in builds(before, after):
            self._line(after.seconds, f"  {line}")
        for host, running in after.current.items():
            past = before.current.get(host)
            if (
                running.tries
                and running.tries % _RETRIES_PER_LINE == 0
                and (past is None or past.tries != running.tries)
            ):
                self._line(after.seconds, f"  {host}: {running.task}: not yet, tried {running.tries} times")
        for failure in after.failures[len(before.failures) :]:
            self._line(after.seconds, f"  {failure.host}: FAILED: {failure.task}")

    def show_message(self, text: str) -> None:
        # The state's time is that of the latest event, which may be old.
        self._line(self._state.seconds + time.monotonic() - self._at, text)

    @staticmethod
    def _line(seconds: float, text: str) -> None:
        messages.info(f"[{seconds:6.1f}s] {text}")

    def close(self) -> None:
        pass


class Terminal:
    """Renderer for terminals: the stages with their durations, the task of each host, and the estimated time left."""

    def __init__(self, estimator: Estimator, show_plan: bool) -> None:
        # Imported here because rich is slow to import, and `q8s-run validate` does not need it.
        from rich.console import Console
        from rich.live import Live

        self._estimator = estimator
        self._show_plan = show_plan
        self._estimate: Estimate | None = None
        self._state = State()
        self._at = time.monotonic()
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            console=self._console, refresh_per_second=4, transient=True, get_renderable=self._frame, screen=False
        )
        self._live.start()

    def _frame(self) -> Any:
        """Return the current frame for rich, which calls this several times a second."""
        from rich.text import Text

        # The clock goes on between events.
        now = self._state.seconds + (time.monotonic() - self._at if self._state.started else 0.0)
        left = None if self._estimate is None else self._estimate.left(self._state, now)
        size = self._console.size
        lines = frame(self._state, now, left, size.width, size.height)
        return Text("\n").join(Text(text, style=style, no_wrap=True, overflow="ellipsis") for style, text in lines)

    def update(self, before: State, after: State) -> None:
        self._state, self._at = after, time.monotonic()
        if after.results is not before.results or before.started is None:
            self._estimate = self._estimator(after)
        if self._show_plan and (plan := _new_result("q8s_plan", before, after)) is not None:
            self.show_message("\n".join(report.plan(plan, self._estimate, self._console.width)))
        if self._show_plan and (node_plan := _new_result("q8s_node_plan", before, after)) is not None:
            self.show_message("\n".join(report.node_plan(node_plan, self._console.width)))
        for line in after.lines[len(before.lines) :]:
            self.show_message(line)
        for failure in after.failures[len(before.failures) :]:
            self.show_message(f"{failure.host}: FAILED: {failure.task}")

    def show_message(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        self._live.stop()


def builds(before: State, after: State) -> list[str]:
    """Return a line for each build step that started, and each build or upload that finished, between two states."""
    lines = []
    for name, work in after.builds.items():
        past = before.builds.get(name)
        if work.step and (past is None or past.step != work.step):
            lines.append(f"[{work.number}/{work.total}] {name}: {work.step}")
    lines += [
        f"{name}: built in {format_duration(duration)}"
        for name, duration in after.built.items()
        if name not in before.built
    ]
    lines += [f"{name}: {text}" for name, text in after.uploaded.items() if name not in before.uploaded]
    return [*lines, *after.lines[len(before.lines) :]]


def frame(state: State, now: float, left: float | None, width: int, height: int) -> list[tuple[str, str]]:
    """Return the lines that a terminal shows, each with its rich style.

    :param now: seconds since the start of the run
    :param left: estimated seconds left, or None
    :param width: columns of the terminal
    :param height: lines of the terminal
    """
    available_lines = max(height - 3, 1)  # without the last line, the empty line before it, and the cursor's line
    stages = state.busy[-max(available_lines // 2, available_lines - len(state.current), 1) :]
    lines = []
    name_width = min(_NAME_WIDTH, max(width - 24, 10))
    for stage in stages:
        active = stage.name in state.active
        seconds = now - stage.start if active else stage.seconds
        count = len(state.hosts(stage))
        hosts = f"{count} host{'s' if count != 1 else ''}"
        ended = state.ended(stage)
        # ◦: no host is in the stage now, but another one may still start it
        name = _shorten(stage.name, name_width)
        text = f"{'•' if active else '✓' if ended else '◦'} {name:<{name_width}}{seconds:>7.1f} s  {hosts}"
        lines.append(("bold" if active else "green" if ended else "", _shorten(text, width)))
    hosts_shown = sorted(state.current)[: max(available_lines - len(lines), 1)]
    longest = min(max((len(host) for host in hosts_shown), default=0), width // 3)
    for host in hosts_shown:
        running = state.current[host]
        tries = f" (tried {running.tries} times)" if running.tries else ""
        clock = f"{max(now - running.since, 0):>6.0f} s"
        task = _shorten(f"{running.task}{tries}", width - longest - len(clock) - 4)
        middle = width - longest - len(clock) - 4
        lines.append(("cyan", f"  {_shorten(host, longest):<{longest}}  {task:<{middle}}{clock}"))
    hidden_count = len(state.current) - len(hosts_shown)
    if hidden_count > 0:
        lines[-1] = ("cyan", _shorten(f"  … and {hidden_count + 1} hosts more", width))
    for work in list(state.builds.values())[: max(available_lines - len(lines), 0)]:
        clock = f"{max(now - work.since, 0):>6.0f} s"
        text = f"  {work.number}/{work.total} {work.artifact}: {work.text or work.step}"
        middle = width - len(clock) - 2
        lines.append(("cyan", f"{_shorten(text, middle):<{middle}}  {clock}"))
    estimate_text = (
        "" if left is None else (f", about {format_duration(left)} left" if left >= 1 else ", longer than earlier runs")
    )
    if left is not None and building(state, now) > 5 and any(map(is_build, state.active)):
        estimate_text = f", about {format_duration(left)} left after the build"
    lines += [("", ""), ("", _shorten(f"{format_duration(now)}{estimate_text}", width))]
    return lines


def _shorten(text: str, width: int) -> str:
    """Shorten a text to a width in columns."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


class JsonLines:
    """Renderer for programs: one JSON object a line on stdout for the plan, started stages, builds and failures."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._ended = False

    def update(self, before: State, after: State) -> None:
        if (plan := _new_result("q8s_plan", before, after)) is not None:
            self._emit({"event": "plan", **report.plan_data(plan, self._estimator(after))})
        if (node_plan := _new_result("q8s_node_plan", before, after)) is not None:
            self._emit({"event": "node_plan", **report.node_plan_data(node_plan)})
        known = {stage.name for stage in before.stages}
        for stage in after.stages:
            if stage.name not in known:
                self._emit({"event": "stage", "name": stage.name, "seconds": round(after.seconds, 1)})
        self._emit_builds(before, after)
        for failure in after.failures[len(before.failures) :]:
            self._emit(
                {
                    "event": "failure",
                    "seconds": round(after.seconds, 1),
                    "host": failure.host,
                    "task": failure.task,
                    "reason": failure.reason,
                    "place": failure.place,
                }
            )

    def _emit_builds(self, before: State, after: State) -> None:
        seconds = round(after.seconds, 1)
        for name, work in after.builds.items():
            past = before.builds.get(name)
            if work.step and (past is None or past.step != work.step):
                place = {"artifact": name, "number": work.number, "total": work.total, "step": work.step}
                self._emit({"event": "build", "seconds": seconds, **place})
        for name, duration in after.built.items():
            if name not in before.built:
                self._emit({"event": "built", "seconds": seconds, "artifact": name, "took": duration})
        for name, text in after.uploaded.items():
            if name not in before.uploaded:
                self._emit({"event": "uploaded", "seconds": seconds, "artifact": name, "text": text})

    def show_message(self, text: str) -> None:
        messages.info(text)

    def close(self) -> None:
        pass

    def _emit(self, data: Mapping[str, Any]) -> None:
        if self._ended:
            return
        try:
            print(json.dumps(data), flush=True)
        except output.OutputError:
            self._ended = True  # whoever reads is gone; the run goes on, and its result says what is wrong


class Quiet:
    """Renderer for ``--quiet``: shows nothing. Failures are in the result."""

    def update(self, before: State, after: State) -> None:
        pass

    def show_message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def renderer(as_json: bool, estimator: Estimator, show_plan: bool, *, quiet: bool = False) -> Renderer:
    """Return the renderer for the output: JSON, quiet, a terminal, or plain lines.

    :param as_json: whether to write JSON lines
    :param estimator: estimates the duration from the state
    :param show_plan: whether to show the plan when it is known; JSON always has it
    :param quiet: whether to show only errors, warnings and the result
    """
    if as_json:
        return JsonLines(estimator)
    if quiet:
        return Quiet()
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return Terminal(estimator, show_plan) if live else Plain(estimator, show_plan)
