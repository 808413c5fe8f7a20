"""Where a lab lives, from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import hosts, settings

VARIABLES = ("Q8S_LAB_DIR", "Q8S_LAB_BRIDGE", "Q8S_LAB_SUBNET", "Q8S_LAB_PORT")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_everything_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("/srv/second", "second0", "10.9.8.0/23", "16000"), strict=True):
        monkeypatch.setenv(name, value)
    second = settings.load()
    assert second.clouds_yaml == Path("/srv/second/clouds.yaml")
    assert (second.bridge, str(second.gateway)) == ("second0", "10.9.8.1")
    assert second.url("keystone") == "http://127.0.0.1:16000" and second.proxy_port == 16009
    assert len({*second.ports.values(), second.proxy_port}) == 7, "no two services share a port"


def test_a_subnet_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_LAB_SUBNET", "10.9.8.7/24")
    with pytest.raises(ValueError, match=r"10\.9\.8\.7/24 has host bits set"):
        settings.load()


def test_single_hosts_are_apart_from_the_lab() -> None:
    lab = settings.load()
    beside = hosts.beside(lab)
    assert not beside.subnet.overlaps(lab.subnet) and beside.bridge != lab.bridge and beside.folder != lab.folder
    assert not {*beside.ports.values(), beside.proxy_port} & {*lab.ports.values(), lab.proxy_port}
    assert len(beside.bridge) <= 15, "the kernel's longest name of an interface"
