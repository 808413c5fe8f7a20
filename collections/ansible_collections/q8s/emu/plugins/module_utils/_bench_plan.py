# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a benchmark: which pods run on which nodes, and which commands are measured between them. Pure functions.

Every node has three pods: ``pod-NODE`` in the pods' network, ``peer-NODE`` beside it, and ``node-NODE`` in the node's own
network, which samples the node's counters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import parse_quantity, ready_problem

GROUPS = ("network", "cpu", "memory", "disk")
NAMESPACE = "q8s-bench"
IPERF_PORT = 5201
SOCKPERF_PORT = 11111
# Memory in MiB that each pod of a node requests, which is also its limit. fio and stress-ng run in the first.
POD_MEMORY = {"pod": 384, "peer": 48, "node": 48}
# Measurements after which the results are written. What a run that is killed has measured since is lost.
BATCH = 8
# Seconds for which a measurement may run, in the pod. 7-Zip takes half of them on an emulated node of a slow machine.
TIMEOUT = 300
_START_SECONDS = 1200  # for the pods, and for what is read before and after
_OVERHEAD_SECONDS = 15  # of a measurement: ssh, kubectl, and the start of a program on a node that is emulated
_USUAL_OVERHEAD_SECONDS = 2.5  # the same on a machine that does nothing else
_MIB = 1 << 20


class BenchError(Exception):
    """The cluster cannot be measured. The message has a line for each reason."""


@dataclass(frozen=True)
class Effort:
    """How long and how often to measure: the difference between a quick and a full benchmark.

    :param repetitions: how often each measurement is repeated
    :param seconds: duration of a measurement of the network
    :param warm_up: seconds at its start that do not count
    :param pings: number of echo requests
    :param cpu_seconds: duration of a measurement of CPU or disk
    :param memory_seconds: duration of a measurement of memory. stress-ng reports no MB/s if it measures for less than 4.5
    :param thorough: whether floating point and cryptography are measured on all cores too, and random writes
    :param settle_seconds: pause after the start of the pods, which keeps the nodes busy for a while
    :param idle_seconds: how long the idle cluster is observed
    :param protocols: protocols of small messages
    :param both_directions: whether the bandwidth from pod to pod is measured in both directions of each pair of nodes
    """

    repetitions: int
    seconds: int
    warm_up: int
    pings: int
    cpu_seconds: int
    memory_seconds: int
    thorough: bool
    settle_seconds: int
    idle_seconds: int
    protocols: tuple[str, ...]
    both_directions: bool


