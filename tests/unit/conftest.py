"""Fixture: unit tests know no cloud, whatever the environment, or a test before them in this process, chose."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that choose a cloud."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
