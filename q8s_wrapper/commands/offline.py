"""Commands that need neither a cloud nor a cluster: validate, version, completion."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from q8s_wrapper import __version__, invocation
from q8s_wrapper.commands import load
from q8s_wrapper.errors import ExitCode, WrapperError


def validate(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Check a cluster file without a cloud."""
    load(arguments.file)
    print(f"{arguments.file}: OK")
    return ExitCode.DONE


def version(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the versions of Q8S and ansible-core, and the Kubernetes versions that Q8S deploys."""
    from q8s_bundle.node import minors

    found = program_versions()
    print(f"q8s-run {found['q8s-run']}\nansible-core {found['ansible-core']}\nKubernetes {' '.join(minors.MINORS)}")
    return ExitCode.DONE


def program_versions() -> dict[str, str]:
    """Return the versions of the programs that deploy a cluster."""
    try:
        ansible = version_of("ansible-core")
    except PackageNotFoundError:
        ansible = "is not installed"
    return {"q8s-run": __version__, "ansible-core": ansible, "Python": platform.python_version()}


def completion(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the completion script of a shell.

    :raises WrapperError: the shell is not supported
    """
    from q8s_wrapper import completion as scripts

    text = scripts.script(arguments.node)
    if text is None:
        raise WrapperError(
            f"completion: {arguments.node} is not supported; allowed are {', '.join(scripts.SHELLS)}",
            f"{invocation.program()} completion bash",
            ExitCode.WRONG_INPUT,
        )
    print(text, end="")
    return ExitCode.DONE
