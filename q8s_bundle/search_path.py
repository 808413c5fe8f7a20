"""The search path of programs, which may lack the folders of mke2fs, depmod and ip."""

from __future__ import annotations

import os
from typing import Final

_ADMINISTRATION: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def complete(path: str) -> str:
    """Return a search path with the folders of programs for administration behind the others.

    :param path: value of ``PATH``; empty if it is not set
    """
    folders = (path or os.defpath).split(os.pathsep)
    return os.pathsep.join([*folders, *(folder for folder in _ADMINISTRATION if folder not in folders)])


def complete_own() -> None:
    """Complete the search path of this process and of the programs that it runs.

    An ordinary user's PATH lacks the folders, and so does root's from cron or ``su``.
    """
    os.environ["PATH"] = complete(os.environ.get("PATH", ""))
