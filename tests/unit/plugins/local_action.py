"""Runs action plugins that need no host, without a playbook."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def run_action(action: Any, **arguments: Any) -> dict[str, Any]:
    """Return the result of a task."""
    task = SimpleNamespace(async_val=0, check_mode=False, args=arguments)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nowhere"))
    result: dict[str, Any] = action(task, connection, None, None, None, None).run()
    return result
