"""The tasks of a run, recorded from its events."""

from __future__ import annotations

from tests.unit.wrapper.recorded_deploy import deploy


def test_an_interrupted_task_ends_with_the_run() -> None:
    record = deploy("interrupted")
    last = max(record["tasks"], key=lambda one: one["end"])
    assert (last["result"], last["end"]) == ("interrupted", record["seconds"])
