"""Progress lines on stderr, and running a tool with its output in a log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from q8s_bundle.errors import BundleError

_running: set[subprocess.Popen[bytes]] = set()
_stops: set[Callable[[], None]] = set()  # of what runs for us and is no tool
_TAIL_LINES = 12  # of a failed tool's log that are shown: enough for a compiler's first complaint


@dataclass(frozen=True)
class Part:
    """An artifact that is being built: its name, and which one it is of how many."""

    name: str
    number: int
    total: int


_part: ContextVar[Part | None] = ContextVar("part", default=None)  # each thread builds one artifact at a time
_as_json = False
_muted = False


def use_json() -> None:
    """Write progress as JSON, one object a line, for the program that shows it."""
    global _as_json  # noqa: PLW0603
    _as_json = True


@contextmanager
def muted() -> Iterator[None]:
    """Write no progress, in any thread."""
    global _muted  # noqa: PLW0603
    _muted = True
    try:
        yield
    finally:
        _muted = False


@contextmanager
def building(part: Part) -> Iterator[None]:
    """Let all that is said belong to the build of an artifact."""
    token = _part.set(part)
    start = time.monotonic()
    try:
        _emit("artifact", "", "build it")
        yield
        seconds = time.monotonic() - start
        _emit("built", "", f"built in {seconds:.1f} s", seconds)
    finally:
        _part.reset(token)


def say(text: str) -> None:
    """Write one timestamped progress line."""
    _emit("note", "", text)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what begins, and how many seconds it took when it is done."""
    _emit("step", text, f"{text} ...")
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start
    _emit("done", text, f"{text}: {seconds:.1f} s", seconds)


def _emit(event: str, name: str, text: str, seconds: float | None = None) -> None:
    """Write a progress event. Events: artifact and built, step and done (with seconds), note."""
    part = _part.get()
    if _muted:
        return
    if _as_json:
        data: dict[str, object] = {"event": event, "text": text}
        if name:
            data["step"] = name
        if seconds is not None:
            data["seconds"] = round(seconds, 1)
        if part:
            data |= {"artifact": part.name, "number": part.number, "total": part.total}
        print(json.dumps(data), file=sys.stderr, flush=True)
        return
    where = f"[{part.number}/{part.total}] {part.name}: " if part else ""
    print(f"{time.strftime('%H:%M:%S')} {where}{text}", file=sys.stderr, flush=True)


def run(
    what: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a tool, appending its output to ``log``; a failure is "Failed to <what>: ..." with the log's last lines."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        except FileNotFoundError as error:
            raise BundleError(
                f"Failed to {what}: there is no program {error.filename!r}",
                "install the packages of q8s_bundle/packages.txt (`make setup` does)",
            ) from None
        _running.add(process)
        try:
            code = process.wait()
        except BaseException:
            end_running()
            process.wait()
            raise
        finally:
            _running.discard(process)
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise BundleError(f"Failed to {what}: exit code {code}; log: {log}\n{tail}")


@contextmanager
def ended_by(stop: Callable[[], None]) -> Iterator[None]:
    """While this lasts, ``end_running`` calls ``stop``."""
    _stops.add(stop)
    try:
        yield
    finally:
        _stops.discard(stop)


def end_running() -> None:
    """Ask the tools that ``run`` waits for, and what is ``ended_by`` this, to end, in whatever thread. Each fails then.

    A tool is asked with all that it started, as by Ctrl-C: mmdebstrap waits for apt, and then unmounts what it mounted.
    """
    for stop in tuple(_stops):
        stop()
    while _running:
        process = _running.pop()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
