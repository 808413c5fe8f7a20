"""Run a playbook through ansible-runner."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from q8s_wrapper.config import INVENTORY, PLAYBOOKS, REPOSITORY
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.events import State, reduce
from q8s_wrapper.render import Renderer


@dataclass(frozen=True)
class Outcome:
    state: State
    code: ExitCode
    log: Path


class _Interrupt:
    """Ctrl-C: the first time asks the run to stop, the second time ends at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before = signal.signal(signal.SIGINT, self._handle)
        self._before_term = signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            os._exit(ExitCode.INTERRUPTED)
        self.asked = True
        print("stopping; press Ctrl-C again to end at once", file=sys.stderr)

    def restore(self) -> None:
        signal.signal(signal.SIGINT, self._before)
        signal.signal(signal.SIGTERM, self._before_term)


def run(playbook: str, cluster_file: Path, folder: Path, arguments: Sequence[str], renderer: Renderer) -> Outcome:
    """Run ``playbooks/<playbook>.yml`` on a cluster file; its log and events go to ``folder``."""
    # Takes half a second, which `q8s-run --help` should not.
    import ansible_runner.interface

    state = State()

    def handle(event: dict[str, Any]) -> bool:
        nonlocal state
        before, state = state, reduce(state, event)
        if before != state:
            renderer.update(before, state)
        return False  # not kept as files: they would hold what tasks returned

    interrupt = _Interrupt()
    try:
        run = ansible_runner.interface.run(  # type: ignore[no-untyped-call]
            private_data_dir=str(folder),
            project_dir=str(REPOSITORY),
            playbook=str(PLAYBOOKS / f"{playbook}.yml"),
            inventory=str(INVENTORY),
            extravars=None,
            cmdline=_command_line(["-e", f"q8s_cluster_file={cluster_file}", *arguments]),
            ident="run",
            envvars={
                "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
                "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would turn it off
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
                "PYTHONUNBUFFERED": "1",
            },
            event_handler=handle,
            cancel_callback=lambda: interrupt.asked,
            quiet=True,
        )
    finally:
        interrupt.restore()
        renderer.close(state)
        log = _keep_log(folder)
    if interrupt.asked:
        return Outcome(state, ExitCode.INTERRUPTED, log)
    return Outcome(state, ExitCode.DONE if run.rc == 0 else ExitCode.FAILED, log)


def _command_line(arguments: Sequence[str]) -> str:
    return shlex.join(arguments)


def _keep_log(folder: Path) -> Path:
    """Keep the text of the run, and nothing else: ansible-runner's ``command`` file holds the whole environment."""
    log = folder / "ansible.log"
    with suppress(OSError):
        (folder / "artifacts" / "run" / "stdout").replace(log)
        log.chmod(0o600)
    for leftover in ("artifacts", "env", "inventory"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    return log
