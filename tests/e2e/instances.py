"""Servers that a user made before Q8S came, with a key and a security group of the user's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openstack

from q8s_lab import settings
from q8s_lab.machine import wait

USER: Final = "debian"


@dataclass(frozen=True)
class Instance:
    """The user's server, its first address, and the key that it accepts."""

    server: Any
    address: str
    key: Path

    def run(self, command: str) -> str:
        """Run a command as root, not by way of Q8S. Return its output."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        done = subprocess.run(
            ["ssh", "-F", "none", "-i", self.key, *options, f"{USER}@{self.address}", "sudo sh -s"],
            input=command, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answers(self) -> bool:
        """Return whether one can log in."""
        try:
            return self.run("echo yes") == "yes\n"
        except AssertionError:
            return False


@contextmanager
def instance(
    cloud: openstack.connection.Connection,
    folder: Path,
    cluster: str,
    name: str,
    networks: Sequence[str] = ("private",),
) -> Iterator[Instance]:
    """A server with a network interface in each network. Of a first one that is "private", this machine reaches it.

    :param cluster: name of the test's cluster
    """
    key = folder / "my_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pair = cloud.compute.create_keypair(name=f"{cluster}-own", public_key=key.with_suffix(".pub").read_text())
    group = cloud.network.create_security_group(name=f"{cluster}-own")
    cloud.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol="tcp",
        port_range_min=22, port_range_max=22,
    )  # fmt: skip
    server = cloud.compute.create_server(
        name=name,
        image_id=cloud.image.find_image(settings.IMAGE_NAME).id,
        flavor_id=cloud.compute.find_flavor("c1.small").id,
        networks=[{"uuid": cloud.network.find_network(network).id} for network in networks],
        key_name=pair.name,
        security_groups=[{"name": group.name}],
    )
    try:
        server = cloud.compute.wait_for_server(server, wait=120)
        found = Instance(server, server.addresses[networks[0]][0]["addr"], key)
        assert wait(found.answers, 120)
        yield found
    finally:
        cloud.compute.delete_server(server, ignore_missing=True)
        cloud.compute.wait_for_delete(server, wait=60)
        cloud.network.delete_security_group(group)
        cloud.compute.delete_keypair(pair)
