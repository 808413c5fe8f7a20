"""The guest's network: libvirt's is compared with the one that is wanted, defined again, and in force at once."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.unit.plugins.network_namespace import namespace

ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/qemu_host"
# As libvirt prints a network of this role.
DUMPED = """\
<network{connections}>
  <name>q8s</name>
  <uuid>5d1a6b6c-8c1e-4a8b-9f0e-3f1f6f4d5b21</uuid>
  <forward mode='open'/>
  <bridge name='virbr0' stp='off' delay='0'/>
  <mtu size='{mtu}'/>
  <mac address='52:54:00:3b:01:02'/>
  <dns enable='no'/>
  <ip address='192.168.1.1' prefix='24'>
  </ip>
</network>
"""
# libvirt, as far as networks go: it refuses another UUID under the same name, and runs what was defined at the start.
VIRSH = """\
#!/bin/sh
shift 3
case "$*" in
    "net-list --name") [ ! -e running ] || echo q8s ;;
    "net-dumpxml q8s --inactive") cat defined ;;
    "net-dumpxml q8s") cat running ;;
    "net-define /dev/stdin")
        cat > new
        uuid=$(grep -o '<uuid>.*</uuid>' defined)
        if [ -z "$uuid" ] || grep -q "$uuid" new; then mv new defined; exit; fi
        echo "network 'q8s' already exists with uuid $uuid" >&2
        exit 1
        ;;
    "net-autostart q8s") touch autostart ;;
    "net-destroy q8s") rm running; ip link delete virbr0 ;;
    "net-start q8s")
        cp defined running
        ip link add virbr0 mtu "$(grep -o 'mtu size=.[0-9]*' defined | grep -o '[0-9]*$')" type bridge
        ;;
    *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


class Libvirt:
    """A network namespace with a guest's interface on the bridge, and a libvirt that knows its network."""

    def __init__(self, folder: Path, holder: int) -> None:
        self.folder = folder
        self.enter = ["nsenter", f"--net=/proc/{holder}/ns/net", f"--wd={folder}"]
        (folder / "virsh").write_text(VIRSH)
        (folder / "virsh").chmod(0o755)

    def wanted(self, mtu: int) -> str:
        """Return the network of the role's template."""
        templates = Environment(loader=FileSystemLoader(ROLE / "templates"), undefined=StrictUndefined)
        return templates.get_template("network.xml.j2").render(
            qemu_host_mtu=mtu, qemu_host_guest_gateway="192.168.1.1", qemu_host_guest_prefixlen=24
        )

    def run(self, *command: str, **environment: str) -> str:
        path = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            [*self.enter, *command],
            env={**os.environ, **path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def network(self, mtu: int, *arguments: str, check: bool = False) -> list[str]:
        """Run the role's program. Return its lines."""
        program = (ROLE / "files/network.py").read_text()
        return self.run("python3", "-c", program, *arguments, NETWORK=self.wanted(mtu), CHECK=str(check)).splitlines()

    def links(self) -> dict[str, tuple[int, str]]:
        """Return MTU and bridge of the interfaces."""
        found = json.loads(self.run("ip", "-json", "link"))
        return {one["ifname"]: (one["mtu"], one.get("master", "")) for one in found if one["ifname"] != "lo"}


@pytest.fixture
def libvirt(tmp_path: Path) -> Iterator[Libvirt]:
    """A host whose guest runs, with an MTU of 1500."""
    with namespace() as holder:
        found = Libvirt(tmp_path, holder)
        (tmp_path / "defined").write_text(DUMPED.format(mtu=1500, connections=""))
        (tmp_path / "running").write_text(DUMPED.format(mtu=1500, connections=" connections='1'"))
        found.run("ip", "link", "add", "virbr0", "mtu", "1500", "type", "bridge")
        found.run("ip", "tuntap", "add", "vnet0", "mode", "tap")
        found.run("ip", "link", "set", "vnet0", "master", "virbr0")
        yield found


def test_a_network_that_is_as_wanted_is_left_alone(libvirt: Libvirt) -> None:
    assert libvirt.network(1500) == []


def test_another_mtu_is_in_force_at_once(libvirt: Libvirt, tmp_path: Path) -> None:
    assert libvirt.network(1400) == ["differs defined", "differs running"]
    libvirt.network(1400, "--define", check=True)
    assert libvirt.network(1400) == ["differs defined", "differs running"], "check mode changes nothing"
    libvirt.network(1400, "--define")
    assert libvirt.network(1400) == []
    assert libvirt.links() == {"virbr0": (1400, ""), "vnet0": (1400, "virbr0")}
    defined = (tmp_path / "defined").read_text()
    assert "52:54:00:3b:01:02" in defined, "guests know the bridge by this address"


def test_what_an_interrupted_run_left_is_in_force_too(libvirt: Libvirt, tmp_path: Path) -> None:
    """The network was defined, and did not start again."""
    (tmp_path / "defined").write_text(DUMPED.format(mtu=1400, connections=""))
    assert libvirt.network(1400) == ["differs running"]
    libvirt.network(1400, "--define")
    assert libvirt.network(1400) == []
    assert libvirt.links()["vnet0"] == (1400, "virbr0")


def test_a_network_that_does_not_run_is_only_defined(libvirt: Libvirt, tmp_path: Path) -> None:
    (tmp_path / "running").unlink()
    assert libvirt.network(9000) == ["differs defined"]
    libvirt.network(9000, "--define")
    assert libvirt.network(9000) == []
    assert not (tmp_path / "running").exists()


def test_a_first_network(libvirt: Libvirt, tmp_path: Path) -> None:
    for name in ("running", "defined"):
        (tmp_path / name).unlink()
    assert libvirt.network(1500) == []
    libvirt.network(1500, "--define")
    assert libvirt.network(1500) == []
    assert (tmp_path / "autostart").exists()


def test_a_guest_starts_with_its_host_s_mtu() -> None:
    """Its systemd-networkd sets it at boot, before anything is sent."""
    templates = ROLE.with_name("emulated_worker") / "templates"
    environment = Environment(loader=FileSystemLoader(templates), undefined=StrictUndefined)
    text = environment.get_template("10-q8s.network.j2").render(
        emulated_worker_mac="52:54:00:fe:01:03",
        emulated_worker_mtu=1400,
        emulated_worker_address="172.29.1.3",
        emulated_worker_prefixlen=24,
        emulated_worker_gateway="172.29.1.1",
    )
    settings = configparser.ConfigParser()
    settings.read_string(text)
    assert settings["Match"]["MACAddress"] == "52:54:00:fe:01:03"
    assert settings["Link"]["MTUBytes"] == "1400"
    assert (settings["Network"]["Address"], settings["Network"]["Gateway"]) == ("172.29.1.3/24", "172.29.1.1")
