"""The cheapest virtual machine that shows what no container does: a guest under AppArmor. Part of ``make test``.

One boot, and the roles of a worker's host up to the start of its guest. The image has the large packages already
(``q8s_lab.cloud_image.BAKED``). When the roles begin, another program installs packages, as at a server's first boot,
and libvirt's default network is active. The guest has a real kernel and empty disks: QEMU has to open them, and nobody
logs in. Reboots, and guests that become nodes, are in the other files of this folder (``make test-vm``).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from q8s_lab import cloud_image, hosts, settings
from q8s_wrapper.experiment import machines
from tests.vm.machines import (
    Guest,
    Host,
    artifacts,
    bundle,
    denied,
    guest_of,
    host,
    require_virtual_machines,
    served,
    worker_variables,
)

pytestmark = [pytest.mark.vm, pytest.mark.gate]

GUEST: Final = "gate-guest"
# dpkg takes a lock of this kind. The role's next attempt after the first, which fails, gets it.
LOCK: Final = """
import fcntl, time
with open("/var/lib/dpkg/lock-frontend", "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    time.sleep(900)
"""
WAITS: Final = "RETRYING: [node]: q8s.emu.qemu_host : Wait until other package installations have finished"
DEFAULT_NETWORK: Final = """
<network>
  <name>default</name><forward mode='nat'/><bridge name='virbr0'/><dns enable='no'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'/>
</network>
"""


@dataclass(frozen=True)
class Seen:
    """How the playbooks ended, the guest after them, and how to apply the host's playbook once more."""

    host_run: subprocess.CompletedProcess[str]
    guest_run: subprocess.CompletedProcess[str]
    guest: Guest
    again: Callable[[], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    require_virtual_machines()
    with host("gate", cloud_image.BAKED, tmp_path_factory.mktemp("gate"), memory=2048) as found:
        yield found


@contextmanager
def first_boot(machine: Host) -> Iterator[None]:
    """Let another program hold dpkg's lock until the role has waited once, and libvirt's default network be active."""
    network = shlex.quote(DEFAULT_NETWORK)
    machine.read(
        f"systemd-run --quiet --unit first-boot python3 -c {shlex.quote(LOCK)}\n"
        f"echo {network} > /run/default.xml && systemctl start libvirtd\n"
        "virsh --connect qemu:///system net-define /run/default.xml\n"
        "virsh --connect qemu:///system net-start default\n"
    )
    log, over = machine.folder / "host.yml.log", threading.Event()

    def release() -> None:
        while not (over.is_set() or (log.exists() and WAITS in log.read_text())):
            time.sleep(1)
        machine.ssh("systemctl stop first-boot")

    with ThreadPoolExecutor(1) as pool:
        released = pool.submit(release)
        try:
            yield
        finally:
            over.set()
            released.result()


@pytest.fixture(scope="module")
def seen(machine: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Apply the roles. What fails is recorded, so that each test says what it is about."""
    folder = tmp_path_factory.mktemp("served") / "files"
    folder.mkdir()
    answer = bundle()
    with served(folder, str(hosts.beside(settings.load()).gateway)) as url:
        variables = worker_variables(machine, GUEST, url, artifacts(folder, answer), answer["cmdlines"]["x86_64"])
        with first_boot(machine):
            host_run = machine.play("host.yml", variables)
        if host_run.returncode != 0:  # by hand, so that the guest has something to start on
            machine.ssh("apt-get update", seconds=900)
            machine.play("host.yml", variables)
        guest_run = machine.play("guest.yml", variables)
        guest = guest_of(machine, GUEST)
        yield Seen(host_run, guest_run, guest, lambda: machine.play("host.yml", variables))


def test_the_image_is_what_a_cloud_has(machine: Host) -> None:
    assert machine.read("cat /sys/module/apparmor/parameters/enabled").strip() == "Y"
    units = "apt-daily.timer apt-daily-upgrade.timer unattended-upgrades systemd-resolved systemd-networkd apparmor"
    assert set(machine.read(f"systemctl is-enabled {units}").split()) == {"enabled"}
    assert "manage_etc_hosts' as True" in machine.read("cat /etc/hosts")
    assert machine.read("ls /etc/netplan").split() == ["50-cloud-init.yaml"]


def test_packages_are_found_though_the_lists_are_new_and_empty(seen: Seen) -> None:
    assert seen.host_run.returncode == 0, seen.host_run.stdout[-3000:]


def test_the_role_waits_for_an_installation_that_runs(seen: Seen) -> None:
    assert WAITS in seen.host_run.stdout


def test_the_guest_s_network_replaces_libvirt_s_default_one(machine: Host, seen: Seen) -> None:
    assert machine.read("virsh --connect qemu:///system net-list --all --name").split() == ["q8s"]
    assert "192.168.250.1" in machine.read("ip -brief address show dev virbr0")


def test_a_guest_starts_under_apparmor(machine: Host, seen: Seen) -> None:
    assert seen.guest.state == "running", f"{seen.guest}\n{seen.guest_run.stdout[-3000:]}"
    assert re.fullmatch(r"libvirt-[0-9a-f-]+ \(enforce\)", seen.guest.confined), seen.guest.confined
    assert denied(machine.read) == []


@pytest.mark.long("three minutes: Molecule repeats the role on a container")
def test_a_host_that_is_ready_is_not_changed(seen: Seen) -> None:
    said = seen.again().stdout
    assert re.search(r"^node +: ok=\d+ +changed=0 .* failed=0 ", said, re.M), said[-3000:]


def test_a_scenario_limits_the_cpus_of_a_guest(machine: Host, seen: Seen) -> None:
    assert seen.guest.state == "running"
    read = "cat /sys/fs/cgroup/machine.slice/*gate*/libvirt/vcpu0/cpu.max"
    machine.ssh(f"sudo sh -c {shlex.quote(machines.cpu_quota(GUEST, 25))}")
    assert machine.read(read).split() == ["25000", "100000"]
    machine.ssh(f"sudo sh -c {shlex.quote(machines.cpu_quota(GUEST))}")
    assert machine.read(read).split() == ["max", "100000"]


@pytest.mark.long("two minutes: libvirt-guests counts its own rounds, which other work on the machine makes longer")
def test_a_guest_that_ignores_a_shutdown_does_not_hold_up_its_host(machine: Host, seen: Seen) -> None:
    assert seen.guest.state == "running"
    assert machine.read("systemctl is-active libvirt-guests").split() == ["active"]
    begin = time.monotonic()
    machine.read("systemctl stop libvirt-guests")
    # The guest has 30 s, of 300 s by default. The host, which is emulated itself, takes half a minute for virsh alone.
    assert 25 < time.monotonic() - begin < 120
