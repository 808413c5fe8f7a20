"""Deploys whose events were recorded (see record.py), and tasks of invented ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from q8s_wrapper.events import reduce
from q8s_wrapper.experiment import timeline_record
from q8s_wrapper.experiment.task_log import Task, TaskLog
from q8s_wrapper.run_state import State

HERE = Path(__file__).parent
EXAMPLE = str(HERE.parents[2] / "examples/demo.yaml")


def replayed(stream: str) -> tuple[State, tuple[Task, ...]]:
    """The last state of a recorded run, and its tasks."""
    state, log = State(), TaskLog()
    for line in (HERE / "streams" / f"{stream}.jsonl").read_text().splitlines():
        event = json.loads(line)
        state = reduce(state, event)
        log.add(event, state)
    return state, log.finished(state.seconds)


def deploy(stream: str = "deploy") -> dict[str, Any]:
    """The record of a recorded run."""
    state, tasks = replayed(stream)
    return timeline_record.document("demo", command="deploy", code=0, created=4, state=state, tasks=tasks, versions={})


def task(host: str, start: float, end: float, name: str = "Work", action: str = "apt", play: str = "Play") -> Task:
    return Task(host, play, play, name, action, start, end)
