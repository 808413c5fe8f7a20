"""A Nova compute driver for the lab's kinds of servers (``compute_driver = q8s_lab.LabDriver``).

The state of the servers is on disk (``q8s_lab.servers``), so Nova finds them again after it was killed.
"""

import base64
import fcntl
import ipaddress
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nova.conf
from nova import exception
from nova.api.metadata import base as instance_metadata
from nova.compute import power_state, task_states
from nova.image import glance
from nova.scheduler.client import report
from nova.virt import configdrive, fake, hardware, node
from oslo_log import log

from q8s_lab import firewall, servers, settings, vm
from q8s_lab.hollow import ERROR, FAULT, STUCK, Hollow
from q8s_lab.hollow import SPEC as HOLLOW_SPEC
from q8s_lab.machine import Machine, MachineError, Nic, Spec

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)
LAB = settings.load()
_CONSOLE_BYTES = 102400


# At every step of a server's creation, Nova requests the allocations of each server of the host from Placement, one by
# one, to correct those of PCI devices. The lab has no PCI devices, and hundreds of servers on its only host: without
# this, Nova would spend most of its time on these requests.
report.SchedulerReportClient.get_allocations_for_provider_tree = lambda *_: {}


@dataclass(frozen=True)
class Order:
    """The arguments with which Nova creates a server."""

    context: Any
    instance: Any
    image: Any
    network: Any
    files: Any
    password: Any

    @property
    def folder(self) -> Path:
        return LAB.machines / str(self.instance.uuid)


def _create_hollow(order: Order) -> Hollow:
    kind = order.instance.flavor.extra_specs[HOLLOW_SPEC]
    if kind == ERROR:
        raise MachineError(FAULT)
    while kind == STUCK:
        # Nova holds the server's lock during creation, so poll whether it is being deleted
        time.sleep(0.5)
        order.instance.refresh()  # raises InstanceNotFound if it is gone
        if order.instance.task_state == task_states.DELETING:
            raise exception.InstanceNotFound(instance_id=order.instance.uuid)
    server = Hollow(order.folder)
    server.create()
    return server


def _create_container(order: Order) -> Machine:
    instance = order.instance
    nic, *further_nics = map(_nic, order.network)
    spec = Spec(
        # systemd-nspawn names the link vb-<name>, and Linux allows 15 characters
        name=firewall.link_of(instance.uuid).removeprefix("vb-"),
        hostname=instance.hostname,
        lower=str(_unpacked(order.context, _container_image(order))),
        bridge=LAB.bridge,
        nic=nic,
        memory=instance.flavor.memory_mb,
        vcpus=instance.flavor.vcpus,
        key=instance.key_data or "",
        user_data=base64.b64decode(instance.user_data or ""),
        # Without an address in the lab's own subnet, a server does not reach the proxy.
        proxy=f"http://{LAB.gateway}:{LAB.proxy_port}" if _is_in_subnet(nic, *further_nics) else "",
        instance_id=instance.uuid,
        metadata=dict(instance.metadata),
        further_nics=tuple(further_nics),
    )
    machine = Machine(order.folder)
    machine.create(spec)
    return machine


def _create_vm(order: Order) -> vm.VirtualMachine:
    instance, image = order.instance, order.image
    path = _disk_image(order)
    found, disk = vm.inspect_image(path), instance.flavor.root_gb
    if disk and found.size > disk << 30:
        raise exception.FlavorDiskSmallerThanImage(flavor_size=disk << 30, image_size=found.size)
    instance.config_drive = True
    spec = vm.Spec(
        hostname=instance.hostname,
        uuid=instance.uuid,
        image=str(path),
        image_format=found.format,
        bridge=LAB.bridge,
        ports=tuple(
            vm.Port(firewall.link_of(vif["id"]), vif["address"], _mtu(vif), vif.fixed_ips()[0]["address"])
            for vif in order.network
        ),
        memory=instance.flavor.memory_mb,
        vcpus=instance.flavor.vcpus,
        disk=disk,
        uefi=image.properties.get("hw_firmware_type") == "uefi",
    )
    machine = vm.VirtualMachine(order.folder)
    machine.create(spec, lambda target: _write_config_drive(order, target))
    return machine


