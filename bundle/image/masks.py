"""The units that the guest image masks, each with its reason. Time synchronisation is not among them."""

from __future__ import annotations

from typing import Final

_NO_LOGIN: Final = "nobody can log in there: root has no password"
_HOUSEKEEPING: Final = "housekeeping that would take emulated CPU time from pods"
_UNUSED_MOUNT: Final = "nothing in the guest uses this file system; it is a module or a process at boot"
_UNUSED_MODULE: Final = "loads a module that nothing in the guest uses"
_FIRST_BOOT: Final = "done when the image was built"

MASKED: Final[dict[str, str]] = {
    "apt-daily.timer": _HOUSEKEEPING,
    "apt-daily-upgrade.timer": _HOUSEKEEPING,
    "dpkg-db-backup.timer": _HOUSEKEEPING,
    "e2scrub_all.timer": _HOUSEKEEPING,
    "e2scrub_reap.service": "looks for LVM snapshots, of which there are none; cost 22 s of an emulated boot",
    "fstrim.timer": "the root is mounted with discard",
    "dev-hugepages.mount": _UNUSED_MOUNT,
    "dev-mqueue.mount": "containers mount their own",
    "sys-kernel-debug.mount": _UNUSED_MOUNT,
    "sys-kernel-tracing.mount": _UNUSED_MOUNT,
    "sys-kernel-config.mount": _UNUSED_MOUNT,
    "sys-fs-fuse-connections.mount": _UNUSED_MOUNT,
    "proc-sys-fs-binfmt_misc.automount": _UNUSED_MOUNT,
    "systemd-binfmt.service": "no foreign programs in the guest",
    "modprobe@configfs.service": _UNUSED_MODULE,
    "modprobe@dm_mod.service": _UNUSED_MODULE,
    "modprobe@drm.service": _UNUSED_MODULE,
    "modprobe@efi_pstore.service": _UNUSED_MODULE,
    "modprobe@fuse.service": _UNUSED_MODULE,
    "modprobe@loop.service": _UNUSED_MODULE,
    "getty@tty1.service": "there is no screen",
    "serial-getty@ttyAMA0.service": _NO_LOGIN,
    "serial-getty@ttyS0.service": _NO_LOGIN,
    "systemd-ask-password-console.path": "nothing asks for a password",
    "systemd-ask-password-wall.path": "nothing asks for a password",
    "remote-fs.target": "no network file systems",
    "systemd-pstore.service": "no persistent store for kernel crashes in the machine",
    "systemd-networkd-wait-online.service": "the kubelet retries; nothing may wait for it",
    "systemd-random-seed.service": "the kernel is seeded by the virtio random number device or the CPU",
    "systemd-update-utmp.service": "run-level records that nobody reads",
    "systemd-update-utmp-runlevel.service": "run-level records that nobody reads",
    "systemd-machine-id-commit.service": "the root is writable from the start, so the id is written at once",
    "systemd-firstboot.service": _FIRST_BOOT,
    "systemd-sysusers.service": _FIRST_BOOT,
    "systemd-hwdb-update.service": _FIRST_BOOT,
    "systemd-journal-catalog-update.service": _FIRST_BOOT,
    "ldconfig.service": _FIRST_BOOT,
    "systemd-network-generator.service": "the network's configuration is a file, not kernel arguments",
    "systemd-networkd-persistent-storage.service": "static addresses: there are no leases to keep",
    "systemd-udev-load-credentials.service": "the machine is given no systemd credentials",
    "tmp.mount": "memory is for pods; /tmp is on the disk",
    "cloud-init-main.service": "cloud-init runs from q8s-cloud-init.timer, when the node has come up",
    "cloud-init-local.service": "as above",
    "cloud-init-network.service": "as above",
    "cloud-init.service": "as above",
    "cloud-config.service": "as above",
    "cloud-final.service": "as above",
    "cloud-init-hotplugd.socket": "the guest's network devices do not change",
}

# systemd runs each of these at every boot, before anything else: as a process each.
MASKED_GENERATORS: Final[dict[str, str]] = {
    "cloud-init-generator": "cloud-init runs from q8s-cloud-init.timer",
    "systemd-getty-generator": _NO_LOGIN,
    "systemd-gpt-auto-generator": "the disk has no partition table",
    "systemd-hibernate-resume-generator": "a guest does not hibernate",
    "systemd-rc-local-generator": "no rc.local",
    "systemd-ssh-generator": "sshd is reached by TCP only, not by vsock",
    "systemd-system-update-generator": "no offline updates",
    "systemd-sysv-generator": "no System V init scripts that matter",
    "systemd-tpm2-generator": "no TPM",
}
