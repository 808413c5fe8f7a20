# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build bundles on the controller, and show each step of the build. Say whether the cluster has to build instead."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.q8s.emu.plugins.plugin_utils._build import served, show, take

# q8s-run reads options of a command from these. What the user has set for the command must not count here.
_OPTIONS = (
    "Q8S_ADDON", "Q8S_ARCH", "Q8S_CHECK", "Q8S_CONFORMANCE", "Q8S_CONTROL_PLANE", "Q8S_IF_ABLE",
    "Q8S_IF_CACHED", "Q8S_IMAGE", "Q8S_KUBERNETES", "Q8S_PROGRESS", "Q8S_SOURCE", "Q8S_TESTS",
)  # fmt: skip


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the artifacts, or the build's own error message."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "command": {"type": "list", "elements": "str", "required": True},
                "architectures": {"type": "list", "elements": "str", "required": True},
                "control_planes": {"type": "list", "elements": "str", "default": ["x86_64"]},
                "benches": {"type": "list", "elements": "str", "default": []},
                "conformance": {"type": "list", "elements": "str", "default": []},
                "tests": {"type": "list", "elements": "str", "default": []},
                "kubernetes_version": {"type": "str"},
                "addons": {"type": "list", "elements": "str", "default": []},
                "source": {"type": "str", "choices": ["auto", "upstream", "source"], "default": "auto"},
                "guest_images": {"type": "dict", "default": {}},
                "where": {"type": "str", "choices": ["auto", "here", "cluster"], "default": "auto"},
                "if_cached": {"type": "bool", "default": False},
            }
        )[1]
        try:
            # One run of the program looks up, and builds what is missing unless the cluster does.
            check = self._task.check_mode or arguments["where"] == "cluster"
            able = ["--if-able"] if arguments["where"] == "auto" else []
            cached = ["--if-cached"] if arguments["if_cached"] else []
            bundle = build([*arguments["command"], *command_line(arguments, check=check), *able, *cached])
            elsewhere = on_cluster(arguments["where"], bundle)
        except BuildError as error:
            return {**result, "failed": True, "msg": str(error)}
        return {
            **result,
            # What is missing here is then built, or found, by the task that builds on the cluster.
            "changed": bundle["changed"] and not elsewhere and not arguments["if_cached"],
            "bundle": bundle,
            **served(bundle, elsewhere),
            "on_cluster": elsewhere,
            "arguments": command_line(arguments, check=False),
        }


class BuildError(Exception):
    """The build failed. The message is the build's own."""


def build(argv: Sequence[str]) -> dict[str, Any]:
    """Run the build on the controller and return its answer.

    :raises BuildError: it failed
    """
    try:
        code, stdout, stderr = stream(argv, show)
    except OSError as error:
        raise BuildError(f"Failed to run {argv[0]}: {error.strerror}") from error
    if code:
        raise BuildError("\n".join(stderr) or f"the build exited with code {code}")
    answer: dict[str, Any] = json.loads(stdout)
    return answer


def on_cluster(where: str, bundle: Mapping[str, Any]) -> bool:
    """Return whether the cluster has to build what is missing: the user asked for it, or the controller cannot."""
    return bool(bundle.get("missing")) and (where == "cluster" or (where == "auto" and bool(bundle.get("obstacles"))))


def command_line(arguments: Mapping[str, Any], *, check: bool) -> list[str]:
    """Return the arguments of the build for those of the task."""
    architectures = list(arguments["architectures"])
    argv = ["ensure", "--progress=json", f"--source={arguments['source']}"]
    argv += [f"--control-plane={name}" for name in arguments["control_planes"]]
    argv += [f"--arch={name}" for name in architectures]
    argv += [f"--bench={name}" for name in arguments.get("benches") or []]
    argv += [f"--conformance={name}" for name in arguments.get("conformance") or []]
    argv += [f"--tests={name}" for name in arguments.get("tests") or []]
    if arguments.get("kubernetes_version"):
        argv.append(f"--kubernetes={arguments['kubernetes_version']}")
    argv += [f"--addon={name}" for name in arguments.get("addons") or []]
    for name, image in sorted(arguments["guest_images"].items()):
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
            other = take(line, other, show)
        return process.wait(), process.stdout.read() if process.stdout else "", other