def _write_config_drive(order: Order, target: Path) -> None:
    """Write the config drive, as Nova's libvirt driver does."""
    metadata = instance_metadata.InstanceMetadata(
        order.instance,
        content=order.files,
        extra_md={"admin_pass": order.password} if order.password else {},
        network_info=order.network,
    )
    with configdrive.ConfigDriveBuilder(instance_md=metadata) as drive:
        drive.make_drive(str(target))


def _nic(vif: Any) -> Nic:
    """Return a container's network interface for a port."""
    subnet = next(s for s in vif["network"]["subnets"] if s["version"] == 4)
    return Nic(
        address=subnet["ips"][0]["address"],
        prefix=ipaddress.ip_network(subnet["cidr"]).prefixlen,
        gateway=(subnet["gateway"] or {}).get("address") or "",
        mac=vif["address"],
        mtu=_mtu(vif),
        link=firewall.link_of(vif["id"]),
    )


def _is_in_subnet(*nics: Nic) -> bool:
    return any(ipaddress.ip_address(nic.address) in LAB.subnet for nic in nics)


def _mtu(vif: Any) -> int:
    return vif["network"]["meta"].get("mtu") or 1500


_BUILDERS: dict[str, Callable[[Order], servers.Server]] = {
    servers.CONTAINER: _create_container,
    servers.VM: _create_vm,
    servers.HOLLOW: _create_hollow,
}


def _builder(flavor: Any) -> Callable[[Order], servers.Server]:
    specs = flavor.extra_specs
    kind = servers.HOLLOW if HOLLOW_SPEC in specs else specs.get(servers.SPEC, servers.CONTAINER)
    if kind not in _BUILDERS:
        raise MachineError(
            f"flavor {flavor.name} has {servers.SPEC}={kind}; allowed are {servers.CONTAINER} and {servers.VM}"
        )
    return _BUILDERS[kind]


def _container_image(order: Order) -> str:
    """Return the id of a container's image: the server's own, or the one that its disk image's property names."""
    if order.image.disk_format != settings.DISK_FORMAT:
        return str(order.image.id)
    name = order.instance.system_metadata.get(f"image_{settings.CONTAINER_IMAGE}", settings.IMAGE_NAME)
    found = glance.API().get_all(order.context, filters={"name": name})
    if not found:
        raise MachineError(
            f"image {order.image.name} names {name} for containers, and there is no such image: "
            f"set its property {settings.CONTAINER_IMAGE}"
        )
    return str(found[0]["id"])


def _unpacked(context: Any, image: str) -> Path:
    """Download and unpack an image once. Return the folder, the lowest layer of its servers' root file systems."""

    def unpack(archive: Path, target: Path) -> None:
        partial = Path(f"{target}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        subprocess.run(
            [
                *("tar", "--extract", "--zstd", "--numeric-owner", "--same-permissions"),
                *("--xattrs", "--xattrs-include=*", "--file", archive, "--directory", partial),
            ],
            check=True,
            capture_output=True,
        )
        archive.unlink()
        partial.rename(target)

    return _fetched(context, image, "", unpack)


def _disk_image(order: Order) -> Path:
    """Download a disk image once. Return the file, on which the disks of its servers are overlays."""
    if order.image.disk_format != settings.DISK_FORMAT:
        raise MachineError(
            f"image {order.image.name} has the disk format {order.image.disk_format}, and flavor "
            f"{order.instance.flavor.name} boots a disk: take an image of the format {settings.DISK_FORMAT} "
            "(`q8s-run lab image add debian-13-cloud` makes one)"
        )
    return _fetched(order.context, str(order.image.id), f".{settings.DISK_FORMAT}", Path.rename)


