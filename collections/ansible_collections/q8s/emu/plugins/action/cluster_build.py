# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build bundles on a server of the cluster, and show each step of the build.

The build is a systemd unit of the server. It goes on when the controller or the connection is lost, and the next run
follows it instead of starting another one.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.q8s.emu.plugins.action.bundle import served, show, take

UNIT: Final = "q8s-build.service"
_PAUSE: Final = 3  # seconds between two looks at the build
_LOST_SECONDS: Final = 600  # for which the server may be unreachable
_SEPARATOR: Final = "\x1e"


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the artifacts, or the build's own error message."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "arguments": {"type": "list", "elements": "str", "required": True},
                "sources": {"type": "path", "required": True},
                "directory": {"type": "path", "required": True},
                "environment": {"type": "dict", "default": {}},
            }
        )[1]
        if self._task.check_mode:
            return {**result, "skipped": True, "msg": "nothing is built in check mode"}
        order = Order(given["arguments"], given["sources"], given["directory"], given["environment"])
        self._start(order)
        code, problems = self._follow(order)
        if code:
            return {**result, "failed": True, "msg": problems}
        bundle = json.loads(self._shell("read the result of the build", f"cat {order.file('answer.json')}"))
        return {**result, "changed": bundle["changed"], "bundle": bundle, **served(bundle, elsewhere=True)}

    def _start(self, order: Order) -> None:
        """Start the build, unless the same one is running. Let a different one end first."""
        shown = ""
        while (running := self._running(order)) and running != order.name:
            if running != shown:
                show({"event": "line", "text": waiting(running)})
                shown = running
            time.sleep(_PAUSE)
        if not running:
            self._shell("write the environment of the build", order.keep_environment, order.environment_file.encode())
            self._shell("start the build", order.start)

    def _running(self, order: Order) -> str:
        """Return the name of the build that is running, empty if none is."""
        return self._shell("look for an earlier build", order.running).strip()

    def _follow(self, order: Order) -> tuple[int, str]:
        """Show the build's progress until the build has ended. Return its exit code and its error message."""
        seen, other = 0, list[str]()
        while True:
            text, state = self._shell("read the progress of the build", order.look(seen)).rsplit(_SEPARATOR, 1)
            whole = text[: text.rfind("\n") + 1]
            seen += len(whole.encode())
            for line in whole.splitlines():
                other = take(line, other, show)
            state = state.strip()
            if state.isdecimal():
                return int(state), "\n".join(other).strip() or f"the build exited with code {state}"
            if state != "active":
                ask = f"systemctl show --property=Result --value {UNIT}"
                reason = self._shell("read why the build ended", ask).strip()
                return 1, f"the build on the server ended without a result ({UNIT}: {reason or state})"
            time.sleep(_PAUSE)

    def _shell(self, purpose: str, command: str, data: bytes | None = None) -> str:
        """Return the output of a shell command on the server. While the connection is lost, try again.

        :param purpose: what the command does, for the message: "start the build"
        :param data: the command's standard input
        :raises AnsibleActionFail: the command failed
        :raises AnsibleConnectionFailure: the server has been unreachable for too long
        """
        deadline = time.monotonic() + _LOST_SECONDS
        while True:
            try:
                done = self._low_level_execute_command(command, in_data=data)
            except AnsibleConnectionFailure:
                if time.monotonic() > deadline:
                    raise
                self._connection.reset()
                time.sleep(_PAUSE)
                continue
            if done["rc"]:
                reason = done["stderr"].strip() or done["stdout"].strip() or f"exit code {done['rc']}"
                raise AnsibleActionFail(f"Failed to {purpose} on the server: {reason}")
            # Ansible may run the command on a terminal, which ends lines with two characters.
            return str(done["stdout"]).replace("\r\n", "\n")


def waiting(name: str) -> str:
    """Return the text that tells which build is waited for.

    :param name: its name (:attr:`Order.name`)
    """
    return (
        f"waiting for another build on the server to end: {name} (to stop it, run there as root: systemctl stop {UNIT})"
    )


@dataclass(frozen=True)
class Order:
    """A build on a server: arguments of the program, folders of its sources and of everything else, and its environment."""

    arguments: Sequence[str]
    sources: str
    directory: str
    environment: Mapping[str, str]

    def file(self, name: str) -> str:
        """Return the path of a file of the build, quoted for a shell."""
        return shlex.quote(f"{self.directory}/{name}")

    @property
    def name(self) -> str:
        """What tells this build from another one: its sources, its arguments, and a hash of its environment."""
        settings = json.dumps(self._settings, sort_keys=True).encode()
        return shlex.join([self.sources, *self.arguments, f"environment={hashlib.sha256(settings).hexdigest()[:12]}"])

    @property
    def _settings(self) -> dict[str, str]:
        """The environment variables of the build."""
        own = {"Q8S_CACHE": f"{self.directory}/cache", "HOME": self.directory, "Q8S_BUNDLE_ON_SERVER": "1"}
        return {name: value for name, value in {**own, **self.environment}.items() if value}

    @property
    def environment_file(self) -> str:
        """The content of the unit's EnvironmentFile (systemd.exec(5)). Settings may have passwords: see ``start``."""
        escapes = str.maketrans({character: f"\\{character}" for character in '\\"$`'})
        return "".join(f'{name}="{value.translate(escapes)}"\n' for name, value in self._settings.items())

    @property
    def keep_environment(self) -> str:
        """The command that writes its standard input to the unit's EnvironmentFile, which only root can read."""
        file = self.file("environment")
        return f"rm -f {file} && umask 077 && cat >{file}"

    @property
    def running(self) -> str:
        """The command that prints the name of the build that is running, if there is one."""
        return f"systemctl --quiet is-active {UNIT} && cat {self.file('running')} || true"

    @property
    def start(self) -> str:
        """The command that starts the build in a unit of its own.

        The environment is not in arguments, which every user of the server can read.
        """
        build = shlex.join(["python3", "-m", "q8s_bundle", *self.arguments])
        inner = (
            f"rm -f {self.file('environment')}; "
            f"{build} >{self.file('answer.json')} 2>{self.file('progress')}; echo $? >{self.file('exit')}"
        )
        unit = ["systemd-run", "--quiet", f"--unit={UNIT}", f"--working-directory={self.sources}"]
        unit += [f"--property=EnvironmentFile={self.directory}/environment"]
        return (
            f"systemctl reset-failed {UNIT} 2>/dev/null; rm -f {self.file('exit')} {self.file('progress')} && "
            f"printf %s {shlex.quote(self.name)} >{self.file('running')} && {shlex.join([*unit, 'sh', '-c', inner])} "
            f"|| {{ rm -f {self.file('environment')}; exit 1; }}"
        )

    def look(self, seen: int) -> str:
        """Return the command that prints the progress after so many bytes, and then the exit code or the unit's state."""
        # The state is read first: all progress of a build that ends in between is printed after it. The exit code is read
        # again when the unit is not active, because the build may have ended after the first look.
        code = f"cat {self.file('exit')} 2>/dev/null"
        active = f"{{ systemctl --quiet is-active {UNIT} && echo active; }}"
        return (
            f"state=$({code} || {active} || {code} || echo inactive); "
            f"tail --bytes=+{seen + 1} {self.file('progress')} 2>/dev/null; printf '\\036%s' \"$state\""
        )
