"""How the user called ``q8s-run``: commands that are printed work exactly as printed."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "q8s-run"
# "FILE" is in messages of the collection, which does not know the file's name.
_COMMAND_WITH_FILE: Final = re.compile(rf"\b{NAME} ([a-z]+) FILE\b")
_COMMAND: Final = re.compile(rf"\b{NAME}(?= [a-z])")

_called_as = NAME


@dataclass(frozen=True)
class Invocation:
    """The program and the cluster file as a user typed them, quoted for a shell. No file: it was found by default."""

    program: str = NAME
    file: str = ""

    def command(self, verb: str, *words: str) -> str:
        """Return a command on the same cluster file. The words are quoted already."""
        return " ".join(word for word in (self.program, verb, self.file, *words) if word)

    def adapt(self, text: str) -> str:
        """Return a text of the collection with its commands as this user has to type them."""
        with_file = _COMMAND_WITH_FILE.sub(lambda found: f"{NAME} {found[1]} {self.file}".rstrip(), text)
        return _COMMAND.sub(lambda found: self.program, with_file)


def set_called_as(name: str) -> None:
    """Remember the name by which a shell finds this program: its path, or ``q8s-run`` alone."""
    global _called_as  # noqa: PLW0603 (one process has one name)
    _called_as = name


def program() -> str:
    """Return the program's name, quoted for a shell."""
    return _called_as


def called_as(argv0: str) -> str:
    """Return what a user typed to start the program.

    :param argv0: the first word of the command line, as Python has it
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

    :param default: whether the file was found by default, and is found again
    """
    return Invocation(program(), "" if default else shlex.quote(file))
