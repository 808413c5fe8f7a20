"""The commands ``link show``, ``link verify``, ``link set`` and ``link clear``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from q8s_wrapper import messages
from q8s_wrapper.commands import load
from q8s_wrapper.commands.session import Session, open_session
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import links
from q8s_wrapper.experiment.machines import Machines
from q8s_wrapper.experiment.shaping import Shaping
from q8s_wrapper.interruption import interruptible

_STEP_SECONDS: Final = 5


def show(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Show the links and whether they are in force. Return 1 if one is not."""
    with open_session(arguments, changes=False) as session:
        changed = links.read(session.folder, session.cluster)
        shaping = Shaping(session.cluster, session.machines())
        for error in shaping.read_everywhere():
            messages.warning(f"Failed to read links: {error}")
        return _print(session, changed, shaping.report(links.rules(session.cluster, changed)))


def verify(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Measure the links. Return 1 if a promise is broken."""
    with open_session(arguments, changes=False) as session:
        changed = links.read(session.folder, session.cluster)
        variables = {"q8s_link_action": "verify", "q8s_link_overrides": links.overrides(changed)}
        outcome = session.play("link", ["-e", json.dumps(variables), *rest], as_json=False)
        if outcome.code != ExitCode.DONE:
            return session.end(outcome, remember=False)
        return _print(session, changed, outcome.state.results["q8s_link_report"])


def _print(session: Session, changed: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> int:
    """Print what was found. Return 1 if not all of it is as it was promised."""
    if session.json:
        print(json.dumps({**found, "changed": changed}, indent=2))
    else:
        command = session.invocation.command("link clear")
        parts = [links.matrix_lines(found["links"]), links.finding_lines(found["findings"])]
        parts.append(links.describe(changed, command))
        print("\n\n".join("\n".join(part) for part in parts if part), flush=True)
    return ExitCode.FAILED if found["broken"] else ExitCode.DONE


def change(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Change links of the running cluster. With ``--for``, wait and restore them."""
    seconds = links.parse_duration(vars(arguments)["for"]) if vars(arguments)["for"] else 0
    cluster = load(arguments.file)
    link = links.parse(arguments.node, cluster)
    with open_session(arguments, cluster, online=False) as session:
        before = links.read(session.folder, session.cluster)
        ends = [(other["from"], other["to"]) for other in before]
        kept = [other for other, pair in zip(before, ends, strict=True) if pair != (link["from"], link["to"])]
        links.check_combined(cluster, [*kept, link])
        machines = session.machines()
        if not seconds:
            return apply(session, machines, [*kept, link])
        return _change_for(session, machines, before, [*kept, links.ending(link, seconds)], seconds)


def _change_for(
    session: Session,
    machines: Machines,
    before: Sequence[Mapping[str, Any]],
    changed: Sequence[Mapping[str, Any]],
    seconds: int,
) -> int:
    """Change links, wait, and restore those of before, whatever happens meanwhile. Return the exit code.

    :param changed: the links, of which the last one ends
    """
    code: int = ExitCode.INTERRUPTED
    begun = True
    restored: int = ExitCode.DONE
    with interruptible():
        try:
            with suppress(KeyboardInterrupt):
                applied = try_apply(session, machines, changed, seconds=seconds)
                code, begun = applied.code, applied.begun or applied.code == ExitCode.DONE
                show_applied(session, applied)
                if begun:
                    messages.info(f"restoring the link in {seconds} s; Ctrl-C restores it at once")
                    _wait_until(links.end_of(links.read(session.folder)))
        finally:
            if begun:
                applied = try_apply(session, machines, before, again=session.invocation.command("link clear"))
                restored = applied.code
                show_applied(session, applied)
            else:
                links.write(session.folder, before)
    return code if code != ExitCode.DONE else restored


def _wait_until(moment: float) -> None:
    """Wait until a moment of the wall clock, which goes on while a laptop is suspended."""
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, _STEP_SECONDS))


def clear(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Restore the cluster file's links."""
    with open_session(arguments, online=False) as session:
        return apply(session, session.machines(), [])


@dataclass(frozen=True)
class Applied:
    """What became of links.

    :param changed: the links that differ from the file's
    :param report: the links and whether they are in force; None if a guest could not be changed
    :param begun: whether the change of a guest has begun
    """

    changed: Sequence[Mapping[str, Any]]
    report: Mapping[str, Any] | None
    begun: bool

    @property
    def code(self) -> int:
        """Return the exit code."""
        return ExitCode.FAILED if self.report is None or self.report["broken"] else ExitCode.DONE


def apply(session: Session, machines: Machines, changed: Sequence[Mapping[str, Any]]) -> int:
    """Apply the file's links, with these in place of some, and show the result."""
    applied = try_apply(session, machines, changed)
    show_applied(session, applied)
    return applied.code


def show_applied(session: Session, applied: Applied) -> None:
    """Print the links and whether they are in force."""
    if applied.report is not None:
        _print(session, applied.changed, applied.report)


def try_apply(
    session: Session,
    machines: Machines,
    changed: Sequence[Mapping[str, Any]],
    *,
    seconds: int = 0,
    again: str = "",
) -> Applied:
    """Apply the file's links, with these in place of some. Errors are printed to stderr, and nothing to stdout.

    :param seconds: for how long the last of the changed links applies, from now on and from when all guests have it
    :param again: the command that tries again, if it is not this one
    """
    if changed:
        # First, so that a run that is killed leaves no change that nobody knows of.
        recorded = links.read(session.folder)
        links.write(session.folder, [*recorded, *(link for link in changed if link not in recorded)])
    shaping, rules = Shaping(session.cluster, machines), links.rules(session.cluster, changed)
    errors = shaping.apply_everywhere(rules)
    for error in errors:
        messages.error(f"Failed to change links: {error}")
    if errors:
        messages.hint(f"`{again or session.again}` tries again")
        return Applied(changed, None, shaping.begun)
    if seconds:
        changed = [*changed[:-1], links.ending(changed[-1], seconds)]
    links.write(session.folder, changed)
    return Applied(changed, shaping.report(rules), shaping.begun)
