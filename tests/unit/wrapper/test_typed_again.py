"""A printed command that runs something again has what the user typed: options, and what follows ``--``."""

from __future__ import annotations

import shlex

import pytest

from q8s_wrapper import argument_parser, invocation
from q8s_wrapper.arguments import split_arguments
from q8s_wrapper.command_table import COMMANDS, Command

ON_A_CLUSTER = [command for command in COMMANDS if command.file and command.name != "init"]
SILENT = ("yes", "json", "quiet", "verbose")


def words(command: Command) -> list[str]:
    """A command line with every option of the command."""
    typed = [command.name, "my cluster.yaml"]
    if command.node:
        typed += ["arm-1", "x86-1", "delay=50ms"] if command.node == "LINK" else ["arm-1"]
    for option in command.options:
        value = option.choices[0] if option.choices else "7" if option.number else "a b"
        typed += [f"--{option.name}", *([value] if option.metavar else [])] * (2 if option.several else 1)
    return typed


@pytest.mark.parametrize("command", ON_A_CLUSTER, ids=lambda command: command.name)
def test_the_same_is_run_again(command: Command) -> None:
    parser = argument_parser.parser()
    arguments = parser.parse_args(words(command))
    arguments.rest = ["-e", "a=b c"] if command.rest else []
    again = [
        *invocation.typed_words(arguments),
        *invocation.typed_options(arguments),
        *invocation.typed_rest(arguments),
    ]
    own, rest = split_arguments(shlex.split(" ".join(again)))
    first, again = vars(arguments), vars(parser.parse_args([command.name, "my cluster.yaml", *own]))
    assert rest == first.pop("rest")
    assert again == {name: type(value)() if name in SILENT else value for name, value in first.items()}


def test_an_option_is_added_before_the_arguments_of_ansible() -> None:
    assert invocation.add_option("q8s-run deploy c.yaml", "--yes") == "q8s-run deploy c.yaml --yes"
    assert invocation.add_option("q8s-run deploy c.yaml -- -v", "--yes") == "q8s-run deploy c.yaml --yes -- -v"
