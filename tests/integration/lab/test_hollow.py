"""Servers without a machine: the flavor decides, and the API tells no difference."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from q8s_lab import hollow, settings
from q8s_lab.machine import wait
from tests.clouds import connect

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def cloud(lab: Mapping[str, str]) -> Iterator[Any]:
    with connect(lab, settings.SCALE_CLOUD_NAME) as cloud:
        yield cloud


@pytest.fixture
def server(cloud: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server of the flavor that the test names."""
    made = cloud.compute.create_server(
        name=f"itest-hollow-{secrets.token_hex(2)}",
        image_id=cloud.image.find_image(settings.IMAGE_NAME).id,
        flavor_id=cloud.compute.find_flavor(request.param).id,
        networks=[{"uuid": cloud.network.find_network("private").id}],
    )
    yield made
    cloud.compute.delete_server(made, ignore_missing=True)
    cloud.compute.wait_for_delete(made, interval=0.5, wait=60)


def status(cloud: Any, server: Any) -> str:
    return str(cloud.compute.get_server(server).status)


@pytest.mark.parametrize("server", ["hollow.small"], indirect=True)
def test_the_api_tells_no_difference(cloud: Any, server: Any) -> None:
    active = cloud.compute.wait_for_server(server, interval=0.5, wait=60)
    (address,) = active.addresses["private"]
    (port,) = cloud.network.ports(device_id=server.id)
    assert port.fixed_ips[0]["ip_address"] == address["addr"]
    assert not Path(f"/sys/class/net/vb-q8sl{server.id[:8]}").exists(), "nothing is behind it"
    cloud.compute.stop_server(server)
    assert wait(lambda: status(cloud, server) == "SHUTOFF", 20)
    cloud.compute.start_server(server)
    assert wait(lambda: status(cloud, server) == "ACTIVE", 20)
    cloud.compute.reboot_server(server, "SOFT")
    assert "reboot" in [entry.action for entry in cloud.compute.server_actions(server)]
    assert wait(lambda: status(cloud, server) == "ACTIVE", 20)
    assert "hollow" in cloud.compute.get_server_console_output(server)["output"]


@pytest.mark.parametrize("server", ["hollow.error"], indirect=True)
def test_one_that_fails_says_why(cloud: Any, server: Any) -> None:
    assert wait(lambda: status(cloud, server) == "ERROR", 60)
    assert hollow.FAULT in cloud.compute.get_server(server).fault["message"]


@pytest.mark.parametrize("server", ["hollow.stuck"], indirect=True)
def test_one_that_hangs_can_be_deleted(cloud: Any, server: Any) -> None:
    assert wait(lambda: cloud.compute.get_server(server).task_state == "spawning", 60)
    assert not wait(lambda: status(cloud, server) != "BUILD", 4)
    cloud.compute.delete_server(server)
    assert wait(lambda: server.id not in {one.id for one in cloud.compute.servers()}, 30)
    assert list(cloud.network.ports(device_id=server.id)) == []


def test_the_scale_project_has_no_quota(cloud: Any) -> None:
    absolute = cloud.compute.get_limits().absolute
    assert (absolute.instances, absolute.total_cores, absolute.total_ram) == (-1, -1, -1)


def test_an_ordinary_project_has_one(lab: Mapping[str, str]) -> None:
    with connect(lab) as cloud:
        assert cloud.compute.get_limits().absolute.instances == 20
