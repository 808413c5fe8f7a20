# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the flavors suit control planes, and hosts with their guests. Pure functions."""

from __future__ import annotations

from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Findings, Flavor, Image
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, VmType

# Memory of a host, in MB, besides its guest's.
# QEMU's cache of translated code, where tb_cache does not bound it: a 1/8 of the host's memory, at most 1 GiB
# (size_code_gen_buffer in QEMU's tcg/region.c, since 5.2).
TB_CACHE_SHARE = 8
TB_CACHE_MOST_MB = 1024
# QEMU itself: program, libraries, devices, disk caches; and for each vCPU its thread and software TLB. With a full cache,
# a guest of 2048 MB and 2 vCPUs had 2.6 GB resident after an hour.
QEMU_MB = 64
QEMU_VCPU_MB = 16
# The host's system with libvirtd, sshd and the journal: what it needs to run at all, and what it uses in practice.
SYSTEM_LEAST_MB = 256
SYSTEM_MB = 384

# What kubeadm asks of a control plane (its preflight checks NumCPU and Mem).
CONTROL_PLANE_CPUS = 2
CONTROL_PLANE_MB = 1700

# Disk of a server, in GB. The system of a cloud image with QEMU and libvirt, or with Kubernetes, installed: 3. What a guest is
# made from (root image, bundle, kernel, initrd: 0.29 GB measured) and the first that it writes (0.11 GB): 1. A control plane
# has its archive and the images in it (0.77 GB), etcd, and in the initial one what guests of every architecture are made from: 2.
SYSTEM_GB = 3
GUEST_FILES_GB = 1
CONTROL_PLANE_FILES_GB = 2


def guest_memory(vm_type: VmType, host_ram: int, system: int = SYSTEM_MB, cache: bool = True) -> int:
    """Return the memory, in MB, that a host needs for its guest.

    :param host_ram: the host's memory, of which QEMU's cache of translated code is a share
    :param system: what the host's system needs
    :param cache: with a full cache of translated code
    """
    tb_cache = vm_type.tb_cache_mb or min(host_ram // TB_CACHE_SHARE, TB_CACHE_MOST_MB)
    if not cache or vm_type.accel == "kvm":
        tb_cache = 0
    return vm_type.ram_mb + QEMU_MB + vm_type.num_cpus * QEMU_VCPU_MB + tb_cache + system


def least_memory(vm_type: VmType) -> int:
    """Return the memory, in MB, below which a host runs out of it as soon as its guest has used its own."""
    return guest_memory(vm_type, 0, SYSTEM_LEAST_MB, cache=False)


def flavor_problems(cluster: Cluster, findings: Findings) -> list[str]:
    """Return the flavors that are missing, or too small for their servers or for the image."""
    wanted = {spec.flavor for spec in cluster.servers()}
    problems = [
        f"there is no flavor called {name!r} (or it is not visible to this project)"
        for name in sorted(wanted - set(findings.flavors))
    ]
    image = findings.images[0] if len(findings.images) == 1 else Image("")
    flavor = findings.flavors.get(cluster.master_node_flavor)
    if flavor is not None:
        path = "cluster_definition.master_node_flavor"
        if flavor.vcpus < CONTROL_PLANE_CPUS or flavor.ram < CONTROL_PLANE_MB:
            problems.append(
                f"{path}: {flavor.name} has {flavor.vcpus} vCPUs and {flavor.ram} MB; kubeadm asks for {CONTROL_PLANE_CPUS} "
                f"vCPUs and {CONTROL_PLANE_MB} MB"
            )
        problems += _disk_problems(path, flavor, image, SYSTEM_GB + CONTROL_PLANE_FILES_GB)
    for vm_type in cluster.used_types():
        flavor = findings.flavors.get(vm_type.openstack_flavor)
        if flavor is None:
            continue
        path = f"vm_types.types.{vm_type.name}.openstack_flavor"
        if flavor.ram < least_memory(vm_type):
            problems.append(
                f"{path}: {flavor.name} has {flavor.ram} MB; the {vm_type.ram_mb} MB of its guest, QEMU and the host's system "
                f"need at least {least_memory(vm_type)} MB"
            )
        if flavor.vcpus < vm_type.num_cpus:
            problems.append(
                f"{path}: {flavor.name} has {flavor.vcpus} vCPUs, fewer than the {vm_type.num_cpus} of its guest"
            )
        problems += _disk_problems(path, flavor, image, SYSTEM_GB + GUEST_FILES_GB)
    for name in sorted(wanted & set(findings.flavors)):
        flavor = findings.flavors[name]
        what = f"the image {cluster.default_image_name} needs"
        if flavor.ram < image.min_ram:
            problems.append(f"{what} {image.min_ram} MB of memory; the flavor {name} has {flavor.ram}")
        least = max(image.min_disk, image.size)
        if flavor.disk and flavor.disk < least:
            problems.append(f"{what} a disk of {least} GB; the flavor {name} has {flavor.disk}")
    return problems


def _disk_problems(path: str, flavor: Flavor, image: Image, least: int) -> list[str]:
    if not flavor.disk:
        return [
            f"{path}: {flavor.name} has no disk (disk 0): its servers would boot from a volume, which Q8S does not create; "
            f"choose a flavor with a disk of at least {max(least, image.min_disk, image.size)} GB"
        ]
    if flavor.disk < least:
        return [f"{path}: {flavor.name} has a disk of {flavor.disk} GB; its server needs at least {least} GB"]
    return []


def flavor_notes(cluster: Cluster, findings: Findings) -> list[str]:
    """Return the flavors that suffice until the guest uses all that it has."""
    notes = []
    for vm_type in cluster.used_types():
        flavor = findings.flavors.get(vm_type.openstack_flavor)
        if flavor is None:
            continue
        path = f"vm_types.types.{vm_type.name}.openstack_flavor"
        memory = guest_memory(vm_type, flavor.ram)
        if least_memory(vm_type) <= flavor.ram < memory:
            cache = "" if vm_type.tb_cache_mb or vm_type.accel == "kvm" else ", or bound QEMU's cache with tb_cache"
            notes.append(
                f"{path}: {flavor.name} has {flavor.ram} MB; its guest, QEMU with a full cache of translated code and the "
                f"host's system use {memory} MB: choose a larger flavor{cache}"
            )
        shortage = disk_shortage(vm_type, flavor.disk)
        if shortage and flavor.disk >= SYSTEM_GB + GUEST_FILES_GB:
            notes.append(f"{path}: {flavor.name} {shortage}")
    return notes


def disk_shortage(vm_type: VmType, disk: int) -> str:
    """Return what happens when a guest fills its disk on a host whose disk is too small for that; empty if it is not.

    :param disk: size of the host's disk in GB, 0 if it is not known
    """
    full = SYSTEM_GB + GUEST_FILES_GB + vm_type.storage_gb
    if not disk or disk >= full:
        return ""
    return (
        f"has a disk of {disk} GB; when the guest has filled its {vm_type.storage_gb} GB the host needs {full} GB, and a "
        "full host stops its guest"
    )
