"""Entry point of ``q8s-run`` and of ``python -m q8s_wrapper``.

This module imports only os and sys at the top, which Python has loaded at its own start. With PYTHONPATH set, any other
module may be replaced by one in a user's folder.
"""

from __future__ import annotations

import os
import sys

# Many container images set these; they do not change what q8s-run does.
_HARMLESS = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
_CALLED_AS = "_Q8S_CALLED_AS"  # holds the argv[0] that the user typed: execve replaces it


def entry() -> None:
    """Run ``q8s-run`` and exit with its code.

    If Python's own variables are set, or the encoding is not UTF-8, replace this process by one without them.
    """
    called_as = os.environ.pop(_CALLED_AS, sys.argv[0])
    variables = {name for name in os.environ if name.startswith("PYTHON") and name not in _HARMLESS}
    if (variables or sys.getfilesystemencoding().lower() != "utf-8") and not sys.flags.ignore_environment:
        kept = {name: value for name, value in os.environ.items() if name not in variables}
        # -E ignores PYTHON* variables; -P does not import modules from the current folder
        command = [sys.executable, "-E", "-P", "-X", "utf8", "-m", "q8s_wrapper", *sys.argv[1:]]
        os.execve(sys.executable, command, {**kept, _CALLED_AS: sys.argv[0]})

    from q8s_wrapper import cli, environment, invocation

    environment.isolate()
    invocation.set_called_as(invocation.called_as(called_as))
    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
