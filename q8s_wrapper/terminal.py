"""The user's terminal: its width, questions on it, and texts without its control sequences."""

from __future__ import annotations

import re
import shutil
import sys
import termios
from contextlib import suppress
from typing import Final

from q8s_wrapper import messages

_CONTROL_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


def columns() -> int:
    """Return the width of the terminal in columns; 80 without a terminal."""
    return shutil.get_terminal_size((80, 24)).columns


def is_interactive() -> bool:
    """Return whether a user can be asked: input and messages are on a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirms(question: str) -> bool:
    """Ask a question, and return whether the answer is yes."""
    # Discard what was typed before the question was printed.
    with suppress(termios.error, OSError):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    messages.question(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def without_colours(text: str) -> str:
    """Remove colours and other terminal control sequences from a text."""
    return _CONTROL_SEQUENCE.sub("", text).replace("\r", "")
