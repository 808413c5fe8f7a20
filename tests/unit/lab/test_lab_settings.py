"""The settings of a lab, loaded from environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from q8s_lab import cli, hosts, settings

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


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("Q8S_LAB_SUBNET", "10.9.8.7/24", "10.9.8.7/24 has host bits set"),
        ("Q8S_LAB_SUBNET", "10.9.8.0/30", "16 to 65536 addresses"),
        ("Q8S_LAB_BRIDGE", "a-bridge-that-is-long", "1 to 15 letters"),
        ("Q8S_LAB_BRIDGE", "a/b", "1 to 15 letters"),
        ("Q8S_LAB_PORT", "http", "20 free TCP ports"),
        ("Q8S_LAB_PORT", "80", "20 free TCP ports"),
        ("Q8S_LAB_DIR", "lab", "an absolute path"),
        ("Q8S_LAB_DIR", "/" + "x" * 100, "at most 96 bytes"),
    ],
)
def test_what_cannot_be_is_said(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert cli.main(["status"]) == 2
    message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: Failed to read {name}: {value} is not ") and said in message
    assert hint == f"hint: unset {name} for its default"


def test_single_hosts_are_apart_from_the_lab() -> None:
    lab = settings.load()
    beside = hosts.beside(lab)
    assert not beside.subnet.overlaps(lab.subnet) and beside.bridge != lab.bridge and beside.folder != lab.folder
    assert not {*beside.ports.values(), beside.proxy_port} & {*lab.ports.values(), lab.proxy_port}
    assert len(beside.bridge) <= 15, "the kernel's longest name of an interface"
