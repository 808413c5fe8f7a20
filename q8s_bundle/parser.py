"""The parser of every command line of Q8S."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in the format of all other errors, with the command that shows what is allowed."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(2, f"error: {message}\nhint: {self.prog} --help\n")
