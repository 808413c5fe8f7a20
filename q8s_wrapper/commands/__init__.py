"""The commands, by what they need: ``offline`` nothing, ``access`` the cluster's hosts, ``runs`` a playbook."""

from __future__ import annotations

from typing import Any

from q8s_wrapper import messages
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError


def load(file: str, *, warn: bool = True) -> Any:
    """Return the cluster of a file; its warnings go to stderr.

    :raises WrapperError: there is no such file, or it has errors; each is reported with its place
    """
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _spec

    try:
        cluster = _spec.load_file(file)
    except OSError as error:
        raise WrapperError(
            f"Failed to read {file}: {error.strerror or error}",
            "examples/demo.yaml shows what a cluster file looks like",
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
