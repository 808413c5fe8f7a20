"""The network's matrix: who reaches whom, under which address, from every pod, node, worker's host and from outside.

One control plane, an x86_64 and an aarch64 worker. ``network_cells.py`` says what must be; a test is a group of cells,
and names each that is wrong. The reboots are last. ``make test-long`` runs them; with Q8S_TEST_CLUSTER=FILE they use
the cluster of that file, and the environment's cloud, and leave the cluster as it was. Q8S_TEST_NETWORK_RESULTS=FILE
keeps the cells as JSON; ``python tests/e2e/network_table.py FILE`` makes the documentation's table of it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from q8s_lab import settings
from tests.e2e import network_cells as cells
from tests.e2e.clusters import DEMO, Cluster, given_or_deployed
from tests.e2e.network_cells import Cell, Client, Node, Service
from tests.e2e.pods import IMAGE, PYTHON, python_of_the_node

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("half an hour"),
]
NAME: Final = "net"
NAMESPACE: Final = "q8s-network"
PROBE: Final = Path(__file__).with_name("network_probe.py").read_text()
GIB: Final = 1 << 30
PATIENCE: Final = 420  # seconds: a reboot of a guest, or of a host and its guest, until its pod answers
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def pod(node: str, architecture: str, name: str, address: str, port: int, **spec: Any) -> dict[str, Any]:
    """Return a pod on a node that serves on an address."""
    python = python_of_the_node(architecture, "probe")
    command = [PYTHON, "-u", "/probe.d/probe.py", "serve", node, address, str(port)]
    container = {
        "name": "probe",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "volumeMounts": python["volumeMounts"],
        "ports": spec.pop("ports", []),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"node": node, "app": name.split("-", maxsplit=1)[0]},
        },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": python["volumes"],
            **spec,
        },
    }


def service(name: str, selector: Mapping[str, str], port: int = cells.POD_PORT, **spec: Any) -> dict[str, Any]:
    ports = [
        {"name": kind.lower(), "protocol": kind, "port": port, "targetPort": cells.POD_PORT} for kind in ("TCP", "UDP")
    ]
    metadata = {"name": name, "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": dict(selector), "ports": ports, **spec},
    }


def manifests(addresses: Mapping[str, str], architectures: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a pod in the pod network and one on the node's address for each node, and each node's Services."""
    metadata = {"name": "probe", "namespace": NAMESPACE}
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"probe.py": PROBE}},
        service("all", {"app": "net"}, sessionAffinity="ClientIP"),
    ]
    for node, address in addresses.items():
        ports = [
            {"containerPort": cells.POD_PORT, "hostPort": port, "protocol": kind, **more}
            for kind in ("TCP", "UDP")
            for port, more in ((cells.HOST_PORT, {}), (cells.HOST_PORT_WITH_IP, {"hostIP": address}))
        ]
        selector = {"app": "net", "node": node}
        found += [
            pod(node, architectures[node], f"net-{node}", "0.0.0.0", cells.POD_PORT, ports=ports),
            pod(node, architectures[node], f"own-{node}", address, cells.OWN_PORT, hostNetwork=True),
            service(f"port-{node}", selector, type="NodePort"),
            service(f"local-{node}", selector, type="NodePort", externalTrafficPolicy="Local"),
            service(f"external-{node}", selector, port=cells.EXTERNAL_PORT, externalIPs=[address]),
        ]
    return found


