"""A Nova compute driver whose servers are systemd-nspawn machines (``compute_driver = q8s_nspawn.NspawnDriver``).

What it knows is on disk (``lab.machine``), so a Nova that was killed finds its machines again.
"""

import base64
import fcntl
import ipaddress
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import nova.conf
from nova import exception
from nova.compute import power_state
from nova.image import glance
from nova.virt import fake, hardware, node
from oslo_log import log

from lab import settings
from lab.machine import Machine, MachineError, Nic, Spec

CONF = nova.conf.CONF
LOG = log.getLogger(__name__)
LAB = settings.load()
_SOFT_REBOOT_SECONDS = 60
_CONSOLE_BYTES = 102400


class NspawnDriver(fake.FakeDriver):
    """Servers are machines of this host; nothing of the machine is shared between two labs but its kernel."""

    vcpus = 1000
    memory_mb = 800000
    local_gb = 600000

    def _node_uuid(self, host):
        # Fixed, or a restart would make a second resource provider.
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, host))

    def get_nodenames_by_uuid(self, refresh=False):
        return {self._node_uuid(name): name for name in self.get_available_nodes()}

    def get_available_resource(self, nodename):
        resource = super().get_available_resource(nodename)
        resource["uuid"] = self._node_uuid(nodename)
        return resource

    def init_host(self, host):
        super().init_host(host)
        # Nova refuses a second start without it, and does not write it for a driver that names its own uuid.
        if not os.path.exists(os.path.join(CONF.state_path, "compute_id")):
            node.write_local_node_uuid(self._node_uuid(host))
        LAB.machines.mkdir(parents=True, exist_ok=True)

    def list_instance_uuids(self):
        return [folder.name for folder in LAB.machines.iterdir() if Machine(folder).exists]

    def list_instances(self):
        return [Machine(LAB.machines / name).spec.instance_id for name in self.list_instance_uuids()]

    def get_num_instances(self):
        return len(self.list_instance_uuids())

    def instance_exists(self, instance):
        return Machine(LAB.machines / instance.uuid).exists

    def _machine(self, instance):
        machine = Machine(LAB.machines / instance.uuid)
        if not machine.exists:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return machine

    def get_info(self, instance, use_cache=True):
        running = self._machine(instance).runner()
        return hardware.InstanceInfo(state=power_state.RUNNING if running else power_state.SHUTDOWN)

    def get_console_output(self, context, instance):
        console = self._machine(instance).folder / "console.log"
        with console.open("rb") as stream:
            stream.seek(max(0, console.stat().st_size - _CONSOLE_BYTES))
            return stream.read()

    def spawn(
        self,
        context,
        instance,
        image_meta,
        injected_files,
        admin_password,
        allocations,
        network_info=None,
        block_device_info=None,
        power_on=True,
        accel_info=None,
    ):
        vif = network_info[0]  # this also waits until Neutron has allocated the port
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

    def _lower(self, context, image_meta):
        """The image's files, unpacked once per checksum; all its servers share them as the lowest layer of their root."""
        lower = LAB.folder / "images" / image_meta.id
        lower.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{lower}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not lower.exists():
                partial = Path(f"{lower}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                archive = f"{lower}.tar"
                glance.API().download(context, image_meta.id, dest_path=archive)
                subprocess.run(
                    ["tar", "--extract", "--zstd", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-p", "-f", archive, "-C", str(partial)],
                    check=True,
                    capture_output=True,
                )
                os.unlink(archive)
                partial.rename(lower)
        return lower

    def destroy(
        self, context, instance, network_info, block_device_info=None, destroy_disks=True, destroy_secrets=True
    ):
        machine = Machine(LAB.machines / instance.uuid)
        if destroy_disks:
            machine.remove()
        else:
            machine.stop(0)

    def cleanup(
        self,
        context,
        instance,
        network_info,
        block_device_info=None,
        destroy_disks=True,
        migrate_data=None,
        destroy_vifs=True,
        destroy_secrets=True,
    ):
        if destroy_disks:
            Machine(LAB.machines / instance.uuid).remove()

    def power_off(self, instance, timeout=0, retry_interval=0):
        self._machine(instance).stop(timeout)

    def power_on(
        self, context, instance, network_info, block_device_info=None, accel_info=None, share_info=None
    ):
        self._machine(instance).start()

    def reboot(
        self,
        context,
        instance,
        network_info,
        reboot_type,
        block_device_info=None,
        bad_volumes_callback=None,
        accel_info=None,
        share_info=None,
    ):
        machine = self._machine(instance)
        if reboot_type == "SOFT" and machine.reboot(_SOFT_REBOOT_SECONDS):
            return
        machine.stop(0)
        machine.start()

    def resume_state_on_host_boot(self, context, instance, network_info, share_info, block_device_info=None):
        self._machine(instance).start()
