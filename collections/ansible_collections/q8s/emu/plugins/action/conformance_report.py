# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the results of conformance tests to a folder on the controller. The folder gets its name when it is complete."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ansible.plugins.action import ActionBase
from ansible_collections.q8s.emu.plugins.module_utils import _conformance, _results_folder
from ansible_collections.q8s.emu.plugins.plugin_utils._build import show

_HINT: Final = "go on with --resume, replace them with --force, or choose another with --output"
_LOGS: Final = "logs"
_LOG_LENGTH: Final = 200_000  # characters of a failed test's log that are kept: its end


class ActionModule(ActionBase):
    """Ansible's entry point."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the folder, or add results to it and return the summary."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            {
                "output": {"type": "path", "required": True},
                "force": {"type": "bool", "default": False},
                "resume": {"type": "bool", "default": False},
                "state": {"type": "str", "choices": ["checked", "written"], "default": "written"},
                "cluster": {"type": "str", "default": ""},
                "kubernetes": {"type": "str", "default": ""},
                "nodes": {"type": "list", "elements": "dict", "default": []},
                "plan": {"type": "dict", "default": {}},
                "processes": {"type": "list", "elements": "list", "default": []},
                "reports": {"type": "list", "elements": "str", "default": []},
                "logs": {"type": "list", "elements": "str", "default": []},
                "session": {"type": "dict", "default": {}},
            }
        )[1]
        output = Path(arguments["output"])
        try:
            before = _results_folder.read(output, _conformance.KIND) if arguments["resume"] else None
            if before is None:
                _results_folder.check(output, force=arguments["force"], hint=_HINT)
            if arguments["state"] == "checked":
                return {**result, "changed": False, "earlier": earlier(output, before) if before else {}}
            new = _conformance.outcomes(arguments["processes"], arguments["reports"], arguments["logs"])
            document = results(arguments, new, before)
            found = files(document, new, logs(output) if before else {})
            _results_folder.write(output, found, keep=before is not None)
        except (_results_folder.OutputError, OSError) as error:
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            return {**result, "failed": True, "msg": f"Failed to write the results: {reason}"}
        if new:
            show({"event": "line", "text": _conformance.progress(document)})
        summary = _conformance.summary(document)
        number = _conformance.counts(document)
        return {
            **result,
            "changed": True,
            "summary": summary,
            "failures": number[_conformance.FAILED],
            "complete": document["complete"],
            "ended": sum(one["status"] != _conformance.NOT_RUN for one in new.values()),
            "reason": next((one["reason"] for one in new.values() if one["status"] == _conformance.NOT_RUN), ""),
        }


def earlier(output: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a new session has to know of results.

    :raises OutputError: nothing is left to test
    """
    if before["complete"]:
        raise _results_folder.OutputError(f"the results in {output} are complete: nothing is left to test")
    same = ("cluster", "kubernetes", "nodes", "focus", "skip")
    return {"done": _conformance.done(before), **{name: before[name] for name in same}}


def results(
    arguments: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the document from the arguments of the task."""
    planned = arguments["plan"]
    about = {name: arguments[name] for name in ("cluster", "kubernetes", "nodes")}
    about |= {name: planned[name] for name in ("focus", "skip")}
    return _conformance.document(planned, new, before, about=about, session=arguments["session"])


def logs(output: Path) -> dict[str, bytes]:
    """Return the logs of failed tests in a folder by their path in it."""
    return {f"{_LOGS}/{file.name}": file.read_bytes() for file in sorted((output / _LOGS).glob("*.log"))}


def files(
    document: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]], kept: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the files of a folder of results by their path in it.

    :param kept: logs that are there
    """
    found = dict(kept)
    for name, result in new.items():
        if result["status"] == _conformance.FAILED:
            found[f"{_LOGS}/{file_name(name)}.log"] = result["log"][-_LOG_LENGTH:].encode("utf-8")
    found[_results_folder.RESULTS] = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("utf-8")
    found["tables.md"] = _conformance.markdown(document).encode("utf-8")
    return found


def file_name(name: str) -> str:
    """Return a file name for a test: its words, joined by hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name.replace("[Conformance]", "")).strip("-")[:150]
