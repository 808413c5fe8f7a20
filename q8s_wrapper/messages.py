"""What ``q8s-run`` prints on stderr: one function for each kind of message.

No function here fails: a reader of stderr that went away must not end a deploy.
"""

from __future__ import annotations

import sys
from contextlib import suppress

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Choose whether only errors, warnings and results are printed."""
    global _quiet  # noqa: PLW0603 (one process prints for one user)
    _quiet = quiet


def is_quiet() -> bool:
    """Return whether only errors, warnings and results are printed."""
    return _quiet


def error(text: str, hint_text: str = "") -> None:
    """Print why something failed, and what to do about it. The text may have lines with hints of its own."""
    _print(f"error: {text}")
    if hint_text:
        hint(hint_text)


def warning(text: str) -> None:
    """Print what may go wrong, or was left alone."""
    _print(f"warning: {text}")


def hint(text: str) -> None:
    """Print what to do about an error or a warning."""
    _print(f"hint: {text}")


def result(text: str) -> None:
    """Print how a command ended."""
    _print(text)


def info(text: str) -> None:
    """Print what a person may want to know beside the result: progress, places of files, next commands."""
    if not _quiet:
        _print(text)


def question(text: str) -> None:
    """Print a question; the answer is typed on the same line."""
    _print(text, end=" ")


def _print(text: str, end: str = "\n") -> None:
    with suppress(OSError, ValueError):
        print(text, end=end, file=sys.stderr, flush=True)
