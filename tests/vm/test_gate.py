"""The cheapest virtual machine that shows what no container does. Part of ``make test-vm``, and first there.

It is meant for ``make test`` once its time on a slow machine is known.

One boot, the roles of a worker's host and of a control plane's, and one reboot. The image has the large packages
already (``lab.cloud_image.BAKED``).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from machines import Guest, Host, bundle, guest_of, host, require_virtual_machines, served

from lab import cloud_image, hosts, settings

pytestmark = pytest.mark.vm

GUEST: Final = "gate-guest"
API_NAME: Final = "api.gate.test"


@dataclass(frozen=True)
class Seen:
    """What the host showed after the roles, and after a reboot."""

    first_run: subprocess.CompletedProcess[str]
    guest_run: subprocess.CompletedProcess[str]
    guest: Guest
    hosts_file: str
    guest_after_reboot: Guest
    hosts_file_after_reboot: str
    # when units became active after the reboot, in microseconds since then
    rules_active: int
    network_active: int
    first_rules: str


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    require_virtual_machines()
    with host("gate", cloud_image.BAKED, tmp_path_factory.mktemp("gate"), memory=3072) as found:
        yield found


def variables(machine: Host, answer: dict[str, Any], url: str) -> dict[str, Any]:
    artifacts = {name: {key: file[key] for key in ("name", "sha256")} for name, file in answer["artifacts"].items()}
    return {
        "qemu_host_architecture": "x86_64",
        "qemu_host_guest_address": "192.168.250.2",
        "qemu_host_guest_gateway": "192.168.250.1",
        "qemu_host_proxy": {"http_proxy": machine.proxy},
        "k8s_common_proxy": {"http_proxy": machine.proxy},
        "k8s_common_archive": f"{url}/{artifacts['control-plane-x86_64']['name']}",
        "k8s_common_archive_sha256": artifacts["control-plane-x86_64"]["sha256"],
        "k8s_common_api_name": API_NAME,
        "k8s_common_api_address": machine.address,
        "emulated_worker_name": GUEST,
        "emulated_worker_architecture": "x86_64",
        "emulated_worker_num_cpus": 1,
        "emulated_worker_cpu_model": "EPYC-Rome",
        "emulated_worker_machine": "q35",
        "emulated_worker_ram_mb": 512,
        "emulated_worker_storage_gb": 6,
        "emulated_worker_boot_timeout": 1,
        "emulated_worker_mac": "52:54:00:00:00:02",
        "emulated_worker_address": "192.168.250.2",
        "emulated_worker_gateway": "192.168.250.1",
        "emulated_worker_artifact_url": url,
        "emulated_worker_artifacts": {
            part: artifacts[f"{part}-x86_64"] for part in ("root", "kernel", "initrd", "bundle")
        },
        "emulated_worker_cmdline": answer["cmdlines"]["x86_64"],
        "emulated_worker_authorized_key": machine.key.with_suffix(".pub").read_text().strip(),
        "emulated_worker_api_name": API_NAME,
        "emulated_worker_api_address": machine.address,
        "emulated_worker_ca_certificate": "none\n",
        "emulated_worker_bootstrap_token": "abcdef.0123456789abcdef",
    }


def active_since(machine: Host, unit: str) -> int:
    text = machine.read(f"systemctl show --property=ActiveEnterTimestampMonotonic --value {unit}")
    return int(text)


@pytest.fixture(scope="module")
def seen(machine: Host, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Apply the roles, and reboot. What fails is recorded, so that each test says what it is about."""
    folder = tmp_path_factory.mktemp("served") / "files"
    folder.mkdir()
    answer = bundle()
    for name in ("root", "kernel", "initrd", "bundle", "control-plane"):
        file = answer["artifacts"][f"{name}-x86_64"]
        (folder / file["name"]).symlink_to(file["path"])
    with served(folder, str(hosts.beside(settings.load()).gateway)) as url:
        given = variables(machine, answer, url)
        first_run = machine.play("host.yml", given)
        if first_run.returncode != 0:  # by hand, so that the other tests have something to look at
            machine.ssh("DEBIAN_FRONTEND=noninteractive; apt-get update", seconds=900)
            machine.play("host.yml", given)
        guest_run = machine.play("guest.yml", given)
    guest, hosts_file = guest_of(machine, GUEST), machine.read("cat /etc/hosts")
    machine.reboot()
    return Seen(
        first_run,
        guest_run,
        guest,
        hosts_file,
        await_guest(machine),
        machine.read("cat /etc/hosts"),
        active_since(machine, "q8s-rules.service"),
        active_since(machine, "systemd-networkd.service"),
        machine.read("iptables --wait --table nat --list-rules PREROUTING | sed -n 2p"),
    )


def await_guest(machine: Host) -> Guest:
    """Return the guest once it runs; libvirt starts it some time after one can log in."""
    machine.ssh(f"for _ in $(seq 60); do [ -e /run/libvirt/qemu/{GUEST}.pid ] && break; sleep 5; done", seconds=600)
    return guest_of(machine, GUEST)


def test_the_image_is_what_a_cloud_has(machine: Host) -> None:
    assert machine.read("cat /sys/module/apparmor/parameters/enabled").strip() == "Y"
    units = "apt-daily.timer apt-daily-upgrade.timer unattended-upgrades systemd-resolved systemd-networkd apparmor"
    assert set(machine.read(f"systemctl is-enabled {units}").split()) == {"enabled"}
    assert "manage_etc_hosts' as True" in machine.read("cat /etc/hosts")
    assert machine.read("ls /etc/netplan").split() == ["50-cloud-init.yaml"]


def test_packages_are_found_though_the_lists_are_new_and_empty(seen: Seen) -> None:
    assert seen.first_run.returncode == 0, seen.first_run.stdout[-3000:]


def test_a_guest_starts_under_apparmor(seen: Seen) -> None:
    assert seen.guest.state == "running", f"{seen.guest}\n{seen.guest_run.stdout[-3000:]}"
    assert re.fullmatch(r"libvirt-[0-9a-f-]+ \(enforce\)", seen.guest.confined), seen.guest.confined


def test_the_guest_is_back_after_a_reboot(seen: Seen) -> None:
    assert seen.guest_after_reboot.state == "running", seen.guest_after_reboot
    assert seen.guest_after_reboot.confined.endswith("(enforce)"), seen.guest_after_reboot.confined


def test_the_apis_name_survives_a_reboot(machine: Host, seen: Seen) -> None:
    line = rf"(?m)^{re.escape(machine.address)}\s+{re.escape(API_NAME)}$"
    assert re.search(line, seen.hosts_file), seen.hosts_file
    assert re.search(line, seen.hosts_file_after_reboot), seen.hosts_file_after_reboot


def test_the_rules_are_there_before_the_network(seen: Seen) -> None:
    assert 0 < seen.rules_active <= seen.network_active
    assert seen.first_rules.strip().endswith("-j Q8S_PRE"), seen.first_rules
