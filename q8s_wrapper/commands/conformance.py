"""The command that runs Kubernetes' conformance tests: conformance."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import messages
from q8s_wrapper.commands import load
from q8s_wrapper.commands.runs import Session, open_session
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.runner import Outcome

_RESULTS: Final = "results.json"
_SELECTION: Final = ("focus", "skip", "force")  # what an earlier run has decided


def conformance(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run conformance tests on the cluster, and write the results to a folder. Return 1 if one failed."""
    cluster = load(arguments.file)
    output = Path(arguments.output or f"conformance-{cluster.cluster_name}").expanduser().absolute()
    before = None if arguments.list else _check_output(arguments, output)
    options = ["-e", json.dumps(_variables(arguments, output))]
    with open_session(arguments, cluster, changes=not arguments.list) as session:
        outcome = session.play("conformance", [*options, *rest], as_json=False)
        if arguments.list and outcome.code == ExitCode.DONE:
            return _show_list(arguments, outcome)
        if outcome.code == ExitCode.INTERRUPTED:
            messages.info("stopping the tests and removing their namespaces")
            session.play("conformance", ["--tags", "conformance_remove", *options], as_json=False)
        after = _read(output)
        written = after is not None and after != before
        if outcome.code != ExitCode.DONE and after and not after.get("complete") and (arguments.resume or written):
            folder = [f"--output {shlex.quote(arguments.output)}"] if arguments.output else []
            session.resume = [*folder, "--resume"]
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
                f"--{name}: {getattr(arguments, name)!r} is no regular expression: {error}", code=ExitCode.WRONG_INPUT
            ) from None
    parallel = 2 if arguments.parallel is None else arguments.parallel
    if parallel < 1:
        raise WrapperError(
            f"--parallel: is {parallel}; allowed is a whole number of at least 1", code=ExitCode.WRONG_INPUT
        )
    return {
        "q8s_conformance_focus": arguments.focus or "",
        "q8s_conformance_skip": arguments.skip or "",
        "q8s_conformance_parallel": parallel,
        "q8s_conformance_list": bool(arguments.list),
        "q8s_conformance_output": str(output),
        "q8s_conformance_force": bool(arguments.force),
        "q8s_conformance_resume": bool(arguments.resume),
    }


def _read(output: Path) -> Any:
    """Return the results in a folder, None if there are none."""
    try:
        return json.loads((output / _RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_output(arguments: argparse.Namespace, output: Path) -> Any:
    """Check the folder of the results, and return the results that are there.

    :raises WrapperError: it is not as the options want it
    """
    before = _read(output)
    if not arguments.resume:
        if output.exists() and not arguments.force:
            raise WrapperError(
                f"--output: {output} exists",
                "run what is missing there with --resume, replace it with --force, or choose another folder",
                ExitCode.WRONG_INPUT,
            )
        return before
    if given := [name for name in _SELECTION if getattr(arguments, name)]:
        raise WrapperError(
            f"--resume: goes on with the tests of the earlier run, so --{given[0]} is not possible",
            code=ExitCode.WRONG_INPUT,
        )
    if before is None:
        raise WrapperError(f"--resume: {output} has no {_RESULTS}", "leave out --resume", ExitCode.WRONG_INPUT)
    if isinstance(before, dict) and before.get("complete"):
        raise WrapperError(f"--resume: the results in {output} are complete", code=ExitCode.WRONG_INPUT)
    return before