@dataclass
class Network:
    """The cluster with the pods of these tests on it, and the cells that were tried."""

    cluster: Cluster
    nodes: list[Node] = field(default_factory=list)
    services: dict[str, Service] = field(default_factory=dict)
    dns: str = ""
    api: str = ""
    outside: str = ""
    tried: list[Cell] = field(default_factory=list)

    @property
    def control_plane(self) -> Node:
        return next(node for node in self.nodes if not node.gateway)

    @property
    def workers(self) -> list[Node]:
        return [node for node in self.nodes if node.gateway]

    def on_control_plane(self, command: str, server: str = "") -> str:
        """Run a shell command as root on the control plane. Return what it prints."""
        done = self.attempt(command, server)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def attempt(self, command: str, server: str = "") -> subprocess.CompletedProcess[str]:
        first = server or f"{yaml.safe_load(self.cluster.file.read_text())['name_of_initial_instance']}"
        return self.cluster.attempt("ssh", first, "--", f"sudo sh -c {shlex.quote(command)}")

    def kubectl(self, *arguments: str) -> str:
        return self.on_control_plane(shlex.join(["kubectl", f"--namespace={NAMESPACE}", *arguments]))

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def ask(self, client: Client, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Let a client make requests. Return their results."""
        asked = json.dumps([dict(request) for request in requests])
        command = ["python3", "-c", PROBE, "ask", asked]
        if client.kind == "outside":
            output = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=True).stdout
        elif client.kind == "host":
            assert client.node
            output = self.on_control_plane(shlex.join(command), f"{self.cluster.name}-{client.node.name}")
        else:
            assert client.node
            name = f"{'net' if client.kind == 'pod' else 'own'}-{client.node.name}"
            output = self.kubectl("exec", name, "--", PYTHON, "/probe.d/probe.py", *command[3:])
        found: list[dict[str, Any]] = json.loads(output.strip().splitlines()[-1])
        return found

    def pod(self, node: Node) -> Client:
        return Client(f"pod on {node.name}", "pod", node)

    def matrix(self, make: Callable[[Client], Iterator[Cell]]) -> list[Cell]:
        """Try the cells of all clients, each client's in one go. Return them with their results."""

        def of(client: Client) -> list[Cell]:
            wanted = list(make(client))
            if not wanted:
                return []
            results = self.ask(client, [cell.request for cell in wanted])
            return [cell.with_result(result) for cell, result in zip(wanted, results, strict=True)]

        with ThreadPoolExecutor(max_workers=3) as pool:
            found = [cell for part in pool.map(of, cells.clients(self.nodes)) for cell in part]
        self.keep(found)
        return found

    def keep(self, found: Sequence[Cell]) -> None:
        """Remember the cells that were tried, and write them to the file of Q8S_TEST_NETWORK_RESULTS."""
        self.tried += found
        if file := os.environ.get("Q8S_TEST_NETWORK_RESULTS"):
            Path(file).write_text(json.dumps([cell.as_row() for cell in self.tried], indent=1))

    def try_one(self, group: str, client: Client, target: str, what: str, request: Mapping[str, Any]) -> Cell:
        """Try a request that must not fail."""
        (result,) = self.ask(client, [request])
        cell = Cell(group, client.name, target, what, request, {}, result)
        self.keep([cell])
        return cell


def verdict(found: Sequence[Cell]) -> None:
    """Fail with every cell that is wrong."""
    assert found
    wrong = [str(cell) for cell in found if not cell.passed]
    assert not wrong, f"{len(wrong)} of {len(found)} cells are wrong:\n" + "\n".join(wrong)


def network_file(folder: Path) -> Path:
    """Write examples/demo.yaml for the lab, with another range of NodePorts than Kubernetes' own. Return its path."""
    file = folder / "cluster.yaml"
    data = yaml.safe_load(DEMO.read_text().replace("demo", NAME))
    data |= {"remote_ip_prefix": str(settings.load().subnet), "worker_port_range_max": 31999}
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with given_or_deployed(request, tmp_path_factory.mktemp(NAME), NAME, network_file) as found:
        yield found


@pytest.fixture(scope="module")
def network(cluster: Cluster) -> Iterator[Network]:
    found = Network(cluster)
    listed = {node["metadata"]["name"]: node for node in found.get("nodes")["items"]}
    addresses = {
        name: next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
        for name, node in listed.items()
    }
    architectures = {name: node["status"]["nodeInfo"]["architecture"] for name, node in listed.items()}
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests(addresses, architectures)})
    clean = f"kubectl delete namespace {NAMESPACE} --ignore-not-found --timeout=120s"
    try:
        found.on_control_plane(f"{clean}; kubectl apply --filename=- <<'E'\n{text}\nE")
        found.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=600s")
        pods = {one["metadata"]["name"]: one["status"]["podIP"] for one in found.get("pods")["items"]}
        services = {one["metadata"]["name"]: one["spec"] for one in found.get("services")["items"]}
        found.outside = own_address(addresses)
        for name, node in listed.items():
            gateway = None
            if not any("control-plane" in label for label in node["metadata"]["labels"]):
                route = found.cluster.command("ssh", name, "--", "ip -4 route show default")
                gateway = route.split("via ")[1].split()[0]
            prefix = ipaddress.IPv4Network(node["spec"]["podCIDR"])
            found.nodes.append(Node(name, addresses[name], pods[f"net-{name}"], prefix, gateway))
            port, local = services[f"port-{name}"], services[f"local-{name}"]
            found.services[name] = Service(
                port["clusterIP"], port["ports"][0]["nodePort"], local["clusterIP"], local["ports"][0]["nodePort"]
            )
            assert port["ports"][0]["nodePort"] == port["ports"][1]["nodePort"], "the same for TCP and UDP"
        found.api = found.get("service", "kubernetes", "--namespace=default")["spec"]["clusterIP"]
        found.dns = found.get("service", "kube-dns", "--namespace=kube-system")["spec"]["clusterIP"]
        yield found
    finally:
        found.attempt(clean)


