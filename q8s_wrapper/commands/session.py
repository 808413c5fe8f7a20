"""The session of a command that runs playbooks: opens the cluster, runs them, and reports how they ended."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import (
    cluster_lock,
    history,
    inventory,
    invocation,
    messages,
    output,
    render,
    report,
    run_logs,
    runner,
    state,
    terminal,
)
from q8s_wrapper.commands import load
from q8s_wrapper.commands.offline import program_versions
from q8s_wrapper.config import state_root
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import machines, scenario, timeline, timeline_page, timeline_record
from q8s_wrapper.history import Estimate
from q8s_wrapper.invocation import Invocation
from q8s_wrapper.private_file import write_private
from q8s_wrapper.run_state import State

_TIMELINE: Final = "timeline.html"  # beside the log of a deploy
# How lines of Ansible's log begin that tell of a task and its results.
_RESULTS: Final = ("PLAY ", "TASK ", "RUNNING HANDLER ", "ok: ", "changed: ", "skipping: ", "failed: ", "fatal: ")


class Session:
    """One command on one cluster. It may run several playbooks."""

    def __init__(self, arguments: argparse.Namespace, cluster: Any, folder: Path, lock: Path, changes: bool) -> None:
        self.what: str = arguments.command.name
        self.file: str = arguments.file
        self.invocation: Invocation = arguments.invocation
        self.json: bool = getattr(arguments, "json", False)
        self.folder = folder
        self._changes = changes
        self._arguments = arguments
        self.check: bool = getattr(arguments, "check", False)
        self.resume: Sequence[str] = ()  # options of a command that keeps what this run has done
        self._verbose: int = getattr(arguments, "verbose", 0)
        self.cluster = cluster
        self._lock = lock
        self._earlier = history.read(state_root())

    def play(
        self, playbook: str, arguments: Sequence[str], as_json: bool | None = None, show_plan: bool = True
    ) -> runner.Outcome:
        """Run a playbook and show its progress.

        :param playbook: name of the playbook without ``.yml``
        :param arguments: arguments for ansible-playbook
        :param as_json: whether to write the progress as JSON lines; default: whether ``--json`` was passed
        :param show_plan: whether to print the plan when the playbook has computed it
        """
        verbose = ["-" + "v" * self._verbose] if self._verbose else []
        renderer = render.renderer(
            self.json if as_json is None else as_json, self.estimate, show_plan, quiet=messages.is_quiet()
        )
        # `plan` holds no lock: one that runs beside this command needs its files.
        is_plan = playbook == "plan"
        what = "check" if self.check else playbook if is_plan else self.what.replace(" ", "-")
        run_folder = run_logs.new_run(self.folder, what, alone=self._changes and not is_plan)
        all_arguments = [*verbose, *arguments]
        return runner.run(playbook, Path(self.file), run_folder, self._lock, arguments=all_arguments, renderer=renderer)

    def estimate(self, run_state: State) -> Estimate | None:
        """Estimate the duration of the run from earlier runs. Return None until the plan is known."""
        what = "deploy" if self.what == "plan" else self.what
        cloud_plan = run_state.results.get("q8s_plan")
        if cloud_plan is None and what in ("deploy", "replace"):
            return None
        return history.estimate(self._earlier, what, self._server_count, report.count_created_servers(cloud_plan or {}))

    def machines(self, *, all_needed: bool = False) -> machines.Machines:
        """Find the cluster's machines in the cloud.

        :param all_needed: whether a server that is missing is an error; otherwise, one is sufficient
        :raises WrapperError: servers are missing, or the cloud does not answer
        """
        deploy = self.invocation.command("deploy")
        return machines.find(self.cluster, self.folder, deploy, all_needed=all_needed)

    @property
    def again(self) -> str:
        """Return the command that runs this again."""
        return again(self._arguments, self.resume)

    @property
    def _server_count(self) -> int:
        return len(self.cluster.servers())

    def end(self, outcome: runner.Outcome, remember: bool = True) -> int:
        """Report the result of a run and return its exit code.

        :param remember: whether to record the duration of a successful run for later estimates
        """
        run_state = outcome.state
        created = report.count_created_servers(run_state.results.get("q8s_plan") or {})
        page = None
        if self.what == "deploy" and outcome.tasks and run_logs.changing(outcome.log.parent):
            page = self._write_timeline(outcome, created)
        if outcome.code == ExitCode.DONE and remember:
            try:
                history.append_run(
                    self.folder, history.summarize_run(self.what, self._server_count, created, run_state)
                )
            except OSError as error:
                messages.warning(f"Failed to record the duration of this run: {error.filename}: {error.strerror}")
        reason = _ansible_failure(outcome)
        try:
            if self.json:
                found = report.result(self.what, outcome.code, run_state, str(outcome.log), check=self.check)
                if reason:
                    found["failures"].append({"host": "localhost", "task": "", "reason": reason, "place": ""})
                print(json.dumps({**found, "timeline": str(page)} if page else found), flush=True)
            else:
                self._print_result(outcome, page, reason)
        except output.OutputError as error:
            if not error.reader_exited:
                raise
        return outcome.code

    def _write_timeline(self, outcome: runner.Outcome, created: int) -> Path | None:
        """Record the tasks of a deploy, for the command ``timeline``, and write their timeline beside the log.

        Reading the guests' milestones would take longer than a deploy should for it: ``timeline`` does so.

        :returns: path of the page, or None if it could not be written
        """
        found = timeline_record.document(
            self.cluster.cluster_name,
            command=self.what,
            code=outcome.code,
            created=created,
            state=outcome.state,
            tasks=outcome.tasks,
            versions=program_versions(),
        )
        page = outcome.log.with_name(_TIMELINE)
        try:
            timeline_record.write(self.folder, found)
            write_private(page, timeline_page.page(timeline.analysis(found)))
        except OSError as error:
            messages.warning(f"Failed to record the timeline of this run: {error.filename}: {error.strerror}")
            return None
        return page

    def _print_result(self, outcome: runner.Outcome, page: Path | None, reason: str) -> None:
        """Print the result for a person: nodes and notes on stdout; times, failures and the next step on stderr.

        :param reason: why Ansible itself failed; empty if it did not
        """
        run_state, width = outcome.state, terminal.columns()
        notes = [self.invocation.adapt(note) for note in run_state.notes]
        nodes = report.nodes(run_state.results.get("q8s_node_table", []), self.invocation, width)
        promises = report.promises(run_state.results.get("q8s_promises", []))
        for line in (*nodes, *promises, *notes):
            print(line)
        sys.stdout.flush()
        # Warnings about the cluster file were printed at the start. Ansible repeats them with the file's absolute path
        # and with line breaks inside long words, so the texts are compared without whitespace.
        absolute_path = str(Path(self.file).absolute())
        printed_warnings = {
            _remove_whitespace(str(warning).replace(self.file, absolute_path)) for warning in self.cluster.warnings
        }
        for warning in run_state.warnings:
            if _remove_whitespace(warning) not in printed_warnings:
                messages.warning(self.invocation.adapt(warning))
        exists = _describe_servers(self.cluster) if outcome.code == ExitCode.INTERRUPTED else ""
        if reason:
            messages.error(reason)
        timeline_path = str(page) if page else ""
        end = report.End(
            self.what, self.invocation, self.again, outcome.code, self.check, bool(self.resume), timeline_path
        )
        quiet = messages.is_quiet()
        for line in report.ending(end, run_state, log=str(outcome.log), exists=exists, width=width, quiet=quiet):
            messages.result(line)


def again(arguments: argparse.Namespace, resume: Sequence[str] = ()) -> str:
    """Return the command that runs this again.

    :param resume: options in the place of those that were typed, if the command goes on with what this run has done
    """
    options = resume or invocation.typed_options(arguments)
    words = [*invocation.typed_words(arguments), *options, *invocation.typed_rest(arguments)]
    found: str = arguments.invocation.command(arguments.command.name, *words)
    return found


@contextmanager
def open_session(
    arguments: argparse.Namespace, cluster: Any = None, *, changes: bool = True, online: bool | None = None
) -> Iterator[Session]:
    """Open a session on the arguments' cluster, and hold the cluster's lock.

    :param cluster: the cluster, if the file was loaded before
    :param changes: whether the run may change the cluster. Such a run excludes others; read-only runs exclude none
    :param online: whether to ask the cloud for the project first; by default, if the run may change the cluster. A run
        that asks for the cluster's machines need not
    :raises WrapperError: another run holds the lock, the cloud does not answer, or the state folder or the file is not
        usable
    """
    cluster = load(arguments.file) if cluster is None else cluster
    if Path(arguments.file).is_fifo():
        raise WrapperError(
            f"Failed to use {arguments.file}: it is a pipe, which can be read only once, and Ansible reads it again",
            "write the cluster file to a folder, then pass its path",
            ExitCode.WRONG_INPUT,
        )
    check = getattr(arguments, "check", False)
    try:
        if check:
            folder = state.check_folder(cluster.cluster_name)
        else:
            folder = state.cluster_folder(cluster.cluster_name, online=changes if online is None else online)
    except state.CloudUnknownError as error:
        raise WrapperError(str(error), f"fix the cause, then run `{again(arguments)}` again") from None
    held = cluster_lock.locked(folder, arguments.command.name) if changes else nullcontext(cluster_lock.shared(folder))
    with held as lock:
        _warn_of_scenario(arguments, folder, changes)
        yield Session(arguments, cluster, folder, lock, changes)


def _warn_of_scenario(arguments: argparse.Namespace, folder: Path, changes: bool) -> None:
    """Warn of a scenario that runs, or was killed and has not been restored."""
    left = scenario.find_left(folder)
    if not left or arguments.command.name.startswith("scenario"):
        return
    # A run that changes the cluster holds its lock, so no scenario runs.
    owner = None if changes else cluster_lock.owner(folder)
    if owner and "scenario run" in owner.what:
        messages.info(f"a scenario is running since {left.since}")
    else:
        messages.warning(f"the scenario of {left.since} was killed; links or nodes may be as it left them")
        messages.hint(f"`{arguments.invocation.command('scenario stop')}` restores the cluster file's state")


def _describe_servers(cluster: Any) -> str:
    """Describe the servers that exist in the cloud, or why that is not known."""
    try:
        return report.describe_servers(inventory.list_servers(cluster))
    except WrapperError as error:
        return f"the servers in the cloud are not known: {error}"


def _remove_whitespace(text: str) -> str:
    """Remove all whitespace from a text."""
    return "".join(text.split())


def _ansible_failure(outcome: runner.Outcome) -> str:
    """Return why Ansible did not start or did not finish the run, from its log. Return "" if only hosts failed."""
    run_state = outcome.state
    if outcome.code in (ExitCode.DONE, ExitCode.INTERRUPTED) or (run_state.finished and run_state.failures):
        return ""
    try:
        lines = terminal.without_colours(outcome.log.read_text(errors="replace")).splitlines()
    except OSError:
        return "Ansible wrote no log"
    # Errors of tasks come before the task's result.
    begin = max((number for number, line in enumerate(lines) if line.startswith(_RESULTS)), default=-1) + 1
    errors = [number for number in range(begin, len(lines)) if lines[number].startswith(("[ERROR]", "ERROR!"))]
    return "\n".join(lines[errors[0] :] if errors else lines[-15:])
