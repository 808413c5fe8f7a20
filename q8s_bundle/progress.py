"""Progress lines on stderr, and running a tool with its output in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from q8s_bundle.errors import BundleError

_running: set[subprocess.Popen[bytes]] = set()
_stops: set[Callable[[], None]] = set()  # of what runs for us and is no tool
_TAIL_LINES = 12  # of a failed tool's log that are shown: enough for a compiler's first complaint


def say(text: str) -> None:
    """Print one timestamped progress line."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what begins, and how many seconds it took when it is done."""
    say(f"{text} ...")
    start = time.monotonic()
    yield
    say(f"{text}: {time.monotonic() - start:.1f} s")


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