def own_address(addresses: Mapping[str, str]) -> str:
    """Return this machine's address in the servers' network."""
    route = subprocess.run(
        ["ip", "-4", "-o", "route", "get", next(iter(addresses.values()))], capture_output=True, text=True, check=True
    )
    return route.stdout.split(" src ")[1].split()[0]


def test_pods_and_services_are_reached_by_pods_and_nodes(network: Network) -> None:
    verdict(network.matrix(lambda client: cells.to_pods(client, network.nodes, network.services)))


def test_ports_of_the_nodes_address_arrive_at_the_node(network: Network) -> None:
    """Those that the file does not list, from all members of the group, and from nobody else."""
    verdict(network.matrix(lambda client: cells.to_node_addresses(client, network.nodes, network.outside)))


def test_node_ports_of_both_policies(network: Network) -> None:
    nodes, services = network.nodes, network.services
    verdict(network.matrix(lambda client: cells.to_node_ports(client, nodes, services, network.outside)))


def test_external_ips(network: Network) -> None:
    verdict(network.matrix(lambda client: cells.to_external_ips(client, network.nodes)))


def test_ports_of_the_system(network: Network) -> None:
    data = yaml.safe_load(network.cluster.file.read_text())
    verdict(network.matrix(lambda client: cells.to_ports(client, network.nodes, data["required_tcp_ports"])))


def test_vxlan_is_for_members_only(network: Network) -> None:
    """The file lists UDP 8472. Nothing answers there, so what arrives is looked at on the node."""
    assert cells.VXLAN_PORT in yaml.safe_load(network.cluster.file.read_text())["required_udp_ports"]
    found = []
    for node, other, cell in cells.vxlan(network.nodes, network.outside):
        sending = {"kind": "send", "address": node.address, "port": cells.VXLAN_PORT, "seconds": 25}
        with ThreadPoolExecutor() as pool:
            result = pool.submit(network.ask, Client(node.name, "node", node), [cell.request])
            time.sleep(10)  # until it looks, on an emulated node, too
            for sender in (Client(other.name, "node", other), Client("outside", "outside")):
                pool.submit(network.ask, sender, [sending])
            found.append(cell.with_result(result.result()[0]))
    network.keep(found)
    verdict(found)


@contextmanager
def node_ports_on_primary_addresses(network: Network) -> Iterator[None]:
    """Set kube-proxy's nodePortAddresses to primary, and back in the end."""

    def apply(text: str) -> None:
        patch = json.dumps({"data": {"config.conf": text}})
        network.kubectl("--namespace=kube-system", "patch", "configmap", "kube-proxy", f"--patch={patch}")
        network.kubectl("--namespace=kube-system", "rollout", "restart", "daemonset/kube-proxy")
        network.kubectl("--namespace=kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=420s")

    before = network.get("--namespace=kube-system", "configmap", "kube-proxy")["data"]["config.conf"]
    wanted = yaml.safe_load(before)
    assert not wanted.get("nodePortAddresses"), "the cluster has Kubernetes' default"
    try:
        apply(yaml.safe_dump({**wanted, "nodePortAddresses": ["primary"]}))
        yield
    finally:
        apply(before)


def test_node_ports_on_the_primary_address_only(network: Network) -> None:
    """kube-proxy takes the InternalIP for the primary address, so it must be the one at which packets arrive."""
    nodes, services = network.nodes, network.services
    with node_ports_on_primary_addresses(network):
        found = network.matrix(lambda client: cells.to_node_ports(client, nodes, services, network.outside))
    verdict(found)


