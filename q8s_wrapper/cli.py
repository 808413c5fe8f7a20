"""``q8s-run``: the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from q8s_wrapper import arguments as table
from q8s_wrapper import completion
from q8s_wrapper.errors import ExitCode, WrapperError


def main(argv: Sequence[str]) -> int:
    """Run one command; gives the exit code. A user sees messages and hints, never a traceback."""
    try:
        if argv and argv[0] in table.HANDED_OVER:
            return _hand_over(argv[0], argv[1:])
        if argv and argv[0] == completion.HIDDEN:
            print("\n".join(completion.candidates(argv[1:])))
            return ExitCode.DONE
        own, rest = _split(argv)
        parser = table.parser()
        arguments = parser.parse_args(own)
        command: table.Command = arguments.command
        if rest and not command.rest:
            parser.error(f"{command.name} takes nothing after --")
        table.check_environment(command.options)
        table.settle(arguments)
        code = int(command.function()(arguments, rest))
        sys.stdout.flush()
        return code
    except WrapperError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        _silence_output()
        return ExitCode.DONE
    except OSError as error:
        # A full disk, a folder that cannot be written: the user's to fix.
        print(f"Failed to run: {_reason(error)}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _silence_output()
        return ExitCode.FAILED


def _reason(error: OSError) -> str:
    """Return what failed and why, without the number that Python puts before it."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return ": ".join([" -> ".join(names)] * bool(names) + [error.strerror or str(error) or type(error).__name__])


def _silence_output() -> None:
    """Drop what is left of the output: Python would fail again when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hand_over(command: str, argv: Sequence[str]) -> int:
    argv = table.with_environment(command, argv)
    os.umask(0o022)  # files of machines are built, which others must read
    if command == "lab":
        from q8s_lab.cli import main as lab_main

        return lab_main(argv)
    from q8s_bundle.cli import main as bundle_main

    return bundle_main(argv)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(argv)
    if "--" in arguments:
        place = arguments.index("--")
        return arguments[:place], arguments[place + 1 :]
    return arguments, []
