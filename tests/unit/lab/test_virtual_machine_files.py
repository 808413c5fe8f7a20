"""The folder of a virtual machine, QEMU's command line, and refused disk images. These tests need no root."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from q8s_lab import hosts, images, machine, servers, vm
from q8s_lab.errors import LabError
from q8s_lab.hollow import Hollow
from q8s_lab.machine import MachineError, Nic

PORTS = (
    vm.Port("vb-q8sl01234567", "fa:16:3e:00:00:01", 1450, "10.0.0.5"),
    vm.Port("vb-q8sl89abcdef", "fa:16:3e:00:00:02", 9000, "10.0.1.5"),
)
SPEC = vm.Spec(
    hostname="web",
    uuid="c2b551f1-4dc9-4548-8cb0-2a85de1a4754",
    image="/nowhere",
    image_format="qcow2",
    bridge="br0",
    ports=PORTS,
    memory=2048,
    vcpus=3,
    disk=20,
)


def disk_image(path: Path, kind: str = "qcow2", size: str = "1G") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, size], check=True)
    return path


@pytest.fixture
def made(tmp_path: Path) -> vm.VirtualMachine:
    made = vm.VirtualMachine(tmp_path / "machine")
    assert not made.exists
    made.create(
        replace(SPEC, image=str(disk_image(tmp_path / "image.qcow2"))), lambda target: target.write_text("seed")
    )
    return made


def options(words: list[str], name: str) -> list[str]:
    return [value for flag, value in itertools.pairwise(words) if flag == name]


def test_what_is_created_is_read_again(made: vm.VirtualMachine, tmp_path: Path) -> None:
    assert made.exists and made.spec == replace(SPEC, image=str(tmp_path / "image.qcow2"))
    assert not made.running() and made.folder.stat().st_mode & 0o777 == 0o700
    assert made.spec.address == "10.0.0.5"


def test_the_disk_is_a_grown_layer_over_the_image(made: vm.VirtualMachine, tmp_path: Path) -> None:
    disk = vm.inspect_image(made.folder / "disk.qcow2")
    assert disk == vm.DiskImage("qcow2", 20 << 30, str(tmp_path / "image.qcow2"))


def test_a_flavor_without_a_disk_size_has_the_images(tmp_path: Path) -> None:
    without = vm.VirtualMachine(tmp_path / "machine")
    image = disk_image(tmp_path / "image.raw", "raw", "3G")
    without.create(replace(SPEC, image=str(image), image_format="raw", disk=0), Path.touch)
    assert vm.inspect_image(without.folder / "disk.qcow2").size == 3 << 30


def test_a_broken_image_makes_no_machine(tmp_path: Path) -> None:
    broken = tmp_path / "image.qcow2"
    broken.write_bytes(disk_image(tmp_path / "whole.qcow2").read_bytes()[:100])
    made = vm.VirtualMachine(tmp_path / "machine")
    with pytest.raises(MachineError, match="qcow2 header too short"):
        made.create(replace(SPEC, image=str(broken)), Path.touch)
    assert not made.exists


def test_the_command_line_is_the_flavors_and_neutrons() -> None:
    words = vm.command(SPEC, [7, 8])
    assert options(words, "-m") == ["2048M"] and options(words, "-smp") == ["3"]
    assert options(words, "-netdev") == ["tap,id=net0,fd=7", "tap,id=net1,fd=8"]
    nics = [device for device in options(words, "-device") if device.startswith("virtio-net-pci")]
    assert "mac=fa:16:3e:00:00:01,host_mtu=1450" in nics[0] and "mac=fa:16:3e:00:00:02,host_mtu=9000" in nics[1]
    assert "-no-reboot" not in words, "a guest that reboots itself reboots"
    assert not any("/nowhere" in word for word in words), "its files are in its folder"


def test_bios_unless_the_image_asks_for_uefi() -> None:
    assert not any("pflash" in word for word in vm.command(SPEC, [7, 8]))
    flash = [word for word in vm.command(replace(SPEC, uefi=True), [7, 8]) if "pflash" in word]
    assert [("readonly=on" in word, word.rpartition("=")[2]) for word in flash] == [
        (True, "/usr/share/OVMF/OVMF_CODE_4M.fd"),
        (False, "variables.fd"),
    ]


@pytest.fixture
def qemu(made: vm.VirtualMachine) -> Iterator[list[str]]:
    """A process that stands for QEMU's, and a socket that answers as QMP does; gives the commands that it was given."""
    asked: list[str] = []
    process = subprocess.Popen(["sleep", "60"])
    (made.folder / "run.pid").write_text(f"{process.pid} {machine.start_time(process.pid)}")
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(made.folder)
    listener.bind("qmp.sock")
    os.chdir(here)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as stream:
                stream.write('{"QMP": {}}\n')
                stream.flush()
                for line in stream:
                    asked.append(json.loads(line)["execute"])
                    stream.write('{"event": "POWERDOWN"}\n{"return": {}}\n')
                    stream.flush()

    threading.Thread(target=serve, daemon=True).start()
    threading.Thread(target=process.wait, daemon=True).start()
    yield asked
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    process.kill()


