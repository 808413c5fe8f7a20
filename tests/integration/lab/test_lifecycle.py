"""A lab of these tests' own, beside any other: started, killed, interrupted, ended, it leaves nothing behind."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from q8s_lab import cli, settings
from q8s_lab.machine import start_time, wait
from tests.clouds import connect

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Lab:
    """Its settings, as variables of the environment."""

    folder: Path
    bridge: str
    subnet: ipaddress.IPv4Network
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "Q8S_LAB_DIR": str(self.folder),
            "Q8S_LAB_BRIDGE": self.bridge,
            "Q8S_LAB_SUBNET": str(self.subnet),
            "Q8S_LAB_PORT": str(self.port),
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Q8S_RUN, "lab", *command.split()],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | self.environment,
            timeout=200,
        )

    def starting(self) -> subprocess.Popen[str]:
        """``lab up``, as soon as it has started something and before it is done."""
        process = subprocess.Popen(
            [Q8S_RUN, "lab", "up"], stderr=subprocess.PIPE, text=True, env=os.environ | self.environment
        )
        assert process.stderr
        said = ""
        while line := process.stderr.readline():
            said += line
            if line.startswith("lab: network"):
                return process
        raise AssertionError(said)

    def traces(self) -> list[str]:
        """All that this machine has of it. Other labs may come and go meanwhile, so that only its own names count."""
        found = [f"{self.folder}"] if self.folder.exists() else []
        own = (self.bridge, str(self.folder), str(self.subnet.network_address)[:-1])
        for command in ("ip -o link", "ip -o address", "ip netns", "iptables-save", "ss -Hltn"):
            listed = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
            found += [line for line in listed.splitlines() if any(name in line for name in own)]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.folder) in line]
        mark = f"Q8S_LAB_PROCESS={self.folder}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    mark in (path / "environ").read_bytes()
                    or str(self.folder).encode() in (path / "cmdline").read_bytes()
                ):
                    found.append(f"process {path.name}")
            except OSError:
                continue
        listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
        ports = {f":{self.port + number} " for number in range(20)}
        found += [line for line in listening.splitlines() if any(port in line for port in ports)]
        record = Path("/run/q8s-lab/kernel.json")
        if record.exists() and str(self.folder) in record.read_text():
            found.append("its hold on kernel settings")
        return found


Q8S_RUN = Path(sys.executable).with_name("q8s-run")


@pytest.fixture
def own() -> Iterator[Lab]:
    """A lab that is nobody else's."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    number = secrets.randbelow(100) + 20  # its ports are below those that Linux assigns to clients (32768 and up)
    name = f"itest{secrets.token_hex(3)}"
    subnet = ipaddress.IPv4Network(f"10.253.{number}.0/24")
    own = Lab(Path("/var/tmp") / name, name, subnet, 30000 + 20 * number)
    assert own.traces() == []
    yield own
    own.run("reset")


def test_killed_crashed_and_reset(own: Lab) -> None:
    """Killed while it starts: the next start cleans. Its services killed: it says so, and how to go on."""
    starting = own.starting()
    os.kill(starting.pid, signal.SIGKILL)
    starting.wait()
    assert own.traces(), "it had begun"
    up = own.run("up")
    assert up.returncode == 0, up.stderr
    assert "cleaning up after a lab that did not stop cleanly" in up.stderr
    place = {"OS_CLIENT_CONFIG_FILE": str(own.folder / "clouds.yaml"), "OS_CLOUD": settings.CLOUD_NAME}
    with connect(place) as cloud:
        server = cloud.compute.create_server(
            name="box",
            image_id=cloud.image.find_image(settings.IMAGE_NAME).id,
            flavor_id=cloud.compute.find_flavor("c1.small").id,
            networks=[{"uuid": cloud.network.find_network("private").id}],
        )
        cloud.compute.wait_for_server(server, interval=0.5, wait=90)
    link = Path(f"/sys/class/net/vb-q8sl{server.id[:8]}")
    groups = [Path(line) for line in (own.folder / "machines" / server.id / "cgroups").read_text().split()]
    assert link.exists() and all(group.exists() for group in groups)
    services = json.loads(own.run("status --json").stdout)["services"]
    listed = subprocess.run(["pgrep", "-P", str(services["nova"])], capture_output=True, text=True, check=True).stdout
    workers = [int(pid) for pid in listed.split()]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # as one that hangs, which does not end when its parent has
    for name in ("nova", "mariadb", "firewall"):
        os.kill(services[name], signal.SIGKILL)
    assert wait(lambda: start_time(services["nova"]) is None, 10)
    again = own.run("up")
    assert again.returncode == 1 and "firewall, mariadb, nova exited" in again.stderr and "hint: " in again.stderr
    reset = own.run("reset")
    assert reset.returncode == 0, reset.stderr
    assert own.traces() == [] and not link.exists()
    assert [worker for worker in workers if start_time(worker)] == []  # init may not have collected them yet
    assert [group for group in groups if group.exists()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(own: Lab, number: signal.Signals) -> None:
    starting = own.starting()
    starting.send_signal(number)
    _, said = starting.communicate(timeout=60)
    assert starting.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted; the processes that it started were stopped"
    assert own.traces() == []


def test_a_port_in_use(own: Lab) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the lab's own connections may be in TIME_WAIT
        taken.bind(("127.0.0.1", own.port + 3))
        taken.listen()
        up = own.run("up")
    assert up.returncode == 1
    message, hint = up.stderr.splitlines()[-2:]
    assert message == f"error: Failed to start neutron: port {own.port + 3} of 127.0.0.1 is in use"
    assert hint.startswith("hint: stop what listens there") and "Q8S_LAB_PORT" in hint
    assert own.traces() == []


def test_no_room(own: Lab, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", tmp_path], check=True)
    try:
        small = Lab(tmp_path / "lab", own.bridge, own.subnet, own.port)
        up = small.run("up")
        assert up.returncode == 1 and up.stderr.startswith(f"error: Failed to start the lab: {tmp_path} has 64 MB free")
        assert not small.folder.exists()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_only_root_may(own: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    os.seteuid(65534)
    try:
        assert [cli.main([command]) for command in ("up", "down", "reset")] == [1, 1, 1]
    finally:
        os.seteuid(0)
    assert capsys.readouterr().err.count("hint: run it as root") == 3
