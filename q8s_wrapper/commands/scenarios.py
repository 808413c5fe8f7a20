"""The commands ``scenario run``, ``scenario stop`` and ``scenario report``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import cluster_lock, messages, output, state
from q8s_wrapper.commands import links as link_commands
from q8s_wrapper.commands import load
from q8s_wrapper.commands.session import Session, open_session
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import links, perform, probe, scenario, scenario_plot
from q8s_wrapper.experiment.machines import Machines
from q8s_wrapper.interruption import interruptible
from q8s_wrapper.private_file import write_private

_STOP_SECONDS: Final = 1200
_SECONDS_TO_BEGIN: Final = 2  # between the last preparation and the scenario's begin


def run(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Perform the scenario, and return to the cluster file's state. With ``--dry-run``, print the schedule."""
    cluster = load(arguments.file)
    from ansible_collections.q8s.emu.plugins.module_utils import _scenario

    faults = _scenario.schedule(cluster.scenario, cluster.endpoints())
    actions = _scenario.actions(faults)
    end = max([_scenario.last_moment(cluster.scenario), *(action.at for action in actions)], default=0) / 1000
    shown = [_action_data(action) for action in actions]
    pairs = probe.parse(arguments.ping, [spec.node for spec in cluster.servers()])
    if arguments.dry_run:
        if arguments.json:
            print(json.dumps({"seed": cluster.scenario.seed, "end": end, "actions": shown}, indent=2))
        else:
            print("\n".join(scenario.schedule_lines(shown)))
        return ExitCode.DONE
    if not actions:
        raise WrapperError(
            f"Failed to run the scenario: {arguments.file} has no events in scenario, or none that happen",
            "docs/guides/edge-site.md describes scenarios",
            ExitCode.WRONG_INPUT,
        )
    with open_session(arguments, cluster, online=False) as session:
        return _perform(session, faults, actions, end, pairs)


def _action_data(action: Any) -> dict[str, Any]:
    """Return an action of the schedule, for programs."""
    node = {"node": action.fault.node} if action.fault.node else {}
    kind = {"kind": action.fault.kind, "undo": action.undo}
    return {"at": action.at / 1000, "what": action.text, **kind, **node, "event": action.fault.event}


def _perform(
    session: Session, faults: Sequence[Any], actions: Sequence[Any], end: float, pairs: Sequence[probe.Pair]
) -> int:
    """Perform the actions, then restore the cluster file's state. Return the exit code.

    What an earlier scenario that was killed has left is restored first.
    """
    if links.read(session.folder):
        clear = session.invocation.command("link clear")
        raise WrapperError("Failed to run the scenario: `link set` has changed links of this cluster", clear)
    machines = session.machines(all_needed=True)
    code = _restore_left(session, machines)
    if code != ExitCode.DONE:
        return code
    nodes = sorted({fault.node for fault in faults if fault.node})
    messages.info("connecting to the nodes")
    printer = _Printer(session.json)
    record = scenario.Record(session.folder, nodes, printer.show)
    performer = perform.Performer(session.cluster, machines, record)
    probes = probe.Probes(machines, record)
    result = "interrupted"
    try:
        with interruptible():
            try:
                performer.prepare(faults)
                time.sleep(_SECONDS_TO_BEGIN)
                record.start()
                probes.start(pairs)
                record.write("begin", seed=session.cluster.scenario.seed, end=end, file=session.file)
                messages.info(f"the scenario ends in {end:g} s; Ctrl-C ends it at once")
                performer.perform(actions, end)
                result = "failed" if performer.failure else "done"
            except KeyboardInterrupt:
                messages.info("stopping the scenario, and restoring the cluster file's state")
            except WrapperError as error:
                performer.failure = str(error)
                result = "failed"
            performer.close()
            probes.stop()
            if performer.failure:
                messages.error(performer.failure)
            restored = _restore(session, machines, nodes if result != "done" else [])
        code = restored.code
        record.write("end", result=result if code == ExitCode.DONE else f"{result}; restoring failed")
    finally:
        record.close()
    if record.begun:
        messages.info(f"record: {record.path}")
    _show_restored(session, restored)
    printer.check()
    if code != ExitCode.DONE:
        return code
    return {"done": ExitCode.DONE, "failed": ExitCode.FAILED}.get(result, ExitCode.INTERRUPTED)


