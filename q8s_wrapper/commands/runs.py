"""Commands that run a playbook. Each shows the progress, then the result and the next command to type."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from q8s_wrapper import history, inventory, messages, render, report, runner, state, tags
from q8s_wrapper.commands import load
from q8s_wrapper.commands.offline import program_versions
from q8s_wrapper.config import state_root
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.events import State, without_colours
from q8s_wrapper.experiment import links, scenario, timeline, timeline_page
from q8s_wrapper.history import Estimate
from q8s_wrapper.invocation import Invocation
from q8s_wrapper.private_file import write_private


class Session:
    """One command on one cluster. It may run several playbooks."""

    def __init__(self, arguments: argparse.Namespace, cluster: Any, folder: Path, lock: Path, changes: bool) -> None:
        self.what: str = arguments.command.name
        self.file: str = arguments.file
        self.invocation: Invocation = arguments.invocation
        self.json: bool = getattr(arguments, "json", False)
        self.folder = folder
        self._changes = changes
        self._typed = _typed_words(arguments)
        self._keep: list[str] = getattr(arguments, "keep", [])
        self.check: bool = getattr(arguments, "check", False)
        self._selection = _selection_options(arguments)
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
        run_folder = state.new_run(
            self.folder, "check" if self.check else self.what.replace(" ", "-"), alone=self._changes
        )
        all_arguments = [*verbose, *arguments]
        return runner.run(playbook, Path(self.file), run_folder, self._lock, arguments=all_arguments, renderer=renderer)

    def estimate(self, run_state: State) -> Estimate | None:
        """Estimate the duration of the run from earlier runs. Return None until the plan is known."""
        what = "deploy" if self.what == "plan" else self.what
        cloud_plan = run_state.results.get("q8s_plan")
        if cloud_plan is None and what in ("deploy", "replace"):
            return None
        return history.estimate(self._earlier, what, self._server_count, report.count_created_servers(cloud_plan or {}))

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
        if self.what == "deploy" and not self.check and outcome.tasks:
            page = self._write_timeline(outcome, created)
        if outcome.code == ExitCode.DONE and remember:
            try:
                history.append_run(
                    self.folder, history.summarize_run(self.what, self._server_count, created, run_state)
                )
            except OSError as error:
                messages.warning(f"Failed to record the duration of this run: {error.filename}: {error.strerror}")
        if self.json:
            found = report.result(self.what, outcome.code, run_state, str(outcome.log), check=self.check)
            print(json.dumps({**found, "timeline": str(page)} if page else found))
        else:
            self._print_result(outcome, page)
        return outcome.code

    def _write_timeline(self, outcome: runner.Outcome, created: int) -> Path | None:
        """Record the tasks of a deploy, for the command ``timeline``, and write their timeline beside the log.

        Reading the guests' milestones would take longer than a deploy should for it: ``timeline`` does so.

        :returns: path of the page, or None if it could not be written
        """
        found = timeline.document(
            self.cluster.cluster_name,
            command=self.what,
            code=outcome.code,
            created=created,
            state=outcome.state,
            tasks=outcome.tasks,
            versions=program_versions(),
        )
        page = outcome.log.with_name(timeline.PAGE)
        try:
            timeline.write(self.folder, found)
            write_private(page, timeline_page.page(timeline.analysis(found)))
        except OSError as error:
            messages.warning(f"Failed to record the timeline of this run: {error.filename}: {error.strerror}")
            return None
        return page

    def _print_result(self, outcome: runner.Outcome, page: Path | None) -> None:
        """Print the result for a person: nodes and notes on stdout; times, failures and the next step on stderr."""
        run_state, width = outcome.state, columns()
        notes = [self.invocation.adapt(note) for note in run_state.notes]
        nodes = report.nodes(run_state.results.get("q8s_node_table", []), self.invocation, width)
        promises = report.promises(run_state.results.get("q8s_promises", []))
        for line in (*nodes, *promises, *notes):
            print(line)
        sys.stdout.flush()
        # Warnings about the cluster file were printed at the start. Ansible repeats them with the file's absolute path
        # and with line breaks inside long words, so the texts are compared without whitespace.
        absolute_path = str(Path(self.file).resolve())
        printed_warnings = {
            _remove_whitespace(str(warning).replace(self.file, absolute_path)) for warning in self.cluster.warnings
        }
        for warning in run_state.warnings:
            if _remove_whitespace(warning) not in printed_warnings:
                messages.warning(self.invocation.adapt(warning))
        exists = _describe_servers(self.file) if outcome.code == ExitCode.INTERRUPTED else ""
        if outcome.code == ExitCode.FAILED and not run_state.failures:
            messages.error(_startup_failure(outcome.log))
        options = [*self._typed, *_keep_options(self._keep), *self._selection, *self.resume]
        command = self.invocation.command(self.what, *options)
        timeline_path = str(page) if page else ""
        end = report.End(
            self.what, self.invocation, command, outcome.code, self.check, bool(self.resume), timeline_path
        )
        quiet = messages.is_quiet()
        for line in report.ending(end, run_state, log=str(outcome.log), exists=exists, width=width, quiet=quiet):
            messages.result(line)


def plan(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show what deploy would change."""
    with open_session(arguments, changes=False) as session:
        outcome = session.play("plan", [*_plan_options(arguments), *rest], as_json=False, show_plan=False)
        if outcome.code != ExitCode.DONE:
            return session.end(outcome)
        cloud_plan = outcome.state.results["q8s_plan"]
        estimate = session.estimate(outcome.state)
        nodes = outcome.state.results.get("q8s_node_plan") or {}
        if arguments.json:
            print(
                json.dumps({**report.plan_data(cloud_plan, estimate), "nodes": report.node_plan_data(nodes)}, indent=2)
            )
        else:
            print("\n".join([*report.plan(cloud_plan, estimate, columns()), *report.node_plan(nodes, columns())]))
            command = session.invocation.command("deploy", *_selection_options(arguments))
            end = report.End("plan", session.invocation, command, outcome.code)
            for step in report.next_steps(end, outcome.state):
                messages.info(step)
        return ExitCode.DONE


