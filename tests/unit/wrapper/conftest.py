"""Fixture: a cloud that answers which project it is, for commands that need local state."""

from __future__ import annotations

import pytest

from q8s_wrapper import state
from tests.unit.wrapper.local_cloud import Cloud


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The project that the environment chooses. With a problem, it does not answer."""
    cloud = Cloud()

    def connect() -> Cloud:
        if cloud.problem:
            raise state.CloudUnknownError(cloud.problem)
        return cloud

    monkeypatch.setattr(state, "connect", connect)
    monkeypatch.setattr(state, "login", lambda: cloud.found.login)
    return cloud
