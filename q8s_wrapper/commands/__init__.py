"""The commands, grouped by what they need.

``offline``: neither cloud nor cluster. ``start``: a cloud, no cluster file. ``local``: state on this machine.
``access``, ``links`` and ``scenarios``: SSH to hosts and guests. ``runs``: a playbook. ``benchmark``, ``conformance``
and ``records``: a playbook, and what is written of it. ``session`` runs playbooks for all of these.
"""

from __future__ import annotations

from typing import Any

from q8s_wrapper import messages
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError


def load(file: str, *, warn: bool = True) -> Any:
    """Load a cluster file.

    :param file: path of the cluster file
    :param warn: whether to print the file's warnings to stderr
    :returns: the cluster, a ``Cluster`` of the collection
    :raises WrapperError: the file cannot be read, or has errors; the message lists each with line and column
    """
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _spec

    try:
        cluster = _spec.load_file(file)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise WrapperError(
            f"Failed to read {file}: {error.strerror or error}",
            "`q8s-run init FILE` writes one from what your cloud offers" if missing else "",
            ExitCode.WRONG_INPUT,
        ) from None
    except _spec.SpecError as error:
        count = len(error.problems)
        raise WrapperError(
            f"{file} has {count} error{'s' if count > 1 else ''}; nothing was changed\n{error.text()}",
            code=ExitCode.WRONG_INPUT,
        ) from None
    if warn:
        for warning in cluster.warnings:
            messages.warning(warning.text())
    return cluster
