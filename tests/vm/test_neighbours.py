"""A worker's host with Docker, ufw, firewalld and compressed swap of its own, and a user ``ubuntu``.

The programs are Debian's. firewalld is refused, and so is Docker where a control plane would be. A guest runs beside
ufw and Docker, also after a reboot and after each has loaded its rules again. Part of ``make test-vm``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest
from ansible_collections.q8s.emu.plugins.filter.host_notes import host_notes
from ansible_collections.q8s.emu.plugins.filter.host_problems import host_problems

from q8s_lab import cloud_image, hosts, settings
from q8s_lab.machine import wait
from tests.vm.machines import (
    REPOSITORY,
    Host,
    artifacts,
    bundle,
    denied,
    displaced,
    guest_of,
    host,
    require_virtual_machines,
    served,
    worker_variables,
)

pytestmark = pytest.mark.vm

GUEST: Final = "neighbour-guest"
SURVEY: Final = REPOSITORY / "collections/ansible_collections/q8s/emu/roles/k8s_common/files/survey.sh"
INSTALL: Final = """
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends docker.io docker-cli ufw firewalld
ufw allow OpenSSH
ufw --force enable
modprobe zram
zramctl --size 128M /dev/zram0
mkswap /dev/zram0
swapon /dev/zram0
"""
REPAIR_SECONDS: Final = 180  # the host looks every ten seconds, and is an emulated machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    require_virtual_machines()
    with host("neighbours", cloud_image.BAKED, tmp_path_factory.mktemp("vm"), memory=2048, user="ubuntu") as found:
        done = found.ssh(INSTALL, seconds=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        yield found


@pytest.fixture(scope="module")
def surveyed(machine: Host) -> list[str]:
    """What the check of an existing server sees."""
    return machine.read(SURVEY.read_text()).splitlines()


@pytest.fixture(scope="module")
def refused(machine: Host, surveyed: list[str]) -> subprocess.CompletedProcess[str]:
    """Prepare the host while firewalld runs, and switch that off afterwards."""
    variables = worker_variables(machine, GUEST, "http://none", {}, "")
    done = machine.play("host.yml", variables)
    machine.read("systemctl disable --now firewalld && ufw reload")
    return done


@pytest.fixture(scope="module")
def prepared(
    machine: Host, refused: subprocess.CompletedProcess[str], tmp_path_factory: pytest.TempPathFactory
) -> list[subprocess.CompletedProcess[str]]:
    """Apply the roles of a worker's host, beside Docker and ufw."""
    folder = tmp_path_factory.mktemp("served") / "files"
    folder.mkdir()
    answer = bundle()
    with served(folder, str(hosts.beside(settings.load()).gateway)) as url:
        variables = worker_variables(machine, GUEST, url, artifacts(folder, answer), answer["cmdlines"]["x86_64"])
        return [machine.play(playbook, variables) for playbook in ("host.yml", "guest.yml")]


@pytest.fixture(scope="module")
def rebooted(machine: Host, prepared: list[subprocess.CompletedProcess[str]]) -> Host:
    machine.reboot()
    return machine


def test_a_control_plane_is_refused_beside_them(surveyed: list[str]) -> None:
    problems = "\n".join(host_problems({"stdout": "\n".join(surveyed)}))
    for words in ("a container runtime is installed (docker", "the firewall ufw", "the firewall firewalld"):
        assert words in problems
    assert any("/dev/zram0" in note for note in host_notes({"stdout": "\n".join(surveyed)}))


def test_firewalld_is_refused_with_its_name(refused: subprocess.CompletedProcess[str]) -> None:
    assert refused.returncode != 0
    assert "firewalld" in refused.stdout
    assert "Disable that firewall on the host" in refused.stdout


def test_a_guest_runs_beside_docker_and_ufw(machine: Host, prepared: list[subprocess.CompletedProcess[str]]) -> None:
    for done in prepared:
        assert done.returncode == 0, done.stdout[-3000:]
    guest = guest_of(machine, GUEST)
    assert guest.state == "running"
    assert guest.confined.endswith("(enforce)")
    assert denied(machine.read) == []
    assert displaced(machine.read) == []
    rules = machine.read("iptables --wait --list-rules")
    assert "-P FORWARD DROP" in rules and "DOCKER" in rules and "ufw-before-forward" in rules, "nobody else is there"


def test_after_a_reboot_the_rules_are_first_again(rebooted: Host) -> None:
    active = rebooted.read("systemctl start docker && systemctl is-active docker ufw q8s-rules")
    assert active.split() == ["active"] * 3
    assert wait(lambda: displaced(rebooted.read) == [], REPAIR_SECONDS), displaced(rebooted.read)
    assert wait(lambda: guest_of(rebooted, GUEST).state == "running", 600)


@pytest.mark.parametrize("command", ["systemctl restart docker", "ufw reload", "systemctl restart libvirtd"])
def test_who_loads_rules_again_does_not_stay_first(rebooted: Host, command: str) -> None:
    rebooted.read(command)
    assert wait(lambda: displaced(rebooted.read) == [], REPAIR_SECONDS), displaced(rebooted.read)
    assert re.search(r"(?m)^-A Q8S_FWD ", rebooted.read("iptables --wait --list-rules Q8S_FWD"))
