"""Security groups and floating addresses hold: between servers, from this machine, and from another network."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from q8s_lab.machine import wait
from tests.integration.lab.boxes import Box, allow, boxes

pytestmark = pytest.mark.lab

# What a network namespace beside the lab's network uses: a link to this machine, and this machine as its gateway.
HERE, THERE = "198.51.100.1", "198.51.100.2"


@pytest.fixture(scope="module")
def pair(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    """Two servers that serve HTTP on port 8000."""
    with boxes(lab, tmp_path_factory.mktemp("pair"), 2) as both:
        for box in both:
            box.wait_for_ssh()
            started = box.ssh("sudo", "systemd-run", "python3", "-m", "http.server", "8000")
            assert started.returncode == 0, started.stderr
            assert wait(lambda box=box: reaches([*in_box(box)], "127.0.0.1", 8000), 20)
        yield both


@pytest.fixture
def outside() -> Iterator[list[str]]:
    """Another network's machine; gives the command that runs something on it."""
    name = f"itest{secrets.token_hex(3)}"
    try:
        for command in (
            f"netns add {name}",
            f"link add {name} type veth peer name out netns {name}",
            f"address add {HERE}/30 dev {name}",
            f"link set {name} up",
            f"-n {name} address add {THERE}/30 dev out",
            f"-n {name} link set out up",
            f"-n {name} route add default via {HERE}",
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def in_box(box: Box) -> list[str]:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return ["ssh", *options, "-i", str(box.key), f"debian@{box.address}"]


def reaches(where: list[str], address: str, port: int) -> bool:
    """Whether a TCP connection opens from there: on this machine, in a namespace, or in a server."""
    command = f"timeout 1 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null"
    inner = [command] if where[:1] == ["ssh"] else ["sh", "-c", command]
    return subprocess.run([*where, *inner], capture_output=True, check=False, timeout=30).returncode == 0


def test_between_servers_a_port_is_closed_until_a_group_opens_it(pair: list[Box]) -> None:
    """A rule for a group lets that group's servers in, and nobody else; taken away, it is closed again."""
    first, second = pair
    assert not reaches(in_box(first), second.address, 8000)
    rule = first.cloud.network.create_security_group_rule(
        security_group_id=second.group,
        direction="ingress",
        ether_type="IPv4",
        protocol="tcp",
        remote_group_id=first.group,
    )
    assert wait(lambda: reaches(in_box(first), second.address, 8000), 15)
    assert not reaches([], second.address, 8000), "this machine is no member of the group"
    assert not reaches(in_box(second), first.address, 8000), "the rule is not the other's"
    first.cloud.network.delete_security_group_rule(rule)
    assert wait(lambda: not reaches(in_box(first), second.address, 8000), 15)


def test_a_group_given_later_counts(pair: list[Box]) -> None:
    first, second = pair
    group = first.cloud.network.create_security_group(name=f"{first.name}-web")
    try:
        allow(first.cloud, group.id, 8000)
        assert not reaches(in_box(second), first.address, 8000)
        first.cloud.compute.add_security_group_to_server(first.id, {"name": group.name})
        assert wait(lambda: reaches(in_box(second), first.address, 8000), 15)
        first.cloud.compute.remove_security_group_from_server(first.id, {"name": group.name})
        assert wait(lambda: not reaches(in_box(second), first.address, 8000), 15)
    finally:
        first.cloud.network.delete_security_group(group)


def test_a_floating_address(pair: list[Box], outside: list[str]) -> None:
    """It leads to its server from anywhere else, and only to what the server's group opens."""
    first, second = pair
    network = first.cloud.network
    floating = network.create_ip(floating_network_id=network.find_network("external", ignore_missing=False).id)
    try:
        address = floating.floating_ip_address
        assert not reaches([], address, 22), "it is nobody's yet"
        (port,) = network.ports(device_id=first.id)
        network.update_ip(floating, port_id=port.id)
        assert wait(lambda: reaches([], address, 22), 15)
        for where in (outside, in_box(second)):
            assert reaches(where, address, 22), where[-1]
            assert not reaches(where, address, 8000), where[-1]
        assert network.get_ip(floating).status == "ACTIVE"
        logged_in = subprocess.run(
            [*outside, *in_box(first)[:-1], f"debian@{address}", "hostname"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert logged_in.stdout.strip() == first.name, logged_in.stderr
        network.update_ip(floating, port_id=None)
        assert wait(lambda: not reaches([], address, 22), 15)
    finally:
        network.delete_ip(floating)
