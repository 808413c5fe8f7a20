"""The proxy in front of the real services: openstacksdk goes through it, and sees what it spoils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openstack import exceptions

from tests.clouds import connect

pytestmark = pytest.mark.lab

ASKED: dict[str, Callable[[Any], Any]] = {
    "compute": lambda cloud: [flavor.name for flavor in cloud.compute.flavors()],
    "network": lambda cloud: [network.name for network in cloud.network.networks()],
    "image": lambda cloud: [image.name for image in cloud.image.images()],
    "identity": lambda cloud: cloud.current_project_id,
}


@pytest.mark.parametrize("service", ASKED)
def test_every_service_behind_it(service: str, lab: Any, faulty: Any) -> None:
    through = faulty(service)
    with connect(lab) as straight, connect(through.environment) as cloud:
        assert ASKED[service](cloud) == ASKED[service](straight)
    assert through.proxy.requests(), "it was asked"


def test_an_error_reaches_the_user(faulty: Any) -> None:
    through = faulty("network")
    with connect(through.environment) as cloud:
        cloud.network.find_network("private", ignore_missing=False)
        through.proxy.answer("GET", r"/v2\.0/security-groups", 500)
        with pytest.raises(exceptions.HttpException) as caught:
            list(cloud.network.security_groups())
        assert caught.value.status_code == 500
        assert list(cloud.network.security_groups())


def test_an_expired_token_is_renewed(faulty: Any) -> None:
    """The client's own way out of a 401: a new token, and the same request again."""
    through = faulty("compute")
    with connect(through.environment) as cloud:
        through.proxy.answer("GET", "/flavors", 401)
        assert [flavor.name for flavor in cloud.compute.flavors()]
    assert [one.status for one in through.proxy.requests("GET", "/flavors")] == [401, 200]
