"""How the user called ``q8s-run``, so that printed commands work exactly as printed."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle.parser import NAME

# Some messages have the placeholder FILE, such as those of the collection, which does not know the file's name.
# A command with a path is adapted already.
_COMMAND_WITH_FILE: Final = re.compile(rf"(?<![\w/.-]){NAME} ([a-z]+(?: [a-z]+)?) FILE\b")
_COMMAND: Final = re.compile(rf"(?<![\w/.-]){NAME}(?= [a-z])")
_NOT_REPEATED: Final = frozenset({"yes", "json", "quiet", "verbose"})

_called_as = NAME


@dataclass(frozen=True)
class Invocation:
    """The program and the cluster file as the user typed them, quoted for a shell.

    :param file: empty if the default cluster file is used
    """

    program: str = NAME
    file: str = ""

    def command(self, verb: str, *arguments: str) -> str:
        """Return a command line on the same cluster file.

        :param verb: the command of ``q8s-run``
        :param arguments: further arguments, quoted for a shell
        """
        return " ".join(part for part in (self.program, verb, self.file, *arguments) if part)

    def adapt(self, text: str) -> str:
        """Replace the commands in a message by those that this user has to type."""
        with_file = _COMMAND_WITH_FILE.sub(lambda found: f"{NAME} {found[1]} {self.file}".rstrip(), text)
        return _COMMAND.sub(lambda found: self.program, with_file)


def set_called_as(name: str) -> None:
    """Set the program's name for printed commands: its path, or ``q8s-run`` if it is in PATH."""
    global _called_as  # noqa: PLW0603 (one process has one name)
    _called_as = name


def program() -> str:
    """Return the program's name for printed commands, quoted for a shell."""
    return _called_as


def called_as(argv0: str) -> str:
    """Return what the user typed to start the program, quoted for a shell.

    :param argv0: ``sys.argv[0]``
    """
    path = Path(argv0)
    if path.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m q8s_wrapper"
    if path.name != NAME:
        return NAME
    found = shutil.which(NAME)
    if found and Path(found).absolute() == path.absolute():
        return NAME
    return shlex.quote(argv0)


def of(file: str, *, default: bool = False) -> Invocation:
    """Return the invocation with a cluster file.

    :param default: whether it is the default cluster file, which printed commands leave out
    """
    return Invocation(program(), "" if default else shlex.quote(file))


def typed_words(arguments: argparse.Namespace) -> list[str]:
    """Return the node, or the words of ``link set``, quoted as they are typed in a command."""
    node = getattr(arguments, "node", None) or []
    return [shlex.quote(word) for word in ([node] if isinstance(node, str) else node)]


def typed_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of a command as they are typed, without those about its output and the consent of the user."""
    typed = []
    for option in arguments.command.options:
        value = getattr(arguments, option.name.replace("-", "_"), None)
        if not value or option.name in _NOT_REPEATED:
            continue
        if not option.metavar:
            typed.append(f"--{option.name}")
        else:
            values = value if option.several else [value]
            typed += [f"--{option.name} {shlex.quote(str(one))}" for one in values]
    return typed


def typed_rest(arguments: argparse.Namespace) -> list[str]:
    """Return what follows ``--``, with it, quoted for a shell."""
    rest = getattr(arguments, "rest", ())
    return ["--", *map(shlex.quote, rest)] if rest else []


def add_option(command: str, option: str) -> str:
    """Return a command line with one more option, which has to be before ``--``."""
    before, separator, rest = command.partition(" -- ")
    return f"{before} {option}{separator}{rest}"


def resume_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options with which the same command goes on in the same folder, quoted for a shell."""
    folder = [f"--output {shlex.quote(arguments.output)}"] if arguments.output else []
    return [*folder, "--resume"]
