"""A single host without OpenStack: what Molecule runs a role on.

Such hosts have a bridge, a subnet and a folder of their own beside the lab's, so that a lab may come up and go down
meanwhile, and no address of theirs is one that Neutron gives away. With the last host all of it goes.
"""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bundle import cache
from lab import image, network, services
from lab.errors import LabError
from lab.machine import Machine, Nic, Spec, read, wait
from lab.settings import Settings

_SSH_SECONDS: Final = 60


@dataclass(frozen=True)
class Host:
    """A host that runs: its address, the ssh host key that it answers with, and the URL of its package proxy."""

    name: str
    address: str
    host_key: str
    proxy: str


def beside(settings: Settings) -> Settings:
    """Where hosts live: the next subnet, and names that follow from the lab's."""
    subnet = settings.subnet
    following = ipaddress.IPv4Network((int(subnet.network_address) + subnet.num_addresses, subnet.prefixlen))
    return replace(
        settings,
        folder=settings.folder.with_name(f"{settings.folder.name}-hosts"),
        bridge=f"{settings.bridge[:14]}h",
        subnet=following,
        port_base=settings.port_base + 10,
    )


def up(lab: Settings, name: str, address: ipaddress.IPv4Address | None, key: Path, memory: int) -> Host:
    """Start a host that ``debian`` can log in to with a key; memory in MB. Without an address it gets a free one.

    :raises LabError: the address is taken or not of the hosts' subnet, or ssh does not answer
    """
    settings = beside(lab)
    with _locked():
        identifier = _identifier(settings, name)
        machine = Machine(settings.machines / str(identifier))
        if not machine.exists:
            settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            settings.log.mkdir(exist_ok=True)
            try:
                taken = [other.spec.nic.address for other in _machines(settings)]
                chosen = _address(settings, name, address, taken)
                network.hold_kernel_settings(settings.folder)
                network.bridge_up(settings)
                if "package-proxy" not in services.running(settings):
                    services.start_package_proxy(settings)
                machine.create(
                    Spec(
                        name=f"q8sl{identifier.hex[:8]}",
                        hostname=name,
                        lower=str(_lower(settings)),
                        bridge=settings.bridge,
                        nic=Nic(
                            str(chosen),
                            settings.subnet.prefixlen,
                            str(settings.gateway),
                            "02:00:" + chosen.packed.hex(":"),
                        ),
                        memory=memory,
                        vcpus=2,
                        key=key.read_text(),
                        proxy=f"http://{settings.gateway}:{settings.proxy_port}",
                        instance_id=str(identifier),
                    )
                )
            except BaseException:
                machine.remove()
                _clean_up(settings)
                raise
        machine.start()
        spec = machine.spec
    # The file is read as root of this machine, not asked over the network: it is the host's own key for certain.
    public = machine.folder / "upper" / "etc" / "ssh" / "ssh_host_ed25519_key.pub"
    if not wait(lambda: _greets(spec.nic.address), _SSH_SECONDS) or not read(public):
        raise LabError(
            f"Failed to start {name}: no ssh on {spec.nic.address} within {_SSH_SECONDS} s",
            hint=f"the host's console is in {machine.folder / 'console.log'}",
        )
    return Host(name, spec.nic.address, " ".join(read(public).split()[:2]), spec.proxy)


def down(lab: Settings, name: str) -> None:
    """Remove a host, and with the last one what hosts share; nothing happens if there is none."""
    settings = beside(lab)
    with _locked():
        Machine(settings.machines / str(_identifier(settings, name))).remove()
        _clean_up(settings)


def _identifier(settings: Settings, name: str) -> uuid.UUID:
    """The same for the same host; another lab's host of that name has another link and cgroup."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{settings.folder}/{name}")


def _machines(settings: Settings) -> list[Machine]:
    return [machine for folder in sorted(settings.machines.glob("*")) if (machine := Machine(folder)).exists]


def _address(
    settings: Settings, name: str, wanted: ipaddress.IPv4Address | None, taken: list[str]
) -> ipaddress.IPv4Address:
    usable = [
        address for address in settings.subnet.hosts() if address != settings.gateway and str(address) not in taken
    ]
    if wanted is None and usable:
        return usable[0]
    if wanted not in usable:
        raise LabError(f"Failed to start {name}: {wanted or 'every address'} is not free in {settings.subnet}")
    return wanted


def _clean_up(settings: Settings) -> None:
    """Leave the machine as it was, if no host is left."""
    if _machines(settings) or not settings.folder.exists():
        return
    services.stop_all(settings)
    network.bridge_down(settings)
    network.release_kernel_settings(settings.folder)
    shutil.rmtree(settings.folder, ignore_errors=True)


def _greets(address: str) -> bool:
    """Whether an ssh server answers, not only a port."""
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _locked() -> AbstractContextManager[None]:
    """One at a time: two that start at once would choose the same address."""
    return cache.locked(cache.cache_root() / "hosts.lock")


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
