"""A Nova compute driver whose servers are systemd-nspawn machines (``compute_driver = q8s_nspawn.NspawnDriver``).

What it knows is on disk (``lab.machine``), so a Nova that was killed finds its machines again.
"""

import base64
import fcntl
import ipaddress
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import nova.conf
from nova import exception
from nova.compute import power_state, task_states
from nova.image import glance
from nova.scheduler.client import report
from nova.virt import fake, hardware, node
from oslo_log import log

from lab import hollow, settings
from lab.machine import Machine, MachineError, Nic, Spec

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)
LAB = settings.load()
_SOFT_REBOOT_SECONDS = 60
_CONSOLE_BYTES = 102400


# At every step of a server's building, Nova asks Placement for the allocations of each server of the host, one by one,
# to mend those of PCI devices. The lab has none, and hundreds of servers on its one host: it would be most of the work.
report.SchedulerReportClient.get_allocations_for_provider_tree = lambda *_: {}


def _machine(folder: Path) -> Any:
    """The server of a folder, with a machine behind it or hollow."""
    without = hollow.Hollow(folder)
    return without if without.exists else Machine(folder)


def _spawn_hollow(kind: str, instance: Any, power_on: bool) -> None:
    if kind == hollow.ERROR:
        raise exception.InstancePowerOnFailure(reason=hollow.FAULT)
    while kind == hollow.STUCK:
        # Nova holds the server's lock while it is built, so its end has to be looked for
        time.sleep(0.5)
        instance.refresh()  # raises InstanceNotFound if it is gone
        if instance.task_state == task_states.DELETING:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
    server = hollow.Hollow(LAB.machines / instance.uuid)
    server.create()
    if power_on:
        server.start()


class NspawnDriver(fake.FakeDriver):
    """Servers are machines of this host; nothing of the machine is shared between two labs but its kernel."""

    vcpus = 1000
    memory_mb = 800000
    local_gb = 600000

    def _node_uuid(self, host: Any) -> Any:
        # Fixed, or a restart would make a second resource provider.
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, host))

    def get_nodenames_by_uuid(self, refresh: Any = False) -> Any:
        return {self._node_uuid(name): name for name in self.get_available_nodes()}

    def get_available_resource(self, nodename: Any) -> Any:
        resource = super().get_available_resource(nodename)
        resource["uuid"] = self._node_uuid(nodename)
        return resource

    def init_host(self, host: Any) -> None:
        super().init_host(host)
        # Nova refuses a second start without it, and does not write it for a driver that names its own uuid.
        if not (Path(CONF.state_path) / "compute_id").exists():
            node.write_local_node_uuid(self._node_uuid(host))
        LAB.machines.mkdir(parents=True, exist_ok=True)

    def list_instance_uuids(self) -> Any:
        return [folder.name for folder in LAB.machines.iterdir() if _machine(folder).exists]

    def list_instances(self) -> Any:
        return self.list_instance_uuids()

    def get_num_instances(self) -> Any:
        return len(self.list_instance_uuids())

    def instance_exists(self, instance: Any) -> Any:
        return _machine(LAB.machines / instance.uuid).exists

    def _machine(self, instance: Any) -> Any:
        machine = _machine(LAB.machines / instance.uuid)
        if not machine.exists:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return machine

    def get_info(self, instance: Any, use_cache: Any = True) -> Any:
        running = self._machine(instance).running()
        return hardware.InstanceInfo(state=power_state.RUNNING if running else power_state.SHUTDOWN)

    def get_console_output(self, context: Any, instance: Any) -> Any:
        console = self._machine(instance).folder / "console.log"
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
        vif = network_info[0]  # this also waits until Neutron has allocated the port
        if kind := instance.flavor.extra_specs.get(hollow.SPEC):
            _spawn_hollow(kind, instance, power_on)
            return
        subnet = next(s for s in vif["network"]["subnets"] if s["version"] == 4)
        nic = Nic(
            address=subnet["ips"][0]["address"],
            prefix=ipaddress.ip_network(subnet["cidr"]).prefixlen,
            gateway=(subnet["gateway"] or {}).get("address") or str(LAB.gateway),
            mac=vif["address"],
            mtu=vif["network"]["meta"].get("mtu") or 1500,
        )
        machine = Machine(LAB.machines / instance.uuid)
        try:
            spec = Spec(
                # systemd-nspawn calls the link vb-<name>, and an interface's name has 15 characters at most
                name="q8sl" + instance.uuid[:8],
                hostname=instance.hostname,
                lower=str(self._lower(context, image_meta)),
                bridge=LAB.bridge,
                nic=nic,
                memory=instance.flavor.memory_mb,
                vcpus=instance.flavor.vcpus,
                key=instance.key_data or "",
                user_data=base64.b64decode(instance.user_data or ""),
                proxy=f"http://{LAB.gateway}:{LAB.proxy_port}",
                instance_id=instance.uuid,
                metadata=dict(instance.metadata),
            )
            machine.create(spec)
            if power_on:
                machine.start()
        except MachineError as error:
            machine.remove()
            raise exception.InstancePowerOnFailure(reason=str(error)) from error
        except Exception:
            LOG.exception("spawn failed", instance=instance)
            machine.remove()
            raise

    def _lower(self, context: Any, image_meta: Any) -> Any:
        """The image's files, unpacked once; all its servers share them as the lowest layer of their root."""
        lower = LAB.folder / "images" / image_meta.id
        lower.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{lower}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not lower.exists():
                partial = Path(f"{lower}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                archive = Path(f"{lower}.tar")
                glance.API().download(context, image_meta.id, dest_path=str(archive))
                subprocess.run(
                    [
                        *("tar", "--extract", "--zstd", "--numeric-owner", "--same-permissions"),
                        *("--xattrs", "--xattrs-include=*", "--file", archive, "--directory", partial),
                    ],
                    check=True,
                    capture_output=True,
                )
                archive.unlink()
                partial.rename(lower)
        return lower

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: Any = True,
        destroy_secrets: Any = True,
    ) -> None:
        machine = _machine(LAB.machines / instance.uuid)
        if destroy_disks:
            machine.remove()
        else:
            machine.stop(0)

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
            Machine(LAB.machines / instance.uuid).remove()

    def power_off(self, instance: Any, timeout: Any = 0, retry_interval: Any = 0) -> None:
        self._machine(instance).stop(timeout)

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._machine(instance).start()

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
        machine = self._machine(instance)
        if reboot_type == "SOFT" and machine.reboot(_SOFT_REBOOT_SECONDS):
            return
        machine.stop(0)
        machine.start()

    def resume_state_on_host_boot(
        self, context: Any, instance: Any, network_info: Any, share_info: Any, block_device_info: Any = None
    ) -> None:
        self._machine(instance).start()
