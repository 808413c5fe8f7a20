"""Arguments for ansible-playbook, after ``--``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from q8s_wrapper import invocation
from q8s_wrapper.command_table import Command
from q8s_wrapper.errors import ExitCode, WrapperError

# What selects or only shows what a playbook does: with it, a run that ends well has not done what the command says.
_SWITCHES: Final = (
    ("-C", "--check"),
    ("-h", "--help"),
    ("--list-hosts",),
    ("--list-tags",),
    ("--list-tasks",),
    ("--syntax-check",),
    ("--version",),
)
_SELECTIONS: Final = (("-l", "--limit"), ("-t", "--tags"), ("--skip-tags",), ("--start-at-task",))
# Short options that may stand before one of these in the same word, as in -vC, and those with a value.
_OTHERS: Final = ("-b", "-D", "-J", "-k", "-K", "-v")
_OTHERS_WITH_VALUE: Final = ("-c", "-e", "-f", "-i", "-M", "-T", "-u")


def check(command: Command, rest: Sequence[str]) -> None:
    """Check arguments that a command passes on.

    :raises WrapperError: one of them selects what runs, which the command must know
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for flags in _SWITCHES:
        parser.add_argument(*flags, dest=flags[-1], action="store_true")
    for flags in _SELECTIONS:
        parser.add_argument(*flags, dest=flags[-1])
    for flag in _OTHERS:
        parser.add_argument(flag, action="store_true")
    for flag in _OTHERS_WITH_VALUE:
        parser.add_argument(flag)
    try:
        found = vars(parser.parse_known_args(rest)[0])
    except argparse.ArgumentError:
        return  # Ansible says it better
    for name in (flags[-1] for flags in (*_SWITCHES, *_SELECTIONS)):
        if found[name]:
            own = name.removeprefix("--") in {option.name for option in command.options}
            program = invocation.program()
            raise WrapperError(
                f"{command.name}: {name} is not allowed after --, where q8s-run does not know what it selects",
                f"{program} {command.name} {'has ' + name + ' itself' if own else '--help shows what it can select'}",
                ExitCode.WRONG_INPUT,
            )
