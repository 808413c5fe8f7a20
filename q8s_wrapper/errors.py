"""Errors that a user sees, and exit codes."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """An exit code of ``q8s-run``."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    INTERRUPTED = 130


class WrapperError(Exception):
    """An error that the user can fix.

    :param message: what failed, the value and the reason
    :param hint: what to do about it; empty for none
    :param code: the exit code
    """

    def __init__(self, message: str, hint: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
