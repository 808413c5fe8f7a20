"""Whether this machine reaches the servers, and what the preflight says if it may not."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _login, _module, _plan_servers, _spec
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import FloatingIp, Server
from ansible_collections.q8s.emu.plugins.modules import cloud_preflight

from tests.unit.plugins.test_plan import CLUSTER, NAMES, having, server
from tests.unit.plugins.test_preflight import GOOD

OUTSIDE = replace(CLUSTER, access=_spec.Access("floating_ip", floating_network="external"))


def routing_table(folder: Path, *routes: str) -> str:
    """Write a routing table in the form of Linux: addresses are numbers in the machine's byte order."""

    def number(address: str) -> str:
        return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"

    rows = ["Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"]
    for route in routes:
        address, mask = route.split("/")
        rows.append(f"eth0 {number(address)} 00000000 0001 0 0 0 {number(mask)} 0 0 0")
    path = folder / "route"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


DEFAULT = "0.0.0.0/0.0.0.0"


@pytest.mark.parametrize(
    ("routes", "routed"),
    [
        ((DEFAULT, "192.168.1.0/255.255.255.0"), False),
        ((DEFAULT, "10.254.1.0/255.255.255.0"), True),
        (("10.0.0.0/255.0.0.0",), True),
        ((DEFAULT, "10.254.1.9/255.255.255.255"), True),
        (("0.0.0.0/128.0.0.0", "128.0.0.0/128.0.0.0"), False),
        ((), False),
    ],
)
def test_a_route_besides_the_default_one(
    routes: Sequence[str], routed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_login, "_ROUTES", routing_table(tmp_path, *routes))
    monkeypatch.setattr(_login, "_source_address", lambda address: "192.168.1.7")
    assert _login.has_route("10.254.1.0/24") == routed


@pytest.mark.parametrize(
    ("inside", "outside", "routed"),
    [
        ("192.168.1.7", "192.168.1.7", False),
        ("10.254.1.9", "10.254.1.9", True),  # in the network
        ("100.64.0.3", "192.168.1.7", True),  # a VPN
        ("192.168.1.7", "", True),  # no default route
        ("", "192.168.1.7", False),
        ("", "", False),
    ],
)
def test_the_address_that_this_machine_sends_from_shows_other_routes(
    inside: str, outside: str, routed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_login, "_ROUTES", str(tmp_path / "not-linux"))
    monkeypatch.setattr(_login, "_source_address", {"10.254.1.1": inside, _login._OUTSIDE: outside}.__getitem__)
    assert _login.has_route("10.254.1.0/24") == routed


def test_this_machine_reaches_itself() -> None:
    assert _login.has_route("127.0.0.0/8")


@pytest.fixture(params=[False, True], ids=["no route", "a route"])
def routed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this machine has a route to the servers."""
    monkeypatch.setattr(_login, "has_route", lambda prefix: bool(request.param))
    return bool(request.param)


def test_an_initial_instance_of_the_users_needs_a_floating_ip_before_the_check(routed: bool) -> None:
    own = server(NAMES[0], cluster=None)
    problems = [] if routed else [
        f"the initial instance {NAMES[0]}, which Q8S did not create, has no floating IP, by which it is checked before "
        f"anything is created; give it one (openstack server add floating ip {NAMES[0]} ADDRESS; openstack floating ip "
        "create external creates one)"
    ]  # fmt: skip
    assert _module.missing_floating_ip(OUTSIDE, having([own])) == problems
    free = [FloatingIp("f", "203.0.113.4")]
    found = _module.missing_floating_ip(OUTSIDE, having([own], floating=free))
    assert [text.endswith(f"(openstack server add floating ip {NAMES[0]} 203.0.113.4)") for text in found] == [True] * (
        not routed
    )


@pytest.mark.parametrize(
    ("cluster", "own"),
    [
        (CLUSTER, server(NAMES[0], cluster=None)),
        (OUTSIDE, server(NAMES[0])),
        (OUTSIDE, server(NAMES[0], cluster=None, floating=("203.0.113.4",))),
        (
            OUTSIDE,
            replace(server(NAMES[0], cluster=None), addresses=("10.80.0.4",)),
        ),  # the plan of the servers refuses it
    ],
    ids=["direct", "created by Q8S", "with a floating IP", "in another network"],
)
def test_other_instances_do_not(cluster: _spec.Cluster, own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_login, "has_route", lambda prefix: False)
    assert _module.missing_floating_ip(cluster, having([own])) == []


def preflight(cluster: _spec.Cluster, existing: _plan_servers.Existing) -> dict[str, Any]:
    """Run the module on a cloud that has everything."""
    cloud: Any = SimpleNamespace(
        keypairs=SimpleNamespace(find_public_key=lambda name: None),
        clusters=SimpleNamespace(
            find_existing=lambda cluster: existing,
            find_networks=lambda cluster: GOOD.networks,
            find_requirements=lambda cluster: replace(GOOD, quota={}),
        ),
        security_groups=SimpleNamespace(find_security_group=lambda name: None),
        ports=SimpleNamespace(list_ports=lambda name: []),
    )
    options = {"upgrade": False, "public_key": None, "remove_surplus": False, "replace_control_plane": False}
    params: dict[str, Any] = {**options, "survivors": [], "timeout": 600}

    def fail(**result: Any) -> None:
        raise SystemExit(result["problems"])

    module: Any = SimpleNamespace(params=params, warn=lambda text: None, fail_json=fail)
    return cloud_preflight.check(module, cluster, cloud)


def test_the_plan_of_a_new_cluster_notes_that_its_servers_may_not_be_reached(routed: bool) -> None:
    notes = preflight(CLUSTER, having([]))["notes"]
    assert [note.startswith("access is direct") for note in notes] == [True] * (not routed)
    assert preflight(CLUSTER, having([server(NAMES[0])]))["notes"] == [], "more servers of a cluster"
    assert preflight(CLUSTER, having([server(name) for name in NAMES]))["notes"] == []


def test_the_plan_fails_where_nobody_could_log_in_to_the_initial_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_login, "has_route", lambda prefix: False)
    with pytest.raises(SystemExit) as failed:
        preflight(OUTSIDE, having([server(NAMES[0], cluster=None)]))
    problems: Any = failed.value.code
    assert problems == _module.missing_floating_ip(OUTSIDE, having([server(NAMES[0], cluster=None)])) != []
