"""Files that q8s-run reads back and that may be damaged: edited by hand, cut, or written by another version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from q8s_wrapper import messages
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError


class DamagedError(WrapperError):
    """A file is damaged, or cannot be read.

    :param reason: what is wrong with it, without its name
    """

    def __init__(self, message: str, hint: str, reason: str) -> None:
        super().__init__(message, hint, ExitCode.WRONG_INPUT)
        self.reason = reason


@contextmanager
def explained(hint: str = "") -> Iterator[Any]:
    """Raise what the collection's ``_read`` finds wrong with a file, with a hint.

    :param hint: what to do about the file; empty where the error is not shown
    :returns: yields the module ``_read``
    :raises DamagedError: a file is damaged; a missing one raises FileNotFoundError
    """
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _read

    try:
        yield _read
    except _read.ReadError as error:
        raise DamagedError(str(error), hint, error.reason) from None


@contextmanager
def tolerated(consequence: str) -> Iterator[None]:
    """Turn a DamagedError of the context into a warning.

    :param consequence: what the command does without the file
    """
    try:
        yield
    except DamagedError as error:
        messages.warning(f"{error}; {consequence}")
        messages.hint(error.hint)
