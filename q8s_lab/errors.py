"""What the lab says when something cannot be done."""

from __future__ import annotations


class LabError(Exception):
    """``Failed to <do what>: <why>``, with a hint on what to do next."""

    code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(LabError):
    """A variable that chooses the lab has a value that cannot be."""

    code = 2
