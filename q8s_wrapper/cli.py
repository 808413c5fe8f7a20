"""``q8s-run``: the command line."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from q8s_wrapper import __version__
from q8s_wrapper.config import INVENTORY, REPOSITORY, add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError

_EXAMPLES = {
    "validate": "q8s-run validate cluster.yaml",
    "deploy": "q8s-run deploy cluster.yaml",
    "destroy": "q8s-run destroy cluster.yaml",
    "status": "q8s-run status cluster.yaml --json",
    "verify": "q8s-run verify cluster.yaml",
    "kubeconfig": "q8s-run kubeconfig cluster.yaml > kubeconfig",
    "ssh": "q8s-run ssh cluster.yaml arm-mid-1 -- uname -m",
}


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; gives the exit code. A user sees messages and hints, never a traceback."""
    try:
        if argv and argv[0] in ("lab", "bundle"):
            return _hand_over(argv[0], argv[1:])
        own, passed_on = _split(argv)
        arguments = _parser().parse_args(own)
        return int(arguments.run(arguments, passed_on))
    except WrapperError as error:
        print(error, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE


def _hand_over(command: str, argv: Sequence[str]) -> int:
    if command == "lab":
        from lab.cli import main as lab_main

        return lab_main(argv)
    from bundle.cli import main as bundle_main

    return bundle_main(argv)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(argv)
    if "--" in arguments:
        place = arguments.index("--")
        return arguments[:place], arguments[place + 1 :]
    return arguments, []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="q8s-run",
        description="Deploy a Kubernetes cluster of QEMU-emulated heterogeneous workers onto an OpenStack project.",
        epilog="Also: q8s-run lab up|down|status|reset (an OpenStack on this machine), "
        "q8s-run bundle ensure (what nodes run). "
        "Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_text: str, run: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=help_text, description=help_text, epilog=f"example: {_EXAMPLES.get(name, '')}"
        )
        sub.set_defaults(run=run, command=name)
        default = os.environ.get("Q8S_CLUSTER_FILE")
        sub.add_argument(
            "file", nargs="?" if default else None, default=default, help="cluster file (or Q8S_CLUSTER_FILE)"
        )
        return sub

    command("validate", "check a cluster file, without a cloud", _validate)
    for name, help_text in (
        ("deploy", "make the cluster, or what is missing of it"),
        ("destroy", "remove everything of the cluster from the cloud"),
        ("verify", "run a pod on every node and let them talk to each other"),
        ("status", "what cloud, hosts and Kubernetes say of each node"),
    ):
        sub = command(name, help_text, _play)
        sub.add_argument("--json", action="store_true", help="JSON on stdout")
        sub.add_argument("-v", "--verbose", action="count", default=0, help="more in the log, twice for more still")
        if name in ("deploy", "destroy"):
            sub.add_argument(
                "--check", action="store_true", help="show what would change in the cloud, and change nothing"
            )
        if name == "deploy":
            sub.add_argument("--limit", help="only these hosts (Ansible pattern)")
            sub.add_argument("--tags", help="only tasks with these tags")
    command("kubeconfig", "print the kubeconfig that deploy stored", _kubeconfig)
    ssh = command("ssh", "log in to a node or a host", _ssh)
    ssh.add_argument("node", help="node or host name")
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _version(arguments: argparse.Namespace, passed_on: Sequence[str]) -> int:
    print(f"q8s-run {__version__}")
    return ExitCode.DONE


