"""Errors of the lab that a user sees."""

from __future__ import annotations


class LabError(Exception):
    """An error of the lab: ``Failed to <do what>: <why>``.

    :param hint: what to do about it; empty for none
    """

    code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class WrongArgumentsError(LabError):
    """An argument of a command of the lab is missing."""

    code = 2


class SettingsError(LabError):
    """An environment variable of the lab has an invalid value."""

    code = 2
