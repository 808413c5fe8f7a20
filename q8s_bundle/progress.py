"""Write progress to stderr, and run tools whose output goes to a log."""

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
_stops: set[Callable[[], None]] = set()  # stop callbacks of running work that is not a tool (see ended_by)
_TAIL_LINES = 12  # lines of a failed tool's log in the message: enough for a compiler's first error


@dataclass(frozen=True)
class Part:
    """An artifact that is being built: its name, its position from 1, and the number of artifacts."""

    name: str
    number: int
    total: int


_part: ContextVar[Part | None] = ContextVar("part", default=None)  # each thread builds one artifact at a time
_as_json = False
_muted = False


@contextmanager
def json_lines(*, enabled: bool = True) -> Iterator[None]:
    """Write progress as JSON lines within the context, for a program that shows it.

    :param enabled: whether to do so; otherwise, write text
    """
    global _as_json  # noqa: PLW0603
    before, _as_json = _as_json, enabled
    try:
        yield
    finally:
        _as_json = before


@contextmanager
def muted() -> Iterator[None]:
    """Write no progress within the context, in all threads."""
    global _muted  # noqa: PLW0603
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


@contextmanager
def building(part: Part) -> Iterator[None]:
    """Attribute all progress within the context to the build of an artifact, and write when it starts and ends."""
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
    """Write a progress message, with a timestamp."""
    _emit("note", "", text)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Write when a step starts, and at the end its duration."""
    _emit("step", text, f"{text} ...")
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start
    _emit("done", text, f"{text}: {seconds:.1f} s", seconds)


def _emit(event: str, name: str, text: str, seconds: float | None = None) -> None:
    """Write a progress event.

    :param event: ``artifact`` and ``built``, ``step`` and ``done``, or ``note``
    :param name: name of the step; empty for other events
    :param seconds: duration, for ``built`` and ``done``
    """
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
    """Run a tool and append its output to a log.

    :param what: what the tool does, for the message
    :raises BundleError: the tool is missing or failed: "Failed to <what>: ..." with the last lines of the log
    """
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
    """Let ``end_running`` call ``stop`` while the context lasts."""
    _stops.add(stop)
    try:
        yield
    finally:
        _stops.discard(stop)


def end_running() -> None:
    """Stop all running tools of all threads, and call the callbacks of ``ended_by``. The stopped work then fails.

    SIGTERM goes to the tool's process group, as with Ctrl-C: mmdebstrap waits for apt, and then unmounts its mounts.
    """
    for stop in tuple(_stops):
        stop()
    while _running:
        process = _running.pop()
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