def _load(file: str) -> Any:
    """The cluster of a file.

    :raises WrapperError: there is no such file, or it has mistakes; each is printed with its place
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
        lines = []
        for problem in error.problems:
            lines.append(str(problem))
            if problem.hint:
                lines.append(f"  hint: {problem.hint}")
        count = len(error.problems)
        raise WrapperError(
            "\n".join(lines),
            f"{count} mistake{'s' if count > 1 else ''} to mend; nothing was changed",
            ExitCode.WRONG_INPUT,
        ) from None
    return cluster


def _validate(arguments: argparse.Namespace, passed_on: Sequence[str]) -> int:
    cluster = _load(arguments.file)
    for warning in cluster.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{arguments.file}: good")
    return ExitCode.DONE


def _play(arguments: argparse.Namespace, passed_on: Sequence[str]) -> int:
    from q8s_wrapper import render, runner, state

    what: str = arguments.command
    cluster = _load(arguments.file)
    for warning in cluster.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    folder = state.cluster_folder(cluster.cluster_name)
    extra = [*_ansible_arguments(arguments), *passed_on]
    playbook = "site" if what == "deploy" else what
    with state.locked(folder, what):
        run_folder = state.new_run(folder, what)
        # status --json is one document, so its progress goes where a person's does
        shown = render.renderer(arguments.json and what != "status")
        outcome = runner.run(playbook, Path(arguments.file).resolve(), run_folder, extra, shown)
    if what == "status" and outcome.code == ExitCode.DONE:
        return _show_status(outcome.state.results.get("q8s_status_table", []), arguments.json)
    if arguments.json:
        print(json.dumps(render.result(what, outcome.code, outcome.state, str(outcome.log))))
    else:
        _report(what, arguments.file, outcome)
    return outcome.code


def _ansible_arguments(arguments: argparse.Namespace) -> list[str]:
    options = []
    if getattr(arguments, "check", False):
        options += ["--check", "--diff"]
    if getattr(arguments, "limit", None):
        options += ["--limit", f"localhost,{arguments.limit}"]
    if getattr(arguments, "tags", None):
        options += ["--tags", arguments.tags]
    if arguments.verbose:
        options.append("-" + "v" * arguments.verbose)
    return options


def _show_status(rows: list[dict[str, Any]], as_json: bool) -> int:
    from q8s_wrapper import render

    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        print(render.table(list(rows)) or "nothing of this cluster is in the cloud")
    return ExitCode.DONE


def _report(what: str, file: str, outcome: Any) -> None:
    """What a person reads at the end: notes on stdout; times, failures and the next step on stderr."""
    from q8s_wrapper import render

    state = outcome.state
    for note in state.notes:
        print(note)
    sys.stdout.flush()
    err = sys.stderr
    for warning in state.warnings:
        print(warning, file=err)
    print(f"\n{render.stage_table(state)}\n", file=err)
    for failure in state.failures:
        print(f"{failure.host}: {failure.task}\n  {failure.reason.strip().replace(chr(10), chr(10) + '  ')}", file=err)
    log = outcome.log
    if outcome.code == ExitCode.DONE:
        changes = f"{state.changed} change{'' if state.changed == 1 else 's'}"
        print(f"{what}: done in {state.seconds:.1f} s, {changes}; log: {log}", file=err)
        hints = {"deploy": f"q8s-run verify {file}; q8s-run kubeconfig {file}; q8s-run destroy {file}"}
        if what in hints:
            print(f"next: {hints[what]}", file=err)
    elif outcome.code == ExitCode.INTERRUPTED:
        print(f"{what}: interrupted after {state.seconds:.1f} s; log: {log}", file=err)
        print(f"hint: run `q8s-run {what} {file}` again to go on, or `q8s-run destroy {file}` to undo", file=err)
    else:
        if not state.failures:
            print(_tail(log), file=err)
        print(f"{what}: failed after {state.seconds:.1f} s; log: {log}", file=err)
        print(f"hint: mend the cause and run `q8s-run {what} {file}` again; what is done is kept", file=err)


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    except OSError:
        return "Ansible wrote no log"


def _kubeconfig(arguments: argparse.Namespace, passed_on: Sequence[str]) -> int:
    from q8s_wrapper import state

    path = state.cluster_folder(_load(arguments.file).cluster_name) / "kubeconfig"
    if not path.exists():
        raise WrapperError(
            "Failed to find a kubeconfig of this cluster: it was not deployed from here",
            f"q8s-run deploy {arguments.file}",
        )
    print(path.read_text(), end="")
    return ExitCode.DONE


def _ssh(arguments: argparse.Namespace, passed_on: Sequence[str]) -> int:
    _load(arguments.file)
    hosts = _inventory(arguments.file)
    variables = hosts.get(arguments.node)
    if variables is None:
        # a control plane's node name may differ from its server's
        named = [v for v in hosts.values() if v.get("q8s_node_name") == arguments.node]
        variables = named[0] if named else None
    if variables is None:
        known = ", ".join(sorted(hosts)) or "none: it is not deployed"
        raise WrapperError(f"Failed to find {arguments.node}; known are: {known}", code=ExitCode.WRONG_INPUT)
    if variables.get("ansible_connection") == "local":
        command = list(passed_on) or [os.environ.get("SHELL", "/bin/sh")]
    else:
        command = [
            "ssh",
            *shlex.split(variables.get("ansible_ssh_common_args", "")),
            "-i",
            str(variables.get("ansible_ssh_private_key_file", "")),
            "-p",
            str(variables.get("ansible_port", 22)),
            f"{variables['ansible_user']}@{variables['ansible_host']}",
            *([shlex.join(passed_on)] if len(passed_on) > 1 else passed_on),
        ]
    sys.stdout.flush()
    os.execvp(command[0], command)


def _inventory(file: str) -> dict[str, dict[str, Any]]:
    """Variables of every host and guest, from the same inventory plugin that the playbooks use."""
    command = [
        str(Path(sys.executable).parent / "ansible-inventory"),
        "-i",
        str(INVENTORY),
        "--list",
        "-e",
        f"q8s_cluster_file={Path(file).resolve()}",
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=False)
    if done.returncode != 0:
        raise WrapperError(f"Failed to read the inventory: {done.stderr.strip()}")
    hosts: dict[str, dict[str, Any]] = json.loads(done.stdout, object_hook=_plain)["_meta"]["hostvars"]
    return hosts


def _plain(value: dict[str, Any]) -> Any:
    """What comes from the cloud is marked as not to be templated; here it is only text."""
    return value["__ansible_unsafe"] if set(value) == {"__ansible_unsafe"} else value
