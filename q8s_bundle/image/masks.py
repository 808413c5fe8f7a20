"""The units that the guest image masks, each with its reason. Time synchronisation is not among them.

Those of a cloud image are masked in it besides ours: it is made for machines of many kinds. What a user may have added
to one (cron, rsyslog and the like) stays.
"""

from __future__ import annotations

from typing import Final

_NO_LOGIN: Final = "nobody can log in there: root has no password"
_HOUSEKEEPING: Final = "housekeeping that would take emulated CPU time from pods"
_UNUSED_MOUNT: Final = "nothing in the guest uses this file system; it is a module or a process at boot"
_UNUSED_MODULE: Final = "loads a module that nothing in the guest uses"
_FIRST_BOOT: Final = "done when the image was built"
_NETWORK: Final = "the network is systemd-networkd's, with one file and static addresses"
_NAMES: Final = "/etc/resolv.conf is a file that the host wrote"
_UBUNTU: Final = "Ubuntu's services for machines that people log in to, or that update themselves"
_STORAGE: Final = "the guest has two virtio disks with a file system each, and nothing else"
_SNAP: Final = "the node's programs are not snaps"
_SCREEN: Final = "there is no screen and no keyboard"
_HYPERVISOR: Final = "an agent for another hypervisor"

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

CLOUD_MASKED: Final[dict[str, str]] = {
    "ssh.socket": "sshd runs from the start; by socket it would start, emulated, when it is needed",
    "systemd-resolved.service": _NAMES,
    "systemd-resolved-monitor.socket": _NAMES,
    "systemd-resolved-varlink.socket": _NAMES,
    "resolvconf.service": _NAMES,
    "networking.service": _NETWORK,
    "netplan-ovs-cleanup.service": _NETWORK,
    "networkd-dispatcher.service": _NETWORK,
    "NetworkManager.service": _NETWORK,
    "ModemManager.service": _NETWORK,
    "ufw.service": "kube-proxy and Flannel make the rules, and the host's decide who reaches the guest",
    "apparmor.service": "AppArmor is off: profiles would be compiled on the emulated CPU",
    "unattended-upgrades.service": "a guest is replaced, not upgraded; the work would be on the emulated CPU",
    "polkit.service": "root runs what is run in a guest",
    "udisks2.service": _STORAGE,
    "multipathd.service": _STORAGE,
    "multipathd.socket": _STORAGE,
    "lvm2-monitor.service": _STORAGE,
    "lvm2-lvmpolld.socket": _STORAGE,
    "blk-availability.service": _STORAGE,
    "dm-event.socket": _STORAGE,
    "mdmonitor.service": _STORAGE,
    "mdcheck_start.timer": _STORAGE,
    "mdcheck_continue.timer": _STORAGE,
    "mdmonitor-oneshot.timer": _STORAGE,
    "iscsid.socket": _STORAGE,
    "iscsid.service": _STORAGE,
    "open-iscsi.service": _STORAGE,
    "xfs_scrub_all.timer": _STORAGE,
    "boot-efi.mount": "the guest boots without EFI, and its disk has no partitions",
    "grub-common.service": "the guest boots without GRUB",
    "grub-initrd-fallback.service": "the guest boots without GRUB",
    "secureboot-db.service": "the guest boots without EFI",
    "finalrd.service": "the root needs no help when the machine ends",
    "systemd-tpm2-setup.service": "no TPM",
    "systemd-tpm2-setup-early.service": "no TPM",
    "fwupd-refresh.timer": "no firmware to update",
    "console-setup.service": _SCREEN,
    "keyboard-setup.service": _SCREEN,
    "setvtrgb.service": _SCREEN,
    "plymouth-start.service": _SCREEN,
    "plymouth-quit.service": _SCREEN,
    "plymouth-quit-wait.service": _SCREEN,
    "plymouth-read-write.service": _SCREEN,
    "thermald.service": "no temperature to measure",
    "man-db.timer": _HOUSEKEEPING,
    "update-notifier-download.timer": _UBUNTU,
    "update-notifier-motd.timer": _UBUNTU,
    "motd-news.timer": _UBUNTU,
    "apport.service": _UBUNTU,
    "apport-autoreport.path": _UBUNTU,
    "apport-autoreport.timer": _UBUNTU,
    "pollinate.service": "the kernel is seeded by the virtio random number device",
    "ubuntu-advantage.service": _UBUNTU,
    "ua-reboot-cmds.service": _UBUNTU,
    "ua-timer.timer": _UBUNTU,
    "snapd.service": _SNAP,
    "snapd.socket": _SNAP,
    "snapd.seeded.service": _SNAP,
    "snapd.apparmor.service": _SNAP,
    "snapd.autoimport.service": _SNAP,
    "snapd.core-fixup.service": _SNAP,
    "snapd.recovery-chooser-trigger.service": _SNAP,
    "snapd.snap-repair.timer": _SNAP,
    "snapd.system-shutdown.service": _SNAP,
    "lxd-installer.socket": _SNAP,
    "lxd-agent.service": _HYPERVISOR,
    "open-vm-tools.service": _HYPERVISOR,
    "vgauth.service": _HYPERVISOR,
    "hv-kvp-daemon.service": _HYPERVISOR,
}

CLOUD_MASKED_GENERATORS: Final[dict[str, str]] = {
    "netplan": _NETWORK,
    "sshd-socket-generator": "sshd runs from the start",
    "snapd-generator": _SNAP,
    "lvm2-activation-generator": _STORAGE,
    "friendly-recovery": _SCREEN,
}
