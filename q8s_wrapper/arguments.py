"""The commands and their options: one table, from which come the parser, the environment variables and completion."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q8s_wrapper.errors import ExitCode, WrapperError

Run = Callable[[argparse.Namespace, Sequence[str]], int]
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True)
class Option:
    """One option. Its environment variable is ``Q8S_`` and its name. ``metavar`` is empty for a switch.

    One with ``choices``, or with ``several``, may be given several times; its variable holds them with spaces between.
    """

    name: str
    help: str
    metavar: str = ""
    short: str = ""
    counted: bool = False
    number: bool = False
    choices: tuple[str, ...] = ()
    several: bool = False

    @property
    def variable(self) -> str:
        return "Q8S_" + self.name.upper().replace("-", "_")


@dataclass(frozen=True)
class Command:
    """One verb. ``run`` is the function that does it, as ``module:name``: it is imported only when it is asked for.

    ``node`` is "" for none, else what the help calls it, in brackets where it may be left out. ``rest`` says what
    stands behind ``--``.
    """

    name: str
    help: str
    run: str
    example: str
    options: tuple[Option, ...] = ()
    file: bool = True
    node: str = ""
    rest: str = ""
    more: str = ""

    def function(self) -> Run:
        """The function that does it."""
        module, _, name = self.run.partition(":")
        found: Run = getattr(importlib.import_module(f"q8s_wrapper.commands.{module}"), name)
        return found


_JSON = Option("json", "JSON on stdout")
_VERBOSE = Option("verbose", "more in the log, twice for more still", short="v", counted=True)
_YES_OPTION = Option("yes", "do not ask, and allow that servers are removed", short="y")
_LIMIT = Option(
    "limit", "only these servers or nodes, by name, wildcard or group, with commas between; ! leaves out", "NAMES"
)
_TAGS = Option("tags", "only tasks with these tags, with commas between", "TAGS")
_LIST_TAGS = Option("list-tags", "list the tags, and do nothing")
_CHECK = Option("check", "show what would change, and change nothing")
_KEEP = Option(
    "keep",
    "leave it for the next deploy: keypair or security_group, or both with two --keep",
    "WHAT",
    choices=("keypair", "security_group"),
)
_TO_ANSIBLE = "arguments for ansible-playbook"

COMMANDS: Final = (
    Command(
        "init",
        "write a first cluster file from what the cloud offers: networks, images, flavors",
        "start:init",
        "OS_CLOUD=mycloud q8s-run init cluster.yaml",
        (Option("name", "name of the cluster (default: the file's)", "NAME"),),
        more="FILE must not exist yet; - prints it.",
    ),
    Command(
        "validate",
        "check a cluster file, without a cloud",
        "offline:validate",
        "q8s-run validate cluster.yaml",
    ),
    Command(
        "plan",
        "show what deploy would change in the cloud, the quota, and how long it is likely to take",
        "runs:plan",
        "q8s-run plan cluster.yaml",
        (_JSON, _VERBOSE),
        rest=_TO_ANSIBLE,
    ),
    Command(
        "deploy",
        "make the cluster, or what is missing of it",
        "runs:deploy",
        "q8s-run deploy cluster.yaml --yes",
        (_YES_OPTION, _CHECK, _LIMIT, _TAGS, _LIST_TAGS, _JSON, _VERBOSE),
        rest=_TO_ANSIBLE,
        more="Shows the plan first; on a terminal it asks before it goes on.",
    ),
    Command(
        "status",
        "what cloud, hosts, guests and Kubernetes say of each node, and what to do about it",
        "runs:status",
        "q8s-run status cluster.yaml --json",
        (_JSON, _VERBOSE),
        rest=_TO_ANSIBLE,
    ),
    Command(
        "verify",
        "run a pod on every node and let them talk to each other",
        "runs:verify",
        "q8s-run verify cluster.yaml",
        (_JSON, _VERBOSE),
        rest=_TO_ANSIBLE,
    ),
    Command(
        "ssh",
        "log in to a node or a host",
        "access:ssh",
        "q8s-run ssh cluster.yaml arm-mid-1 -- uname -m",
        node="NODE",
        rest="a command to run there",
    ),
    Command(
        "exec",
        "run a command on several nodes or hosts at once",
        "access:execute",
        "q8s-run exec cluster.yaml emulated_workers -- uname -m",
        node="NODES",
        rest="the command",
        more="NODES is an Ansible pattern: names with commas between them, all, control_plane, worker_hosts, "
        "emulated_workers (the guests), arch_aarch64, 'arm-*'.",
    ),
    Command(
        "kubeconfig",
        "print the cluster's kubeconfig, or put it where kubectl finds it",
        "access:kubeconfig",
        "q8s-run kubeconfig cluster.yaml --merge",
        (
            Option("write", "write it to this file instead", "PATH"),
            Option("merge", "add it to ~/.kube/config (or $KUBECONFIG), as a context of the cluster's name"),
        ),
    ),
    Command(
        "logs",
        "the end of the log of the last deploy, replace or destroy; with NODE its console and its kubelet's journal",
        "access:logs",
        "q8s-run logs cluster.yaml arm-mid-1",
        (Option("lines", "how many lines of each (default 40)", "N", short="n", number=True),),
        node="[NODE]",
    ),
    Command(
        "replace",
        "make one worker anew: drain it, remove its server, deploy it again; the others stay as they are",
        "runs:replace",
        "q8s-run replace cluster.yaml arm-mid-1 --yes",
        (_YES_OPTION, _JSON, _VERBOSE),
        node="NODE",
        rest=_TO_ANSIBLE,
    ),
    Command(
        "destroy",
        "remove everything of the cluster from the cloud",
        "runs:destroy",
        "q8s-run destroy cluster.yaml --keep keypair --yes",
        (_YES_OPTION, _CHECK, _KEEP, _JSON, _VERBOSE),
        rest=_TO_ANSIBLE,
        more="Asks on a terminal; elsewhere it needs --yes.",
    ),
    Command("version", "print the version", "offline:version", "q8s-run version", file=False),
    Command(
        "completion",
        "print a completion script for a shell",
        "offline:completion",
        "source <(q8s-run completion bash)",
        file=False,
        node="SHELL",
        more="SHELL is bash, zsh or fish. Node names come from the cluster file, without the cloud.",
    ),
)
# Each has a parser of its own, in its own package.
HANDED_OVER: Final = {
    "lab": "an OpenStack on this machine: up, down, status, reset, image, host",
    "bundle": "what nodes run: build, list, prune, verify, ensure",
}


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="q8s-run",
        description="Deploy a Kubernetes cluster of QEMU-emulated heterogeneous workers onto an OpenStack project.",
        epilog="Every option may be given as an environment variable, too: --limit as Q8S_LIMIT, --yes as Q8S_YES=1. "
        "FILE may be left out where Q8S_CLUSTER_FILE is set. "
        "Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        _add(commands, command)
    for name, text in HANDED_OVER.items():
        commands.add_parser(name, help=text)
    return top


def _add(commands: Any, command: Command) -> None:
    usage = f"%(prog)s{' [OPTIONS]' if command.options else ''}"
    usage += f"{' FILE' if command.file else ''}{f' {command.node}' if command.node else ''}"
    usage += f" [-- {'COMMAND...' if 'command' in command.rest else 'ARGUMENTS...'}]" if command.rest else ""
    sub = commands.add_parser(
        command.name,
        help=command.help,
        description=f"{command.help[0].upper()}{command.help[1:]}. {command.more}".strip(),
        epilog=f"example: {command.example}",
        usage=usage,
    )
    sub.set_defaults(command=command)
    if command.file:
        default = os.environ.get("Q8S_CLUSTER_FILE")
        sub.add_argument(
            "file",
            metavar="FILE",
            nargs="?" if default else None,
            default=default,
            help="cluster file [Q8S_CLUSTER_FILE]",
        )
    if command.node:
        optional = command.node.startswith("[")
        sub.add_argument(
            "node", metavar=command.node.strip("[]"), nargs="?" if optional else None, help=_NODE_HELP[command.node]
        )
    for option in command.options:
        flags = ([f"-{option.short}"] if option.short else []) + [f"--{option.name}"]
        text = f"{option.help} [{option.variable}]"
        if option.counted:
            sub.add_argument(*flags, action="count", default=_from_environment(option), help=text)
        elif option.choices:
            # no default: what is given counts instead of the environment's, and not beside it
            sub.add_argument(*flags, metavar=option.metavar, action="append", choices=option.choices, help=text)
        elif option.metavar:
            kind = int if option.number else str
            sub.add_argument(*flags, metavar=option.metavar, type=kind, default=_from_environment(option), help=text)
        else:
            sub.add_argument(
                *flags, action=argparse.BooleanOptionalAction, default=_from_environment(option), help=text
            )


_NODE_HELP: Final[Mapping[str, str]] = {
    "NODE": "name of a node or a host",
    "[NODE]": "name of a node or a host",
    "NODES": "which nodes or hosts",
    "SHELL": "bash, zsh or fish",
}


def _from_environment(option: Option) -> Any:
    """The default of an option. Of a value that is none, only the command that has the option may complain."""
    value = os.environ.get(option.variable)
    if option.counted:
        return int(value) if value and value.isdecimal() else 0
    if option.metavar:
        return value or None
    return (value or "").lower() in _YES


def check_environment(options: Sequence[Option]) -> None:
    """Refuse values of the options' environment variables that say nothing.

    :raises WrapperError: one is not what its option takes
    """
    for option in options:
        value = os.environ.get(option.variable)
        if value is None:
            continue
        if option.counted or option.number:
            good, allowed = value == "" or value.isdecimal(), "a whole number"
        elif option.choices:
            good, allowed = set(value.split()) <= set(option.choices), " and ".join(option.choices)
        elif option.metavar:
            good, allowed = True, ""
        else:
            good, allowed = value.lower() in _YES | _NO, "1 or 0 (also true, yes, on; false, no, off)"
        if not good:
            raise WrapperError(
                f"{option.variable}: is {value!r}; allowed is {allowed}",
                f"unset {option.variable}, or use --{option.name}",
                ExitCode.WRONG_INPUT,
            )


_BUNDLE_CHOICE: Final = (
    Option("arch", "", "ARCH", several=True),
    Option("control-plane", "", "ARCH", several=True),
    Option("source", "", "SOURCE"),
    Option("image", "", "ARCH,URL,CHECKSUM", several=True),
    Option("progress", "", "FORM"),
)
# Options of the programs behind `lab` and `bundle`, which have the help for them and read no environment themselves.
_THEIRS: Final[Mapping[tuple[str, str], tuple[Option, ...]]] = {
    ("bundle", "build"): _BUNDLE_CHOICE,
    ("bundle", "ensure"): (*_BUNDLE_CHOICE, _CHECK),
    ("bundle", "list"): (_JSON,),
    ("bundle", "prune"): (Option("keep-days", "", "DAYS"), _CHECK),
    ("lab", "status"): (_JSON,),
    ("lab", "host"): (
        Option("ip", "", "IP"),
        Option("key", "", "FILE"),
        Option("memory", "", "MB"),
        Option("machine", "", "MACHINE"),  # and not its --image: Q8S_IMAGE is that of `bundle ensure`
    ),
}


def with_environment(command: str, argv: Sequence[str]) -> list[str]:
    """The arguments of ``lab`` or ``bundle``, and as options what the environment says and they do not.

    Of several values in one variable, one with a space is quoted as for a shell.

    :raises WrapperError: a variable says nothing that its option takes
    """
    given: list[str] = []
    for option in _THEIRS.get((command, argv[0] if argv else ""), ()):
        flag = f"--{option.name}"
        if any(word.partition("=")[0] == flag for word in argv):
            continue
        check_environment([option])
        if option.metavar:
            given += [f"{flag}={word}" for word in _values(option)]
        elif _from_environment(option):
            given.append(flag)
    return [*argv, *given]


def _values(option: Option) -> list[str]:
    value = os.environ.get(option.variable, "")
    if not option.several:
        return [value] if value else []
    try:
        return shlex.split(value)
    except ValueError as error:
        raise WrapperError(
            f"{option.variable}: is {value!r}: {error}",
            "quote what has spaces or quotes in it as for a shell",
            ExitCode.WRONG_INPUT,
        ) from None


def settle(arguments: argparse.Namespace) -> None:
    """What the parser cannot know: values of the environment for what was not given, and what a single word means.

    With Q8S_CLUSTER_FILE set, ``logs arm-mid-1`` means a node of that file, unless there is a file of that name.
    """
    command: Command = arguments.command
    for option in command.options:
        if option.choices and getattr(arguments, option.name) is None:
            setattr(arguments, option.name, os.environ.get(option.variable, "").split())
    default = os.environ.get("Q8S_CLUSTER_FILE")
    if not default or command.node != "[NODE]" or arguments.node is not None or arguments.file == default:
        return
    if not Path(arguments.file).exists():
        arguments.node, arguments.file = arguments.file, default
