"""Standard output, whose failed writes are reported in one place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO, cast


class OutputError(Exception):
    """A write to standard output failed.

    It is not an OSError, which argparse ignores when it prints help, and ``lab`` and ``bundle`` report as their own.
    """

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"Failed to write to standard output: {reason.strerror or reason}")
        # As with `| head`, which exits when it has its lines.
        self.reader_exited = isinstance(reason, BrokenPipeError)


class _Output:
    """A text stream whose failed writes raise OutputError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def checked() -> Iterator[None]:
    """Raise OutputError for a failed write to standard output within the context."""
    with redirect_stdout(cast(TextIO, _Output(sys.stdout))):
        yield