def test_with_inside_listed_members_reach_the_listed_ports_only(network: Network) -> None:
    """A live edit: nothing restarts, so the pods of these tests answer before, meanwhile and afterwards."""
    file = network.cluster.file
    text = file.read_text()
    assert "inside" not in yaml.safe_load(text)
    listed = yaml.safe_load(text)["required_tcp_ports"]

    def of(client: Client) -> Iterator[Cell]:
        yield from cells.to_node_addresses(client, network.nodes, network.outside, inside="listed")
        yield from cells.to_ports(client, network.nodes, listed)
        yield from cells.to_pods(client, network.nodes, network.services)

    try:
        file.write_text(f"{text.rstrip()}\ninside: listed\n")
        network.cluster.command("deploy", "--yes")
        verdict(network.matrix(of))
    finally:
        file.write_text(text)
        network.cluster.command("deploy", "--yes")
    verdict(network.matrix(lambda client: cells.to_node_addresses(client, network.nodes, network.outside)))


def test_port_22_is_the_hosts_and_2222_the_guests(network: Network) -> None:
    """Whose ssh answers: Q8S logs in to the guest by 2222."""
    for node in network.workers:
        host = f"{network.cluster.name}-{node.name}"
        assert network.cluster.attempt("ssh", host, "--", "hostname").stdout.strip() == host
        assert network.cluster.attempt("ssh", node.name, "--", "hostname").stdout.strip() == node.name


def test_icmp_and_path_mtu(network: Network) -> None:
    def of(client: Client) -> Iterator[Cell]:
        other = next(node for node in network.nodes if node != client.node)
        (found,) = network.ask(client, [{"kind": "mtu", "address": other.address}])
        return cells.pings(client, network.nodes, found["mtu"])

    verdict(network.matrix(of))


def test_dns_over_udp_and_tcp(network: Network) -> None:
    verdict(network.matrix(lambda client: cells.names(client, network.dns, network.api)))


def test_session_affinity(network: Network) -> None:
    address = network.get("service", "all")["spec"]["clusterIP"]
    request = {"kind": "affinity", "address": address, "port": cells.POD_PORT, "times": 12, "attempts": 3}
    found = [
        network.try_one("session affinity", network.pod(node), "Service of all", "12 connections", request)
        for node in network.nodes
    ]
    verdict(found)
    assert [len(cell.result["names"]) for cell in found if cell.result] == [1] * len(found), "each has one endpoint"


def test_short_connections_have_no_step_of_a_second(network: Network) -> None:
    """A SYN that is lost is sent again after 1 s. An emulated client does a thousand in about half a minute."""
    wrong = []
    for node in network.nodes:
        target = next(one for one in network.nodes if one != node)
        place = {"address": network.services[target.name].cluster_ip, "port": cells.POD_PORT}
        request = {"kind": "short", "times": 1000, **place}
        cell = network.try_one("short connections", network.pod(node), f"Service of {target.name}", "1000", request)
        result = cell.result or {}
        if result.get("number") != 1000 or result["longest"][-1] >= 1:
            wrong.append(str(cell))
    assert not wrong, "\n".join(wrong)


