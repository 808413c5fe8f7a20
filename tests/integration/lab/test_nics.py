"""A container with network interfaces in two networks of the project, of which the second has no gateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from q8s_lab import settings
from q8s_lab.machine import wait
from tests.clouds import connect
from tests.integration.lab.boxes import Box, boxes

pytestmark = [pytest.mark.lab, pytest.mark.long("two minutes")]
SUBNET = "10.253.9.0/28"
MTU = 1400


@pytest.fixture(scope="module")
def second(lab: Mapping[str, str]) -> Iterator[Any]:
    with connect(lab) as cloud:
        made = cloud.network.create_network(name="itest-second", mtu=MTU)
        cloud.network.create_subnet(network_id=made.id, cidr=SUBNET, ip_version=4, gateway_ip=None)
        yield made
        cloud.network.delete_network(made)


@pytest.fixture(scope="module")
def pair(lab: Mapping[str, str], second: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    with connect(lab) as cloud:
        networks = [{"uuid": cloud.network.find_network("private").id}, {"uuid": second.id}]
    with boxes(lab, tmp_path_factory.mktemp("nics"), 2, networks=networks) as both:
        for box in both:
            box.wait_for_ssh()
        yield both


def test_the_second_nic_has_the_address_and_mtu_of_its_port(pair: list[Box], second: Any) -> None:
    box = pair[0]
    (port,) = box.cloud.network.ports(device_id=box.id, network_id=second.id)
    shown = box.ssh("ip", "-o", "address", "show", "dev", "host1").stdout
    assert f" {port.fixed_ips[0]['ip_address']}/28 " in shown
    link = box.ssh("ip", "-o", "link", "show", "dev", "host1").stdout
    assert f" mtu {MTU} " in link and port.mac_address in link


def test_the_default_route_is_the_first_networks(pair: list[Box]) -> None:
    (route,) = pair[0].ssh("ip", "route", "show", "default").stdout.splitlines()
    assert f" via {settings.load().gateway} dev host0" in route


def test_servers_reach_one_another_by_it_where_a_group_lets_them(pair: list[Box], second: Any) -> None:
    first, other = pair
    (port,) = first.cloud.network.ports(device_id=first.id, network_id=second.id)
    address = port.fixed_ips[0]["ip_address"]

    def opens(number: int) -> bool:
        return other.ssh(f"timeout 5 bash -c 'exec 3< /dev/tcp/{address}/{number}'").returncode == 0

    assert wait(lambda: opens(22), 30)
    first.ssh("sudo", "systemd-run", "--unit=listener", "python3", "-m", "http.server", "8000")
    assert wait(lambda: "LISTEN" in first.ssh("ss", "-ltn", "sport", "=", "8000").stdout, 15)
    assert not opens(8000)


def test_it_is_back_after_a_reboot(pair: list[Box]) -> None:
    box = pair[0]
    before = box.boot_id()
    box.cloud.compute.reboot_server(box.id, "SOFT")
    assert box.booted_since(before)
    assert " mtu 1400 " in box.ssh("ip", "-o", "link", "show", "dev", "host1").stdout
    assert "/28 " in box.ssh("ip", "-o", "address", "show", "dev", "host1").stdout
