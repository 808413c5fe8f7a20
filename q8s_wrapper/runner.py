"""Run a playbook through ansible-runner."""

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
from q8s_wrapper.events import State, reduce
from q8s_wrapper.render import Renderer
from q8s_wrapper.state import keep_log

# Ansible passes the interrupt on to its workers, and they to what they run: this is long enough to end them all.
_SECONDS_TO_STOP: Final = 15.0
# How often ansible-runner asks whether to cancel; its own five seconds are long for who waits at a terminal.
_SECONDS_BETWEEN_LOOKS: Final = 0.5


@dataclass(frozen=True)
class Outcome:
    state: State
    code: ExitCode
    log: Path


class _Interrupt:
    """Ctrl-C: the first time Ansible is asked to stop, the second time all ends at once."""

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        self.since: float | None = None
        self._asked = False
        self._folder = folder
        self._renderer = renderer
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.since is not None:
            self._renderer.close()
            keep_log(self._folder)
            os._exit(ExitCode.INTERRUPTED)  # which ends Ansible too: see child.py
        self.since = time.monotonic()
        self._renderer.say("stopping; press Ctrl-C again to end at once")
        self._ask()

    def _ask(self) -> None:
        # Ansible may not have started yet; then it is asked at the next look.
        with suppress(OSError, ValueError):
            os.kill(int((self._folder / "pid").read_text()), signal.SIGINT)
            self._asked = True

    def overdue(self) -> bool:
        """Whether Ansible was asked to stop and did not: ansible-runner then kills it."""
        if self.since is None:
            return False
        if not self._asked:
            self._ask()
        return time.monotonic() - self.since > _SECONDS_TO_STOP

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def run(
    playbook: str, cluster_file: Path, folder: Path, lock: Path, *, arguments: Sequence[str], renderer: Renderer
) -> Outcome:
    """Run the playbook ``q8s.emu.<playbook>`` on a cluster file; its log goes to ``folder``.

    :param lock: the cluster's lock, which Ansible holds as well
    """
    # Takes half a second, which `q8s-run --help` should not.
    import ansible_runner.interface

    state = State()

    def handle(event: dict[str, Any]) -> bool:
        nonlocal state
        before, state = state, reduce(state, event)
        if before != state:
            renderer.update(before, state)
        return False  # not kept as files: they would hold what tasks returned

    def forget_environment(status: Mapping[str, Any], runner_config: Any) -> None:
        # Written just before Ansible starts: the whole environment, passwords included.
        if status["status"] == "running":
            Path(runner_config.artifact_dir, "command").unlink(missing_ok=True)

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
                settings={"pexpect_timeout": _SECONDS_BETWEEN_LOOKS},
                event_handler=handle,
                status_handler=forget_environment,
                cancel_callback=interrupt.overdue,
                quiet=True,
            )
        before = [sys.executable, "-IS", child.__file__, str(lock), str(folder / "pid"), str(os.getpid())]
        runner.config.command = [*before, *runner.config.command]
        # Relative paths among the arguments start where the user is, as with ansible-playbook.
        runner.config.cwd = str(Path.cwd())
        runner.run()
        ended = True
    finally:
        if interrupt.since is not None or not ended:
            child.end_orphans()
        interrupt.restore()
        renderer.close()
        log = keep_log(folder)
    if interrupt.since is not None:
        return Outcome(state, ExitCode.INTERRUPTED, log)
    if runner.rc == 0:
        return Outcome(state, ExitCode.DONE, log)
    return Outcome(state, ExitCode.WRONG_INPUT if state.refused else ExitCode.FAILED, log)
