"""Servers of the lab's cloud, and how to get into them."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q8s_lab import settings
from q8s_lab.machine import Machine, wait
from q8s_lab.vm import VirtualMachine
from tests.clouds import connect


@dataclass
class Box:
    """The server, and how to get into it."""

    cloud: Any
    id: str
    name: str
    address: str
    group: str
    key: Path
    # what a boot, a command and a connection may take
    seconds = 60
    command_seconds = 60
    connection_seconds = 3

    @property
    def status(self) -> str:
        return str(self.cloud.compute.get_server(self.id).status)

    @property
    def machine(self) -> Machine:
        return Machine(settings.load().machines / self.id)

    def ssh(self, *command: str) -> subprocess.CompletedProcess[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        options += ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={self.connection_seconds}", "-i", str(self.key)]
        return subprocess.run(
            ["ssh", *options, f"debian@{self.address}", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=self.command_seconds,
        )

    def wait_for_ssh(self) -> None:
        assert wait(lambda: self.ssh("true").returncode == 0, self.seconds), self.ssh("true").stderr

    def boot_id(self) -> str:
        """Changes with each boot: systemd's invocation of a unit that starts once a boot. Empty while ssh is away."""
        return self.ssh("systemctl", "show", "-p", "InvocationID", "--value", "lab-host.service").stdout.strip()

    def booted_since(self, before: str) -> bool:
        return wait(lambda: self.boot_id() not in ("", before), self.seconds)

    def opens(self, port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            try:
                probe.connect((self.address, port))
            except TimeoutError:
                return False
            return True


def allow(cloud: Any, group: str, port: int) -> None:
    cloud.network.create_security_group_rule(
        security_group_id=group,
        direction="ingress",
        ether_type="IPv4",
        protocol="tcp",
        port_range_min=port,
        port_range_max=port,
    )


class VmBox(Box):
    """A server that is a virtual machine: emulated, so everything takes minutes."""

    seconds = 900
    command_seconds = 900
    connection_seconds = 30

    @property
    def vm(self) -> VirtualMachine:
        return VirtualMachine(settings.load().machines / self.id)

    def boot_id(self) -> str:
        return self.ssh("cat", "/proc/sys/kernel/random/boot_id").stdout.strip()


@contextmanager
def boxes[B: Box](
    lab: Mapping[str, str],
    folder: Path,
    count: int = 1,
    flavor: str = "c1.small",
    *,
    kind: type[B] = Box,  # type: ignore[assignment]
    image: str = settings.IMAGE_NAME,
    **more: Any,
) -> Iterator[list[B]]:
    """So many servers that ssh is open to, in a group of each one's own. What is left of them at the end is removed.

    ``more`` is what Nova takes besides: user data, metadata, networks other than "private".
    """
    cloud = connect(lab)
    base = f"itest-lab-{secrets.token_hex(2)}"
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    cloud.compute.create_keypair(name=base, public_key=key.with_suffix(".pub").read_text())
    names = [base] if count == 1 else [f"{base}-{number}" for number in range(1, count + 1)]
    groups = [cloud.network.create_security_group(name=name) for name in names]
    made = []
    try:
        for name, group in zip(names, groups, strict=True):
            allow(cloud, group.id, 22)
            server = cloud.compute.create_server(
                name=name,
                image_id=cloud.image.find_image(image, ignore_missing=False).id,
                flavor_id=cloud.compute.find_flavor(flavor).id,
                key_name=base,
                security_groups=[{"name": name}],
                **{"networks": [{"uuid": cloud.network.find_network("private").id}], **more},
            )
            made.append(server)
        found = []
        for one, group in zip(made, groups, strict=True):
            server = cloud.compute.wait_for_server(one, interval=1, wait=120)
            found.append(kind(cloud, server.id, server.name, server.addresses["private"][0]["addr"], group.id, key))
        yield found
    finally:
        for server in made:
            cloud.compute.delete_server(server, ignore_missing=True)
        for server in made:
            cloud.compute.wait_for_delete(server, interval=1, wait=60)
        for group in groups:
            cloud.network.delete_security_group(group)
        cloud.compute.delete_keypair(base)
        cloud.close()
