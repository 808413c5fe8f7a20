# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the build of bundles on the controller, and show each of its steps while it is running."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_LINES_KEPT = 20  # of stderr, for the message of a failure
# q8s-run reads options of a command from these. What the user has set for the command must not count here.
_OPTIONS = ("Q8S_ARCH", "Q8S_CHECK", "Q8S_CONTROL_PLANE", "Q8S_IMAGE", "Q8S_PROGRESS", "Q8S_SOURCE")


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the artifacts, or the build's own error message."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        validated = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "command": {"type": "list", "elements": "str", "required": True},
                "architectures": {"type": "list", "elements": "str", "required": True},
                "control_planes": {"type": "list", "elements": "str", "default": ["x86_64"]},
                "source": {"type": "str", "choices": ["auto", "upstream", "source"], "default": "auto"},
                "guest_images": {"type": "dict", "default": {}},
            }
        )
        given = validated[1]
        argv = arguments(given, check=self._task.check_mode)
        try:
            code, stdout, stderr = stream(argv, show)
        except OSError as error:
            return {**result, "failed": True, "msg": f"Failed to run {argv[0]}: {error.strerror}"}
        if code:
            return {**result, "failed": True, "rc": code, "msg": "\n".join(stderr) or f"the build ended with {code}"}
        bundle = json.loads(stdout)
        served = bundle["artifacts"]
        return {
            **result,
            "changed": bundle["changed"],
            "bundle": bundle,
            "artifacts": {key: {name: served[key][name] for name in ("name", "sha256")} for key in served},
            "files": [{name: artifact[name] for name in ("name", "path")} for artifact in served.values()],
        }


def arguments(given: Mapping[str, Any], *, check: bool) -> list[str]:
    """Return the command line of the build."""
    architectures = list(given["architectures"])
    argv = [*given["command"], "ensure", "--progress=json", f"--source={given['source']}"]
    argv += [f"--control-plane={name}" for name in given["control_planes"]]
    argv += [f"--arch={name}" for name in architectures]
    for name, image in sorted(given["guest_images"].items()):
        if name in architectures:
            argv.append(f"--image={name},{image['url']},{image['checksum']}")
    return [*argv, "--check"] if check else argv


def stream(argv: Sequence[str], show: Callable[[Mapping[str, Any]], None]) -> tuple[int, str, list[str]]:
    """Run the build, and pass on its progress.

    :returns: exit code, standard output, and the lines of standard error that are no progress
    """
    other: list[str] = []
    environment = {name: value for name, value in os.environ.items() if name not in _OPTIONS}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
    ) as process:
        # The answer is one document at the end, smaller than a pipe's buffer.
        for line in process.stderr or ():
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                show(event)
            else:
                other = [*other, line.rstrip()][-_LINES_KEPT:]
        return process.wait(), process.stdout.read() if process.stdout else "", other


def show(event: Mapping[str, Any]) -> None:
    """Show a progress event: to q8s-run as data, to anybody else as a line."""
    if os.environ.get("Q8S_PROGRESS_EVENTS"):
        Display().display(json.dumps({"q8s_progress": event}))
        return
    where = f"[{event['number']}/{event['total']}] {event['artifact']}: " if "artifact" in event else ""
    Display().display(f"{where}{event['text']}")
