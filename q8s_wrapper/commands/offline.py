"""Commands that need neither cloud nor cluster."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from q8s_wrapper import __version__
from q8s_wrapper.commands import load
from q8s_wrapper.errors import ExitCode, WrapperError


def validate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Check a cluster file."""
    load(arguments.file)
    print(f"{arguments.file}: good")
    return ExitCode.DONE


def version(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the version."""
    print(f"q8s-run {__version__}")
    return ExitCode.DONE


def completion(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print a completion script."""
    from q8s_wrapper import completion as scripts

    text = scripts.script(arguments.node)
    if text is None:
        raise WrapperError(
            f"{arguments.node}: is no shell that is known; allowed are {', '.join(scripts.SHELLS)}",
            "q8s-run completion bash",
            ExitCode.WRONG_INPUT,
        )
    print(text, end="")
    return ExitCode.DONE
