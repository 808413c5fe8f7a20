"""Flannel's DaemonSet: which interface of a node it sends the pods' packets through."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.filter.core import FilterModule
from jinja2 import Environment, StrictUndefined

from tests.unit.plugins.network_namespace import namespace

ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane"
NETWORK = "10.254.1.0/24"


@pytest.fixture
def reachable() -> str:
    """The address by which flanneld finds its interface."""
    environment = Environment(undefined=StrictUndefined)
    environment.filters |= FilterModule().filters()
    text = environment.from_string((ROLE / "templates/flannel.yaml.j2").read_text()).render(
        ansible_managed="Ansible managed",
        control_plane_pod_cidr="10.244.0.0/16",
        control_plane_flannel_image="flannel:1",
        control_plane_api_name="api.test",
        control_plane_node_network=NETWORK,
    )
    found = next(item for item in yaml.safe_load_all(text) if item["kind"] == "DaemonSet")
    command: list[str] = found["spec"]["template"]["spec"]["containers"][0]["command"]
    return next(word.partition("=")[2] for word in command if word.startswith("--iface-can-reach="))


@pytest.mark.parametrize(
    "routes",
    [["default via 10.9.9.1"], ["default via 10.254.1.1"], []],
    ids=["the default route leaves through another NIC", "it leaves through the node's", "there is none"],
)
def test_a_node_sends_through_the_nic_with_its_address(reachable: str, routes: list[str]) -> None:
    with namespace() as holder:
        enter = ["nsenter", f"--net=/proc/{holder}/ns/net", "ip"]

        def ip(words: str) -> Any:
            done = subprocess.run([*enter, *words.split()], capture_output=True, text=True, check=True)
            return json.loads(done.stdout or "null")

        for name, address in (("ens3", "10.9.9.5/24"), ("ens4", "10.254.1.5/24")):
            ip(f"link add {name} type veth peer name {name}-peer")
            ip(f"address add {address} dev {name}")
            ip(f"link set {name} up")
            ip(f"link set {name}-peer up")
        for route in routes:
            ip(f"route add {route}")
        found = ip(f"-json route get {reachable}")[0]
    assert (found["dev"], found["prefsrc"]) == ("ens4", "10.254.1.5")


def test_a_guest_sends_through_its_only_nic(reachable: str) -> None:
    """The node's address, which is the host's, is on lo."""
    with namespace() as holder:
        enter = ["nsenter", f"--net=/proc/{holder}/ns/net", "sh", "-ec"]
        commands = """
ip link set lo up; ip address add 10.254.1.7/32 dev lo
ip link add ens2 type veth peer name host
ip address add 172.29.1.7/24 dev ens2; ip link set ens2 up; ip link set host up
ip route add default via 172.29.1.1
"""
        subprocess.run([*enter, commands], check=True)
        done = subprocess.run([*enter, f"ip -json route get {reachable}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[0]["dev"] == "ens2"
