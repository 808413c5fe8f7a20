"""Why a task failed, and where it is, from its result as Ansible has it. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.terminal import without_colours

# Messages of the command module that only repeat the exit code: ansible-core before 2.20, and since.
_EMPTY_REASONS: Final = frozenset({"non-zero return code", "The command exited with a non-zero return code."})
_ERROR: Final = re.compile(r"^\[ERROR\]: (.*)$", re.MULTILINE)
# What follows is what the module's earlier parts printed there, beside ssh's own message.
_LOST: Final = re.compile(r'^Data could not be sent to remote host "([^"]+)"')
# What ssh says at the end of a command with a terminal, as `script` and `raw` run them. Their stdout has the reason.
_SSH_NOISE: Final = re.compile(r"^Shared connection to \S+ closed\.\s*$", re.MULTILINE)
# What ansible-core puts before a message, the outermost first.
_PREFIXES: Final = ("Task failed: ", "Module failed: ", "Action failed: ")
_HIDDEN_OUTPUT: Final = "the task's output may hold secrets, so it is in no log (no_log)"


def failure_reason(result: Mapping[str, Any], stdout: str = "") -> str:
    """Return why a task failed.

    :param result: the task's result
    :param stdout: Ansible's output, which has the kind of failure even if ``no_log`` hides the result
    """
    if "censored" in result:
        found = _ERROR.search(without_colours(stdout))
        reason = _shorten(found[1]) if found else ""
        return _HIDDEN_OUTPUT if reason in ("", *_EMPTY_REASONS) else f"{reason} ({_HIDDEN_OUTPUT})"
    return _shorten(_find_reason(result))


def _shorten(reason: str) -> str:
    """Return a reason without what Ansible puts around it, and what ssh puts around a jump host's message."""
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _ssh_errors

    reason = reason.strip()
    if _ssh_errors.jump_failure(reason):
        return _ssh_errors.describe(reason)
    for prefix in _PREFIXES:
        reason = reason.removeprefix(prefix)
    lost = _LOST.match(reason)
    return f"{lost[1]} no longer answers by ssh" if lost else reason


def _find_reason(result: Mapping[str, Any]) -> str:
    """Return the text of a result that explains its failure."""
    failed_items = [item for item in result.get("results") or [] if isinstance(item, Mapping) and item.get("failed")]
    source = failed_items[0] if failed_items else result
    for key in ("stderr", "module_stderr", "msg", "stdout"):
        text = _SSH_NOISE.sub("", str(source.get(key) or "")).strip()
        if text and text not in _EMPTY_REASONS:
            message = str(source.get("msg") or "").strip()
            if key != "msg" and message and message not in (*_EMPTY_REASONS, text) and "rc" not in source:
                return message
            return text
    return str(source.get("msg") or "no reason given")


def task_location(data: Mapping[str, Any]) -> str:
    """Return file and line of a task, relative to the collection."""
    path = str(data.get("task_path") or "")
    for folder in ("roles/", "playbooks/"):
        _, found, inside = path.rpartition(f"/{folder}")
        if found:
            return folder + inside
    return path
