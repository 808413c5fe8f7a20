"""A guest receives what is sent to its node under the node's address, and may send under it, as a control plane does.

Network namespaces are the guest, its host, and a machine elsewhere, behind a router.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from q8s_wrapper.experiment.machines import Machines
from tests.unit.plugins.test_rules import Host, load, namespace

NODE, GUEST, ELSEWHERE = "10.254.1.3", "192.168.1.3", "198.51.100.2"
API_SERVER: Final = "10.254.1.4"  # one of several
METADATA: Final = "169.254.169.254"  # of the host's cloud
MTU: Final = 1300  # of the way to the machine elsewhere
# Namespace -> commands of ip. The host has its addresses before, and the interface of its guest is on the bridge.
NETWORK: Final = {
    "host": (
        "link add ens3 type veth peer name eth0 netns {router}",
        "link add virbr0 type bridge",
        "link add vnet0 type veth peer name eth0 netns {guest}",
        "link set vnet0 master virbr0 up",
        "link set virbr0 up",
        "link set ens3 up",
        f"address add {NODE}/24 dev ens3",
        "address add 192.168.1.1/24 dev virbr0",
        "route add default via 10.254.1.1",
    ),
    "router": (
        "link add eth1 type veth peer name eth0 netns {elsewhere}",
        "address add 10.254.1.1/24 dev eth0",
        "address add 198.51.100.1/24 dev eth1",
        "link set eth0 up",
        f"link set eth1 up mtu {MTU}",
        f"route add {METADATA} via {ELSEWHERE}",
    ),
    "elsewhere": (
        f"address add {ELSEWHERE}/24 dev eth0",
        f"address add {METADATA}/32 dev eth0",
        "link set eth0 up",
        "route add default via 198.51.100.1",
    ),
    "guest": (
        f"address add {GUEST}/24 dev eth0",
        f"address add {NODE}/32 dev lo",
        "link set eth0 up",
        "route add default via 192.168.1.1",
    ),
}
# Answers with the addresses of both ends, and a megabyte. Port 9 tells of the errors (ICMP) that arrived: which source
# the packet inside has, and whether the checksum is right.
SERVE: Final = """
import json, socket, struct, sys, threading
errors = []
def watch():
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800))
    while True:
        packet = link.recv(2000)
        body = packet[20:struct.unpack("!H", packet[2:4])[0]]
        if packet[9] == 1 and body[0] == 3:
            total = sum(struct.unpack(f"!{len(body) // 2}H", body[:len(body) // 2 * 2]))
            errors.append([socket.inet_ntoa(body[20:24]), (total & 0xFFFF) + (total >> 16) == 0xFFFF])
def finish(link, said):
    with link:
        link.sendall(said)
def serve(address, port):
    server = socket.create_server((address, port))
    while True:
        link, client = server.accept()
        report = errors if port == 9 else [client[0], link.getsockname()[0]]
        said = json.dumps(report).encode().ljust(1000000)
        threading.Thread(target=finish, args=(link, said)).start()
def echo(address, port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    while True:
        client = server.recvfrom(100)[1]
        server.sendto(json.dumps([client[0], address]).encode(), client)
threading.Thread(target=watch, daemon=True).start()
for place in sys.argv[1:]:
    kind, address, port = place.split(",")
    threading.Thread(target={"tcp": serve, "udp": echo}[kind], args=(address, int(port))).start()
"""
# Prints the answer, or the error.
ASK: Final = """
import json, socket, sys
kind, address, port, source = sys.argv[1:]
try:
    if kind == "tcp":
        link = socket.create_connection((address, int(port)), 5, source_address=(source, 0))
    else:
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        link.settimeout(5)
        link.bind((source, 0))
        link.connect((address, int(port)))
        link.send(b"x")
    answer = b""
    while part := link.recv(65536):
        answer += part
        if kind == "udp" or len(answer) == 1000000:
            break
    print(answer.decode().strip())
except OSError as error:
    print(json.dumps(type(error).__name__))
"""


class Network:
    """The namespaces, by their names: the process that holds each. ``host`` has the rules of a worker's host."""

    host: Host

    def __init__(self, holders: dict[str, int]) -> None:
        self.holders = holders

    def enter(self, name: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holders[name]}/ns/net"]

    def run(self, name: str, *command: str) -> str:
        done = subprocess.run([*self.enter(name), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, name: str, *places: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.enter(name), sys.executable, "-c", SERVE, *places])

    def ask(self, name: str, kind: str, address: str, port: int, source: str = "") -> Any:
        """Return what a server answers: the client's address and its own."""
        return json.loads(self.run(name, sys.executable, "-c", ASK, kind, address, str(port), source))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with ExitStack() as stack:
        found = Network({name: stack.enter_context(namespace()) for name in NETWORK})
        for name, commands in NETWORK.items():
            found.run(name, "ip", "link", "set", "lo", "up")
            for command in commands:
                found.run(name, "ip", *command.format_map(found.holders).split())
        found.run("router", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        found.host = Host(Path(tmp_path_factory.mktemp("host")), found.holders["host"])
        found.host.api_servers = [API_SERVER]
        found.host.write(NODE)
        load(found.host)
        servers = {
            "guest": [f"tcp,{NODE},9100", f"udp,{NODE},9100", "tcp,,22", "tcp,,9"],
            "host": ["tcp,,22", "tcp,,9100", "tcp,,6443"],  # as the proxy of the Kubernetes API does
            "elsewhere": ["tcp,,80", "udp,0.0.0.0,80"],
        }
        for name, places in servers.items():
            server = found.serve(name, *places)
            stack.callback(server.wait)
            stack.callback(server.kill)
            for place in places:
                kind, address, port = place.split(",")
                while (
                    kind == "tcp"
                    and found.ask(name, kind, address or "127.0.0.1", int(port)) == "ConnectionRefusedError"
                ):
                    assert server.poll() is None
        yield found


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_program_on_the_nodes_address_is_reached_and_sees_its_client(network: Network, kind: str) -> None:
    assert network.ask("elsewhere", kind, NODE, 9100) == [ELSEWHERE, NODE]


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_host_that_asks_its_own_node_is_answered_by_the_guest(network: Network, kind: str) -> None:
    assert network.ask("host", kind, NODE, 9100) == ["192.168.1.1", NODE]


@pytest.mark.parametrize("asking", ["elsewhere", "host"])
def test_port_22_is_the_hosts_and_2222_the_guests(network: Network, asking: str) -> None:
    client = {"elsewhere": ELSEWHERE, "host": NODE}[asking]
    assert network.ask(asking, "tcp", NODE, 22) == [client, NODE]
    assert network.run("host", "ss", "--no-header", "--listening", "--tcp", "sport = :22")
    client = {"elsewhere": ELSEWHERE, "host": "192.168.1.1"}[asking]
    assert network.ask(asking, "tcp", NODE, 2222) == [client, NODE]


@pytest.mark.parametrize("source", ["", NODE])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_the_guest_sends_comes_from_the_node(network: Network, kind: str, source: str) -> None:
    """Also what a program sends that is bound to the node's address, and the answer finds back to it."""
    assert network.ask("guest", kind, ELSEWHERE, 80, source)[0] == NODE


def test_a_closed_port_refuses(network: Network) -> None:
    assert network.ask("elsewhere", "tcp", NODE, 9109) == "ConnectionRefusedError"
    assert network.ask("elsewhere", "udp", NODE, 9109) == "ConnectionRefusedError"


def test_the_guest_learns_of_a_smaller_mtu_on_the_way(network: Network) -> None:
    network.ask("elsewhere", "tcp", NODE, 9100)
    errors = network.ask("elsewhere", "tcp", NODE, 9)
    assert errors, "the router sent some"
    assert all(error == [NODE, True] for error in errors), "the packet that the guest sent, and a right checksum"
    assert f"mtu {MTU}" in network.run("guest", "ip", "route", "get", ELSEWHERE)


def test_the_guest_does_not_reach_the_metadata_service_of_its_host(network: Network) -> None:
    assert network.ask("host", "tcp", METADATA, 80) == [NODE, METADATA]
    assert network.ask("guest", "tcp", METADATA, 80) == "ConnectionRefusedError"


def test_a_scenario_cuts_the_guest_off_until_the_faults_end(network: Network) -> None:
    """The timer of q8s-rules, which repairs the host's rules, neither complains of the fault nor ends it."""
    machines = Machines({"worker": {"q8s_vm": {"guest_ip": GUEST}}}, None)
    fault: Any = SimpleNamespace(kind="netdown", node="worker")

    def host(command: str) -> None:
        network.run("host", "sh", "-c", command)

    def passes() -> list[bool]:
        """Return whether a connection to the guest is made, one from it, and one from it to the Kubernetes API."""
        ways = [("elsewhere", NODE, 9100), ("guest", ELSEWHERE, 80), ("guest", API_SERVER, 6443)]
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda way: network.ask(way[0], "tcp", *way[1:]), ways))
        assert all(isinstance(answer, list) or answer == "TimeoutError" for answer in answers), answers
        return [isinstance(answer, list) for answer in answers]

    assert passes() == [True, True, True]
    host(machines.begin_command(fault))
    try:
        checked, repaired = network.host.q8s_rules("--check"), network.host.q8s_rules("--repair")
        assert (checked.returncode, checked.stdout, repaired.stdout) == (0, "", "")
        assert passes() == [False, False, False]
    finally:
        host(machines.end_command(fault))
    assert passes() == [True, True, True]


def test_what_a_scenario_left_on_the_host_is_removed(network: Network) -> None:
    """Also what an earlier release left, in another table, and what was added twice."""
    before = network.run("host", "iptables-save")
    machines = Machines({"worker": {"q8s_vm": {"guest_ip": GUEST}}}, None)
    fault: Any = SimpleNamespace(kind="netdown", node="worker")
    # without virsh, which follows
    restore = machines.restore_command("worker").partition("case ")[0]
    for side in ("-s", "-d"):
        network.run("host", *f"iptables -I FORWARD 1 {side} {GUEST} -m comment --comment q8s-scenario -j DROP".split())
    for _twice in range(2):
        network.run("host", "sh", "-c", machines.begin_command(fault))
    assert network.run("host", "iptables-save").count("q8s-scenario") == 10
    network.run("host", "sh", "-c", restore)
    assert "q8s-scenario" not in network.run("host", "iptables-save")
    assert network.host.q8s_rules("--check").stdout == ""
    assert before.count("-A") == network.run("host", "iptables-save").count("-A")
