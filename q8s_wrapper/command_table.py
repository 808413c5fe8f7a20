"""Table of the commands and their options. The parser, environment variables and shell completion are built from it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Run = Callable[[argparse.Namespace, Sequence[str]], int]


@dataclass(frozen=True)
class Option:
    """An option of a command.

    :param metavar: name of the value in the help; empty for a switch
    :param counted: each repetition of the switch adds one (``-vv``)
    :param number: the value is a whole number
    :param several: the option may be repeated; its environment variable holds the values separated by spaces
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
        """Return the name of the option's environment variable: ``Q8S_`` and the option's name."""
        return "Q8S_" + self.name.upper().replace("-", "_")


@dataclass(frozen=True)
class Command:
    """A command of ``q8s-run``.

    :param run: the function that runs the command, as ``module:name``. It is imported only when it is called
    :param file: whether the command takes a cluster file
    :param node: name of the node argument in the help, in brackets if it is optional; empty for a command without one
    :param rest: help for the arguments after ``--``; empty for a command that takes none
    :param more: further sentences of the command's help
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
        """Import and return the function that runs the command."""
        module, _, name = self.run.partition(":")
        found: Run = getattr(importlib.import_module(f"q8s_wrapper.commands.{module}"), name)
        return found


_JSON = Option("json", "JSON on stdout")
_VERBOSE = Option("verbose", "increase the verbosity of the log (repeatable)", short="v", counted=True)
_QUIET = Option("quiet", "print errors, warnings and the result only", short="q")
_YES_OPTION = Option("yes", "do not ask, and allow Q8S to remove servers and to restart or recreate nodes", short="y")
_LIMIT = Option(
    "limit", "only these servers or nodes: names, wildcards or groups, separated by commas; ! excludes", "NAMES"
)
_TAGS = Option("tags", "only tasks with these tags, separated by commas", "TAGS")
_LIST_TAGS = Option("list-tags", "list the tags and exit")
_REPLACE_CONTROL_PLANE = Option(
    "replace-control-plane",
    "give up the data of an initial control plane that is gone or in ERROR, and recreate all servers",
)
_PARALLEL = Option(
    "parallel",
    "how many nodes at a time are restarted or recreated for an edit of the file (default 1)",
    "N",
    number=True,
)
_CHECK = Option("check", "show what would change, and change nothing")
_BUILD = Option(
    "build",
    "where to build what is not cached: here, on the cluster's initial control plane (cluster), or auto (the default), "
    "which is here if this machine can build",
    "WHERE",
    choices=("auto", "here", "cluster"),
)
_KEEP = Option(
    "keep",
    "keep it for the next deploy: keypair or security_group (repeatable)",
    "WHAT",
    choices=("keypair", "security_group"),
    several=True,
)
TO_ANSIBLE = "arguments for ansible-playbook"

COMMANDS: Final = (
    Command(
        "init",
        "write a cluster file from the networks, images and flavors of the cloud",
        "start:init",
        "OS_CLOUD=mycloud q8s-run init cluster.yaml",
        (Option("name", "name of the cluster (default: the name of FILE without its ending)", "NAME"), _QUIET),
        more="FILE must not exist yet; - prints it.",
    ),
    Command(
        "validate",
        "check a cluster file, without a cloud",
        "offline:validate",
        "q8s-run validate cluster.yaml",
        (_QUIET,),
    ),
    Command(
        "plan",
        "show what deploy would change in the cloud, the quota, and how long it is likely to take",
        "runs:plan",
        "q8s-run plan cluster.yaml",
        (_REPLACE_CONTROL_PLANE, _BUILD, _JSON, _VERBOSE, _QUIET),
        rest=TO_ANSIBLE,
    ),
    Command(
        "deploy",
        "create the cluster, or whatever is missing from it",
        "runs:deploy",
        "q8s-run deploy cluster.yaml --yes",
        (
            _YES_OPTION,
            _CHECK,
            _LIMIT,
            _TAGS,
            _LIST_TAGS,
            _PARALLEL,
            _REPLACE_CONTROL_PLANE,
            _BUILD,
            _JSON,
            _VERBOSE,
            _QUIET,
        ),
        rest=TO_ANSIBLE,
        more="Shows the plan first; on a terminal it asks before it goes on.",
    ),
    Command(
        "status",
        "show the state of every node, and how to fix what is broken",
        "runs:status",
        "q8s-run status cluster.yaml --json",
        (_JSON, _VERBOSE, _QUIET),
        rest=TO_ANSIBLE,
    ),
    Command(
        "verify",
        "compare workers and links with the cluster file, run a pod on every node and connect each pod to all others",
        "runs:verify",
        "q8s-run verify cluster.yaml",
        (
            Option(
                "skip-links",
                "do not measure the links, which takes 2 to 20 s for each link of a node, on all nodes at a time; "
                "only check whether they are in force",
            ),
            _JSON,
            _VERBOSE,
            _QUIET,
        ),
        rest=TO_ANSIBLE,
        more="Returns 1 if a promise of the cluster file is broken, also one for a link. "
        "What link set has changed is a broken promise until link clear restores it.",
    ),
    Command(
        "bench",
        "measure network, CPU, memory and disk of the nodes, and write tables beside the paper's figures",
        "benchmark:bench",
        "q8s-run bench cluster.yaml --quick",
        (
            Option("quick", "measure each figure once and briefly"),
            Option(
                "only", "only these groups of measurements, separated by commas: network, cpu, memory, disk", "GROUPS"
            ),
            Option("nodes", "only these nodes, separated by commas", "NAMES"),
            Option("output", "folder of the results (default: bench-CLUSTER in the current folder)", "DIR"),
            Option("force", "replace the results that are in the folder"),
            Option("resume", "measure what is missing in the folder, with the options of the earlier run"),
            _JSON,
            _VERBOSE,
            _QUIET,
        ),
        rest=TO_ANSIBLE,
        more="The pods are in the namespace q8s-bench, which is removed at the end.",
    ),
    Command(
        "conformance",
        "run Kubernetes' conformance tests on the cluster, and write a table of the results",
        "conformance:conformance",
        "q8s-run conformance cluster.yaml --focus DNS",
        (
            Option("focus", "only tests whose names match this regular expression, of all groups", "RE"),
            Option("skip", "leave out tests whose names match this regular expression", "RE"),
            Option("parallel", "how many tests run at a time (default 2)", "N", number=True),
            Option("list", "list the tests that would run, and run none"),
            Option("output", "folder of the results (default: conformance-CLUSTER in the current folder)", "DIR"),
            Option("force", "replace the results that are in the folder"),
            Option("resume", "run the tests that have no result in the folder, as the earlier run has chosen them"),
            _JSON,
            _VERBOSE,
            _QUIET,
        ),
        rest=TO_ANSIBLE,
        more="Without --focus, they are the conformance tests of the network, node, apps, storage and api-machinery "
        "groups. Returns 1 if a test failed.",
    ),
    Command(
        "timeline",
        "show where the time of the last deploy went: stages of each host, boots of guests, and the critical path",
        "records:show_timeline",
        "q8s-run timeline cluster.yaml --output timeline",
        (
            Option("output", "write a page, a chart and the data to this folder, too", "DIR"),
            Option("force", "replace the results that are in the folder"),
            Option("last", "the last deploy even if it created no server"),
            _JSON,
            _VERBOSE,
            _QUIET,
        ),
        more="Without --last, it is the last deploy that created servers. "
        "A deploy with ansible-playbook is not recorded.",
    ),
    Command(
        "record",
        "write what another lab needs to repeat an experiment to a folder, as an RO-Crate",
        "records:write_record",
        "q8s-run record cluster.yaml record-demo --verify --zip",
        (
            Option("verify", "run verify, and add its result"),
            Option("bench", "add the results of bench that are in this folder", "DIR"),
            Option("license", "licence of the record: its URL, or how the record may be used", "LICENCE"),
            Option("zip", "write DIR.zip, too"),
            Option("force", "replace an earlier record"),
            _VERBOSE,
            _QUIET,
        ),
        node="DIR",
        more="The cluster must be running. A record has no keys, tokens and passwords.",
    ),
    Command(
        "link show",
        "show the links between nodes, and whether they are in force",
        "links:show",
        "q8s-run link show cluster.yaml",
        (_JSON, _QUIET),
        more="Returns 1 if a link is not in force.",
    ),
    Command(
        "link verify",
        "measure each link with ping, and compare it with what was promised",
        "links:verify",
        "q8s-run link verify cluster.yaml",
        (_JSON, _VERBOSE, _QUIET),
        rest=TO_ANSIBLE,
        more="Returns 1 if a promise is broken.",
    ),
    Command(
        "link set",
        "change links of the running cluster until the next deploy, or until a guest boots",
        "links:change",
        "q8s-run link set cluster.yaml type:arm-mid '*' delay=200ms --for 60s",
        (
            Option("for", "restore the cluster file's link after this time, such as 60s or 5min", "TIME"),
            _QUIET,
        ),
        node="LINK",
        more="LINK is FROM TO and what happens to packets, in words of the cluster file's links: delay=45ms jitter=5ms "
        "loss=1% rate=7mbit symmetric=true. Fields of a mapping have a dot: rate.up=7mbit rate.down=30mbit. What is "
        "not named does not happen.",
    ),
    Command(
        "link clear",
        "restore the cluster file's links",
        "links:clear",
        "q8s-run link clear cluster.yaml",
        (_QUIET,),
    ),
    Command(
        "scenario run",
        "perform the cluster file's scenario: links and nodes that fail by a schedule",
        "scenarios:run",
        "q8s-run scenario run cluster.yaml --dry-run",
        (
            Option("dry-run", "print the schedule, without a cloud"),
            Option(
                "ping",
                "send a packet from one node to another and back, four times a second, and record how long it takes "
                "(repeatable)",
                "FROM:TO",
                several=True,
            ),
            _JSON,
            _VERBOSE,
            _QUIET,
        ),
        more="Restores the cluster file's state at its end, on Ctrl-C and if a step fails. No deploy runs meanwhile.",
    ),
    Command(
        "scenario stop",
        "stop the scenario, or restore the cluster file's state after one that was killed",
        "scenarios:stop",
        "q8s-run scenario stop cluster.yaml",
        (_VERBOSE, _QUIET),
    ),
    Command(
        "scenario report",
        "show what the newest scenario did, and when",
        "scenarios:report",
        "q8s-run scenario report cluster.yaml --plot delays.svg",
        (
            Option("plot", "draw the delays that `scenario run --ping` measured, as SVG", "FILE"),
            Option("force", "replace the plot if there is one"),
            _JSON,
            _QUIET,
        ),
    ),
    Command(
        "ssh",
        "log in to a node or a host",
        "access:ssh",
        "q8s-run ssh cluster.yaml arm-mid-1 -- uname -m",
        (_QUIET,),
        node="NODE",
        rest="a command to run there",
    ),
    Command(
        "exec",
        "run a command on several nodes or hosts at once",
        "access:execute",
        "q8s-run exec cluster.yaml emulated_workers -- uname -m",
        (_QUIET,),
        node="NODES",
        rest="the command",
        more="NODES is an Ansible pattern: names separated by commas, all, control_plane, worker_hosts, "
        "emulated_workers (the guests), arch_aarch64, 'arm-*'.",
    ),
    Command(
        "kubeconfig",
        "print the cluster's kubeconfig, or write it where kubectl finds it",
        "access:kubeconfig",
        "q8s-run kubeconfig cluster.yaml --merge",
        (
            Option("write", "write it to this file instead", "PATH"),
            Option("merge", "add it to ~/.kube/config (or $KUBECONFIG), as a context of the cluster's name"),
            _QUIET,
        ),
        more="Of several control planes, it names one that answers. When that one fails, run the command again.",
    ),
    Command(
        "logs",
        "show the end of the log of the last run that changed the cluster, or a NODE's console and kubelet journal",
        "access:logs",
        "q8s-run logs cluster.yaml arm-mid-1",
        (Option("lines", "how many lines of each (default 40)", "N", short="n", number=True), _QUIET),
        node="[NODE]",
    ),
    Command(
        "replace",
        "replace one worker: drain it, delete its server, deploy it again; the others stay as they are",
        "runs:replace",
        "q8s-run replace cluster.yaml arm-mid-1 --yes",
        (_YES_OPTION, _JSON, _VERBOSE, _QUIET),
        node="NODE",
        rest=TO_ANSIBLE,
    ),
    Command(
        "upgrade",
        "upgrade Kubernetes to the version in the file: control planes first, then each worker, drained and recreated",
        "runs:upgrade",
        "q8s-run upgrade cluster.yaml --yes",
        (_YES_OPTION, _CHECK, _PARALLEL, _BUILD, _JSON, _VERBOSE, _QUIET),
        rest=TO_ANSIBLE,
        more="Set kubernetes_version in the file first: to a newer patch release, or to the next minor version. "
        "What an interrupted upgrade has done stays done: the same command continues it.",
    ),
    Command(
        "renew",
        "renew the certificates of the control planes, also those that have ended, and fetch the kubeconfig",
        "runs:renew",
        "q8s-run renew cluster.yaml",
        (_CHECK, _JSON, _VERBOSE, _QUIET),
        rest=TO_ANSIBLE,
        more="Restarts each API server once, one after the other; pods keep running.",
    ),
    Command(
        "destroy",
        "remove everything of the cluster from the cloud",
        "runs:destroy",
        "q8s-run destroy cluster.yaml --keep keypair --yes",
        (_YES_OPTION, _CHECK, _KEEP, _JSON, _VERBOSE, _QUIET),
        rest=TO_ANSIBLE,
        more="Asks on a terminal; elsewhere it needs --yes.",
    ),
    Command(
        "list",
        "list the clusters in this project and on this machine",
        "local:list_clusters",
        "q8s-run list --json",
        (_JSON, _QUIET),
        file=False,
        more="Without a cloud, or if it does not answer, only the clusters on this machine are listed, with a warning.",
    ),
    Command("version", "print the versions", "offline:version", "q8s-run version", file=False),
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
# Commands of other packages, each with its own parser.
HANDED_OVER: Final = {
    "lab": "an OpenStack on this machine: up, down, status, reset, image, host",
    "bundle": "node bundles and guest images: build, refresh, list, prune, verify, ensure, pack",
}
_BUNDLE_CHOICE: Final = (
    Option("arch", "", "ARCH", several=True),
    Option("control-plane", "", "ARCH", several=True),
    # --bench is left out: Q8S_BENCH belongs to `record`
    Option("conformance", "", "ARCH", several=True),
    Option("tests", "", "ARCH", several=True),
    Option("source", "", "SOURCE"),
    Option("kubernetes", "", "VERSION"),
    Option("addon", "", "ADDON", several=True),
    Option("image", "", "ARCH,URL,CHECKSUM", several=True),
    Option("progress", "", "FORM"),
)
# Options of `lab` and `bundle` that have an environment variable. Their own parsers hold the help and read no
# environment.
HANDED_OVER_OPTIONS: Final[Mapping[tuple[str, str], tuple[Option, ...]]] = {
    ("bundle", "build"): _BUNDLE_CHOICE,
    ("bundle", "refresh"): _BUNDLE_CHOICE,
    ("bundle", "ensure"): (*_BUNDLE_CHOICE, _CHECK, Option("if-able", ""), Option("if-cached", "")),
    ("bundle", "list"): (_JSON,),
    ("bundle", "prune"): (Option("keep-days", "", "DAYS"), _CHECK),
    ("lab", "status"): (_JSON,),
    ("lab", "host"): (
        Option("ip", "", "IP"),
        Option("key", "", "FILE"),
        Option("memory", "", "MB"),
        Option("machine", "", "MACHINE"),  # --image is left out: Q8S_IMAGE belongs to `bundle ensure`
    ),
}


def find(name: str) -> Command | None:
    """Return the command of a name, or None."""
    return next((command for command in COMMANDS if command.name == name), None)


def group(first: str) -> list[Command]:
    """Return the commands whose names have two words, and this one as the first, such as ``link``."""
    return [command for command in COMMANDS if command.name.startswith(f"{first} ")]


def second_words(first: str) -> list[str]:
    """Return what may follow the first word of a command whose name has two, such as ``show`` for ``link``."""
    return [command.name.split()[1] for command in group(first)]
