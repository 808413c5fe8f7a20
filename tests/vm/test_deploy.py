"""A cluster whose worker's host is a virtual machine with a cloud's image. Part of ``make test-vm``.

The control plane is a container. The emulated guest runs in QEMU in QEMU: its kernel has to print; whether its node
becomes Ready within the limit is reported.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from q8s_lab import cloud_image, settings
from q8s_lab.machine import wait
from tests import clouds
from tests.vm.machines import IMAGES, denied, displaced, require_virtual_machines

pytestmark = [pytest.mark.lab, pytest.mark.vm]

BIN: Final = Path(sys.executable).parent
WORKER: Final = "x86-small-1"
# Limits for a node that runs in QEMU in QEMU: of a deploy, and of the wait that follows. The tests go on without it.
DEPLOY_SECONDS: Final = int(os.environ.get("Q8S_VM_DEPLOY_SECONDS", "3600"))
READY_SECONDS: Final = int(os.environ.get("Q8S_VM_READY_SECONDS", "1800"))
KERNEL_SECONDS: Final = 900
GUEST_MEMORY: Final = 1024

FILE: Final = """\
cluster_name: {name}
private_network_id: private
remote_ip_prefix: {subnet}
default_image_name: {image}
name_of_initial_instance: {name}-control-plane
guest_ip_prefix: 172.29.0.0/16
security_groups: [q8s-cluster]
required_tcp_ports: [22, 80, 443, 2222, 2379, 2380, 6443, 8472, 10250, 10256, 10257, 10259]
required_udp_ports: [8472]
worker_port_range_min: 30000
worker_port_range_max: 32767
cluster_definition:
  master_node_flavor: c1.small
  number_additional_master_nodes: 0
  worker: {{x86-small: 1}}
vm_types:
  types:
    x86-small:
      architecture: x86_64
      num_cpus: 1
      cpu_model: {cpu}
      machine_model: virt
      ram: {memory}
      storage: 10
      openstack_flavor: v1.medium
"""


@dataclass(frozen=True)
class Deployment:
    """A cluster of a test, and how its first deploy ended."""

    name: str
    file: Path
    environment: Mapping[str, str]
    seconds: dict[str, float]

    @property
    def host(self) -> str:
        return f"{self.name}-{WORKER}"

    def run(self, verb: str, *arguments: str, seconds: int = 5400) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [BIN / "q8s-run", verb, self.file, *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        print(done.stdout, done.stderr, sep="\n")
        return done

    def on(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as root on a server. It is waited for: an emulated host is slow to let somebody in."""
        return self.run("ssh", host, "--", f"sudo sh -c {shlex.quote(command)}", seconds=900)

    def read(self, command: str) -> str:
        done = self.on(self.host, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def console(self) -> str:
        return self.on(self.host, f"cat /var/lib/q8s-guest/{WORKER}.console").stdout

    def node_is_ready(self) -> bool:
        condition = '{.status.conditions[?(@.type=="Ready")].status}'
        done = self.on(f"{self.name}-control-plane", f"kubectl get node {WORKER} -o jsonpath='{condition}'")
        return done.stdout.strip() == "True"


@pytest.fixture(scope="module", params=IMAGES)
def image(lab: Mapping[str, str], request: pytest.FixtureRequest) -> str:
    """The name of an image in the lab's cloud."""
    require_virtual_machines()
    built = request.param in cloud_image.NAMES
    name = request.param if built else Path(request.param).stem
    done = subprocess.run(
        [BIN / "q8s-run", "lab", "image", "add", name, *([] if built else [request.param])], check=False
    )
    assert done.returncode == 0, "q8s-run lab image add failed; its message is above"
    return str(name)


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A cluster on a host of that image, deployed as far as its guest's kernel."""
    folder = tmp_path_factory.mktemp("vm")
    # the file of a published image may have any name
    system = re.sub(r"[^a-z0-9]+", "-", image.lower().removeprefix("debian-").removesuffix("-cloud"))
    name = f"vm-{system[:30].strip('-')}"
    file = folder / "cluster.yaml"
    text = FILE.format(name=name, subnet=settings.load().subnet, image=image, cpu="qemu64", memory=GUEST_MEMORY)
    file.write_text(text)
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(folder / "state")}
    found = Deployment(name, file, environment, {})
    try:
        deploy(found)
        yield found
    finally:
        found.run("destroy", "--yes", seconds=900)


def deploy(cluster: Deployment) -> None:
    """Deploy, and interrupt the deploy as Ctrl-C does if it has not ended at the limit."""
    begin = time.monotonic()
    log = cluster.file.with_name("deploy.log")  # shows how far it is
    with log.open("w") as output:
        process = subprocess.Popen(
            [BIN / "q8s-run", "deploy", cluster.file, "--yes"],
            env=cluster.environment,
            start_new_session=True,
            stderr=output,
        )
        interrupted = False
        try:
            process.wait(DEPLOY_SECONDS)
        except subprocess.TimeoutExpired:
            interrupted = True
            process.send_signal(signal.SIGINT)
            process.wait(300)
    cluster.seconds["deploy"] = time.monotonic() - begin
    said = log.read_text()
    print(said)
    # A guest that does not come in QEMU in QEMU may end it. Nothing else may.
    slow = process.returncode == 1 and re.search(r"Failed to boot the guest|is not Ready|has not joined", said)
    assert process.returncode == 0 or interrupted or slow, said[-3000:]