QUICK = Effort(
    repetitions=1, seconds=3, warm_up=1, pings=10, cpu_seconds=2, memory_seconds=5, thorough=False, settle_seconds=10,
    idle_seconds=5, protocols=("udp",), both_directions=False,
)  # fmt: skip
FULL = Effort(
    repetitions=3, seconds=4, warm_up=1, pings=20, cpu_seconds=2, memory_seconds=5, thorough=True, settle_seconds=30,
    idle_seconds=30, protocols=("tcp", "udp"), both_directions=True,
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    :param kind: its VM type, or ``control-plane``
    :param emulated: whether QEMU emulates it
    :param host: the name of the server that runs its guest, empty if it is a server itself
    :param allocatable: bytes of memory that pods may have
    :param requested: bytes of memory that running pods have requested
    :param problem: why Kubernetes does not call it Ready; empty if it does
    :param machine: what the cluster file says of the emulated machine; empty for a server
    """

    name: str
    kind: str
    architecture: str
    emulated: bool
    host: str
    address: str
    cpus: int
    allocatable: int
    requested: int
    problem: str = ""
    machine: str = ""


@dataclass(frozen=True)
class Measurement:
    """A command that is measured.

    :param name: unique name, the same in every run on the same nodes
    :param group: one of ``GROUPS``, or ``idle``
    :param metric: what is measured
    :param tool: the program, which decides how its output is parsed
    :param path: how packets travel: ``pod-pod``, ``pod-service``, ``pod-pod-same-node``, ``node-node``; empty without packets
    :param protocol: ``tcp``, ``udp`` or ``icmp``; empty without packets
    :param client: node on which the command runs
    :param server: node that it talks to, empty without packets
    :param pod: pod in which it runs
    :param argv: the command
    :param repetition: number of the repetition, from 1
    """

    name: str
    group: str
    metric: str
    tool: str
    path: str
    protocol: str
    client: str
    server: str
    pod: str
    argv: tuple[str, ...]
    repetition: int


def read_nodes(items: Sequence[Mapping[str, Any]], cluster_nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the cluster's nodes.

    :param items: nodes and pods as the API returns them
    :param cluster_nodes: nodes that the cluster file asks for: ``name``, ``kind``, ``architecture``, ``emulated``, ``host``
    """
    registered = {item["metadata"]["name"]: item for item in items if item["kind"] == "Node"}
    requested: dict[str, int] = {}
    for item in items:
        running = item["kind"] == "Pod" and item.get("status", {}).get("phase") in ("Pending", "Running")
        if running and item["metadata"]["namespace"] != NAMESPACE:
            on = item["spec"].get("nodeName", "")
            requested[on] = requested.get(on, 0) + _requested_memory(item)
    return [_node(wanted, registered.get(wanted["name"]), requested.get(wanted["name"], 0)) for wanted in cluster_nodes]


def _requested_memory(pod: Mapping[str, Any]) -> int:
    """Return the bytes of memory that a pod's containers request."""
    requests = [container.get("resources", {}).get("requests", {}) for container in pod["spec"]["containers"]]
    return sum(parse_quantity(request["memory"]) for request in requests if "memory" in request)


def _node(wanted: Mapping[str, Any], found: Optional[Mapping[str, Any]], requested: int) -> Node:
    status: Mapping[str, Any] = (found or {}).get("status", {})
    addresses = [entry["address"] for entry in status.get("addresses", []) if entry["type"] == "InternalIP"]
    allocatable = status.get("allocatable", {})
    return Node(
        name=wanted["name"],
        kind=wanted["kind"],
        architecture=wanted["architecture"],
        emulated=bool(wanted["emulated"]),
        host=wanted.get("host", ""),
        address=addresses[0] if addresses else "",
        cpus=int(parse_quantity(allocatable.get("cpu", "0"))),
        allocatable=parse_quantity(allocatable.get("memory", "0")),
        requested=requested,
        problem=ready_problem(found),
        machine=wanted.get("machine", ""),
    )


def choose_nodes(nodes: Sequence[Node], selected: Sequence[str]) -> list[Node]:
    """Return the nodes to measure: those that the user selected, else all, after checking that each can be measured.

    :raises BenchError: a selected node does not exist, a node is not Ready, or it has too little memory for the pods
    """
    known = {node.name for node in nodes}
    unknown = [name for name in selected if name not in known]
    if unknown:
        raise BenchError(f"{', '.join(unknown)}: no such node; allowed are {', '.join(sorted(known))}")
    chosen = [node for node in nodes if not selected or node.name in selected]
    problems = [f"node {node.name} is not Ready: {node.problem}" for node in chosen if node.problem]
    needed = sum(POD_MEMORY.values()) * _MIB
    problems += [
        f"node {node.name} has {max(node.allocatable - node.requested, 0) // _MIB} MiB of memory left for pods; "
        f"the pods of the benchmark need {needed // _MIB} MiB"
        for node in chosen
        if not node.problem and node.allocatable - node.requested < needed
    ]
    if problems:
        hint = "hint: `q8s-run status FILE` shows why a node is not Ready; --nodes measures others"
        raise BenchError("\n".join([*problems, hint]))
    return chosen


def representatives(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes between which the network is measured: two of each kind, so that paths within a kind exist."""
    chosen: list[Node] = []
    for node in nodes:
        if sum(1 for other in chosen if other.kind == node.kind) < 2:
            chosen.append(node)
    return chosen


def measurements(nodes: Sequence[Node], groups: Sequence[str], effort: Effort) -> list[Measurement]:
    """Return all measurements in the order in which they run: the idle cluster first, and then one after the other."""
    found = [_idle(nodes, effort)]
    for repetition in range(1, effort.repetitions + 1):
        if "network" in groups:
            found += _network(representatives(nodes), effort, repetition)
        for node in _one_of_each_kind(nodes):
            found += _machine(node, groups, effort, repetition)
    return found


def _one_of_each_kind(nodes: Sequence[Node]) -> list[Node]:
    return list({node.kind: node for node in reversed(nodes)}.values())[::-1]


def _idle(nodes: Sequence[Node], effort: Effort) -> Measurement:
    pod = f"node-{nodes[0].name}"
    argv = ("sleep", str(effort.idle_seconds))
    return Measurement("idle", "idle", "idle", "sleep", "", "", nodes[0].name, "", pod, argv, 1)


def _network(nodes: Sequence[Node], effort: Effort, repetition: int) -> list[Measurement]:
    pairs = list(combinations(nodes, 2))
    found = []
    for client, server in pairs:
        found += [_ping(client, server, effort, repetition, path) for path in ("node-node", "pod-pod")]
    found += [_ping(node, node, effort, repetition, "pod-pod-same-node") for node in nodes]
    for client, server in pairs:
        found += [_sockperf(client, server, effort, repetition, protocol) for protocol in effort.protocols]
    for client, server in pairs:
        ways = [("pod-pod", client, server), ("pod-service", client, server)]
        if effort.both_directions:  # what a Service adds, one direction shows
            ways.append(("pod-pod", server, client))
        found += [
            _iperf(one, other, effort, repetition, path=path, protocol=protocol)
            for path, one, other in ways
            for protocol in ("tcp", "udp")
        ]
    return found


def _name(repetition: int, *parts: str) -> str:
    return "/".join([part for part in parts if part] + [str(repetition)])


def _ping(client: Node, server: Node, effort: Effort, repetition: int, path: str) -> Measurement:
    # Pods' addresses are known when they run: @pod-NODE@ stands for one.
    target = {"node-node": server.address, "pod-pod": f"@pod-{server.name}@"}.get(path, f"@peer-{server.name}@")
    argv = ("ping", "-n", "-q", "-c", str(effort.pings), "-i", "0.2", "-W", "2", target)
    pod = f"node-{client.name}" if path == "node-node" else f"pod-{client.name}"
    name = _name(repetition, "latency", path, client.name, server.name)
    return Measurement(
        name, "network", "latency", "ping", path, "icmp", client.name, server.name, pod, argv, repetition
    )


def _sockperf(client: Node, server: Node, effort: Effort, repetition: int, protocol: str) -> Measurement:
    argv = ["sockperf", "ping-pong", "--ip", f"@pod-{server.name}@", "--port", str(SOCKPERF_PORT)]
    argv += ["-t", str(effort.seconds), *(["--tcp"] if protocol == "tcp" else [])]
    name = _name(repetition, "round-trip", "pod-pod", protocol, client.name, server.name)
    pod = f"pod-{client.name}"
    return Measurement(
        name, "network", "round-trip", "sockperf", "pod-pod", protocol, client.name, server.name, pod, tuple(argv),
        repetition,
    )  # fmt: skip


def _iperf(client: Node, server: Node, effort: Effort, repetition: int, *, path: str, protocol: str) -> Measurement:
    target = f"@pod-{server.name}@" if path == "pod-pod" else f"@service-{server.name}@"
    argv = ["iperf3", "--json", "--client", target, "--port", str(IPERF_PORT), "--time", str(effort.seconds)]
    # As in k8s-bench-suite: UDP as fast as the sender can.
    argv += ["--omit", str(effort.warm_up), "--connect-timeout", "5000"]
    argv += ["--udp", "--bitrate", "0"] if protocol == "udp" else []
    name = _name(repetition, "bandwidth", path, protocol, client.name, server.name)
    pod = f"pod-{client.name}"
    return Measurement(
        name, "network", "bandwidth", "iperf3", path, protocol, client.name, server.name, pod, tuple(argv), repetition
    )


def _machine(node: Node, groups: Sequence[str], effort: Effort, repetition: int) -> list[Measurement]:
    """Return the measurements of a node's own speed."""
    seconds = str(effort.cpu_seconds)
    commands: list[tuple[str, str, str, list[str]]] = []
    if "cpu" in groups:
        stress, all_cores = ["stress-ng", "--metrics", "--timeout", seconds], ["--cpu", str(node.cpus)]
        commands += [
            ("cpu", "integer", "stress-ng", [*stress, "--cpu", "1", "--cpu-method", "int64"]),
            ("cpu", "floating-point", "stress-ng", [*stress, "--cpu", "1", "--cpu-method", "double"]),
            ("cpu", "integer-all-cores", "stress-ng", [*stress, *all_cores, "--cpu-method", "int64"]),
        ]
        speed = ["openssl", "speed", "-mr", "-seconds", seconds, "-bytes", "16384"]
        commands += [("cpu", name, "openssl", [*speed, "-evp", name]) for name in ("aes-128-gcm", "sha256")]
        if effort.thorough:
            of_all = [*speed, "-multi", str(node.cpus), "-evp", "aes-128-gcm"]
            commands += [
                ("cpu", "floating-point-all-cores", "stress-ng", [*stress, *all_cores, "--cpu-method", "double"]),
                ("cpu", "aes-128-gcm-all-cores", "openssl", of_all),
            ]
        if effort.repetitions > 1 and repetition == 1:  # under emulation the smallest dictionary takes a minute
            commands.append(("cpu", "7-zip", "7za", ["7za", "b", "1", "-mmt1", "-md18"]))
    if "memory" in groups:
        memory = ["stress-ng", "--metrics", "--timeout", str(effort.memory_seconds)]
        stream = [*memory, "--stream", "1", "--stream-l3-size", "4m"]
        commands.append(("memory", "stream", "stress-ng", stream))
    if "disk" in groups:
        commands += [
            ("disk", metric, "fio", _fio(metric, seconds))
            for metric in FIO_JOBS
            if effort.thorough or metric != "random-write"
        ]
    pod = f"pod-{node.name}"
    return [
        Measurement(
            _name(repetition, group, metric, node.name), group, metric, tool, "", "", node.name, "", pod, tuple(argv),
            repetition,
        )
        for group, metric, tool, argv in commands
    ]  # fmt: skip


FIO_JOBS = {
    "sequential-read": ["--rw=read", "--bs=1m", "--direct=1"],
    "sequential-write": ["--rw=write", "--bs=1m", "--direct=1"],
    "random-read": ["--rw=randread", "--bs=4k", "--iodepth=16", "--direct=1"],
    "random-write": ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--direct=1"],
    "write-fsync": ["--rw=write", "--bs=4k", "--fsync=1"],
}


def _fio(metric: str, seconds: str) -> list[str]:
    common = ["--name=q8s", "--filename=/data/fio", "--size=64m", "--ioengine=libaio", "--time_based"]
    return ["fio", *common, f"--runtime={seconds}", "--output-format=json", *FIO_JOBS[metric]]


def limit_seconds(left: Sequence[Mapping[str, Any]], effort: Effort) -> int:
    """Return the seconds after which the pods are removed, whatever happened.

    :param left: the measurements that are left
    """
    return _START_SECONDS + len(left) * _OVERHEAD_SECONDS + _seconds(left, effort)


def progress(batches: Sequence[Mapping[str, Any]], effort: Effort) -> list[dict[str, int]]:
    """Return for each part how many measurements are ``done`` before it, of how many (``total``), and the seconds that
    those (``before``) and the others (``left``) take on a machine that does nothing else."""
    counts = [len(batch["measurements"]) for batch in batches]
    seconds = [
        round(len(batch["measurements"]) * _USUAL_OVERHEAD_SECONDS) + _seconds(batch["measurements"], effort)
        for batch in batches
    ]
    return [
        {"done": sum(counts[:at]), "total": sum(counts), "before": sum(seconds[:at]), "left": sum(seconds[at:])}
        for at in range(len(batches))
    ]


def progress_line(found: Mapping[str, int], elapsed: float) -> str:
    """Return how far the benchmark is, and how long the rest takes at the pace at which this machine measured so far.

    :param found: of a part, as ``progress`` returns it
    :param elapsed: seconds since the first part has begun
    """
    pace = elapsed / found["before"] if found["before"] else 1.0
    minutes = max(round(found["left"] * pace / 60), 1)
    return f"{found['done']} of {found['total']} measurements, about {minutes} min left"


def _seconds(left: Sequence[Mapping[str, Any]], effort: Effort) -> int:
    """Return for how many seconds measurements run, one after the other."""
    return sum(_duration(one, effort) for one in left)


def _duration(measurement: Mapping[str, Any], effort: Effort) -> int:
    """Return for how many seconds a measurement runs."""
    by_tool = {
        "sleep": effort.idle_seconds,
        "ping": effort.pings // 5 + 2,
        "sockperf": effort.seconds,
        "iperf3": effort.seconds + effort.warm_up,
        "7za": 40,
    }
    of_machine = effort.memory_seconds if measurement["group"] == "memory" else effort.cpu_seconds
    return by_tool.get(measurement["tool"], of_machine)


def fill_addresses(measurement: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, Any]:
    """Return a measurement with the addresses of pods and Services in its command.

    :param addresses: address by ``pod-NODE``, ``peer-NODE`` and ``service-NODE``
    :raises KeyError: one has no address
    """
    argv = [
        addresses[part[1:-1]] if part.startswith("@") and part.endswith("@") else part for part in measurement["argv"]
    ]
    return {**measurement, "argv": argv}
