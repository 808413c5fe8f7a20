"""Single hosts without OpenStack, on which Molecule runs roles.

These hosts have their own bridge, subnet and folder, separate from the lab's. A lab may start and stop meanwhile, and
Neutron never assigns their addresses. Removing the last host removes the bridge and the folder, too.
"""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import subprocess
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_lab import firewall, image, images, network, package_proxy, processes, servers, services, vm
from q8s_lab.errors import LabError
from q8s_lab.machine import Machine, Nic, Spec, read, wait
from q8s_lab.settings import Settings

_SSH_SECONDS: Final = {servers.CONTAINER: 60, servers.VM: 900}
_VCPUS: Final = 2
_VM_DISK: Final = 20  # GB
USER: Final = "debian"  # whom the images create


@dataclass(frozen=True)
class Host:
    """A running host: its address, its public SSH host key, and the URL of its package proxy."""

    name: str
    address: str
    host_key: str
    proxy: str


def beside(settings: Settings) -> Settings:
    """Return the settings for hosts beside a lab: the next subnet, other ports, and names derived from the lab's."""
    subnet = settings.subnet
    following = ipaddress.IPv4Network((int(subnet.network_address) + subnet.num_addresses, subnet.prefixlen))
    return replace(
        settings,
        folder=settings.folder.with_name(f"{settings.folder.name}-hosts"),
        bridge=f"{settings.bridge[:14]}h",
        subnet=following,
        port_base=settings.port_base + 10,
    )


@dataclass(frozen=True)
class Order:
    """A host to start.

    :param key: file with the public SSH key of the user
    :param address: None for a free address
    :param memory: MB
    :param machine: ``container`` or ``vm``
    :param image: image of a virtual machine
    :param user: who can log in to a virtual machine; a container has ``debian``
    """

    name: str
    key: Path
    address: ipaddress.IPv4Address | None = None
    memory: int = 4096
    machine: str = servers.CONTAINER
    image: str = ""
    user: str = USER


def up(lab: Settings, order: Order) -> Host:
    """Start a host, unless it runs. Its user can log in with the key.

    :raises LabError: the address is in use or not in the hosts' subnet, a host of that name is of another kind, or SSH
        is not reachable in time
    """
    settings = beside(lab)
    # before the lock is taken: building the image may take minutes
    disk = images.find_disk(order.image) if order.machine == servers.VM else None
    with _locked():
        identifier = _identifier(settings, order.name)
        folder = settings.machines / str(identifier)
        new = servers.find(folder) is None
        if new:
            settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            settings.log.mkdir(exist_ok=True)
        try:
            if new:
                _create(folder, order, settings, disk)
            machine = Machine(folder) if order.machine == servers.CONTAINER else vm.VirtualMachine(folder)
            if not machine.exists:
                raise LabError(
                    f"Failed to start {order.name}: a host of that name exists, and it is not a {order.machine}",
                    hint=f"remove it first: q8s-run lab host down {order.name}",
                )
            machine.start()
        except BaseException:
            if new:
                servers.remove(folder)
                _clean_up(settings)
            raise
        spec = machine.spec
    seconds = _SSH_SECONDS[order.machine]
    # Read the host key from the host's files, which is safer than asking for it over the network.
    public = folder / ("host_key.pub" if disk else "upper/etc/ssh/ssh_host_ed25519_key.pub")
    if not wait(lambda: _greets(spec.address), seconds) or not read(public):
        raise LabError(
            f"Failed to start {order.name}: no ssh on {spec.address} within {seconds} s",
            hint=f"the host's console is in {folder / 'console.log'}",
        )
    return Host(order.name, spec.address, " ".join(read(public).split()[:2]), _proxy(settings))


def _proxy(settings: Settings) -> str:
    return f"http://{settings.gateway}:{settings.proxy_port}"


def _link(folder: Path) -> str:
    return firewall.link_of(folder.name)


def _create(folder: Path, order: Order, settings: Settings, disk: images.Disk | None) -> None:
    """Create a host that does not exist, and what hosts need of this machine: the bridge and the package proxy.

    :raises LabError: the address is in use or not in the hosts' subnet
    """
    taken = [other.spec.address for other in servers.with_machines(settings.machines)]
    chosen = _address(settings, order.name, order.address, taken)
    network.hold_kernel_settings(settings.folder)
    network.bridge_up(settings)
    if "package-proxy" not in processes.running(settings):
        package_proxy.start(settings)
    nic = Nic(str(chosen), settings.subnet.prefixlen, str(settings.gateway), "02:00:" + chosen.packed.hex(":"))
    if disk:
        _create_vm(vm.VirtualMachine(folder), order, settings, nic, disk)
    else:
        _create_container(Machine(folder), order, settings, nic)


