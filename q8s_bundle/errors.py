"""What the bundle's code says when something cannot be done."""

from __future__ import annotations


class BundleError(Exception):
    """A failure to tell the user about: ``Failed to <do what>: <why>``, with an optional hint on what to do next."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
