"""The commands ``link show``, ``link verify``, ``link set`` and ``link clear``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from q8s_wrapper import messages
from q8s_wrapper.commands import load
from q8s_wrapper.commands.session import Session, open_session
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import links


def show(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show the links and whether they are in force. Return 1 if one is not."""
    return _report(arguments, rest, "show")


def verify(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure the links. Return 1 if a promise is broken."""
    return _report(arguments, rest, "verify")


def _report(arguments: argparse.Namespace, rest: Sequence[str], action: str) -> int:
    with open_session(arguments, changes=False) as session:
        changed = links.read(session.folder, session.cluster)
        outcome = session.play("link", [*_variables(action, changed), *rest], as_json=False)
        if outcome.code != ExitCode.DONE:
            return session.end(outcome, remember=False)
        found = outcome.state.results["q8s_link_report"]
        if arguments.json:
            print(json.dumps({**found, "changed": changed}, indent=2))
        else:
            command = session.invocation.command("link clear")
            parts = [links.matrix_lines(found["links"]), links.finding_lines(found["findings"])]
            parts.append(links.describe(changed, command))
            print("\n\n".join("\n".join(part) for part in parts if part))
        return ExitCode.FAILED if found["broken"] else ExitCode.DONE


def change(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Change links of the running cluster. With ``--for``, wait and restore them."""
    seconds = links.parse_duration(vars(arguments)["for"]) if vars(arguments)["for"] else 0
    cluster = load(arguments.file)
    link = links.parse(arguments.node, cluster)
    with open_session(arguments, cluster) as session:
        before = links.read(session.folder, session.cluster)
        ends = [(other["from"], other["to"]) for other in before]
        kept = [other for other, pair in zip(before, ends, strict=True) if pair != (link["from"], link["to"])]
        links.check_together(cluster, [*kept, link])
        code = apply(session, [*kept, links.ending(link, seconds) if seconds else link])
        if code != ExitCode.DONE or not seconds:
            return code
        messages.info(f"restoring the link in {seconds} s; Ctrl-C restores it at once")
        with suppress(KeyboardInterrupt):
            time.sleep(seconds)
        return apply(session, before)


def clear(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Restore the cluster file's links."""
    with open_session(arguments) as session:
        return apply(session, [])


def apply(session: Session, changed: Sequence[Mapping[str, Any]], quiet: bool = False) -> int:
    """Apply the file's links, with these in place of some, and show the result unless ``quiet``."""
    if changed:
        # First, so that a run that is killed leaves no change that nobody knows of.
        recorded = links.read(session.folder)
        links.write(session.folder, [*recorded, *(link for link in changed if link not in recorded)])
    outcome = session.play("link", _variables("apply", changed), as_json=False)
    if outcome.code != ExitCode.DONE:
        return session.end(outcome, remember=False)
    links.write(session.folder, changed)
    found = outcome.state.results["q8s_link_report"]
    lines = [*links.matrix_lines(found["links"]), *links.describe(changed, session.invocation.command("link clear"))]
    if not quiet:
        print("\n".join(lines), flush=True)
    return ExitCode.FAILED if found["broken"] else ExitCode.DONE


def _variables(action: str, changed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the playbook's variables."""
    return ["-e", json.dumps({"q8s_link_action": action, "q8s_link_overrides": links.overrides(changed)})]
