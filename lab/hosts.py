"""A single host without OpenStack: what Molecule runs a role on."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import uuid
from pathlib import Path

from lab import image, network, services
from lab.errors import LabError
from lab.machine import Machine, Nic, Spec
from lab.settings import Settings


def up(settings: Settings, name: str, address: ipaddress.IPv4Address, key: Path, memory: int) -> None:
    """Start a host that ``debian`` can log in to with a key; memory in MB.

    :raises LabError: the address is not of the lab's subnet
    """
    if address not in settings.subnet or address == settings.gateway:
        raise LabError(f"Failed to start {name}: {address} is no host address of {settings.subnet}")
    settings.log.mkdir(parents=True, exist_ok=True)
    network.bridge_up(settings)
    if "package-proxy" not in services.running(settings):
        with (settings.log / "package-proxy.out").open("ab") as output:
            process = subprocess.Popen(
                services.package_proxy(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        services.record(settings, "package-proxy", process.pid)
    identifier = uuid.uuid5(uuid.NAMESPACE_DNS, name)
    machine = Machine(settings.machines / str(identifier))
    if machine.exists:
        machine.start()
        return
    last = address.packed
    machine.create(
        Spec(
            name=f"q8sl{identifier.hex[:8]}",
            hostname=name,
            lower=str(_lower(settings)),
            bridge=settings.bridge,
            nic=Nic(str(address), settings.subnet.prefixlen, str(settings.gateway), "02:00:" + last.hex(":")),
            memory=memory,
            vcpus=2,
            key=key.read_text(),
            proxy=f"http://{settings.gateway}:{settings.proxy_port}",
            instance_id=str(identifier),
        )
    )
    machine.start()


def down(settings: Settings, name: str) -> None:
    """Remove a host; nothing happens if there is none."""
    Machine(settings.machines / str(uuid.uuid5(uuid.NAMESPACE_DNS, name))).remove()


def _lower(settings: Settings) -> Path:
    """The host image, unpacked."""
    archive, _ = image.ensure()
    lower = settings.folder / "images" / archive.parent.name
    if not lower.exists():
        partial = lower.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        subprocess.run(
            ["tar", "--extract", "--zstd", "--numeric-owner", "-p", "-f", str(archive), "-C", str(partial)], check=True
        )
        partial.rename(lower)
    return lower
