"""The command line of ``q8s-run``: parses it, runs the command, and reports errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from q8s_wrapper import ansible_arguments, argument_parser, completion, invocation, messages, output
from q8s_wrapper.arguments import FILE_VARIABLE, insert_cluster_file, join_words, split_arguments
from q8s_wrapper.arguments_from_environment import (
    add_environment_options,
    apply_environment,
    check_environment,
    check_numbers,
)
from q8s_wrapper.command_table import HANDED_OVER, TO_ANSIBLE, Command, group
from q8s_wrapper.errors import ExitCode, WrapperError


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. Report errors as messages with hints, never as a traceback."""
    code: int = ExitCode.DONE
    with output.checked():
        try:
            try:
                code = _run_safely(argv)
            finally:  # the parser exits when it has printed its help
                sys.stdout.flush()
        except output.OutputError as error:
            if not error.reader_exited:
                messages.error(str(error))
                code = code or ExitCode.FAILED
            _silence_output()
    return code


def _run_safely(argv: Sequence[str]) -> int:
    """Run one command, report its errors, and return its exit code."""
    try:
        return _run(argv)
    except WrapperError as error:
        messages.error(str(error), error.hint)
        return error.code
    except KeyboardInterrupt:
        messages.error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our stderr has exited.
        return ExitCode.DONE
    except (OSError, UnicodeDecodeError) as error:
        # The user can fix these: a full disk, a folder without write permission.
        messages.error(f"Failed to run: {_format_error(error)}")
        return ExitCode.FAILED


def _run(argv: Sequence[str]) -> int:
    """Parse the arguments and run the command.

    :returns: the exit code
    :raises WrapperError: the command failed, or an argument is wrong
    """
    if argv and argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if argv and argv[0] in HANDED_OVER:
        return _hand_over(argv[0], argv[1:])
    if argv and argv[0] == completion.HIDDEN:
        print("\n".join(completion.candidates(argv[1:])))
        return ExitCode.DONE
    if list(argv) == ["--version"]:
        argv = ["version"]
    own, rest = split_arguments(argv)
    if own[1:] in (["-h"], ["--help"]) and group(own[0]):
        print(argument_parser.group_help(own[0]), end="")
        return ExitCode.DONE
    own = join_words(own)
    if not own:
        print(argument_parser.parser().format_help(), end="")
        return ExitCode.DONE
    argument_parser.require_command(own)
    own, default = insert_cluster_file(own)
    arguments = argument_parser.parse(own)
    command: Command = arguments.command
    if rest and not command.rest:
        argument_parser.refuse(command, "takes nothing after --")
    if command.rest == TO_ANSIBLE:
        ansible_arguments.check(command, rest)
    check_environment(command.options)
    apply_environment(arguments)
    check_numbers(arguments)
    with messages.quieted(getattr(arguments, "quiet", False)):
        return _run_command(arguments, rest, default=default)


def _run_command(arguments: argparse.Namespace, rest: Sequence[str], *, default: bool) -> int:
    """Run the command of parsed arguments.

    :param rest: the arguments behind ``--``
    :param default: whether the arguments have the default cluster file
    :returns: the exit code
    :raises WrapperError: the command failed
    """
    command: Command = arguments.command
    arguments.rest = rest
    arguments.invocation = invocation.Invocation(invocation.program())
    if command.file:
        named = bool(default and os.environ.get(FILE_VARIABLE))
        # A printed command without the file would be about another one where the variable is not set.
        arguments.invocation = invocation.of(arguments.file, default=default and not named)
        if default:
            messages.info(f"cluster file: {arguments.file}{f' ({FILE_VARIABLE})' if named else ''}")
    try:
        return int(command.function()(arguments, rest))
    except WrapperError as error:
        error.hint = arguments.invocation.adapt(error.hint)
        raise


def _format_error(error: OSError | UnicodeDecodeError) -> str:
    """Format an error as file and reason, without the error number."""
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text ({error})"
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return ": ".join([" -> ".join(names)] * bool(names) + [error.strerror or str(error) or type(error).__name__])


def _silence_output() -> None:
    """Redirect stdout to /dev/null: Python flushes it again at exit, which would fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hand_over(command: str, argv: Sequence[str]) -> int:
    """Run ``lab`` or ``bundle``, which parse their own arguments. Return the exit code."""
    argv = add_environment_options(command, argv)
    os.umask(0o022)  # both build files that other users' processes must read
    if command == "lab":
        from q8s_lab.cli import main as lab_main

        return lab_main(argv, invocation.program())
    from q8s_bundle.cli import main as bundle_main

    return bundle_main(argv, invocation.program())
