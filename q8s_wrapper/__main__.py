"""The start of ``q8s-run``, also as ``python -m q8s_wrapper``.

Only os and sys are imported here, which Python has loaded by itself: with PYTHONPATH, any other module may be another.
"""

from __future__ import annotations

import os
import sys

# Set in many container images, and harmless.
_HARMLESS = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
_CALLED_AS = "_Q8S_CALLED_AS"  # how a user called the process before, which the new one cannot see


def entry() -> None:
    """Run ``q8s-run``, in a new process if Python's own variables or an encoding other than UTF-8 affect this one."""
    called_as = os.environ.pop(_CALLED_AS, sys.argv[0])
    variables = {name for name in os.environ if name.startswith("PYTHON") and name not in _HARMLESS}
    if (variables or sys.getfilesystemencoding().lower() != "utf-8") and not sys.flags.ignore_environment:
        kept = {name: value for name, value in os.environ.items() if name not in variables}
        # -E: no variables of Python's; -P: no modules of the current folder
        command = [sys.executable, "-E", "-P", "-X", "utf8", "-m", "q8s_wrapper", *sys.argv[1:]]
        os.execve(sys.executable, command, {**kept, _CALLED_AS: sys.argv[0]})

    from q8s_wrapper import cli, environment, invocation

    environment.isolate()
    invocation.set_called_as(invocation.called_as(called_as))
    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
