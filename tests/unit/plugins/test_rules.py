"""The rules of worker hosts and control planes: loaded before all others, reported if missing, and loaded again."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.unit.plugins.network_namespace import namespace

ROLES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles"
ROLE = ROLES / "qemu_host"
JUMPS = [("nat", "PREROUTING", "Q8S_PRE"), ("nat", "OUTPUT", "Q8S_OUT"), ("nat", "POSTROUTING", "Q8S_POST")]
JUMPS += [("filter", "INPUT", "Q8S_IN"), ("filter", "FORWARD", "Q8S_FWD")]


class Host:
    """A network namespace with the role's script and rules."""

    api_servers: Sequence[str] = ()

    def __init__(self, folder: Path, holder: int) -> None:
        self.enter = ["nsenter", f"--net=/proc/{holder}/ns/net"]
        self.script = folder / "q8s-rules"
        self.rules = folder / "iptables.rules"
        self.link = folder / "nftables.rules"
        self.write("10.254.1.3")

    def write(self, address: str) -> None:
        """Write the rules of a host with that address, as the role does."""
        templates = Environment(
            loader=FileSystemLoader(ROLE / "templates"), undefined=StrictUndefined, trim_blocks=True, autoescape=False
        )
        templates.filters["ansible.utils.ipaddr"] = lambda text, _query: int(ipaddress.ip_address(text))
        values = {
            "ansible_managed": "Ansible managed",
            "qemu_host_address": address,
            "qemu_host_guest_address": "192.168.1.3",
            "qemu_host_guest_gateway": "192.168.1.1",
            "qemu_host_network": "10.254.1.0/24",
            "__qemu_host_redirected": self.api_servers,
        }
        text = templates.get_template("q8s-rules.j2").render(values)
        text = text.replace("/etc/q8s/iptables.rules", str(self.rules)).replace(
            "/etc/q8s/nftables.rules", str(self.link)
        )
        self.script.write_text(text.replace("/run/q8s-rules", str(self.script.with_name("loaded"))))
        for file in (self.rules, self.link):
            file.write_text(templates.get_template(f"{file.name}.j2").render(values) + "\n")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, check=False)

    def q8s_rules(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", str(self.script), *arguments)

    def iptables(self, *arguments: str) -> str:
        done = self.run("iptables", "--wait", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def first(self, table: str, chain: str) -> list[str]:
        """Return the chain's first rule, and how many of the chain's rules are like it."""
        rules = [line for line in self.iptables("-t", table, "-S", chain).splitlines() if line.startswith("-A")]
        return [rules[0], str(rules.count(rules[0]))] if rules else []


def load[H: Host](host: H) -> H:
    """Load a host's rules."""
    done = host.q8s_rules()
    assert done.returncode == 0, done.stderr
    return host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A network namespace whose rules are loaded."""
    with namespace() as holder:
        yield load(Host(tmp_path, holder))


def assert_first(host: Host) -> None:
    for table, chain, ours in JUMPS:
        assert host.first(table, chain) == [f"-A {chain} -j {ours}", "1"]


def test_loaded_rules_are_complete_and_first(host: Host) -> None:
    assert host.q8s_rules("--check").returncode == 0
    assert host.q8s_rules("--repair").stdout == ""
    assert_first(host)


def test_rules_name_no_interface_but_the_guests_bridge(host: Host) -> None:
    """So they can be loaded before there is a network, and a second network interface changes nothing."""
    words = host.rules.read_text().split()
    assert {words[number + 1] for number, word in enumerate(words) if word in ("-i", "-o")} == {"virbr0"}


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (["-t", "nat", "-F"], "missing: nat -A PREROUTING -j Q8S_PRE"),
        # also empties our own chain
        (["-F"], "missing: filter -A Q8S_FWD -s 192.168.1.3/32 -i virbr0 -j ACCEPT"),
        (
            ["-t", "nat", "-F", "Q8S_PRE"],
            "missing: nat -A Q8S_PRE -d 10.254.1.3/32 -j DNAT --to-destination 192.168.1.3",
        ),
        (["-t", "nat", "-D", "OUTPUT", "-j", "Q8S_OUT"], "missing: nat -A OUTPUT -j Q8S_OUT"),
        # as libvirt, Docker and ufw insert themselves
        (["-I", "FORWARD", "-j", "REJECT"], "missing: filter -A FORWARD -j Q8S_FWD"),
        (["-I", "INPUT", "-j", "ACCEPT"], "missing: filter -A INPUT -j Q8S_IN"),
        (["-t", "nat", "-I", "Q8S_PRE", "-j", "ACCEPT"], "unexpected: nat -A Q8S_PRE -j ACCEPT"),
    ],
)
def test_what_is_removed_is_named_and_loaded_again(host: Host, damage: list[str], missing: str) -> None:
    host.iptables("-P", "FORWARD", "DROP")
    host.iptables(*damage)
    checked = host.q8s_rules("--check")
    assert checked.returncode == 1
    assert missing in checked.stdout.splitlines()
    repaired = host.q8s_rules("--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert f"<4>loading the rules again, {missing}" in repaired.stdout.splitlines()
    assert host.q8s_rules("--check").returncode == 0
    assert_first(host)


def interfering(host: Host, folder: Path, times: int) -> list[str]:
    """Return a command that loads the rules while somebody changes them after each of the first loads."""
    folder.mkdir()
    save = folder / "iptables-save"
    save.write_text(
        f"""#!/bin/sh
if [ "$(wc -c < {folder}/times)" -lt {times} ]; then
    printf x >> {folder}/times
    iptables --wait -I FORWARD -j ACCEPT
    iptables --wait -t nat -F Q8S_PRE
    nft flush chain ip q8s to_guest
fi
exec {shutil.which("iptables-save")} "$@"
"""
    )
    save.chmod(0o755)
    (folder / "times").touch()
    return ["env", f"PATH={folder}:{os.environ['PATH']}", "sh", str(host.script)]


def test_rules_that_change_while_they_are_loaded_are_loaded_again(host: Host, tmp_path: Path) -> None:
    """As Docker does, which starts at the same time after a boot: what is missing then is no example for later."""
    done = host.run(*interfering(host, tmp_path / "bin", 2))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bin/times").read_text() == "xx"
    assert host.q8s_rules("--check").returncode == 0
    assert_first(host)
    assert "--to-destination 192.168.1.3" in host.iptables("-t", "nat", "-S", "Q8S_PRE")
    assert "daddr set" in host.run("nft", "list", "chain", "ip", "q8s", "to_guest").stdout


def test_rules_that_always_change_are_no_success(host: Host, tmp_path: Path) -> None:
    done = host.run(*interfering(host, tmp_path / "bin", 99))
    assert done.returncode == 1
    assert "Failed to load the rules: something else changes them at the same time" in done.stderr
    assert host.q8s_rules("--repair").returncode == 0, "by the timer"
    assert_first(host)


def test_the_rules_of_the_guests_link_are_loaded_again(host: Host) -> None:
    host.run("nft", "flush", "ruleset")
    missing = host.q8s_rules("--check").stdout
    assert 'missing: nft from_guest: iifname "virbr0" ip saddr 10.254.1.3 ip saddr set 192.168.1.3' in missing
    host.q8s_rules("--repair")
    assert host.q8s_rules("--check").returncode == 0
    host.run("nft", "add", "rule", "ip", "q8s", "to_guest", "accept")
    assert host.q8s_rules("--check").stdout == "unexpected: nft to_guest: accept\n"


def test_forwarding_that_somebody_switched_off_is_on_again(host: Host) -> None:
    host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    checked = host.q8s_rules("--check")
    assert (checked.returncode, checked.stdout) == (1, "missing: net.ipv4.ip_forward = 1\n")
    host.q8s_rules("--repair")
    assert host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"


def test_rules_that_were_written_but_not_loaded_are_named(host: Host) -> None:
    host.write("10.254.1.4")
    checked = host.q8s_rules("--check")
    assert (checked.returncode, checked.stdout) == (1, f"changed: {host.rules}\nchanged: {host.link}\n")
    host.q8s_rules("--repair")
    assert "-d 10.254.1.4/32" in host.iptables("-t", "nat", "-S", "Q8S_PRE")
    assert "10.254.1.3" not in host.iptables("-t", "nat", "-S")


def test_rules_of_others_stay(host: Host) -> None:
    host.iptables("-N", "DOCKER-USER")
    host.iptables("-I", "FORWARD", "-j", "DOCKER-USER")
    host.q8s_rules("--repair")
    assert host.iptables("-S", "FORWARD").splitlines()[1:] == ["-A FORWARD -j Q8S_FWD", "-A FORWARD -j DOCKER-USER"]


# As conntrack lists them: to the guest without its NAT, ssh of others to the host, and what the host asks itself; from
# the guest without its NAT, and to the proxy, whose address the rules have replaced.
TO_GUEST = """\
udp      17 29 src=10.254.1.9 dst=10.254.1.3 sport=8472 dport=8472 src=10.254.1.3 dst=10.254.1.9 sport=8472 dport=8472
tcp      6 431999 ESTABLISHED src=10.254.1.9 dst=10.254.1.3 sport=40000 dport=22 src=10.254.1.3 dst=10.254.1.9 sport=22
tcp      6 431999 ESTABLISHED src=10.254.1.3 dst=10.254.1.3 sport=40001 dport=80 src=10.254.1.3 dst=10.254.1.3 sport=80
"""
FROM_GUEST = """\
udp      17 29 src=192.168.1.3 dst=192.0.2.7 sport=500 dport=123 [UNREPLIED] src=192.0.2.7 dst=192.168.1.3 sport=123
tcp      6 431999 ESTABLISHED src=192.168.1.3 dst=10.254.1.4 sport=41000 dport=6443 src=192.168.1.1 dst=192.168.1.3
"""
CONNTRACK = """\
#!/bin/sh
case "$*" in
"--dump --orig-dst "*) cat {folder}/to;;
"--dump --orig-src "*) cat {folder}/from;;
*) echo "$*" >> {folder}/deleted;;
esac
"""


def test_connections_without_their_nat_are_forgotten_and_those_with_it_stay(host: Host, tmp_path: Path) -> None:
    (tmp_path / "to").write_text(TO_GUEST)
    (tmp_path / "from").write_text(FROM_GUEST)
    program = tmp_path / "bin/conntrack"
    program.parent.mkdir()
    program.write_text(CONNTRACK.format(folder=tmp_path))
    program.chmod(0o755)
    done = host.run("env", f"PATH={program.parent}:{os.environ['PATH']}", "sh", str(host.script))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deleted").read_text().splitlines() == [
        "--delete --proto udp --orig-src 10.254.1.9 --orig-dst 10.254.1.3 --sport 8472 --dport 8472",
        "--delete --proto udp --orig-src 192.168.1.3 --orig-dst 192.0.2.7 --sport 500 --dport 123",
    ]


def test_several_control_planes_are_reached_through_the_hosts_proxy(host: Host) -> None:
    before = host.rules.read_text()
    host.api_servers = ["10.254.1.4", "10.254.1.5"]
    host.write("10.254.1.3")
    done = host.q8s_rules("--repair")
    assert done.returncode == 0, done.stderr
    rules = host.iptables("-t", "nat", "-S", "Q8S_PRE").splitlines()[1:]
    there = "-i virbr0 -p tcp -m tcp --dport 6443 -j DNAT --to-destination 192.168.1.1:6443"
    assert rules[:3] == [
        f"-A Q8S_PRE -d 10.254.1.4/32 {there}",
        f"-A Q8S_PRE -d 10.254.1.5/32 {there}",
        "-A Q8S_PRE -i virbr0 -j RETURN",
    ]
    host.iptables("-P", "INPUT", "DROP")
    proxy = "-A Q8S_IN -s 192.168.1.3/32 -d 192.168.1.1/32 -i virbr0 -p tcp -m tcp --dport 6443 -j ACCEPT"
    assert host.iptables("-S", "Q8S_IN").splitlines()[1] == proxy
    host.api_servers = []
    host.write("10.254.1.3")
    assert host.rules.read_text() == before


@contextmanager
def network(host: Host) -> Iterator[tuple[list[str], list[str]]]:
    """Give a host a guest that listens on every port used here, and another server; returns how to enter both."""
    with ExitStack() as stack:
        guest, other = (stack.enter_context(namespace()) for _ in range(2))
        links = (
            ("virbr0", guest, "192.168.1.1/24", "192.168.1.3/24"),
            ("ens3", other, "10.254.1.3/24", "10.254.1.9/24"),
        )
        enter = [["nsenter", f"--net=/proc/{holder}/ns/net"] for holder in (guest, other)]
        for inside, (name, holder, here, there) in zip(enter, links, strict=True):
            for command in (
                [*host.enter, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(holder)],
                [*host.enter, "ip", "address", "add", here, "dev", name],
                [*host.enter, "ip", "link", "set", name, "up"],
                [*inside, "ip", "address", "add", there, "dev", "eth0"],
                [*inside, "ip", "link", "set", "eth0", "up"],
                [*inside, "ip", "link", "set", "lo", "up"],
            ):
                subprocess.run(command, check=True, capture_output=True)
        subprocess.run([*enter[0], "ip", "address", "add", "10.254.1.3/32", "dev", "lo"], check=True)
        subprocess.run([*enter[0], "ip", "route", "add", "default", "via", "192.168.1.1"], check=True)
        yield enter[0], enter[1]


# Listens on port 80, and answers what comes.
ECHO = """\
import socket
server = socket.create_server(("", 80))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(connection.recv(100))
"""
# Connects to the node's port 80, and sends segments of that connection that are far out of its window.
# Prints whether it is reset for them.
STRAY = """\
import random, socket, struct
connection = socket.create_connection(("10.254.1.3", 80), 5)
port = connection.getsockname()[1]
node, own = socket.inet_aton("10.254.1.3"), socket.inet_aton("10.254.1.9")
raw, replies = (socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) for _ in range(2))
for _ in range(5):
    head = struct.pack("!HHIIBBHHH", port, 80, random.getrandbits(32), random.getrandbits(32), 80, 16, 512, 0, 0)
    total = sum(struct.unpack("!16H", own + node + struct.pack("!HH", 6, len(head)) + head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    raw.sendto(head[:16] + struct.pack("!H", ~total & 0xFFFF) + head[18:], ("10.254.1.3", 0))
connection.settimeout(5)
try:
    connection.sendall(b"well")
    print(connection.recv(100).decode())
except ConnectionResetError:
    pass
replies.settimeout(0.5)
try:
    while True:
        reply = replies.recv(4096)
        if reply[12:16] == node and reply[20:24] == struct.pack("!HH", 80, port) and reply[33] & 4:
            print("reset")
            break
except TimeoutError:
    pass
"""


def test_a_stray_packet_does_not_end_a_connection_of_the_guest(host: Host) -> None:
    """The connection table does not translate it, so it comes to the host, which knows no such connection."""
    with network(host) as (guest, other), ExitStack() as stack:
        server = subprocess.Popen([*guest, sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"

        def stray() -> list[str]:
            done = subprocess.run([*other, sys.executable, "-c", STRAY], capture_output=True, text=True, check=True)
            return done.stdout.splitlines()

        assert stray() == ["well"]
        host.iptables("-F", "Q8S_IN")
        assert "reset" in stray(), "the host answers such a packet, were it not for the rule"


METADATA, ELSEWHERE = "169.254.169.254", "198.51.100.1"
JUMP = "-A FORWARD -j Q8S_FWD"
KUBE = ["-m", "comment", "--comment", "kubernetes forwarding rules", "-j", "KUBE-FORWARD"]


class ControlPlane(Host):
    """A network namespace with the script of a control plane: its pods on cni0, the pod network on flannel.1."""

    def write(self, address: str) -> None:
        """Write the script, as the role does."""
        templates = Environment(loader=FileSystemLoader(ROLES / "k8s_common/templates"), undefined=StrictUndefined)
        self.script.write_text(templates.get_template("q8s-rules.j2").render(ansible_managed="Ansible managed"))


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose rules are loaded, before it has any interface of a pod."""
    with namespace() as holder:
        found = load(ControlPlane(tmp_path, holder))
        assert found.q8s_rules("--check").returncode == 0
        yield found


def connects(enter: list[str], address: str) -> str:
    """Return how a connection from a namespace ends."""
    text = f"import socket; socket.create_connection(('{address}', 80), 5)"
    done = subprocess.run([*enter, sys.executable, "-c", text], capture_output=True, text=True, check=False)
    return "connected" if done.returncode == 0 else done.stderr.splitlines()[-1].split(":")[0]


def test_pods_do_not_reach_the_metadata_service_and_the_control_plane_does(control_plane: ControlPlane) -> None:
    """Neither its own pods nor those that send through the pod network. They reach everything else."""
    with ExitStack() as stack:
        cloud, pod, other = (stack.enter_context(namespace()) for _ in range(3))
        links = (("ens3", cloud, "10.254.1.9/24", "10.254.1.1/24"), ("cni0", pod, "10.244.0.1/24", "10.244.0.2/24"))
        for name, peer, here, there in (*links, ("flannel.1", other, "10.244.1.1/24", "10.244.1.2/24")):
            inside = ["nsenter", f"--net=/proc/{peer}/ns/net", "ip"]
            route = ["route", "add", "default", "via", here.split("/")[0]]
            for command in (
                [
                    *control_plane.enter,
                    "ip",
                    "link",
                    "add",
                    name,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    str(peer),
                ],
                [*control_plane.enter, "ip", "address", "add", here, "dev", name],
                [*control_plane.enter, "ip", "link", "set", name, "up"],
                *(
                    [*inside, *line]
                    for line in (["address", "add", there, "dev", "eth0"], ["link", "set", "eth0", "up"], route)
                ),
            ):
                subprocess.run(command, check=True, capture_output=True)
        in_cloud = ["nsenter", f"--net=/proc/{cloud}/ns/net"]
        for address in (METADATA, ELSEWHERE):
            subprocess.run([*in_cloud, "ip", "address", "add", f"{address}/32", "dev", "eth0"], check=True)
        control_plane.run("ip", "route", "add", "default", "via", "10.254.1.1")
        control_plane.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        serve = "import socket, time; s = socket.create_server(('', 80)); print('ready', flush=True); time.sleep(50)"
        server = subprocess.Popen([*in_cloud, sys.executable, "-c", serve], stdout=subprocess.PIPE)
        stack.callback(server.wait)
        stack.callback(server.kill)
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        for holder in (pod, other):
            enter = ["nsenter", f"--net=/proc/{holder}/ns/net"]
            assert connects(enter, ELSEWHERE) == "connected"
            assert connects(enter, METADATA) == "ConnectionRefusedError", "at once, not after a timeout"
        assert connects(control_plane.enter, METADATA) == "connected", "its own cloud-init may"
        assert control_plane.q8s_rules("--remove").returncode == 0
        assert connects(["nsenter", f"--net=/proc/{pod}/ns/net"], METADATA) == "connected"
        assert "Q8S" not in control_plane.iptables("-S")
        assert control_plane.q8s_rules("--remove").returncode == 0, "again"


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (["-F"], ["missing or changed: the rules of the chain Q8S_FWD", f"missing: {JUMP}"]),
        (["-D", "FORWARD", "-j", "Q8S_FWD"], [f"missing: {JUMP}"]),
        # as libvirt, Docker and ufw insert themselves
        (["-I", "FORWARD", "-i", "cni0", "-j", "ACCEPT"], [f"missing: {JUMP}"]),
        (["-I", "Q8S_FWD", "-j", "ACCEPT"], ["missing or changed: the rules of the chain Q8S_FWD"]),
        (["-D", "Q8S_FWD", "1"], ["missing or changed: the rules of the chain Q8S_FWD"]),
    ],
)
def test_what_closes_the_metadata_service_is_loaded_again(
    control_plane: ControlPlane, damage: list[str], missing: list[str]
) -> None:
    control_plane.iptables(*damage)
    checked = control_plane.q8s_rules("--check")
    assert (checked.returncode, sorted(checked.stdout.splitlines())) == (1, missing)
    repaired = control_plane.q8s_rules("--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert sorted(repaired.stdout.splitlines()) == [f"<4>loading the rules again, {line}" for line in missing]
    assert control_plane.q8s_rules("--repair").stdout == ""
    assert control_plane.first("filter", "FORWARD") == [JUMP, "1"]
    assert len(control_plane.iptables("-S", "Q8S_FWD").splitlines()) == 3


def test_the_jumps_of_kube_proxy_may_come_first(control_plane: ControlPlane) -> None:
    """It inserts them whenever it starts. They accept no new connection to the metadata service."""
    control_plane.iptables("-N", "KUBE-FORWARD")
    control_plane.iptables("-I", "FORWARD", "1", *KUBE)
    control_plane.iptables("-A", "FORWARD", "-j", "ACCEPT")
    before = control_plane.iptables("-S", "FORWARD")
    assert control_plane.q8s_rules("--check").returncode == 0
    assert control_plane.q8s_rules().returncode == 0
    assert control_plane.iptables("-S", "FORWARD") == before


@pytest.mark.parametrize("role", ["qemu_host", "k8s_common"])
def test_rules_are_loaded_at_boot_before_the_network(role: str) -> None:
    """Else a packet that comes first would be tracked as one for the host itself."""
    folder = ROLES / role / "templates"
    text = Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False).get_template(
        "q8s-rules.service.j2"
    ).render(ansible_managed="")  # fmt: skip
    unit = {key: value.split() for key, _, value in (line.partition("=") for line in text.splitlines()) if value}
    assert "network-pre.target" in unit["Before"] and "network-pre.target" in unit["Wants"]
    assert unit["DefaultDependencies"] == ["no"]
    assert not {"network.target", "network-online.target"} & set(unit.get("After", []))
