"""Commands that run a playbook on the whole cluster, and the options that they pass to it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from q8s_wrapper import inventory, invocation, messages, report, tags, terminal
from q8s_wrapper.commands import load
from q8s_wrapper.commands.session import again, open_session
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment import links, scenario


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
            width = terminal.columns()
            print("\n".join([*report.plan(cloud_plan, estimate, width), *report.node_plan(nodes, width)]))
            # deploy has all options of plan.
            words = [*invocation.typed_options(arguments), *invocation.typed_rest(arguments)]
            command = session.invocation.command("deploy", *words)
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
    """Return the arguments for ansible-playbook that set how many nodes are changed at a time."""
    return ["-e", json.dumps({"q8s_parallel": arguments.parallel})] if arguments.parallel else []


def destroy(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Remove everything of the cluster from the cloud."""
    cluster = load(arguments.file)
    _require_consent(arguments)
    with open_session(arguments, cluster, changes=not arguments.check) as session:
        if _asks_for_confirmation(arguments):
            hosts = inventory.read(session.cluster)
            servers = inventory.created_servers(hosts)
            users_own = [name for name, variables in hosts.items() if variables.get("q8s_foreign")]
            if servers or users_own:
                messages.result(report.describe_servers(servers))
                for name in users_own:
                    messages.result(f"{name} is your own server: it stays, and what this cluster put there is removed")
                _confirm(f"Delete the cluster, {_describe_removal(arguments.keep)}?")
        keep = ["-e", json.dumps({"q8s_keep": arguments.keep})] if arguments.keep else []
        outcome = session.play("destroy", [*keep, *_ansible_options(arguments), *rest])
        if outcome.code == ExitCode.DONE and not arguments.check:
            # A later cluster of this name must not get them.
            links.write(session.folder, [])
            scenario.forget(session.folder)
        return session.end(outcome, remember=not arguments.check)


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
    cluster = load(arguments.file)
    node = _find_worker(cluster, arguments)
    _require_consent(arguments)
    with open_session(arguments, cluster) as session:
        if _asks_for_confirmation(arguments):
            _confirm(f"Drain {node}, delete its server and create it again?")
        outcome = session.play("replace", ["-e", json.dumps({"q8s_replace": node}), *rest])
        return session.end(outcome)


def upgrade(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Upgrade Kubernetes to the cluster file's version."""
    cluster = load(arguments.file)
    options = [*_ansible_options(arguments), *_parallel_options(arguments), *rest]
    _require_consent(arguments)
    with open_session(arguments, cluster, changes=not arguments.check) as session:
        if _asks_for_confirmation(arguments):
            _confirm(
                f"Upgrade Kubernetes to {session.cluster.kubernetes_version}? The control planes restart one after the "
                "other, then each worker is drained and recreated."
            )
        return session.end(session.play("upgrade", options), remember=not arguments.check)


def renew(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Renew the certificates of the control planes."""
    with open_session(arguments, changes=not arguments.check) as session:
        outcome = session.play("renew", [*_ansible_options(arguments), *rest])
        return session.end(outcome, remember=not arguments.check)


def _find_worker(cluster: Any, arguments: argparse.Namespace) -> str:
    """Return the node name of the worker that the arguments name, or whose host they name.

    :raises WrapperError: no worker has this name
    """
    name: str = arguments.node
    workers: dict[str, Any] = {s.node: s for s in cluster.servers() if s.vm_type}
    for node, spec in workers.items():
        if name in (node, spec.name):
            return node
    control_planes = [spec.name for spec in cluster.servers() if not spec.vm_type]
    if name in control_planes and len(control_planes) > 2:
        raise WrapperError(
            f"replace: {name} is not a worker of this cluster, but one of its control planes",
            f"delete its server (openstack server delete {name}) while the others are Ready, then run "
            f"{arguments.invocation.command('deploy')}: a new one joins them",
            ExitCode.WRONG_INPUT,
        )
    raise WrapperError(
        f"replace: {name} is not a worker of this cluster; "
        f"allowed are {', '.join(workers) or 'none: it has no workers'}",
        f"{arguments.invocation.command('status')} shows all nodes; control planes cannot be replaced",
        ExitCode.WRONG_INPUT,
    )


def verify(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Compare workers and links with the cluster file, run a pod on every node, and connect each pod to all others."""
    with open_session(arguments) as session:
        skipped = ["-e", json.dumps({"q8s_measure_links": False})] if arguments.skip_links else []
        code = session.end(session.play("verify", [*skipped, *rest]), remember=not skipped)
        for line in links.describe_recorded(session.folder, session.invocation.command("link clear")):
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
            hinted = [{**row, "hint": session.invocation.adapt(row["hint"])} for row in rows]
            print(json.dumps(hinted, indent=2))
        else:
            changed = links.describe_recorded(session.folder, session.invocation.command("link clear"))
            print("\n".join([*report.status(rows, session.invocation, terminal.columns()), *changed]))
        return ExitCode.FAILED if any(row["problem"] for row in rows) else ExitCode.DONE


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


def _asks_for_confirmation(arguments: argparse.Namespace) -> bool:
    """Return whether to ask for confirmation: on a terminal, without ``--yes``, ``--json`` and ``--check``."""
    check = getattr(arguments, "check", False)
    return terminal.is_interactive() and not (arguments.yes or arguments.json or check)


def _require_consent(arguments: argparse.Namespace) -> None:
    """Refuse to change the cluster without ``--yes`` where there is no terminal on which to ask.

    :raises WrapperError: the user has not agreed
    """
    if not (arguments.yes or getattr(arguments, "check", False) or _asks_for_confirmation(arguments)):
        raise WrapperError(
            f"{arguments.command.name}: cannot ask for confirmation without a terminal; --yes is needed",
            invocation.add_option(again(arguments), "--yes"),
            ExitCode.WRONG_INPUT,
        )


def _confirm(question: str) -> None:
    """Ask for confirmation on the terminal.

    :raises WrapperError: the answer is not yes
    """
    if not terminal.confirms(question):
        raise WrapperError("stopped; nothing was changed")


def _count(names: Sequence[str], what: str) -> str:
    """Format the number of names with a noun: ``2 servers``."""
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"
