"""The parser of the command line, built from the table of the commands."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from q8s_bundle.parser import NAME, Parser
from q8s_wrapper import invocation
from q8s_wrapper.arguments import DEFAULT_FILE, FILE_VARIABLE
from q8s_wrapper.arguments_from_environment import ALLOWED_NUMBER, default_from_environment
from q8s_wrapper.command_table import COMMANDS, HANDED_OVER, Command, group
from q8s_wrapper.errors import ExitCode, WrapperError

_NODE_HELP: Final[Mapping[str, str]] = {
    "NODE": "name of a node or a host",
    "[NODE]": "name of a node or a host",
    "NODES": "which nodes or hosts",
    "DIR": "folder of the record",
    "SHELL": "bash, zsh or fish",
    "LINK": "FROM TO and settings such as delay=50ms",
}


def _text(value: str) -> str:
    """Return the value of an option or an argument.

    :raises argparse.ArgumentTypeError: it names nothing, as a variable of a shell that is not set. An empty limit or
        pattern would select everything
    """
    if not value.strip(" ,:"):
        raise argparse.ArgumentTypeError(f"is {value!r}, which names nothing")
    return value


def _whole_number(value: str) -> int:
    """Return the value of an option.

    :raises argparse.ArgumentTypeError: it is no whole number
    """
    try:
        return int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {value!r}; allowed is {ALLOWED_NUMBER}") from None


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = Parser(
        program=invocation.program(),
        description="Deploy a Kubernetes cluster of QEMU-emulated heterogeneous workers onto an OpenStack project.",
        epilog="Every option of these commands is also an environment variable: "
        "--limit is Q8S_LIMIT, --yes is Q8S_YES=1. "
        f"FILE may be left out: then it is {FILE_VARIABLE}, or {DEFAULT_FILE} in the current folder. "
        "Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.",
    )
    top.add_argument("--version", action="store_true", help="print the versions of Q8S, ansible-core and Kubernetes")
    commands = top.add_commands(required=True, metavar="COMMAND")
    for command in COMMANDS:
        _add_command(commands, command)
    for name, text in HANDED_OVER.items():
        commands.add_parser(name, help=text)
    return top


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command. Exit with code 2 if one is wrong."""
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:
        names = [f"--{option.name}" for option in arguments.command.options]
        similar = difflib.get_close_matches(unknown[0].partition("=")[0], names, n=1)
        nearest = f"; the nearest option is {similar[0]}" if similar else ""
        refuse(arguments.command, f"does not take {' '.join(map(shlex.quote, unknown))}{nearest}")
    return arguments


def refuse(command: Command, reason: str) -> NoReturn:
    """Print why the arguments of a command are refused, and which command shows what is allowed. Exit with code 2."""
    Parser(program=invocation.program(), prog=f"{NAME} {command.name}").error(f"{command.name} {reason}")


def group_help(first: str) -> str:
    """Return the help of the commands whose names begin with the same word, such as ``link``."""
    program = invocation.program()
    parser = Parser(program=program, prog=f"{NAME} {first}", add_help=False)
    commands = parser.add_commands(metavar="COMMAND")
    for command in group(first):
        commands.add_parser(command.name.split()[1], help=command.help)
    return f"{parser.format_help()}\n{program} {first} COMMAND --help shows its options.\n"


def require_command(argv: Sequence[str]) -> None:
    """Check that the first argument, unless it is an option, is a command.

    :raises WrapperError: it is not
    """
    name = argv[0] if argv else "-"
    names = [*(command.name for command in COMMANDS), *HANDED_OVER]
    if name.startswith("-") or name in names:
        return
    program = invocation.program()
    similar = difflib.get_close_matches(name, names, n=1)
    hint = f"{program} {similar[0]} --help" if similar else f"{program} --help"
    raise WrapperError(f"there is no command {name!r}; allowed are {', '.join(names)}", hint, ExitCode.WRONG_INPUT)


def _add_command(commands: Any, command: Command) -> None:
    """Add a command with its arguments and options to the parser."""
    usage = f"%(prog)s{' [OPTIONS]' if command.options else ''}"
    usage += f"{' [FILE]' if command.file else ''}{f' {command.node}' if command.node else ''}"
    usage += f" [-- {'COMMAND...' if 'command' in command.rest else 'ARGUMENTS...'}]" if command.rest else ""
    sub = commands.add_parser(
        command.name,
        help=command.help,
        description=f"{command.help[0].upper()}{command.help[1:]}. {command.more}".strip(),
        epilog=f"example: {command.example}",
        usage=usage,
    )
    sub.set_defaults(command=command)
    if command.file:
        sub.add_argument(
            "file", metavar="FILE", type=_text, help=f"cluster file (default: {DEFAULT_FILE}) [{FILE_VARIABLE}]"
        )
    if command.node:
        nargs = "?" if command.node.startswith("[") else "+" if command.node == "LINK" else None
        sub.add_argument(
            "node", metavar=command.node.strip("[]"), type=_text, nargs=nargs, help=_NODE_HELP[command.node]
        )
    for option in command.options:
        flags = ([f"-{option.short}"] if option.short else []) + [f"--{option.name}"]
        text = f"{option.help} [{option.variable}]"
        if option.counted:
            sub.add_argument(*flags, action="count", default=default_from_environment(option), help=text)
        elif option.several:
            # No default: argparse would append to it. apply_environment() sets the value if the option is absent.
            sub.add_argument(
                *flags, metavar=option.metavar, type=_text, action="append", choices=option.choices or None, help=text
            )
        elif option.metavar:
            sub.add_argument(
                *flags,
                metavar=option.metavar,
                type=_whole_number if option.number else _text,
                choices=option.choices or None,
                default=default_from_environment(option),
                help=text,
            )
        else:
            sub.add_argument(
                *flags, action=argparse.BooleanOptionalAction, default=default_from_environment(option), help=text
            )