class _Printer:
    """Prints the lines of a record until whoever reads them is gone. The scenario goes on then."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._problem: output.OutputError | None = None

    def show(self, line: scenario.Line) -> None:
        """Print a line, unless it is only for the report: there are four pings a second."""
        if line["event"] == "ping" or self._problem:
            return
        text = json.dumps(line) if self._json else scenario.line_text(line)
        try:
            if text:
                print(text, flush=True)
        except output.OutputError as error:
            self._problem = error

    def check(self) -> None:
        """Raise the error of a line that could not be printed, such as on a full disk.

        :raises OutputError: a line is lost that somebody may read
        """
        if self._problem and not self._problem.reader_exited:
            raise self._problem


def _restore_left(session: Session, machines: Machines) -> int:
    """Restore what an earlier scenario that was killed has left. Return the exit code."""
    left = scenario.find_left(session.folder)
    if not left:
        return ExitCode.DONE
    messages.warning(f"the scenario of {left.since} was killed; restoring the cluster file's state first")
    restored = _restore(session, machines, left.nodes)
    _show_restored(session, restored)
    return restored.code


@dataclass(frozen=True)
class _Restored:
    """The exit code of restoring, and what became of the links."""

    code: int
    links: link_commands.Applied


def _show_restored(session: Session, restored: _Restored) -> None:
    """Print the links, unless whoever reads is gone: the exit code is then that of the scenario."""
    try:
        if not session.json:
            link_commands.show_applied(session, restored.links)
    except output.OutputError as error:
        if not error.reader_exited:
            raise


def _restore(session: Session, machines: Machines, nodes: Sequence[str] | None) -> _Restored:
    """Restore nodes and links, and forget the scenario if all of it is restored. Print nothing to stdout.

    :param nodes: the workers that the scenario stops; None for all workers, if they are not known
    """
    workers = [spec.node for spec in session.cluster.servers() if spec.vm_type]
    errors = perform.restore(machines, workers if nodes is None else nodes)
    for error in errors:
        messages.error(error)
    # Also after an error: a node that cannot be restored leaves the links of all others as the scenario set them.
    applied = link_commands.try_apply(session, machines, [])
    code = ExitCode.FAILED if errors else applied.code
    if code == ExitCode.DONE:
        scenario.forget(session.folder)
    else:
        messages.hint(
            f"`{session.invocation.command('scenario stop')}` tries again to restore the cluster file's state"
        )
    return _Restored(code, applied)


def stop(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Stop a scenario that runs, or restore what one that was killed has left."""
    cluster = load(arguments.file)
    folder = state.cluster_folder(cluster.cluster_name, online=False)
    if not scenario.find_left(folder):
        messages.result("no scenario is running, and none has left anything")
        return ExitCode.DONE
    owner = cluster_lock.owner(folder)
    if owner and "scenario run" in owner.what:
        messages.info(f"stopping process {owner.pid}")
        _interrupt_and_wait(folder, owner.pid)
    left = scenario.find_left(folder)
    if left:
        with open_session(arguments, cluster, online=False) as session:
            restored = _restore(session, session.machines(), left.nodes)
            _show_restored(session, restored)
            return restored.code
    messages.result("the scenario is stopped, and the cluster file's state is restored")
    return ExitCode.DONE


def _interrupt_and_wait(folder: Path, pid: int) -> None:
    """Send SIGINT to the process that runs a scenario, and wait until it has ended.

    :raises WrapperError: it does not end
    """
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
    end = time.monotonic() + _STOP_SECONDS
    while cluster_lock.owner(folder):
        if time.monotonic() > end:
            raise WrapperError(f"Failed to stop process {pid} within {_STOP_SECONDS} s", f"kill -KILL {pid}")
        time.sleep(0.2)


def report(arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    """Show what the newest scenario did, and when."""
    cluster = load(arguments.file)
    path, lines = scenario.read_record(state.find(cluster.cluster_name))
    data: Mapping[str, Any] = scenario.report_data(path, lines)
    if arguments.plot:
        _plot(data, Path(arguments.plot), arguments.force)
    if arguments.json:
        print(json.dumps(data, indent=2))
    else:
        print("\n".join(scenario.report_lines(path, lines)))
    return ExitCode.DONE


def _plot(data: Mapping[str, Any], file: Path, force: bool) -> None:
    """Write the plot of the measured delays.

    :raises WrapperError: nothing was measured, or the file exists
    """
    if not data["pings"]:
        raise WrapperError(
            "Failed to plot delays: the newest scenario measured none",
            "`q8s-run scenario run FILE --ping FROM:TO` measures",
        )
    target = file.expanduser().resolve()  # the user may have put a link there
    if target.exists() and not target.is_file():  # such as /dev/stdout, in whose place a file would be put
        raise WrapperError(f"{file} is not a regular file: nothing was changed", "choose a file", ExitCode.WRONG_INPUT)
    if target.exists() and not force:
        raise WrapperError(
            f"{file} exists: nothing was changed",
            "choose another file, or replace it with --force",
            ExitCode.WRONG_INPUT,
        )
    try:
        write_private(target, scenario_plot.svg(data))
    except OSError as error:
        raise WrapperError(f"Failed to write {file}: {error.strerror}") from None
