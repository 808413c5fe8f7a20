"""The parser of every command line of Q8S."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, Final, NoReturn

NAME: Final = "q8s-run"


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in the format of all other errors, with the command that shows what is allowed.

    Its help has the program's short name, its hints have the name that the user typed.

    :param program: the name of ``q8s-run`` as the user typed it, quoted for a shell
    """

    def __init__(self, *, program: str, prog: str = NAME, **settings: Any) -> None:
        super().__init__(prog=prog, **settings)
        self._program = program

    def add_commands(self, **settings: Any) -> Any:
        """Call ``add_subparsers`` such that the parsers of the commands know the name that the user typed, too."""
        parser_class: Any = partial(type(self), program=self._program)
        return self.add_subparsers(parser_class=parser_class, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(2, f"error: {message}\nhint: {self.prog.replace(NAME, self._program, 1)} --help\n")
