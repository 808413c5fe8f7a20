"""The table of the commands."""

from __future__ import annotations

from q8s_wrapper.command_table import COMMANDS


def test_every_command_on_a_cluster_can_be_quiet() -> None:
    quiet = {command.name: {option.name for option in command.options} for command in COMMANDS if command.file}
    assert all("quiet" in options for options in quiet.values())