def deploy(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Create the cluster, or whatever is missing from it."""
    if arguments.list_tags:
        print("\n".join(tags.known()))
        return ExitCode.DONE
    if arguments.tags:
        tags.check(arguments.tags)
    cluster = load(arguments.file)
    options = [
        *_ansible_options(arguments, cluster),
        *_parallel_options(arguments),
        *_replacement_options(arguments),
        *rest,
    ]
    with open_session(arguments, cluster, changes=not arguments.check) as session:
        # The playbook removes servers only if q8s_confirmed is true: the user passed --yes or confirmed the plan.
        confirmed = arguments.yes
        asks_for_confirmation = _asks_for_confirmation(arguments)
        if asks_for_confirmation:
            outcome = session.play("plan", [*_limit_options(arguments, cluster), *_plan_options(arguments), *rest])
            if outcome.code != ExitCode.DONE:
                return session.end(outcome)
            cloud_plan = outcome.state.results["q8s_plan"]
            nodes = report.changed_nodes(outcome.state)
            if cloud_plan["changes"] or nodes:
                deleted = report.deleted_servers(cloud_plan)
                removed = f"This removes {_count(deleted, 'server')}. " if deleted else ""
                drained = f"This drains {_count(nodes, 'node')}. " if nodes else ""
                _confirm(f"{removed}{drained}Continue?")
                confirmed = bool(deleted or nodes)
        options = ["-e", json.dumps({"q8s_confirmed": confirmed}), *options]
        outcome = session.play("site", options, show_plan=not asks_for_confirmation)
        if outcome.code == ExitCode.DONE and not (arguments.check or arguments.limit or arguments.tags):
            links.write(session.folder, [])  # the deploy has restored the file's links
            scenario.forget(session.folder)  # and waited until all nodes were Ready
        return session.end(outcome, remember=not (arguments.check or arguments.limit or arguments.tags))


def _parallel_options(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments for ansible-playbook that set how many nodes are changed at a time.

    :raises WrapperError: the number is less than 1
    """
    if arguments.parallel is None:
        return []
    if arguments.parallel < 1:
        raise WrapperError(
            f"--parallel: is {arguments.parallel}; allowed is a whole number of at least 1", code=ExitCode.WRONG_INPUT
        )
    return ["-e", json.dumps({"q8s_parallel": arguments.parallel})]


def destroy(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Remove everything of the cluster from the cloud."""
    with open_session(arguments, changes=not arguments.check) as session:
        if _asks_for_confirmation(arguments):
            servers = _list_servers(arguments.file)
            if servers:
                messages.result(report.describe_servers(servers))
                _confirm(f"Delete the cluster, {_describe_removal(arguments.keep)}?")
        else:
            _require_yes(session, arguments, *_keep_options(arguments.keep))
        keep = ["-e", json.dumps({"q8s_keep": arguments.keep})] if arguments.keep else []
        return session.end(
            session.play("destroy", [*keep, *_ansible_options(arguments), *rest]), remember=not arguments.check
        )


def _keep_options(keep: Sequence[str]) -> list[str]:
    """Return the ``--keep`` options as they are typed in a command."""
    return [f"--keep {what}" for what in keep]


def _describe_removal(keep: Sequence[str]) -> str:
    """Describe what is removed with the servers: ``with its key pair, but not its security group``."""
    labels = {"keypair": "key pair", "security_group": "security group"}
    deleted = [label for what, label in labels.items() if what not in keep]
    kept = [label for what, label in labels.items() if what in keep]
    parts = [f"with its {' and '.join(deleted)}"] if deleted else []
    parts += [f"but not its {' and '.join(kept)}"] if kept else []
    return ", ".join(parts)


def replace(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Replace one worker: drain it, delete its server, deploy it again."""
    with open_session(arguments) as session:
        node = _find_worker(session, arguments.node)
        if _asks_for_confirmation(arguments):
            _confirm(f"Drain {node}, delete its server and create it again?")
        else:
            _require_yes(session, arguments, node)
        outcome = session.play("replace", ["-e", json.dumps({"q8s_replace": node}), *rest])
        return session.end(outcome)


def upgrade(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Upgrade Kubernetes to the cluster file's version."""
    with open_session(arguments, changes=not arguments.check) as session:
        if _asks_for_confirmation(arguments):
            _confirm(
                f"Upgrade Kubernetes to {session.cluster.kubernetes_version}? The control planes restart one after the "
                "other, then each worker is drained and recreated."
            )
        else:
            _require_yes(session, arguments)
        options = [*_ansible_options(arguments), *_parallel_options(arguments), *rest]
        return session.end(session.play("upgrade", options), remember=not arguments.check)


def renew(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Renew the certificates of the control planes."""
    with open_session(arguments, changes=not arguments.check) as session:
        outcome = session.play("renew", [*_ansible_options(arguments), *rest])
        return session.end(outcome, remember=not arguments.check)


def _find_worker(session: Session, name: str) -> str:
    """Return the node name of a worker.

    :param name: name of the node or of its host
    :raises WrapperError: no worker has this name
    """
    workers: dict[str, Any] = {s.node: s for s in session.cluster.servers() if s.vm_type}
    for node, spec in workers.items():
        if name in (node, spec.name):
            return node
    control_planes = [spec.name for spec in session.cluster.servers() if not spec.vm_type]
    if name in control_planes and len(control_planes) > 2:
        raise WrapperError(
            f"replace: {name} is not a worker of this cluster, but one of its control planes",
            f"delete its server (openstack server delete {name}) while the others are Ready, then run "
            f"{session.invocation.command('deploy')}: a new one joins them",
            ExitCode.WRONG_INPUT,
        )
    raise WrapperError(
        f"replace: {name} is not a worker of this cluster; "
        f"allowed are {', '.join(workers) or 'none: it has no workers'}",
        f"{session.invocation.command('status')} shows all nodes; control planes cannot be replaced",
        ExitCode.WRONG_INPUT,
    )


def verify(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Compare workers and links with the cluster file, run a pod on every node, and connect each pod to all others."""
    with open_session(arguments) as session:
        skipped = ["-e", json.dumps({"q8s_measure_links": False})] if arguments.skip_links else []
        code = session.end(session.play("verify", [*skipped, *rest]), remember=not skipped)
        for line in links.describe(links.read(session.folder), session.invocation.command("link clear")):
            messages.result(line)
        return code


def status(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show the state of every node in the cloud, on its host and in Kubernetes. Return 1 if a node has a problem."""
    with open_session(arguments, changes=False) as session:
        # With --json, stdout has one document: the progress goes to stderr.
        outcome = session.play("status", rest, as_json=False)
        if outcome.code != ExitCode.DONE:
            return session.end(outcome, remember=False)
        for warning in outcome.state.results.get("q8s_warnings", []):
            messages.warning(session.invocation.adapt(warning))
        rows: list[Mapping[str, Any]] = outcome.state.results["q8s_status_table"]
        if arguments.json:
            print(json.dumps(rows, indent=2))
        else:
            changed = links.describe(links.read(session.folder), session.invocation.command("link clear"))
            print("\n".join([*report.status(rows, session.invocation, columns()), *changed]))
        return ExitCode.FAILED if any(row["problem"] for row in rows) else ExitCode.DONE


def fetch_kubeconfig(arguments: argparse.Namespace, cluster: Any) -> int:
    """Fetch the kubeconfig from the control plane into the local state. Return the exit code."""
    with open_session(arguments, cluster, changes=False) as session:
        outcome = session.play("kubeconfig", [], as_json=False)
        return ExitCode.DONE if outcome.code == ExitCode.DONE else session.end(outcome)


def read_facts(arguments: argparse.Namespace, cluster: Any, *, checksums: bool) -> Mapping[str, Any] | None:
    """Return what the playbook ``record`` reads from the cluster, or None if it failed.

    :param checksums: whether to compute the checksums of the artifacts
    """
    with open_session(arguments, cluster, changes=False) as session:
        options = ["-e", json.dumps({"q8s_with_checksums": checksums})]
        outcome = session.play("record", options, as_json=False)
        if outcome.code == ExitCode.DONE:
            return dict(outcome.state.results["q8s_facts"])
        for line in report.failures(outcome.state, session.invocation, columns()):
            messages.result(line)
        return None


def verify_result(arguments: argparse.Namespace, cluster: Any) -> dict[str, Any]:
    """Run ``verify``, and return its result as ``--json`` has it."""
    with open_session(arguments, cluster) as session:
        outcome = session.play("verify", [], as_json=False)
        return report.result("verify", outcome.code, outcome.state, str(outcome.log))


@contextmanager
def open_session(arguments: argparse.Namespace, cluster: Any = None, *, changes: bool = True) -> Iterator[Session]:
    """Open a session on the arguments' cluster, and hold the cluster's lock.

    :param cluster: the cluster, if the file was loaded before
    :param changes: whether the run may change the cluster. Such a run excludes others; read-only runs exclude none
    :raises WrapperError: another run holds the lock, the cloud does not answer, or the state folder is not usable
    """
    cluster = load(arguments.file) if cluster is None else cluster
    check = getattr(arguments, "check", False)
    try:
        if check:
            folder = state.check_folder(cluster.cluster_name)
        else:
            folder = state.cluster_folder(cluster.cluster_name, changes=changes)
    except state.CloudUnknownError as error:
        words = [*_typed_words(arguments), *_selection_options(arguments)]
        command = arguments.invocation.command(arguments.command.name, *words)
        raise WrapperError(str(error), f"fix the cause, then run `{command}` again") from None
    held = state.locked(folder, arguments.command.name) if changes else nullcontext(state.shared(folder))
    with held as lock:
        _warn_of_scenario(arguments, folder, changes)
        yield Session(arguments, cluster, folder, lock, changes)


def _typed_words(arguments: argparse.Namespace) -> list[str]:
    """Return the node, or the words of ``link set``, and ``--for``, quoted as they are typed in a command."""
    node, length = getattr(arguments, "node", None) or [], getattr(arguments, "for", None)
    words = [node] if isinstance(node, str) else [*node]
    return [*map(shlex.quote, words), *(["--for", shlex.quote(length)] if length else [])]


def _warn_of_scenario(arguments: argparse.Namespace, folder: Path, changes: bool) -> None:
    """Warn of a scenario that runs, or was killed and has not been restored."""
    left = scenario.find_left(folder)
    if not left or arguments.command.name.startswith("scenario"):
        return
    # A run that changes the cluster holds its lock, so no scenario runs.
    owner = None if changes else state.owner(folder)
    if owner and "scenario run" in owner.what:
        messages.info(f"a scenario is running since {left.since}")
    else:
        messages.warning(f"the scenario of {left.since} was killed; links or nodes may be as it left them")
        messages.hint(f"`{arguments.invocation.command('scenario stop')}` restores the cluster file's state")


def _ansible_options(arguments: argparse.Namespace, cluster: Any = None) -> list[str]:
    """Return the arguments for ansible-playbook that follow from the command's options.

    ``--limit`` becomes a variable: Ansible's own ``--limit`` selects existing hosts only, and excludes localhost.

    :raises WrapperError: the limit names a server or node that is not in the cluster file
    """
    options = []
    if arguments.check:
        options += ["--check", "--diff"]
    options += _limit_options(arguments, cluster)
    if getattr(arguments, "tags", None):
        options += ["--tags", arguments.tags]
    return [*options, *_build_options(arguments)]


def _build_options(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments for ansible-playbook that set where to build."""
    where = getattr(arguments, "build", None)
    return ["-e", json.dumps({"q8s_build": where})] if where else []


def _plan_options(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments for ansible-playbook that plan and deploy share."""
    return [*_build_options(arguments), *_replacement_options(arguments)]


def _replacement_options(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments for ansible-playbook that allow the loss of the control plane's data."""
    return ["-e", json.dumps({"q8s_replace_control_plane": True})] if arguments.replace_control_plane else []


def _limit_options(arguments: argparse.Namespace, cluster: Any) -> list[str]:
    """Return the arguments for ansible-playbook that limit the run to some servers.

    :raises WrapperError: the limit names a server or node that is not in the cluster file
    """
    if not getattr(arguments, "limit", None):
        return []
    from ansible_collections.q8s.emu.plugins.module_utils import _limit as limits

    try:
        servers = limits.limited_servers(cluster, arguments.limit)
    except limits.LimitError as error:
        raise WrapperError(f"--limit: {error}", code=ExitCode.WRONG_INPUT) from None
    return ["-e", json.dumps({"q8s_limit": servers})]


def _selection_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that select a part of the run, as they are typed in a command."""
    values = [(name, getattr(arguments, name, None)) for name in ("limit", "tags", "build")]
    options = [f"--{name} {shlex.quote(value)}" for name, value in values if value]
    flags = [name for name in ("check", "replace_control_plane", "skip_links") if getattr(arguments, name, False)]
    return [*(f"--{name.replace('_', '-')}" for name in flags), *options]


def _asks_for_confirmation(arguments: argparse.Namespace) -> bool:
    """Return whether to ask for confirmation: on a terminal, without ``--yes``, ``--json`` and ``--check``."""
    return bool(
        sys.stdin.isatty()
        and sys.stderr.isatty()
        and not arguments.yes
        and not arguments.json
        and not getattr(arguments, "check", False)
    )


def _require_yes(session: Session, arguments: argparse.Namespace, *options: str) -> None:
    """Refuse to change the cluster without a terminal on which to ask, and without ``--yes``.

    :param options: what else stands in the command that the hint names
    :raises WrapperError: the user has not agreed
    """
    if not arguments.yes and not getattr(arguments, "check", False):
        raise WrapperError(
            f"{session.what}: cannot ask for confirmation without a terminal; --yes is needed",
            session.invocation.command(session.what, *options, "--yes"),
            ExitCode.WRONG_INPUT,
        )


def _confirm(question: str) -> None:
    """Ask for confirmation on the terminal.

    :raises WrapperError: the answer is not yes
    """
    # Discard what was typed before the question was printed.
    with suppress(termios.error, OSError):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    messages.question(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise WrapperError("stopped; nothing was changed")


def _count(names: Sequence[str], what: str) -> str:
    """Format the number of names with a noun: ``2 servers``."""
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _list_servers(file: str) -> list[str]:
    """Return the names of the existing servers that Q8S created for the cluster."""
    hosts = inventory.read(file)
    return sorted(name for name, v in hosts.items() if "q8s_host" not in v and not v.get("q8s_foreign"))


def _describe_servers(file: str) -> str:
    """Describe the servers that exist in the cloud, or why that is not known."""
    try:
        return report.describe_servers(_list_servers(file))
    except WrapperError as error:
        return f"the servers in the cloud are not known: {error}"


def _remove_whitespace(text: str) -> str:
    """Remove all whitespace from a text."""
    return "".join(text.split())


def _startup_failure(log: Path) -> str:
    """Return why Ansible did not start, from its log: its errors, else the last lines."""
    try:
        lines = without_colours(log.read_text(errors="replace")).splitlines()
    except OSError:
        return "Ansible wrote no log"
    errors = [number for number, line in enumerate(lines) if line.startswith(("[ERROR]", "ERROR!"))]
    return "\n".join(lines[errors[0] :] if errors else lines[-15:])


def columns() -> int:
    """Return the width of the terminal in columns; 80 without a terminal."""
    return shutil.get_terminal_size((80, 24)).columns
