"""The cells of the network's matrix: who asks whom for what, and what must come of it. Pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

VXLAN_PORT: Final = 8472
HOST_PORT, HOST_PORT_WITH_IP, OWN_PORT, EXTERNAL_PORT, POD_PORT = 18080, 18081, 19100, 80, 8080
DROPPED, REFUSED, TOO_BIG = {"error": "dropped"}, {"error": "refused"}, {"error": "too big"}
ATTEMPTS: Final = 3  # an emulated node at times needs more than 5 s for an answer


@dataclass(frozen=True)
class Node:
    """A node. ``gateway`` is the address of the worker's host that the guest sees, None for a control plane."""

    name: str
    address: str
    pod: str
    pods: ipaddress.IPv4Network
    gateway: str | None

    @property
    def bridge(self) -> tuple[str, ...]:
        """The node's own addresses in its pods' network: the bridge's, and the VXLAN device's."""
        return str(self.pods[1]), str(self.pods[0])


@dataclass(frozen=True)
class Service:
    """A node's Services: each has that node's pod as its only endpoint."""

    cluster_ip: str
    node_port: int
    local_cluster_ip: str
    local_node_port: int


@dataclass(frozen=True)
class Client:
    """Who asks: a pod of a node, the node itself, a worker's host, or a machine outside the security group."""

    name: str
    kind: str
    node: Node | None = None