def test_large_transfers_arrive_whole(network: Network) -> None:
    """1 GiB once; less where emulation makes it a matter of many minutes."""
    x86, arm = (next(n for n in network.workers if word in n.name) for word in ("x86", "arm"))
    first = network.control_plane
    found = []
    for source, target, way, size in (
        (x86, first, "take", GIB),
        (first, x86, "take", GIB // 4),
        (x86, arm, "take", GIB // 16),
        (arm, x86, "take", GIB // 16),
        (first, arm, "give", GIB // 16),
    ):
        place = {"address": target.pod, "port": cells.POD_PORT}
        request = {"kind": "transfer", "way": way, "size": size, **place}
        what = f"{size >> 20} MiB {'there' if way == 'take' else 'back'}"
        found.append(network.try_one("transfers", network.pod(source), f"pod on {target.name}", what, request))
    place = {"address": x86.address, "port": network.services[x86.name].node_port}
    request = {"kind": "transfer", "way": "give", "size": GIB // 8, **place}
    found.append(network.try_one("transfers", Client("outside", "outside"), x86.name, "128 MiB by NodePort", request))
    verdict(found)
    assert all(cell.result and cell.result["same"] for cell in found), "both ends have the same SHA-256"


def test_logs_exec_copy_and_port_forward(network: Network) -> None:
    """Each node's, by the API server, which connects to the kubelet at the node's address."""
    for node in network.nodes:
        name = f"net-{node.name}"
        assert f"{node.name} serves" in network.kubectl("logs", name)
        assert network.kubectl("exec", name, "--", "/usr/bin/python3", "-c", "print(6 * 7)").strip().endswith("42")
        # kubectl needs a tar in the pod: the node's
        there, back = f"/root/q8s-there-{node.name}", f"/root/q8s-back-{node.name}"
        target = f"{NAMESPACE}/{name}:/tmp/copied"
        script = f"""
head -c 3000000 /dev/urandom > {there}
kubectl exec -n {NAMESPACE} {name} -- /usr/bin/python3 -c 'import os; os.makedirs("/tmp", exist_ok=True)'
kubectl cp {there} {target} && kubectl cp {target} {back} >/dev/null && cmp {there} {back} && rm {there} {back}
"""
        network.on_control_plane(f"set -e\n{script}")
        script = f"""
kubectl port-forward -n {NAMESPACE} {name} 18999:{cells.POD_PORT} >/dev/null 2>&1 & trap "kill $!" EXIT
for _ in $(seq 30); do sleep 1
  python3 - <<'P' && exit 0
import socket
s = socket.create_connection(("127.0.0.1", 18999), 10)
s.sendall(b"hello\\n")
print(s.recv(200).decode())
P
done
exit 1
"""
        assert f'"name": "{node.name}"' in network.on_control_plane(script)
        # what `kubectl top` is made from; the add-on metrics-server has a test of its own
        metrics = network.kubectl("get", "--raw", f"/api/v1/nodes/{node.name}/proxy/metrics/resource")
        assert "node_cpu_usage_seconds_total" in metrics


def test_the_range_of_node_ports_is_the_files(network: Network) -> None:
    data = yaml.safe_load(network.cluster.file.read_text())
    low, high = data["worker_port_range_min"], data["worker_port_range_max"]
    for port in (low - 1, high + 1):
        done = network.attempt(f"kubectl create service nodeport q8s-range --tcp=80 --node-port={port} 2>&1")
        assert done.returncode != 0
        assert f"The range of valid ports is {low}-{high}" in done.stdout


def flows(network: Network, node: Node) -> list[tuple[Client, str, dict[str, Any]]]:
    """UDP flows to a node's pod, each of one socket: they must be answered again after a reboot."""
    port = network.services[node.name]
    first = network.control_plane
    places = [
        (Client("outside", "outside"), "NodePort Cluster", node.address, port.node_port),
        (Client(first.name, "node", first), "hostPort", node.address, cells.HOST_PORT),
        (network.pod(first), "ClusterIP", port.cluster_ip, cells.POD_PORT),
        (network.pod(first), "NodePort of the control plane", first.address, port.node_port),
    ]
    return [(who, what, {"kind": "flow", "address": at, "port": number}) for who, what, at, number in places]


def watched(network: Network, node: Node, reboot: Callable[[], object], group: str) -> list[Cell]:
    """Reboot while the flows run, and until the node's pod answers a new client. Return the flows as cells."""
    with ThreadPoolExecutor() as pool:
        running = [
            pool.submit(network.try_one, group, who, f"pod on {node.name}", what, {**request, "seconds": PATIENCE})
            for who, what, request in flows(network, node)
        ]
        time.sleep(15)
        reboot()
        return [future.result() for future in running]


def assert_answered_again(found: Sequence[Cell]) -> None:
    wrong = []
    for cell in found:
        print(cell.source, cell.what, cell.result)
        result = cell.result or {}
        # the last answers are from the end: the flow has gone on after the gap
        if "error" in result or not 5 < result["gap"] < PATIENCE - 60 or result["last"] < PATIENCE - 5:
            wrong.append(str(cell))
    assert not wrong, "\n".join(wrong)


def wait_for(network: Network, node: Node) -> None:
    network.kubectl("wait", "--for=condition=Ready", f"node/{node.name}", "--timeout=300s")
    network.kubectl("wait", "--for=condition=Ready", f"pod/net-{node.name}", "--timeout=300s")


def test_udp_flows_go_on_after_a_reboot_of_the_guest(network: Network) -> None:
    node = next(one for one in network.workers if "x86" in one.name)
    reboot = ("ssh", node.name, "--", "systemctl reboot")
    found = watched(network, node, lambda: network.cluster.attempt(*reboot), "guest's reboot")
    wait_for(network, node)
    assert_answered_again(found)


def test_udp_flows_go_on_after_a_reboot_of_the_host(network: Network) -> None:
    node = next(one for one in network.workers if "x86" in one.name)
    server = network.cluster.servers()[f"{network.cluster.name}-{node.name}"]
    found = watched(network, node, lambda: network.cluster.cloud.compute.reboot_server(server, "SOFT"), "host's reboot")
    wait_for(network, node)
    assert_answered_again(found)
