"""Errors of bundle builds that a user sees."""

from __future__ import annotations


class BundleError(Exception):
    """An error that the user sees: ``Failed to <do what>: <why>``.

    :param hint: what to do about it; None for none
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
