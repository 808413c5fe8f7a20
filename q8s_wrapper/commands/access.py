"""Commands that log in to hosts and guests: ssh, exec, logs, kubeconfig."""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from q8s_wrapper import environment, inventory, messages, run_logs, state
from q8s_wrapper.commands import load
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.invocation import Invocation
from q8s_wrapper.terminal import without_colours

_CONCURRENT_COMMANDS: Final = 20
_DEFAULT_LINES: Final = 40


def ssh(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Log in to one node or host. The process is replaced by ssh (exec)."""
    hosts = inventory.read(load(arguments.file))
    command = inventory.ssh_command(inventory.find(hosts, arguments.node, arguments.invocation), rest)
    sys.stdout.flush()
    os.execvpe(command[0], command, environment.child_environment(os.environ))


def execute(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run a command on several hosts concurrently. Prefix each line of output with the node's name."""
    if not rest:
        raise WrapperError(
            "exec: the command is missing",
            arguments.invocation.command("exec", "all", "--", "uname -m"),
            ExitCode.WRONG_INPUT,
        )
    cluster = load(arguments.file)
    hosts = inventory.select(arguments.file, arguments.node)
    if not hosts:
        known = sorted(inventory.read(cluster))
        if not known:
            inventory.find({}, arguments.node, arguments.invocation)
        raise WrapperError(f"Failed to find {arguments.node}; known are: {', '.join(known)}", code=ExitCode.WRONG_INPUT)
    width = max(map(len, hosts))
    commands = {name: inventory.ssh_command(host, rest) for name, host in hosts.items()}
    variables = environment.child_environment(os.environ)
    lock = threading.Lock()

    def run_on(name: str) -> int:
        """Run the command on one host, print its output, and return its exit code."""
        completed = subprocess.run(
            commands[name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=variables,
            check=False,
        )
        with lock:
            for text, stream in ((completed.stdout, sys.stdout), (completed.stderr, sys.stderr)):
                for line in text.splitlines():
                    print(f"{name:<{width}}  {line}", file=stream)
                stream.flush()
        return completed.returncode

    with concurrent.futures.ThreadPoolExecutor(_CONCURRENT_COMMANDS) as pool:
        codes = dict(zip(hosts, pool.map(run_on, hosts), strict=True))
    failed = [f"{name} ({code})" for name, code in codes.items() if code]
    if failed:
        messages.error(f"exec: failed on {len(failed)} of {len(codes)}: {', '.join(failed)}")
        return ExitCode.FAILED
    return ExitCode.DONE


def logs(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show the end of the last run's log, or a node's console and journal."""
    cluster = load(arguments.file)
    lines = arguments.lines or _DEFAULT_LINES
    if arguments.node is None:
        return _show_last_log(arguments.invocation, cluster.cluster_name, lines)
    hosts = inventory.read(cluster)
    variables = inventory.find(hosts, arguments.node, arguments.invocation)
    journal = f"sudo journalctl --no-pager --lines={lines} --unit=kubelet"
    parts: list[tuple[str, dict[str, Any], str]] = []
    if "q8s_host" in variables:  # the guest's console is a file on its host, readable even if the guest hangs
        host = hosts[variables["q8s_host"]]
        parts.append((f"console of {arguments.node}", host, _console_command(variables["q8s_vm"]["name"], lines)))
        # The guest's user is root, and the guest may lack sudo.
        parts.append((f"kubelet of {arguments.node}", variables, journal.removeprefix("sudo ")))
    else:
        system = f"sudo journalctl --no-pager --lines={lines} --priority=warning"
        unit = "kubelet" if variables.get("q8s_vm") is None else "libvirtd"
        parts.append((f"warnings of {arguments.node}", variables, system))
        parts.append((f"{unit} of {arguments.node}", variables, journal.replace("kubelet", unit)))
    code = ExitCode.DONE
    for title, target_variables, command in parts:
        print(f"==> {title} <==", flush=True)
        command_line = inventory.ssh_command(target_variables, [command])
        completed = subprocess.run(
            command_line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment.child_environment(os.environ),
            check=False,
        )
        print(without_colours(completed.stdout).rstrip())
        if completed.returncode != 0:
            code = ExitCode.FAILED
    return code


def _console_command(guest: str, lines: int) -> str:
    """Return a shell command that prints the end of a guest's console log. libvirt names the log file.

    :param guest: the guest's libvirt domain
    """
    source = f"virsh --connect qemu:///system dumpxml {guest}"
    path = "sed -n \"s/.*<source path='\\(.*\\.console\\)'.*/\\1/p\""
    return f'sudo tail -n {lines} "$(sudo {source} | {path} | head -n 1)"'


def _show_last_log(invocation: Invocation, cluster_name: str, lines: int) -> int:
    """Print the end of the newest log: of a run that changes the cluster if there is one, else of any run.

    :raises WrapperError: there is no log on this machine
    """
    folder = state.find(cluster_name)
    runs = [run for run in run_logs.past_runs(folder) if (run / run_logs.LOG).exists()]
    if not runs:
        message = f"Failed to find a log: this machine has no log of cluster {cluster_name}"
        raise WrapperError(message, invocation.command("plan"))
    changing = [run for run in runs if run_logs.changing(run)]
    log = (changing or runs)[-1] / run_logs.LOG
    print("\n".join(without_colours(log.read_text(errors="replace")).splitlines()[-lines:]))
    messages.info(f"log: {log}")
    return ExitCode.DONE


def kubeconfig(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the kubeconfig, write it to a file, or merge it into the user's own.

    Fetch it from a control plane first, if the local state has none that can be read, or if it names one of several
    control planes that does not answer.
    """
    if arguments.write and arguments.merge:
        raise WrapperError(
            "kubeconfig: --write and --merge cannot be used together",
            "--write creates a separate kubeconfig, --merge adds the cluster to your own",
            ExitCode.WRONG_INPUT,
        )
    cluster = load(arguments.file)
    from q8s_wrapper import kubeconfig as files

    text = files.read(state.find(cluster.cluster_name) / "kubeconfig")
    others = cluster.number_additional_master_nodes > 0
    if text is None or (others and not files.is_reachable(text)):
        code = fetch_kubeconfig(arguments, cluster)
        if code != ExitCode.DONE:
            return code
        path = state.find(cluster.cluster_name) / "kubeconfig"
        text = files.read(path)
        if text is None:
            raise WrapperError(f"Failed to read {path}: it is not a kubeconfig", arguments.invocation.command("status"))
    if arguments.write:
        target = Path(arguments.write).expanduser()
        files.write(target, text, cluster.cluster_name)
        messages.info(f"written: {target}; use it with export KUBECONFIG={shlex.quote(str(target.absolute()))}")
    elif arguments.merge:
        target = files.user_file()
        backup = files.merge(target, text, cluster.cluster_name)
        messages.info(f"merged into {target}; kubectl --context {cluster.cluster_name} get nodes")
        if backup:
            messages.info(f"backup of the previous file: {backup}")
    else:
        print(files.renamed(text, cluster.cluster_name), end="")
    return ExitCode.DONE


def fetch_kubeconfig(arguments: argparse.Namespace, cluster: Any) -> int:
    """Fetch the kubeconfig from the control plane into the local state. Return the exit code."""
    from q8s_wrapper.commands.session import open_session

    with open_session(arguments, cluster, changes=False) as session:
        outcome = session.play("kubeconfig", [], as_json=False)
        return ExitCode.DONE if outcome.code == ExitCode.DONE else session.end(outcome)
