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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.q8s.emu.plugins.plugin_utils._build import served, show, take

UNIT: Final = "q8s-build.service"
_PAUSE: Final = 3  # seconds between two looks at the build
_LOST_SECONDS: Final = 600  # for which the server may be unreachable
_SEPARATOR: Final = "\x1e"
# Free space for a build, in bytes, rounded up. The Go modules were measured; the others are estimates.
_GO_MODULES: Final = 4.0e9  # all modules (3.6 GB), and the toolchain
_FROM_SOURCE: Final = 3.0e9  # for an architecture: Go's build cache, programs, bundle
_FROM_RELEASES: Final = 1.5e9  # for an architecture: upstream's releases, few Go modules, bundle
_GUEST_IMAGE: Final = 1.5e9  # packages, the unpacked system, and the disk before and after its compression
_ARCHIVE: Final = 0.5e9


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the artifacts, or the build's own error message."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "arguments": {"type": "list", "elements": "str", "required": True},
                "sources": {"type": "path", "required": True},
                "directory": {"type": "path", "required": True},
                "environment": {"type": "dict", "default": {}},
            }
        )[1]
        if self._task.check_mode:
            return {**result, "skipped": True, "msg": "nothing is built in check mode"}
        order = Order(arguments["arguments"], arguments["sources"], arguments["directory"], arguments["environment"])
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
            self._require_space(order)
            self._shell("write the environment of the build", order.keep_environment, order.environment_file.encode())
            self._shell("start the build", order.start)

    def _running(self, order: Order) -> str:
        """Return the name of the build that is running, empty if none is."""
        return self._shell("look for an earlier build", order.running).strip()

    def _require_space(self, order: Order) -> None:
        """Check that the server's disk has room for what its cache lacks.

        :raises AnsibleActionFail: it has less than any build needs
        """
        missing = json.loads(self._shell("look for what is missing in the cache", order.check))["missing"]
        available = sum(map(int, self._shell("read the free space", order.space).split()))
        least, most = required_space(missing, order.arguments)
        if available >= most:
            return
        text = (
            f"{order.directory} has {available / 1e9:.1f} GB of free space on the server, and a build of "
            f"{', '.join(missing)} needs about {most / 1e9:.1f} GB"
        )
        if least < most:
            text += f", or {least / 1e9:.1f} GB if upstream's releases can be downloaded"
        if available < least:
            raise AnsibleActionFail(
                f"Failed to build on the server: {text}\n"
                "hint: use a flavor with a larger disk for the control plane, or build on this machine (--build here)"
            )
        Display().warning(text)

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


def required_space(missing: Collection[str], arguments: Sequence[str]) -> tuple[float, float]:
    """Return how many bytes a build needs: at least (with upstream's releases), and if all is built from source.

    :param missing: names of the missing artifacts
    :param arguments: arguments of the build
    """
    if not missing:
        return 0.0, 0.0
    nodes = {name.rpartition("-")[2] for name in missing if name.startswith(("bundle-", "control-plane-"))}
    images = sum(name.startswith("image-") for name in missing)
    archives = sum(not name.startswith(("bundle-", "control-plane-", "image-")) for name in missing)
    others = images * _GUEST_IMAGE + archives * _ARCHIVE
    least = others + len(nodes) * _FROM_RELEASES
    most = others + len(nodes) * _FROM_SOURCE + (_GO_MODULES if nodes or archives else 0.0)
    if "--source=source" in arguments:
        return most, most
    if "--source=upstream" in arguments:
        return least, least
    return least, most


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
        own = {
            "Q8S_CACHE": f"{self.directory}/cache",
            "HOME": self.directory,
            "Q8S_BUNDLE_ON_SERVER": "1",
            "GOMODCACHE": f"{self.directory}/go/pkg/mod",
            "GOCACHE": f"{self.directory}/go/build",
            "GOTMPDIR": f"{self.directory}/go/temporary",
        }
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
    def check(self) -> str:
        """The command that prints what the cache has, and what is missing there."""
        progress = self.file("progress")
        command = shlex.join(["env", f"Q8S_CACHE={self.directory}/cache", f"HOME={self.directory}", *self._program])
        return f"cd {shlex.quote(self.sources)} && {command} --check 2>{progress} || {{ cat {progress}; exit 1; }}"

    @property
    def space(self) -> str:
        """The command that prints the free space of the folder and what earlier builds left there of Go's, in bytes."""
        used = f"du --summarize --block-size=1 {self.file('go')} 2>/dev/null | cut -f1"
        return f"df --output=avail --block-size=1 {shlex.quote(self.directory)} | tail -n 1; {used}"

    @property
    def _program(self) -> list[str]:
        return ["python3", "-m", "q8s_bundle", *self.arguments]

    @property
    def running(self) -> str:
        """The command that prints the name of the build that is running, if there is one."""
        return f"systemctl --quiet is-active {UNIT} && cat {self.file('running')} || true"

    @property
    def start(self) -> str:
        """The command that starts the build in a unit of its own.

        The environment is not in arguments, which every user of the server can read. What Go downloaded and compiled is
        kept until a build has succeeded. Programs are in the cache then, and Go's files would fill the disk.
        """
        # Earlier versions of Q8S left sources of each version, and Go's files in the default folders.
        sources = f"{self.file('')} -maxdepth 1 -name 'sources-*' -mmin +1440 ! -path {shlex.quote(self.sources)}"
        inner = (
            f"rm -f {self.file('environment')}; mkdir -p {self.file('go/temporary')}; "
            f"{shlex.join(self._program)} >{self.file('answer.json')} 2>{self.file('progress')}; code=$?; "
            f"if [ $code = 0 ]; then rm -rf {self.file('go')} {self.file('.cache/go-build')}; "
            f"find {sources} -exec rm -rf {{}} +; fi; "
            f"echo $code >{self.file('exit')}"
        )
        unit = ["systemd-run", "--quiet", f"--unit={UNIT}", f"--working-directory={self.sources}"]
        unit += [f"--property=EnvironmentFile={self.directory}/environment"]
        # A lost connection repeats the command: the build may have been started.
        return (
            f'if [ "$({self.running})" != {shlex.quote(self.name)} ]; then '
            f"systemctl reset-failed {UNIT} 2>/dev/null; rm -f {self.file('exit')} {self.file('progress')} && "
            f"printf %s {shlex.quote(self.name)} >{self.file('running')} && {shlex.join([*unit, 'sh', '-c', inner])} "
            f"|| {{ rm -f {self.file('environment')}; exit 1; }}; fi"
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
