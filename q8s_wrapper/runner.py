"""Run a playbook with ansible-runner."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from q8s_wrapper import child, environment
from q8s_wrapper.config import DATA, INVENTORY, PLAYBOOKS, cluster_variable
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.events import reduce
from q8s_wrapper.experiment.task_log import Task, TaskLog
from q8s_wrapper.render import Renderer
from q8s_wrapper.run_logs import keep_log
from q8s_wrapper.run_state import State

# Seconds until Ansible is killed after SIGINT. Ansible forwards the signal to its workers and their child processes.
_SECONDS_TO_STOP: Final = 15.0
# Interval at which ansible-runner calls the cancel callback. Its default of 5 s is too long at a terminal.
_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Outcome:
    """The outcome of a playbook run: its last state, the exit code, the path of the log, and the tasks that ran."""

    state: State
    code: ExitCode
    log: Path
    tasks: tuple[Task, ...] = ()


class _Interrupt:
    """Handler of SIGINT, SIGTERM and SIGHUP. The first signal stops Ansible; the second ends this process at once.

    SIGHUP is the end of the terminal. ``nohup`` ignores it, and it stays ignored. SIGINT is handled also where it is
    ignored: a shell does that to a background process, and ``kill -INT`` is how such a run is stopped.
    """

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        self.since: float | None = None
        self._interrupt_sent = False
        self._folder = folder
        self._renderer = renderer
        hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
        numbers = [signal.SIGINT, signal.SIGTERM, *hangup]
        self._before = {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.since is not None:
            self._renderer.close()
            keep_log(self._folder)
            os._exit(ExitCode.INTERRUPTED)  # child.py then kills Ansible
        self.since = time.monotonic()
        self._renderer.show_message("stopping; press Ctrl-C again to stop immediately")
        self._interrupt_ansible()

    def _interrupt_ansible(self) -> None:
        """Send SIGINT to Ansible."""
        # Without a pid file Ansible has not started yet: overdue() tries again.
        with suppress(OSError, ValueError):
            os.kill(int((self._folder / "pid").read_text()), signal.SIGINT)
            self._interrupt_sent = True

    def overdue(self) -> bool:
        """Return whether Ansible has not stopped in time after SIGINT: ansible-runner then kills it."""
        if self.since is None:
            return False
        if not self._interrupt_sent:
            self._interrupt_ansible()
        return time.monotonic() - self.since > _SECONDS_TO_STOP

    def restore(self) -> None:
        """Restore the signal handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Events:
    """Handler of ansible-runner's events: computes the state of the run, and shows it."""

    def __init__(self, renderer: Renderer) -> None:
        self.state = State()
        self._task_log = TaskLog()
        self._renderer = renderer

    def handle(self, event: dict[str, Any]) -> bool:
        """Handle an event. Return whether ansible-runner shall write it to a file."""
        before, self.state = self.state, reduce(self.state, event)
        self._task_log.add(event, self.state)
        if before != self.state:
            self._renderer.update(before, self.state)
        return False  # event files contain the results of tasks, which may be secret

    def outcome(self, code: ExitCode, log: Path) -> Outcome:
        """Return the outcome of the run after its last event."""
        return Outcome(self.state, code, log, self._task_log.finished(self.state.seconds))


def run(
    playbook: str, cluster_file: Path, folder: Path, lock: Path, *, arguments: Sequence[str], renderer: Renderer
) -> Outcome:
    """Run a playbook of the collection on a cluster file.

    This process must have no other child processes: a run that is interrupted or fails kills all of them.

    :param playbook: name of the playbook without ``.yml``
    :param folder: folder of the run, which receives the log
    :param lock: file of the cluster's lock, which Ansible's processes hold, too
    :param arguments: arguments for ansible-playbook
    :param renderer: shows the progress
    """
    # Imported here: the import takes half a second, which `q8s-run --help` would have to wait for.
    import ansible_runner.interface

    events = _Events(renderer)
    ended = False
    interrupt = _Interrupt(folder, renderer)
    child.adopt_orphans()
    try:
        with environment.replaced(environment.ansible_environment(os.environ)):
            runner = ansible_runner.interface.init_runner(  # type: ignore[no-untyped-call]
                private_data_dir=str(folder),
                project_dir=str(DATA),
                playbook=str(PLAYBOOKS / f"{playbook}.yml"),
                inventory=str(INVENTORY),
                cmdline=shlex.join([*cluster_variable(cluster_file), *arguments]),
                ident="run",
                settings={"pexpect_timeout": _POLL_SECONDS},
                event_handler=events.handle,
                status_handler=_forget_environment,
                cancel_callback=interrupt.overdue,
                quiet=True,
            )
        before = [sys.executable, "-IS", child.__file__, str(lock), str(folder / "pid"), str(os.getpid())]
        runner.config.command = [*before, *runner.config.command]
        # Relative paths in the arguments are relative to the user's folder, as with ansible-playbook.
        runner.config.cwd = str(Path.cwd())
        runner.run()
        ended = True
    finally:
        if interrupt.since is not None or not ended:
            child.end_orphans()
        child.release_orphans()
        interrupt.restore()
        renderer.close()
        log = keep_log(folder)
    if interrupt.since is not None:
        return events.outcome(ExitCode.INTERRUPTED, log)
    if runner.rc == 0:
        return events.outcome(ExitCode.DONE, log)
    return events.outcome(ExitCode.WRONG_INPUT if events.state.refused else ExitCode.FAILED, log)


def _forget_environment(status: Mapping[str, Any], runner_config: Any) -> None:
    """Delete the file that ansible-runner writes before Ansible starts: it has the environment, with passwords."""
    if status["status"] == "running":
        Path(runner_config.artifact_dir, "command").unlink(missing_ok=True)