def test_stop_presses_the_power_button_and_then_ends_it(made: vm.VirtualMachine, qemu: list[str]) -> None:
    assert made.running()
    made.stop(0.5)
    assert not made.running() and set(qemu) == {"qmp_capabilities", "system_powerdown"}
    assert not (made.folder / "run.pid").exists()


def test_a_hard_stop_does_not_ask(made: vm.VirtualMachine, qemu: list[str]) -> None:
    made.stop(0)
    assert not made.running() and qemu == []


def test_a_guest_that_does_not_hear_is_not_rebooted(made: vm.VirtualMachine, qemu: list[str]) -> None:
    assert not made.reboot(0.5)
    assert made.running(), "whoever asked decides what follows"


def test_a_recorded_process_that_is_another_now_is_left_alone(made: vm.VirtualMachine, qemu: list[str]) -> None:
    pid, started = (made.folder / "run.pid").read_text().split()
    (made.folder / "run.pid").write_text(f"{pid} {int(started) - 1}")
    made.remove()
    assert machine.start_time(int(pid)) and not made.folder.exists()


def test_a_folder_says_which_kind_it_holds(made: vm.VirtualMachine, tmp_path: Path) -> None:
    hollow = Hollow(tmp_path / "hollow")
    hollow.create()
    assert isinstance(servers.find(made.folder), vm.VirtualMachine)
    assert isinstance(servers.find(hollow.folder), Hollow)
    assert servers.find(tmp_path / "nothing") is None
    assert [server.folder for server in servers.with_machines(tmp_path)] == [made.folder]
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    servers.remove(unfinished)
    assert not unfinished.exists()


def test_a_seed_of_our_own_gives_address_key_and_host_key() -> None:
    nic = Nic("10.0.0.5", 24, "10.0.0.1", "02:00:0a:00:00:05", 1400)
    files = hosts.nocloud(
        instance="uuid",
        hostname="web",
        user="cloud",
        key="ssh-ed25519 AAAA me\n",
        host_key="SECRET\n",
        proxy="http://p:1",
        nic=nic,
    )
    assert json.loads(files["meta-data"]) == {"instance-id": "uuid", "local-hostname": "web"}
    assert files["user-data"].startswith("#cloud-config\n")
    user = yaml.safe_load(files["user-data"])
    assert user["users"][0]["name"] == "cloud" and user["users"][0]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    assert user["ssh_keys"] == {"ed25519_private": "SECRET\n"}
    (link,) = json.loads(files["network-config"])["config"]
    assert (link["mac_address"], link["mtu"]) == ("02:00:0a:00:00:05", 1400)
    assert link["subnets"][0]["address"] == "10.0.0.5/24" and link["subnets"][0]["gateway"] == "10.0.0.1"


def test_files_that_are_disk_images(tmp_path: Path) -> None:
    assert images.find_disk("x", disk_image(tmp_path / "a.qcow2")).format == "qcow2"
    raw = disk_image(tmp_path / "a.raw", "raw", "1M")
    with raw.open("r+b") as stream:
        stream.seek(510)
        stream.write(b"\x55\xaa")
    assert images.find_disk("x", raw, uefi=True) == images.Disk(raw, "raw", 1 << 20, True)
    assert images.find_disk(str(raw)).path == raw


def test_files_that_are_none(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a disk\n" * 100)
    vmdk = disk_image(tmp_path / "a.vmdk", "vmdk")
    layer = tmp_path / "layer.qcow2"
    backing = ["-b", str(disk_image(tmp_path / "base.qcow2")), "-F", "qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, layer], check=True)
    for file, reason, hint in (
        (text, "it is not qcow2, and its first sector", "unpack it"),
        (vmdk, "its format is vmdk", f"qemu-img convert -f vmdk -O qcow2 {vmdk}"),
        (layer, "a layer over another file", f"qemu-img convert -f qcow2 -O qcow2 {layer}"),
        (tmp_path / "nowhere", "is not a file", "debian-13-cloud"),
    ):
        with pytest.raises(LabError, match=reason) as failed:
            images.find_disk("x", file)
        assert hint in failed.value.hint, file
