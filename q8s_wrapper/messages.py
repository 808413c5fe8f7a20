"""Messages of ``q8s-run`` on stderr, one function for each kind.

The functions ignore write errors: a deploy must not fail because the reader of stderr has exited.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_quiet = False


@contextmanager
def quieted(quiet: bool) -> Iterator[None]:
    """Within the context, print only errors, warnings and results (``--quiet``), or everything.

    :param quiet: whether to print only these
    """
    global _quiet  # noqa: PLW0603 (one process prints for one user)
    before, _quiet = _quiet, quiet
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Return whether only errors, warnings and results are printed."""
    return _quiet


def error(text: str, hint_text: str = "") -> None:
    """Print an error and a hint.

    :param text: what failed, the value and the reason; may have further lines with hints
    :param hint_text: what to do about it; empty for none
    """
    _print(f"error: {text}")
    if hint_text:
        hint(hint_text)


def warning(text: str) -> None:
    """Print a warning."""
    _print(f"warning: {text}")


def hint(text: str) -> None:
    """Print a hint: what to do about an error or a warning."""
    _print(f"hint: {text}")


def result(text: str) -> None:
    """Print the result of a command. It is printed with ``--quiet``, too."""
    _print(text)


def info(text: str) -> None:
    """Print progress, paths of files or next commands. Print nothing with ``--quiet``."""
    if not _quiet:
        _print(text)


def question(text: str) -> None:
    """Print a question without a line break: the answer is typed on the same line."""
    _print(text, end=" ")


def _print(text: str, end: str = "\n") -> None:
    with suppress(OSError, ValueError):
        print(text, end=end, file=sys.stderr, flush=True)
