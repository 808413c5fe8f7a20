"""``q8s-run``: the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from q8s_wrapper import arguments as table
from q8s_wrapper import completion, invocation, messages
from q8s_wrapper.errors import ExitCode, WrapperError


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. A user sees messages and hints, never a traceback."""
    messages.set_quiet(False)
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except WrapperError as error:
        messages.error(str(error), error.hint)
        return _flushed(error.code)
    except KeyboardInterrupt:
        messages.error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        _silence_output()
        return ExitCode.DONE
    except (OSError, UnicodeDecodeError) as error:
        # A full disk, a folder that cannot be written: the user's to fix.
        messages.error(f"Failed to run: {_reason(error)}")
        return _flushed(ExitCode.FAILED)
    except SystemExit:
        # of the parser; its help may be on its way to a reader that went away
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_output()
        except OSError as error:
            messages.error(f"Failed to write the output: {_reason(error)}")
            _silence_output()
            return ExitCode.FAILED
        raise


def _run(argv: Sequence[str]) -> int:
    if argv and argv[0] in table.HANDED_OVER:
        return _hand_over(argv[0], argv[1:])
    if argv and argv[0] == completion.HIDDEN:
        print("\n".join(completion.candidates(argv[1:])))
        return ExitCode.DONE
    if list(argv) == ["--version"]:
        argv = ["version"]
    own, rest = _split(argv)
    own, default = table.with_file(own)
    parser = table.parser()
    arguments = parser.parse_args(own)
    command: table.Command = arguments.command
    if rest and not command.rest:
        parser.error(f"{command.name} takes nothing after --")
    table.check_environment(command.options)
    table.settle(arguments)
    messages.set_quiet(getattr(arguments, "quiet", False))
    arguments.invocation = invocation.Invocation(invocation.program())
    if command.file:
        arguments.invocation = invocation.of(arguments.file, default=default)
        if default:
            origin = f" ({table.FILE_VARIABLE})" if os.environ.get(table.FILE_VARIABLE) else ""
            messages.info(f"cluster file: {arguments.file}{origin}")
    return int(command.function()(arguments, rest))


def _flushed(code: int) -> int:
    """Write what is left of the output; return the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence_output()
    return code


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Return what failed and why, without the number that Python puts before it."""
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text ({error})"
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