@pytest.fixture(scope="module")
def started(cluster: Deployment) -> str:
    """The guest's console, from the time on when its kernel has printed."""
    assert wait_slowly(lambda: kernels(cluster.console()) > 0, KERNEL_SECONDS), cluster.console()
    return cluster.console()


def kernels(console: str) -> int:
    """Return how many kernels have printed: each begins anew to count the seconds."""
    printed = [float(seconds) for seconds in re.findall(r"(?m)^\[ *(\d+\.\d{6})\] ", console)]
    return sum(now < before for before, now in itertools.pairwise([float("inf"), *printed]))


def wait_slowly(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(15)
    return True


def report(text: str) -> None:
    """Say what was measured, in the summary: pytest lists warnings there."""
    warnings.warn(f"{text} (load {os.getloadavg()[0]:.1f})", stacklevel=2)


def changes(done: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"done in [\d.]+ s, (\d+) change", done.stderr + done.stdout)
    assert found, "the output does not say how much was changed"
    return int(found[1])


def qemu_label(cluster: Deployment) -> str:
    return cluster.read(f"cat /proc/$(cat /run/libvirt/qemu/{WORKER}.pid)/attr/current").replace("\0", "").strip()


def test_the_guests_kernel_runs_confined_by_apparmor(cluster: Deployment, started: str) -> None:
    assert kernels(started) == 1
    assert re.fullmatch(r"libvirt-[0-9a-f-]+ \(enforce\)", qemu_label(cluster))


def test_apparmor_denied_nothing_of_q8s(cluster: Deployment, started: str) -> None:
    assert denied(cluster.read) == []


def test_the_guest_comes_as_far_as_the_limit_lets_it(cluster: Deployment, started: str) -> None:
    """Its own files must be there within the limit. Ready is reported, and not required: QEMU in QEMU is slow."""
    begin = time.monotonic()
    ready = wait_slowly(cluster.node_is_ready, READY_SECONDS)
    console = cluster.console()
    lines = "\n".join([line for line in console.splitlines() if line.strip()][-15:])
    assert "q8s: data disk unpacked" in console, lines
    if ready:
        report(f"{cluster.name}: Ready {time.monotonic() - begin + cluster.seconds['deploy']:.0f} s after deploy began")
    else:
        report(f"{cluster.name}: NOT READY {READY_SECONDS} s after the kernel printed. Its console ends with\n{lines}")


def test_a_second_deploy_changes_nothing(cluster: Deployment, started: str) -> None:
    if not cluster.node_is_ready():
        pytest.skip(f"the node of {cluster.name} is not Ready, for which a deploy waits: QEMU in QEMU is too slow here")
    again = cluster.run("deploy", "--yes")
    assert again.returncode == 0
    assert changes(again) == 0


def test_the_workers_roles_a_second_time_change_nothing(cluster: Deployment, started: str) -> None:
    """They do not wait for the guest."""
    tags = "qemu_host,emulated_worker_install,emulated_worker_configure"
    again = cluster.run("deploy", "--yes", "--tags", tags)
    assert again.returncode == 0
    assert changes(again) == 0


@pytest.fixture(scope="module")
def rebooted(cluster: Deployment, started: str) -> float:
    """Reboot the host through the API; gives the seconds until one can log in."""
    before = cluster.read("cat /proc/sys/kernel/random/boot_id")
    begin = time.monotonic()
    with clouds.connect(cluster.environment) as cloud:
        server = cloud.compute.find_server(cluster.host, ignore_missing=False)
        cloud.compute.reboot_server(server, "SOFT")

    def boot_id() -> str:
        return cluster.on(cluster.host, "cat /proc/sys/kernel/random/boot_id").stdout

    assert wait_slowly(lambda: boot_id() not in ("", before), 1200)
    return time.monotonic() - begin


def test_after_a_reboot_the_rules_come_before_the_network(cluster: Deployment, rebooted: float) -> None:
    report(f"{cluster.name}: reboot through the API to login {rebooted:.0f} s")
    show = "systemctl show --property=ActiveEnterTimestampMonotonic --value"
    rules, network = (int(cluster.read(f"{show} {unit}")) for unit in ("q8s-rules.service", "systemd-networkd.service"))
    assert 0 < rules <= network
    assert displaced(cluster.read) == []


def test_after_a_reboot_the_guest_and_its_network_are_back(cluster: Deployment, rebooted: float) -> None:
    virsh = "virsh --connect qemu:///system"
    assert wait_slowly(lambda: "running" in cluster.on(cluster.host, f"{virsh} domstate {WORKER}").stdout, 600)
    assert re.search(r"Active:\s+yes", cluster.read(f"{virsh} net-info q8s"))
    assert qemu_label(cluster).endswith("(enforce)")
    assert wait(lambda: kernels(cluster.console()) >= 2, KERNEL_SECONDS), cluster.console()


def test_flushed_rules_come_back(cluster: Deployment, rebooted: float) -> None:
    """As after ``iptables -F`` by a person, or a firewall that is restarted."""
    cluster.read("iptables --wait --table nat --flush; iptables --wait --flush; iptables --wait --policy FORWARD DROP")
    assert wait_slowly(lambda: not displaced(cluster.read), 120)