@dataclass(frozen=True)
class Cell:
    """A cell: the request that the client makes, and what must come of it, as a part of the result.

    Where ``expected`` has a tuple, the result's value is one of it.
    """

    group: str
    source: str
    target: str
    what: str
    request: Mapping[str, Any]
    expected: Mapping[str, Any]
    result: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        result = self.result or {}
        if "error" in result and "error" not in self.expected:
            return False
        return all(
            result.get(key) in value if isinstance(value, tuple) else result.get(key) == value
            for key, value in self.expected.items()
        )

    def __str__(self) -> str:
        return f"{self.group}: {self.source} -> {self.target}, {self.what}: {self.result}, not {dict(self.expected)}"

    def with_result(self, result: Mapping[str, Any]) -> Cell:
        return replace(self, result=result)

    def as_row(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def clients(nodes: Sequence[Node]) -> list[Client]:
    found = [Client(f"pod on {node.name}", "pod", node) for node in nodes]
    found += [Client(node.name, "node", node) for node in nodes]
    found += [Client(f"host of {node.name}", "host", node) for node in nodes if node.gateway]
    return [*found, Client("outside", "outside")]


def sources(client: Client, asked: Node, outside: str) -> tuple[str, ...]:
    """Return the address under which a node sees a client that asks for the node's address."""
    if client.node is None:
        return (outside,)
    if client.node != asked:
        return (client.node.address,)
    return {"pod": (asked.pod,), "node": (asked.address,), "host": (str(asked.gateway),)}[client.kind]


def answers(group: str, client: Client, target: str, what: str, request: Mapping[str, Any], **expected: Any) -> Cell:
    """Return a cell whose request must be answered."""
    return Cell(group, client.name, target, what, {"attempts": ATTEMPTS, **request}, expected)


def to_pods(client: Client, nodes: Sequence[Node], services: Mapping[str, Service]) -> Iterator[Cell]:
    """Pods and ClusterIPs, from pods and nodes: the pod network has no other members."""
    for node in nodes:
        if client.kind == "pod":
            assert client.node
            seen: tuple[str, ...] = (client.node.pod,)
            # a pod that asks itself through a Service would answer itself directly
            through = client.node.bridge if client.node == node else seen
        elif client.kind == "node":
            assert client.node
            seen = through = client.node.bridge
            if client.node == node:
                # kube-proxy's choice depends on the pod's route: the node's address on its bridge, or the node's own
                through = (*client.node.bridge, client.node.address)
        else:
            return
        for kind in ("tcp", "udp"):
            place = {"kind": kind, "address": node.pod, "port": POD_PORT}
            yield answers("pods", client, f"pod on {node.name}", kind, place, sees=seen, name=node.name)
            place = {"kind": kind, "address": services[node.name].cluster_ip, "port": POD_PORT}
            yield answers("ClusterIP", client, f"Service of {node.name}", kind, place, sees=through, name=node.name)


def to_node_addresses(client: Client, nodes: Sequence[Node], outside: str, inside: str = "all") -> Iterator[Cell]:
    """hostPort, hostPort with hostIP, and a program on the node's address (hostNetwork): members of the group only.

    With ``inside: listed`` nobody on another server reaches them, as no list of the file has these ports.
    """
    for node in nodes:
        seen = sources(client, node, outside)
        # the plugin portmap hides a pod's own address from pods on the same bridge
        through = node.bridge if client.kind == "pod" and client.node == node else seen
        for what, port, source in (
            ("hostPort", HOST_PORT, through),
            ("hostPort with hostIP", HOST_PORT_WITH_IP, through),
            ("hostNetwork on the InternalIP", OWN_PORT, seen),
        ):
            for kind in ("tcp", "udp"):
                place = {"kind": kind, "address": node.address, "port": port}
                if client.kind == "outside" or (inside == "listed" and client.node != node):
                    yield Cell(what, client.name, node.name, kind, place, DROPPED)
                else:
                    yield answers(what, client, node.name, kind, place, sees=source, name=node.name)


def to_node_ports(
    client: Client, nodes: Sequence[Node], services: Mapping[str, Service], outside: str
) -> Iterator[Cell]:
    """NodePorts of both policies, asked at every node."""
    for asked in nodes:
        for node in nodes:
            target = f"{asked.name}, pod on {node.name}"
            for kind in ("tcp", "udp"):
                place = {"kind": kind, "address": asked.address, "port": services[node.name].node_port}
                yield answers("NodePort Cluster", client, target, kind, place, sees=asked.bridge, name=node.name)
                place = {"kind": kind, "address": asked.address, "port": services[node.name].local_node_port}
                group = "NodePort Local"
                inside = client.kind in ("pod", "node") and client.node == asked
                if inside:
                    # For kube-proxy this is traffic inside the cluster, so all endpoints count.
                    yield answers(group, client, target, kind, place, name=node.name)
                elif asked == node:
                    seen = sources(client, asked, outside)
                    yield answers(group, client, target, kind, place, sees=seen, name=node.name)
                else:
                    yield Cell(group, client.name, target, f"{kind}, no endpoint", place, DROPPED)


def to_external_ips(client: Client, nodes: Sequence[Node]) -> Iterator[Cell]:
    """Services with a node's address in externalIPs, on a port of the file's lists."""
    for node in nodes:
        # a node's kube-proxy answers for the address itself, wherever it is
        by = client.node if client.node and client.kind in ("pod", "node") else node
        place = {"kind": "tcp", "address": node.address, "port": EXTERNAL_PORT}
        seen = (*by.bridge, by.address)
        yield answers("externalIPs", client, node.name, "tcp", place, sees=seen, name=node.name)


def to_ports(client: Client, nodes: Sequence[Node], listed: Sequence[int]) -> Iterator[Cell]:
    """22 and 2222, and the ports of Kubernetes itself: what the file lists is open to all, etcd to members only."""
    for node in nodes:
        own = client.kind in ("pod", "node") and client.node == node
        for port in (22, 2222):
            if port == 2222 and (not node.gateway or own):
                continue  # a control plane has no guest, and to itself a guest has its ports as they are
            place = {"kind": "banner", "address": node.address, "port": port}
            yield answers(f"port {port}", client, node.name, "ssh", place, says="SSH-")
        place = {"kind": "opens", "address": node.address, "port": 10250}
        yield answers("kubelet", client, node.name, "tcp 10250", place, says="open")
        if not node.gateway:
            place = {**place, "port": 6443}
            yield answers("API server", client, node.name, "tcp 6443", place, says="open")
            for port in (2379, 2380):
                place = {**place, "port": port}
                if client.kind == "outside":
                    assert port in listed, "the file opens it, and Q8S does so for members only"
                    yield Cell("etcd", client.name, node.name, f"tcp {port}", place, DROPPED)
                else:
                    yield answers("etcd", client, node.name, f"tcp {port}", place, says="open")


def vxlan(nodes: Sequence[Node], outside: str) -> Iterator[tuple[Node, Node, Cell]]:
    """Return each node, another one that sends to its VXLAN port, and what must arrive while the outside sends, too."""
    for node in nodes:
        other = next(one for one in nodes if one != node)
        request = {"kind": "arrivals", "port": VXLAN_PORT, "of": [other.address, outside], "seconds": 40}
        sources = f"{other.name} and outside"
        yield node, other, Cell("VXLAN", sources, node.name, "udp 8472", request, {"from": [other.address]})


def pings(client: Client, nodes: Sequence[Node], mtu: int) -> Iterator[Cell]:
    """The largest packet that may not be split arrives, a larger one is refused at once.

    :param mtu: of the client's interface
    """
    for node in nodes:
        targets = [(node.name, node.address)]
        if client.kind in ("pod", "node"):
            targets.append((f"pod on {node.name}", node.pod))
        for target, address in targets:
            own = client.node == node
            size = mtu - 50 if client.kind == "node" and address == node.pod else mtu
            place = {"kind": "ping", "address": address}
            yield answers("ICMP", client, target, "84 bytes", {**place, "size": 84}, size=84)
            if not own:
                largest = {**place, "size": size}
                yield answers("path MTU", client, target, f"{size} bytes, not split", largest, size=size)
                larger = {**place, "size": size + 1}
                yield Cell("path MTU", client.name, target, f"{size + 1} bytes, not split", larger, TOO_BIG)


def names(client: Client, server: str, api: str) -> Iterator[Cell]:
    if client.kind in ("pod", "node"):
        for over in ("udp", "tcp"):
            place = {"kind": "dns", "address": server, "over": over, "name": "kubernetes.default.svc.cluster.local"}
            yield answers("DNS", client, "CoreDNS", over, place, says=api)
