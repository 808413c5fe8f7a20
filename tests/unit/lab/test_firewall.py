"""Security groups as iptables rules, loaded by the real iptables in a separate network namespace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from q8s_lab import firewall
from q8s_lab.firewall import Port
from q8s_lab.machine import wait
from q8s_lab.settings import Settings

WEB = Port("vb-q8sl00000001", "10.0.0.5", ("web",))
OTHER = Port("vb-q8sl00000002", "10.0.0.6", ("web", "empty"))


def rule(**fields: Any) -> dict[str, Any]:
    return {"direction": "ingress", "ethertype": "IPv4", **fields}


def chain(port: Port, groups: dict[str, list[dict[str, Any]]], *more: Port) -> list[str]:
    """What a packet to the port meets, one rule after the other."""
    name = firewall.port_chain(port, "br0")
    lines = firewall.rules([port, *more], groups, "br0").splitlines()
    return [line.removeprefix(f"-A {name} ") for line in lines if line.startswith(f"-A {name} ")]


ESTABLISHED = "-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
DROP = "-j DROP"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "remote_ip_prefix": "10.0.0.0/24"},
            "-s 10.0.0.0/24 -p tcp -m tcp --dport 22 -j RETURN",
        ),
        ({"protocol": "udp", "port_range_min": 5, "port_range_max": 9}, "-p udp -m udp --dport 5:9 -j RETURN"),
        ({"protocol": "tcp"}, "-p tcp -j RETURN"),
        ({"protocol": "icmp", "port_range_min": 8}, "-p icmp -j RETURN"),
        ({}, "-j RETURN"),
    ],
)
def test_one_rule(fields: dict[str, Any], line: str) -> None:
    assert chain(WEB, {"web": [rule(**fields)]}) == [ESTABLISHED, line, DROP]


@pytest.mark.parametrize("fields", [{"direction": "egress"}, {"ethertype": "IPv6"}])
def test_rules_that_let_nothing_in(fields: dict[str, Any]) -> None:
    assert chain(WEB, {"web": [{**rule(protocol="tcp"), **fields}]}) == [ESTABLISHED, DROP]


def test_a_port_without_groups_is_closed() -> None:
    assert chain(Port("vb-a", "10.0.0.9", ()), {"web": [rule()]}) == [ESTABLISHED, DROP]


def test_a_group_lets_its_members_in() -> None:
    groups = {"web": [rule(protocol="tcp", remote_group_id="web")], "empty": [rule(remote_group_id="nobody")]}
    both = [f"-s {address}/32 -p tcp -j RETURN" for address in (WEB.address, OTHER.address)]
    assert chain(WEB, groups, OTHER) == [ESTABLISHED, *both, DROP]
    assert chain(OTHER, groups, WEB) == [ESTABLISHED, *both, DROP]


def test_groups_of_a_port_add_up() -> None:
    groups = {"web": [rule(protocol="tcp")], "empty": [rule(protocol="udp"), rule(protocol="tcp")]}
    assert chain(OTHER, groups) == [ESTABLISHED, "-p tcp -j RETURN", "-p udp -j RETURN", DROP]


def test_every_way_to_a_server_passes_its_chain() -> None:
    lines = firewall.rules([WEB], {}, "br0").splitlines()
    assert "-A Q8S-br0 -m physdev --physdev-is-bridged --physdev-out vb-q8sl00000001 -g Q8S-br0-00000001" in lines
    assert "-A Q8S-br0 -o br0 -d 10.0.0.5 -g Q8S-br0-00000001" in lines
    assert lines[lines.index("COMMIT") - 1] == "-A Q8S-br0 -o br0 -j DROP", "and nothing else reaches a server"


def test_a_port_whose_security_is_off_is_open() -> None:
    lines = firewall.rules([WEB], {}, "br0", unfiltered=["10.0.0.9"]).splitlines()
    assert lines.index("-A Q8S-br0 -o br0 -d 10.0.0.9 -j RETURN") < lines.index("-A Q8S-br0 -o br0 -j DROP")


def test_members_need_no_machine() -> None:
    groups = {"web": [rule(remote_group_id="web")]}
    listed = firewall.rules([WEB], groups, "br0", members=[WEB, OTHER]).splitlines()
    assert f"-A Q8S-br0-00000001 -s {OTHER.address}/32 -j RETURN" in listed
    assert not [line for line in listed if OTHER.link in line]


@pytest.fixture
def namespace() -> Iterator[list[str]]:
    """A network namespace of its own, with its own iptables; gives the command that enters it."""
    unshare = ["unshare", "--user", "--map-root-user", "--net"]
    ready = subprocess.run([*unshare, "iptables", "-w", "-S"], capture_output=True, check=False).returncode == 0
    if not ready:
        pytest.skip("no iptables, or this kernel gives no network namespaces to this user")
    with subprocess.Popen([*unshare, "sleep", "120"]) as holder:
        enter = ["nsenter", f"--target={holder.pid}", "--user", "--net", "--preserve-credentials"]
        assert wait(lambda: "-P" in run([*enter, "iptables", "-S"]), 10)
        yield enter
        holder.kill()


def run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_two_labs_have_chains_of_their_own(namespace: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One lab's end, and one lab's change, leave the other's rules as they are."""
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **more: real([*namespace, *command], **more))
    for bridge, ports in (("lab1", [WEB, OTHER]), ("lab10", [WEB])):
        text = firewall.rules(ports, {}, bridge)
        firewall.apply(text + firewall.translations({"198.18.0.9": "10.0.0.5"}, bridge, "10.0.0.0/24"), bridge)
    second = chains("lab10")
    assert [len(lines) for lines in second.values()] == [10, 7], second
    firewall.apply(firewall.rules([WEB], {}, "lab1") + firewall.translations({}, "lab1", "10.0.0.0/24"), "lab1")
    listed = chains("lab1")["filter"]
    assert "-N Q8S-lab1-00000001" in listed and "-N Q8S-lab1-00000002" not in listed, "a port that is gone"
    assert not [line for line in chains("lab1")["nat"] if "DNAT" in line], "a floating address that is gone"
    firewall.remove("lab1")
    assert chains("lab10") == second and chains("") == second
    firewall.remove("lab10")
    assert chains("") == {"filter": [], "nat": []}