def _create_container(machine: Machine, order: Order, settings: Settings, nic: Nic) -> None:
    machine.create(
        Spec(
            name=_link(machine.folder).removeprefix("vb-"),
            hostname=order.name,
            lower=str(_lower(settings)),
            bridge=settings.bridge,
            nic=nic,
            memory=order.memory,
            vcpus=_VCPUS,
            key=order.key.read_text(),
            proxy=_proxy(settings),
            instance_id=machine.folder.name,
        )
    )


def _create_vm(machine: vm.VirtualMachine, order: Order, settings: Settings, nic: Nic, disk: images.Disk) -> None:
    machine.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = machine.folder / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", secret], check=True)
    seed = machine.folder / "seed"
    seed.mkdir()
    for name, text in nocloud(
        instance=machine.folder.name,
        hostname=order.name,
        user=order.user,
        key=order.key.read_text(),
        host_key=secret.read_text(),
        proxy=_proxy(settings),
        nic=nic,
    ).items():
        (seed / name).write_text(text)
    machine.create(
        vm.Spec(
            hostname=order.name,
            uuid=machine.folder.name,
            image=str(disk.path),
            image_format=disk.format,
            bridge=settings.bridge,
            ports=(vm.Port(_link(machine.folder), nic.mac, nic.mtu, nic.address),),
            memory=order.memory,
            vcpus=_VCPUS,
            disk=_VM_DISK,
            uefi=disk.uefi,
        ),
        lambda target: vm.write_iso(target, "cidata", seed),
    )


def nocloud(
    *, instance: str, hostname: str, user: str, key: str, host_key: str, proxy: str, nic: Nic
) -> dict[str, str]:
    """Return the files of cloud-init's data source NoCloud, by name.

    :param instance: the instance id
    :param user: who can log in, and is root by sudo
    :param key: the user's public SSH key
    :param host_key: private SSH host key, so that its public key is known before the first connection
    :param proxy: URL of the package proxy
    """
    config = {
        "users": [
            {
                "name": user,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [key.strip()],
            }
        ],
        "ssh_keys": {"ed25519_private": host_key},
        "write_files": [{"path": "/etc/apt/apt.conf.d/01lab-proxy", "content": f'Acquire::http::Proxy "{proxy}";\n'}],
    }
    subnet = {
        "type": "static",
        "address": f"{nic.address}/{nic.prefix}",
        "gateway": nic.gateway,
        "dns_nameservers": [nic.gateway],
    }
    link = {"type": "physical", "name": "eth0", "mac_address": nic.mac, "mtu": nic.mtu, "subnets": [subnet]}
    return {
        "meta-data": json.dumps({"instance-id": instance, "local-hostname": hostname}),
        "user-data": "#cloud-config\n" + json.dumps(config, indent=1),
        "network-config": json.dumps({"version": 1, "config": [link]}),
    }


def down(lab: Settings, name: str) -> bool:
    """Remove a host. After the last one, remove the bridge, the package proxy and the folder, too.

    :returns: whether there was a host of this name
    """
    settings = beside(lab)
    with _locked():
        folder = settings.machines / str(_identifier(settings, name))
        existed = folder.exists()
        servers.remove(folder)
        _clean_up(settings)
    return existed


def console(lab: Settings, name: str) -> str:
    """Return what a host has written to its console; empty if there is no such host."""
    settings = beside(lab)
    log = settings.machines / str(_identifier(settings, name)) / "console.log"
    return log.read_text(errors="replace") if log.exists() else ""


def _identifier(settings: Settings, name: str) -> uuid.UUID:
    """Return the UUID of a host, computed from folder and name: hosts of other labs have other links and cgroups."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{settings.folder}/{name}")


def _address(
    settings: Settings, name: str, wanted: ipaddress.IPv4Address | None, taken: list[str]
) -> ipaddress.IPv4Address:
    """Return the wanted address, or the first free one.

    :raises LabError: the address is not free
    """
    usable = [
        address for address in settings.subnet.hosts() if address != settings.gateway and str(address) not in taken
    ]
    if wanted is None and usable:
        return usable[0]
    if wanted not in usable:
        problem = f"{wanted} is not free" if wanted else "no address is free"
        raise LabError(f"Failed to start {name}: {problem} in {settings.subnet}")
    return wanted


def _clean_up(settings: Settings) -> None:
    """Remove the bridge, the package proxy and the folder if no host is left."""
    if servers.with_machines(settings.machines) or not settings.folder.exists():
        return
    services.stop_all(settings)
    network.bridge_down(settings)
    network.release_kernel_settings(settings.folder)
    shutil.rmtree(settings.folder, ignore_errors=True)


def _greets(address: str) -> bool:
    """Return whether an SSH server sends its banner, which an open port alone does not show."""
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _locked() -> AbstractContextManager[None]:
    """Return the lock for starting and removing hosts: two concurrent starts would choose the same address."""
    return cache.locked(cache.cache_root() / "hosts.lock")


def _lower(settings: Settings) -> Path:
    """Unpack the host image, unless it is unpacked, and return the folder."""
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