def _fetched(context: Any, image: str, suffix: str, place: Callable[[Path, Path], Any]) -> Path:
    """Download an image unless it is on this machine. Concurrent callers wait for the first one.

    :param suffix: suffix of the target's name
    :param place: creates the target from the downloaded file
    :returns: the target
    """
    target = LAB.images / f"{image}{suffix}"
    LAB.images.mkdir(parents=True, exist_ok=True)
    with (LAB.images / f"{image}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            file = LAB.images / f"{image}.download"
            glance.API().download(context, image, dest_path=str(file))
            place(file, target)
    return target


class LabDriver(fake.FakeDriver):
    """Compute driver whose servers are machines on this host. Two labs on a host share only its kernel."""

    vcpus = 1000
    memory_mb = 800000
    local_gb = 600000

    def _node_uuid(self, host: Any) -> Any:
        # Constant: with another UUID, a restart would create a second resource provider.
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, host))

    def get_nodenames_by_uuid(self, refresh: Any = False) -> Any:
        return {self._node_uuid(name): name for name in self.get_available_nodes()}

    def get_available_resource(self, nodename: Any) -> Any:
        resource = super().get_available_resource(nodename)
        resource["uuid"] = self._node_uuid(nodename)
        return resource

    def init_host(self, host: Any) -> None:
        super().init_host(host)
        # Nova requires this file at its second start, and does not write it for a driver that sets its own UUID.
        if not (Path(CONF.state_path) / "compute_id").exists():
            node.write_local_node_uuid(self._node_uuid(host))
        LAB.machines.mkdir(parents=True, exist_ok=True)

    def list_instance_uuids(self) -> Any:
        return [folder.name for folder in LAB.machines.iterdir() if servers.find(folder)]

    def list_instances(self) -> Any:
        return self.list_instance_uuids()

    def get_num_instances(self) -> Any:
        return len(self.list_instance_uuids())

    def instance_exists(self, instance: Any) -> Any:
        return servers.find(LAB.machines / instance.uuid) is not None

    def _server(self, instance: Any) -> servers.Server:
        server = servers.find(LAB.machines / instance.uuid)
        if server is None:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return server

    def get_info(self, instance: Any, use_cache: Any = True) -> Any:
        running = self._server(instance).running()
        return hardware.InstanceInfo(state=power_state.RUNNING if running else power_state.SHUTDOWN)

    def get_console_output(self, context: Any, instance: Any) -> Any:
        console = self._server(instance).folder / "console.log"
        with console.open("rb") as stream:
            stream.seek(max(0, console.stat().st_size - _CONSOLE_BYTES))
            return stream.read()

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: Any = True,
        accel_info: Any = None,
    ) -> None:
        network_info.wait()  # until Neutron has allocated the ports
        order = Order(context, instance, image_meta, network_info, injected_files, admin_password)
        try:
            server = _builder(instance.flavor)(order)
            if power_on:
                server.start()
        except MachineError as error:
            servers.remove(order.folder)
            raise exception.InstancePowerOnFailure(reason=str(error)) from error
        except Exception:
            LOG.exception("spawn failed", instance=instance)
            servers.remove(order.folder)
            raise

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: Any = True,
        destroy_secrets: Any = True,
    ) -> None:
        folder = LAB.machines / instance.uuid
        if destroy_disks:
            servers.remove(folder)
        elif server := servers.find(folder):
            server.stop(0)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: Any = True,
        migrate_data: Any = None,
        destroy_vifs: Any = True,
        destroy_secrets: Any = True,
    ) -> None:
        if destroy_disks:
            servers.remove(LAB.machines / instance.uuid)

    def power_off(self, instance: Any, timeout: Any = 0, retry_interval: Any = 0) -> None:
        self._server(instance).stop(timeout)

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._start(self._server(instance))

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: Any,
        block_device_info: Any = None,
        bad_volumes_callback: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        server = self._server(instance)
        if reboot_type == "SOFT" and server.reboot(server.soft_reboot_seconds):
            return
        server.stop(0)
        self._start(server)

    def resume_state_on_host_boot(
        self, context: Any, instance: Any, network_info: Any, share_info: Any, block_device_info: Any = None
    ) -> None:
        self._start(self._server(instance))

    @staticmethod
    def _start(server: servers.Server) -> None:
        try:
            server.start()
        except MachineError as error:
            raise exception.InstancePowerOnFailure(reason=str(error)) from error
