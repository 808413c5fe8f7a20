"""The command that runs Kubernetes' conformance tests: conformance."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import folders, invocation, messages
from q8s_wrapper.commands import load
from q8s_wrapper.commands.session import Session, open_session
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.runner import Outcome

_SELECTION: Final = ("focus", "skip", "force")  # what an earlier run has decided


def conformance(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run conformance tests on the cluster, and write the results to a folder. Return 1 if one failed."""
    cluster = load(arguments.file)
    output = Path(arguments.output or f"conformance-{cluster.cluster_name}").expanduser().absolute()
    # The collection can be imported once the cluster file is loaded.
    from ansible_collections.q8s.emu.plugins.module_utils import _conformance

    if arguments.resume or not arguments.list:
        folders.check_results(arguments, output, _conformance.KIND, verb="run", kept="tests", selection=_SELECTION)
    before = folders.read_results(output)
    options = ["-e", json.dumps(_variables(arguments, output))]
    with open_session(arguments, cluster, changes=not arguments.list) as session:
        outcome = session.play("conformance", [*options, *rest], as_json=False)
        if arguments.list and outcome.code == ExitCode.DONE:
            return _show_list(arguments, outcome)
        if outcome.code == ExitCode.INTERRUPTED:
            messages.info("stopping the tests and removing their namespaces")
            session.play("conformance", ["--tags", "conformance_remove", *options], as_json=False)
        after = folders.read_results(output)
        written = after is not None and after != before
        if outcome.code != ExitCode.DONE and after and not after["complete"] and (arguments.resume or written):
            session.resume = invocation.resume_options(arguments)
        if arguments.json and written:
            return _end_with_json(session, outcome, after)
        return session.end(outcome)


def _end_with_json(session: Session, outcome: Outcome, document: Any) -> int:
    """Print the results as the only document on stdout, and what failed to stderr. Return the exit code."""
    session.json = False
    print(json.dumps(document))
    for failure in outcome.state.failures:
        messages.error(failure.reason)
    return outcome.code


def _show_list(arguments: argparse.Namespace, outcome: Outcome) -> int:
    """Print the names of the tests that would run."""
    names = outcome.state.results["q8s_conformance_tests_left"]
    print(json.dumps(names, indent=2) if arguments.json else "\n".join(names))
    messages.info(f"{len(names)} tests would run")
    return ExitCode.DONE


def _variables(arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Return the playbook's variables that follow from the command's options.

    :raises WrapperError: an option has a value that is not possible
    """
    for name in ("focus", "skip"):
        try:
            re.compile(getattr(arguments, name) or "")
        except re.error as error:
            raise WrapperError(
                f"--{name}: {getattr(arguments, name)!r} is not a regular expression: {error}",
                code=ExitCode.WRONG_INPUT,
            ) from None
    return {
        "q8s_conformance_focus": arguments.focus or "",
        "q8s_conformance_skip": arguments.skip or "",
        "q8s_conformance_parallel": arguments.parallel or 2,
        "q8s_conformance_list": bool(arguments.list),
        "q8s_conformance_output": str(output),
        "q8s_conformance_force": bool(arguments.force),
        "q8s_conformance_resume": bool(arguments.resume),
    }
