"""What the cluster's servers may reach of one another, and what the rest of their network may reach of them."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import snapshot

from q8s_lab import settings
from q8s_lab.machine import wait

if TYPE_CHECKING:
    from conftest import Cluster

pytestmark = pytest.mark.lab
FLAVOR = "c1.small"  # with a machine behind it, to log in to

# Listed in the cluster file: ssh and etcd, and Flannel's VXLAN. Not listed: what a pod on the host network may serve.
LISTED = {"required_tcp_ports": [22, 6443, 2379, 2380], "required_udp_ports": [8472]}
SSH, ETCD, VXLAN, ARTIFACTS = ("tcp", 22), ("tcp", 2379), ("udp", 8472), ("tcp", 8099)
UNLISTED = {("tcp", 9100), ("udp", 9101)}
SERVED = {ETCD, VXLAN, ARTIFACTS, *UNLISTED}
EVERYTHING = {SSH, *SERVED}

_TCP, _UDP = ([port for kind, port in sorted(SERVED) if kind == protocol] for protocol in ("tcp", "udp"))
_SERVE = f"""
import socket, threading
def echo(port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", port))
    while True:
        server.sendto(*server.recvfrom(99))
listening = [socket.create_server(("", port)) for port in {_TCP}]
for port in {_UDP}:
    threading.Thread(target=echo, args=[port]).start()
"""
# From a socket of its own each time: a new connection, which no earlier one lets in.
_ASK = """
import socket, sys
def answers(kind, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            client.connect((sys.argv[1], port))
            return kind == "tcp" or bool(client.send(b"?") and client.recv(9))
        except OSError:
            return False
"""


@dataclass(frozen=True)
class Place:
    """From where something is asked: a server, or this machine where there is no address."""

    key: Path
    address: str = ""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        ssh = [
            "ssh",
            *options,
            "-o",
            "BatchMode=yes",
            "-i",
            str(self.key),
            f"debian@{self.address}",
            shlex.join(command),
        ]
        return subprocess.run(ssh if self.address else command, capture_output=True, text=True, check=False, timeout=60)

    def accepts_login(self) -> bool:
        """Try to log in, not too often: sshd refuses those who fail often (PerSourcePenalties of sshd_config(5))."""
        if self.run("true").returncode == 0:
            return True
        time.sleep(5)
        return False

    def reaches(self, other: Place) -> set[tuple[str, int]]:
        """Return what answers there."""
        wanted = sorted(EVERYTHING)
        asked = f"{_ASK}\nfor kind, port in {wanted}:\n    print(kind, port) if answers(kind, port) else None\n"
        done = self.run("python3", "-c", asked, other.address)
        assert done.returncode == 0, done.stderr
        return {(kind, int(port)) for kind, port in map(str.split, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def places(cloud: Any, cluster: Cluster) -> Iterator[Mapping[str, Place]]:
    """The two servers of a cluster, another server in their network, and this machine, which is in it, too."""
    for name in ("keypair", "security_group"):
        assert cluster.module(name, cluster.mapping(**LISTED))["changed"]
    group = cloud.network.create_security_group(name=f"{cluster.name}-outside", description=f"of {cluster.name}")
    cloud.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol="tcp"
    )
    made = cloud.compute.create_server(
        name=f"{cluster.name}-outside",
        image_id=cloud.image.find_image(settings.IMAGE_NAME).id,
        flavor_id=cloud.compute.find_flavor(FLAVOR).id,
        networks=[{"uuid": cloud.network.find_network("private").id}],
        key_name=f"q8s-{cluster.name}",
        security_groups=[{"name": group.id}],
    )
    answer = cluster.module("servers", cluster.mapping(**LISTED))
    addresses = {server["name"]: server["address"] for server in answer["servers"]}
    other = cloud.compute.wait_for_server(made, interval=1, wait=60).addresses["private"][0]["addr"]
    key = cluster.state / "id_ed25519"
    found = {
        "control plane": Place(key, addresses[cluster.initial]),
        "worker": Place(key, addresses[cluster.worker]),
        "outside": Place(key, other),
    }
    for place in found.values():
        assert wait(place.accepts_login, 300), f"no login at {place.address}"
    for name in ("control plane", "worker"):
        started = found[name].run("sudo", "systemd-run", "python3", "-c", _SERVE)
        assert started.returncode == 0, started.stderr
        local = Place(key, "127.0.0.1")
        assert wait(lambda name=name, local=local: found[name].reaches(local) == EVERYTHING, 20), "nothing is served"
    yield {**found, "here": Place(key)}
    cluster.module("servers", state="absent")
    cloud.compute.delete_server(made)
    cloud.compute.wait_for_delete(made, interval=1, wait=60)


def assert_reach(places: Mapping[str, Place], inside: set[tuple[str, int]], outside: set[tuple[str, int]]) -> None:
    """Members reach that of one another, everybody else this."""
    first, second = places["control plane"], places["worker"]
    for source, target in ((first, second), (second, first)):
        assert wait(lambda source=source, target=target: source.reaches(target) == inside, 20), source.reaches(target)
    for name in ("outside", "here"):
        for target in (first, second):
            assert wait(lambda name=name, target=target: places[name].reaches(target) == outside, 20), (
                name,
                places[name].reaches(target),
            )


def test_members_reach_everything_and_others_what_is_listed(places: Mapping[str, Place]) -> None:
    """Of etcd and VXLAN others reach nothing, although the file lists them."""
    assert_reach(places, EVERYTHING, {SSH})


def test_listed_closes_the_other_ports_and_all_opens_them_again(
    places: Mapping[str, Place], cloud: Any, cluster: Cluster
) -> None:
    strict = cluster.mapping(**LISTED, inside="listed")
    expected = [
        f"create rule {rule} from the group itself" for rule in ("tcp 2379", "tcp 2380", "tcp 8099", "udp 8472")
    ]
    expected += ["delete rule any protocol from the group itself"]
    planned = cluster.module("cloud_preflight", strict)
    assert planned["problems"] == [] and not planned["settled"]
    for check in (True, False):
        answer = cluster.module("security_group", strict, check=check)
        assert [f"{c['action']} {c['kind']} {c['name']}" for c in answer["changes"]] == expected, answer
        assert "rule any protocol from the group itself\n" in answer["diff"]["before"]
        assert "rule any protocol from the group itself\n" not in answer["diff"]["after"]
    assert_reach(places, {SSH, ETCD, VXLAN, ARTIFACTS}, {SSH})
    assert not cluster.module("security_group", strict)["changed"]
    assert cluster.module("security_group", cluster.mapping(**LISTED))["changed"]
    assert_reach(places, EVERYTHING, {SSH})


def test_a_cluster_with_the_rules_of_an_older_release_changes_without_a_gap(
    places: Mapping[str, Place], cloud: Any, cluster: Cluster
) -> None:
    """Its VXLAN was open to the whole network. While its rules change, no packet between members is lost."""
    now = snapshot(cloud, cluster)
    group = now["security group"]["q8s-cluster"]
    prefix = str(settings.load().subnet)
    for protocol, port, source in (
        ("tcp", 8099, {"remote_group_id": group}),
        *((kind, number, {"remote_ip_prefix": prefix}) for kind, number in (ETCD, ("tcp", 2380), VXLAN)),
    ):
        cloud.network.create_security_group_rule(
            security_group_id=group,
            direction="ingress",
            ether_type="IPv4",
            protocol=protocol,
            port_range_min=port,
            port_range_max=port,
            description=f"Q8S cluster {cluster.name}",
            **source,
        )
    cloud.network.delete_security_group_rule(now["rule"]["any protocol from the group itself"])
    assert_reach(places, {SSH, ETCD, VXLAN, ARTIFACTS}, {SSH, ETCD, VXLAN})
    counting = f"{_ASK}\nimport time\nfor _ in range(150):\n    print(answers('udp', 8472))\n    time.sleep(0.1)\n"
    command = ["python3", "-u", "-c", counting]
    asker, target = places["worker"], places["control plane"]
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    with subprocess.Popen(
        ["ssh", *options, "-i", asker.key, f"debian@{asker.address}", shlex.join([*command, target.address])],
        stdout=subprocess.PIPE,
        text=True,
    ) as asking:
        assert asking.stdout is not None and asking.stdout.readline() == "True\n"
        assert cluster.module("security_group", cluster.mapping(**LISTED))["changed"]
        said = asking.stdout.read().split()
    assert len(said) == 149 and set(said) == {"True"}, said
    assert_reach(places, EVERYTHING, {SSH})