def chains(bridge: str) -> dict[str, list[str]]:
    """What iptables lists of a lab, or of all, by table."""
    pattern = rf"Q8S-{bridge}(-| |$)" if bridge else "Q8S-"
    return {
        table: [line for line in run(["iptables", "-t", table, "-S"]).splitlines() if re.search(pattern, line)]
        for table in ("filter", "nat")
    }


def test_iptables_reads_it() -> None:
    """Syntax is what iptables says it is."""
    program = shutil.which("iptables-restore")
    if program is None:
        pytest.skip("iptables is not installed")
    groups = {"web": [rule(protocol="tcp", port_range_min=1, port_range_max=9, remote_group_id="web"), rule()]}
    text = firewall.rules([WEB, OTHER], groups, "br0")
    # a user and network namespace of its own: no root needed, and this machine's rules are not even read
    command = ["unshare", "--map-root-user", "--net", program, "--test"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("this kernel gives no network namespaces to this user")
    assert done.returncode == 0, done.stderr
    spoiled = subprocess.run(
        command, input=text.replace("--dport", "--port"), capture_output=True, text=True, check=False
    )
    assert spoiled.returncode != 0


def test_a_link_for_a_port_or_for_a_server(tmp_path: Path) -> None:
    """A container has one link, named after the server; a virtual machine one for each port, named after the port."""
    container = port("00000001-c", device_id="aaaaaaaa-1", address="10.0.0.5")
    first = port("00000002-v", device_id="bbbbbbbb-1", address="10.0.0.6")
    second = port("00000003-v", device_id="bbbbbbbb-1", address="10.0.0.7")
    unknown = port("00000004-x", device_id="cccccccc-1", address="10.0.0.8")
    network = Mock()
    network.ports.return_value = [container, first, second, unknown]
    network.security_group_rules.return_value = []
    network.ips.return_value = []
    links = {"vb-q8slaaaaaaaa", "vb-q8sl00000002", "vb-q8sl00000003"}
    text = firewall._observe(Mock(network=network), Settings(tmp_path, "br0", IPv4Network("10.0.0.0/24"), 1), links)
    for link, address in (
        ("vb-q8slaaaaaaaa", "10.0.0.5"),
        ("vb-q8sl00000002", "10.0.0.6"),
        ("vb-q8sl00000003", "10.0.0.7"),
    ):
        chain = firewall.port_chain(Port(link, address, ()), "br0")
        assert f"--physdev-out {link} -g {chain}" in text and f"-d {address} -g {chain}" in text
    assert "10.0.0.8" not in text, "its link is not there yet"


def port(identifier: str, *, device_id: str, address: str) -> Mock:
    return Mock(
        id=identifier,
        device_id=device_id,
        device_owner="compute:nova",
        fixed_ips=[{"ip_address": address}],
        security_group_ids=["web"],
        is_port_security_enabled=True,
    )
