"""The scripts by which ``status`` asks hosts, with what systemd and iptables printed on a host of the lab."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _host_state

FILES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/playbooks/files"
# systemctl show --property=Id,LoadState,ActiveState,UnitFileState
SHOWN = """\
Id=q8s-guest.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled

Id=fstrim.service
LoadState=loaded
ActiveState=inactive
UnitFileState=static

Id=gone.service
LoadState=not-found
ActiveState=inactive
UnitFileState=

Id=kubelet.service
LoadState=loaded
ActiveState=activating
UnitFileState=enabled
"""
Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run a script with some programs in front of the machine's, and with its files below a folder."""

    def run(name: str, programs: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
        for program, text in programs.items():
            (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / program).chmod(0o755)
        script = (FILES / name).read_text()
        for folder in ("/usr/local/sbin/", "/etc/libvirt/", "/etc/q8s/", "/run/libvirt/"):
            script = script.replace(folder, f"{tmp_path}{folder}")
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **variables}
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)

    return run


def test_units_and_rules(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text(SHOWN)
    show = {"systemctl": f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/shown'}
    units = ["unit fstrim.service inactive static", "unit gone.service missing missing"]
    said = ask("host_state.sh", show, UNITS="q8s-guest.service fstrim.service")
    assert said.stdout.splitlines() == ["rules q8s-rules is not installed", *units]
    assert (tmp_path / "asked").read_text().split()[-2:] == ["q8s-guest.service", "fstrim.service"]

    program = tmp_path / "usr/local/sbin/q8s-rules"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'missing: nat -A PREROUTING -j Q8S_PRE'\nexit 1\n")
    program.chmod(0o755)
    rules = tmp_path / "etc/q8s/iptables.rules"
    rules.parent.mkdir(parents=True)
    rules.write_text("-A Q8S_PRE -i virbr0 -d 10.0.0.9 -p tcp --dport 6443 -j DNAT --to-destination 192.168.1.1:6443\n")
    said = ask("host_state.sh", show, UNITS="q8s-guest.service")
    assert said.stdout.splitlines() == ["rules missing: nat -A PREROUTING -j Q8S_PRE", *units]
    assert (tmp_path / "asked").read_text().split()[-2:] == ["q8s-guest.service", "haproxy.service"]

    state, rest = _host_state.split(said.stdout + 'running (booted)\n{\n    "unit x": "rules y"\n}\n')
    assert rest == 'running (booted)\n{\n    "unit x": "rules y"\n}'
    assert state.units == (("fstrim.service", "inactive", "static"), ("gone.service", "missing", "missing"))


def test_a_guest(ask: Ask, tmp_path: Path) -> None:
    for name in ("etc/libvirt/qemu/arm-1.xml", "etc/libvirt/qemu/autostart/arm-1.xml", "run/libvirt/qemu/arm-1.pid"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    runs = {"virsh": "printf 'running (booted)\\n\\n'"}
    said = ask("guest_state.sh", runs, NAME="arm-1", ADDRESS="127.77.0.9")
    assert said.returncode == 0
    assert said.stdout.splitlines()[0] == "running (booted)" and said.stdout.splitlines()[-1] == "kubelet refuses"
    with socket.create_server(("127.77.0.9", 10250)):
        (tmp_path / "etc/libvirt/qemu/autostart/arm-1.xml").unlink()
        assert ask("guest_state.sh", runs, NAME="arm-1", ADDRESS="127.77.0.9").stdout.endswith("\nautostart is off\n")
        (tmp_path / "run/libvirt/qemu/arm-1.xml").write_text(
            "<source dev='/dev/x'/>\n<target dev='vda' bus='virtio'/>\n<target dev='vnet77'/>\n"
        )
        cut = ask("guest_state.sh", runs, NAME="arm-1", ADDRESS="127.77.0.9").stdout
        assert cut.endswith("\nautostart is off\nnetwork is cut\n")
        assert _host_state.split(cut)[0].network_is_cut
    (tmp_path / "etc/libvirt/qemu/arm-1.xml").unlink()
    (tmp_path / "run/libvirt/qemu/arm-1.pid").unlink()
    said = ask("guest_state.sh", runs, NAME="arm-1", ADDRESS="127.77.0.9")
    assert _host_state.split(said.stdout)[0].lacks_definition and "kubelet" not in said.stdout
    failed = {"virsh": "echo error: failed to get domain >&2; exit 1"}
    said = ask("guest_state.sh", failed, NAME="arm-1", ADDRESS="127.77.0.9")
    assert said.returncode == 1 and _host_state.split(said.stdout)[0] == _host_state.HostState()
