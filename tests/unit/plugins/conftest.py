"""Settings of all tests: Hypothesis has no deadline, and no test has logged in to a cloud."""

from __future__ import annotations

import hypothesis
import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud_errors

hypothesis.settings.register_profile("q8s", deadline=None)  # examples are slow on a busy machine
hypothesis.settings.load_profile("q8s")


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hints of errors not depend on the tests before."""
    monkeypatch.setattr(_cloud_errors._login, "worked", False)
