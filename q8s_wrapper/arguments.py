"""The arguments as they are typed: the words of a command's name, the cluster file, and what stands after ``--``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from q8s_wrapper import command_table, invocation
from q8s_wrapper.command_table import Command
from q8s_wrapper.errors import ExitCode, WrapperError

FILE_VARIABLE: Final = "Q8S_CLUSTER_FILE"
DEFAULT_FILE: Final = "cluster.yaml"
_SUFFIXES: Final = (".yaml", ".yml", ".json")


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments at the first ``--``."""
    arguments = list(argv)
    if "--" in arguments:
        index = arguments.index("--")
        return arguments[:index], arguments[index + 1 :]
    return arguments, []


def join_words(argv: Sequence[str]) -> list[str]:
    """Join the words of a command whose name has two, such as ``link show``.

    :raises WrapperError: the second word is missing or unknown
    """
    arguments = list(argv)
    first = arguments[0] if arguments else ""
    seconds = command_table.second_words(first)
    if not seconds:
        return arguments
    if len(arguments) > 1 and arguments[1] in seconds:
        return [f"{first} {arguments[1]}", *arguments[2:]]
    raise WrapperError(
        f"{first}: {f'is followed by {arguments[1]}' if len(arguments) > 1 else 'needs a further word'}; "
        f"allowed are {', '.join(f'{first} {second}' for second in seconds)}",
        f"{invocation.program()} {first} {seconds[0]} --help",
        ExitCode.WRONG_INPUT,
    )


def insert_cluster_file(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Insert the default cluster file into the arguments if they name none.

    For a command that takes FILE and NODE, a single argument is FILE if that file exists or the argument looks like a
    file name; otherwise it is NODE.

    :returns: the arguments with the cluster file, and whether it is the default one
    :raises WrapperError: the arguments name no file, and the default file does not exist
    """
    arguments = list(argv)
    command = command_table.find(arguments[0]) if arguments else None
    if command is None or not command.file or {"-h", "--help"} & set(arguments):
        return arguments, False
    positionals = positional_arguments(arguments[1:], command)
    if command.node == "LINK":
        if positionals and is_file_name(positionals[0]):
            return arguments, False
        positionals = []
    needed = 1 if command.node in ("NODE", "NODES", "DIR") else 0
    if len(positionals) > needed and (
        len(positionals) > 1 or needed or not command.node or is_file_name(positionals[0])
    ):
        return arguments, False
    # A folder, too, may have the form of a path.
    has_file = positionals and is_file_name(positionals[0], may_be_folder=command.node == "DIR")
    if needed and has_file:
        return arguments, False  # the parser reports that NODE is missing
    file = default_file(exists=command.name != "init")
    if file is None:
        node = command.node.strip("[]")
        taken = f" ({positionals[0]} is taken for {node}: there is no such file)" if positionals else ""
        raise WrapperError(
            f"{command.name}: no cluster file was given, and this folder has no {DEFAULT_FILE}{taken}",
            f"pass FILE, set {FILE_VARIABLE}, or write one: {invocation.program()} init {DEFAULT_FILE}",
            ExitCode.WRONG_INPUT,
        )
    return [arguments[0], file, *arguments[1:]], True


def default_file(exists: bool = True) -> str | None:
    """Return the default cluster file: ``Q8S_CLUSTER_FILE``, else ``cluster.yaml`` in the current folder.

    :param exists: whether ``cluster.yaml`` must exist
    :returns: the file name, or None if ``cluster.yaml`` must exist and does not
    """
    named = os.environ.get(FILE_VARIABLE)
    return named or (DEFAULT_FILE if not exists or Path(DEFAULT_FILE).is_file() else None)


def is_file_name(text: str, *, may_be_folder: bool = False) -> bool:
    """Return whether an argument is a cluster file rather than a node: it is a file, or has the form of a path.

    :param may_be_folder: whether the form of a path says nothing
    """
    is_path = os.sep in text and not may_be_folder
    return text == "-" or is_path or text.endswith(_SUFFIXES) or Path(text).is_file()


def positional_arguments(argv: Sequence[str], command: Command) -> list[str]:
    """Return the positional arguments: all that are neither options nor values of options."""
    positionals, is_value = [], False
    for argument in argv:
        if is_value:
            is_value = False
        elif argument == "-" or not argument.startswith("-"):
            positionals.append(argument)
        else:
            is_value = expects_value(argument, command)
    return positionals


def expects_value(flag: str, command: Command) -> bool:
    """Return whether the next argument is this option's value: yes for ``--limit`` and ``--lim``, no for ``-n5``."""
    for option in command.options:
        long = flag.startswith("--") and len(flag) > 2 and f"--{option.name}".startswith(flag)
        if option.metavar and (long or (option.short and flag == f"-{option.short}")):
            return True
    return False
