"""Why a task failed, and where it is, from its result."""

from __future__ import annotations

from typing import Any

import pytest

from q8s_wrapper.failure_reason import failure_reason, task_location


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"msg": "The command exited with a non-zero return code.", "rc": 1, "stdout": "no space"}, "no space"),
        ({"msg": "non-zero return code", "rc": 1, "stdout": "no space", "stderr": ""}, "no space"),
        ({"msg": "The command exited with a non-zero return code.", "rc": 1, "stderr": "full"}, "full"),
        ({"msg": "Failed to find it", "stderr": "a warning"}, "Failed to find it"),
        (
            {"msg": "One or more items failed", "results": [{"msg": "fine"}, {"failed": True, "msg": "second is bad"}]},
            "second is bad",
        ),
        # Of a host that died, Ansible shows what the module's program printed before.
        (
            {
                "unreachable": True,
                "msg": 'Task failed: Data could not be sent to remote host "10.254.1.52". Make sure this host can be '
                "reached over ssh: Traceback (most recent call last):\nModuleNotFoundError: No module named 'apt'\n",
            },
            "10.254.1.52 no longer answers by ssh",
        ),
        # Ansible, and ssh around what the jump host's ssh said.
        (
            {
                "unreachable": True,
                "msg": "Task failed: Failed to connect to the host via ssh: Received disconnect from UNKNOWN port 65535"
                ":11: q8s jump host me@gate: me@gate: Permission denied (publickey).\r\n"
                "Disconnected from UNKNOWN port 65535",
            },
            "the way through me@gate fails: me@gate: Permission denied (publickey).",
        ),
        ({"msg": "Task failed: Module failed: no space"}, "no space"),
        # A task that runs with a terminal: the program's stderr is in stdout.
        (
            {
                "msg": "non-zero return code",
                "rc": 1,
                "stderr": "Shared connection to 10.0.0.1 closed.\r\n",
                "stdout": "full\r\n",
            },
            "full",
        ),
        ({}, "no reason given"),
    ],
)
def test_the_reason_is_what_helps(result: dict[str, Any], reason: str) -> None:
    assert failure_reason(result) == reason


def test_a_lost_host_is_named_where_the_result_is_hidden() -> None:
    stdout = (
        '[ERROR]: Task failed: Data could not be sent to remote host "10.254.1.52". Make sure this host can be reached '
        "over ssh: Traceback\n"
    )
    assert failure_reason({"censored": "hidden"}, stdout).startswith("10.254.1.52 no longer answers by ssh (")


def test_a_place_is_relative_to_the_collection() -> None:
    assert task_location({"task_path": "/a/b/roles/c/tasks/main.yml:3"}) == "roles/c/tasks/main.yml:3"
