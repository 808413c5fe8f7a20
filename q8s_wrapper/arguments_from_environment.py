"""Arguments from environment variables: ``--limit`` is also ``Q8S_LIMIT``."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from typing import Any, Final

from q8s_wrapper.command_table import HANDED_OVER_OPTIONS, Command, Option
from q8s_wrapper.errors import ExitCode, WrapperError

ALLOWED_NUMBER: Final = "a whole number of at least 1"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


def default_from_environment(option: Option) -> Any:
    """Return the default of an option, from its environment variable.

    An invalid value counts as unset here: check_environment() reports it for the command that is run.
    """
    value = os.environ.get(option.variable)
    if option.counted:
        return int(value) if value and value.isdecimal() else 0
    if option.metavar:
        return value or None
    return (value or "").lower() in _TRUE


def check_environment(options: Sequence[Option]) -> None:
    """Check the environment variables of the options.

    :raises WrapperError: the value of a variable is not valid for its option
    """
    for option in options:
        value = os.environ.get(option.variable)
        if value is None:
            continue
        if option.counted or option.number:
            valid, allowed = value == "" or value.isdecimal(), ALLOWED_NUMBER if option.number else "a whole number"
        elif option.choices:
            several = option.several
            valid = set(value.split()) <= set(option.choices) if several else value in ("", *option.choices)
            allowed = (" and " if several else ", ").join(option.choices)
        elif option.metavar:
            valid, allowed = True, ""
        else:
            valid, allowed = value.lower() in _TRUE | _FALSE, "1 or 0 (also true, yes, on; false, no, off)"
        if not valid:
            raise WrapperError(
                f"{option.variable}: is {value!r}; allowed is {allowed}",
                f"unset {option.variable}, or use --{option.name}",
                ExitCode.WRONG_INPUT,
            )


def check_numbers(arguments: argparse.Namespace) -> None:
    """Check the options that are whole numbers.

    :raises WrapperError: one is less than 1
    """
    for option in arguments.command.options:
        value = getattr(arguments, option.name.replace("-", "_")) if option.number else None
        if value is not None and value < 1:
            named = os.environ.get(option.variable) == str(value)
            source = option.variable if named else f"--{option.name}"
            raise WrapperError(f"{source}: is {value}; allowed is {ALLOWED_NUMBER}", code=ExitCode.WRONG_INPUT)


def add_environment_options(command: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments of ``lab`` or ``bundle``, extended by options from environment variables.

    An option on the command line takes precedence over its variable. A variable with several values is split as a
    shell would: a value with a space is quoted.

    :raises WrapperError: the value of a variable is not valid for its option
    """
    added: list[str] = []
    for option in HANDED_OVER_OPTIONS.get((command, argv[0] if argv else ""), ()):
        flag = f"--{option.name}"
        if any(argument.partition("=")[0] == flag for argument in argv):
            continue
        check_environment([option])
        if option.metavar:
            added += [f"{flag}={value}" for value in _environment_values(option)]
        elif default_from_environment(option):
            added.append(flag)
    return [*argv, *added]


def _environment_values(option: Option) -> list[str]:
    """Return the values in an option's environment variable.

    :raises WrapperError: a quote in the variable is not closed
    """
    value = os.environ.get(option.variable, "")
    if not option.several:
        return [value] if value else []
    try:
        return shlex.split(value)
    except ValueError as error:
        raise WrapperError(
            f"{option.variable}: is {value!r}: {error}",
            "quote values that contain spaces or quotes, as in a shell",
            ExitCode.WRONG_INPUT,
        ) from None


def apply_environment(arguments: argparse.Namespace) -> None:
    """Set repeatable options that are not on the command line from their environment variables."""
    command: Command = arguments.command
    for option in command.options:
        if option.several and getattr(arguments, option.name) is None:
            setattr(arguments, option.name, os.environ.get(option.variable, "").split())
