"""The tasks of a run, recorded from ansible-runner's events. All times are seconds since the start of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from q8s_wrapper.run_state import TASK_RESULTS, State

_SKIPPED: Final = "runner_on_skipped"
# Actions that Ansible runs itself, without a module on a host.
_CONTROLLER: Final = frozenset(
    """add_host assert debug fail group_by import_role import_tasks include_role include_tasks include_vars meta
    set_fact set_stats validate_argument_spec""".split()
)
_WAITS: Final = frozenset({"wait_for", "wait_for_connection", "pause", "async_status", "q8s.emu.nodes_ready"})


@dataclass(frozen=True)
class Task:
    """A task that ran on a host.

    :param action: name of the module, without ``ansible.builtin``
    :param result: ``ok``, ``failed``, ``unreachable``, or ``interrupted``
    """

    host: str
    stage: str
    play: str
    task: str
    action: str
    start: float
    end: float
    result: str = "ok"

    @property
    def kind(self) -> str:
        """Return who spends the task's time: ``work`` of a machine, ``wait``, or ``ansible`` itself."""
        if self.action in _CONTROLLER:
            return "ansible"
        return "wait" if self.action in _WAITS or self.task.startswith("Wait ") else "work"


class TaskLog:
    """Records the tasks of a run from ansible-runner's events. Skipped tasks are left out."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self._running: dict[str, Task] = {}

    def add(self, event: Mapping[str, Any], state: State) -> None:
        """Record an event.

        :param state: the state of the run after the event
        """
        kind, data = event.get("event"), event.get("event_data") or {}
        host = str(data.get("host", ""))
        if kind == "runner_on_start":
            action = str(data.get("task_action") or "").removeprefix("ansible.builtin.")
            stage = state.current[host].stage
            now = round(state.seconds, 3)
            self._running[host] = Task(host, stage, state.play, str(data.get("task", "")), action, now, now)
            return
        if kind not in TASK_RESULTS:
            return
        running = self._running.pop(host, None)
        if running and kind != _SKIPPED:
            result = str(kind).removeprefix("runner_on_")
            self.tasks.append(replace(running, end=round(state.seconds, 3), result=result))

    def finished(self, seconds: float) -> tuple[Task, ...]:
        """Return all tasks. Those that still run were interrupted.

        :param seconds: duration of the run
        """
        left = [replace(task, end=round(seconds, 3), result="interrupted") for task in self._running.values()]
        return tuple(sorted([*self.tasks, *left], key=lambda task: task.start))
