"""The image of the lab's containers: Debian 13 with systemd, sshd, Python, apt and cloud-init, like a cloud's image.

It does not include QEMU, libvirt and Kubernetes: the roles install them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_lab.errors import LabError

_SUITE: Final = "trixie"
_PACKAGES: Final = (
    "systemd-sysv dbus udev kmod openssh-server sudo python3 cloud-init iproute2 iptables procps less "
    "ca-certificates openssl ethtool netbase apt gpgv debian-archive-keyring zstd libpam-systemd"
).split()

# Units for what a container lacks: hardware, a clock, kernel settings, terminals. systemd-binfmt is masked because it
# would flush the binfmt registrations of the whole machine.
_MASKED: Final = (
    "systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service "
    "systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-binfmt.service "
    "proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount apt-daily.timer apt-daily-upgrade.timer "
    "e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer getty@.service console-getty.service "
    "systemd-timesyncd.service libvirt-guests.service systemd-networkd-wait-online.service "
    "cloud-init-hotplugd.socket"
).split()

_HOST_UNIT: Final = """\
# Written by Q8S's lab: the address that Neutron gave this server, and cgroups that may be written.
[Unit]
DefaultDependencies=no
Before=network.target network-pre.target network-online.target cloud-init.service cloud-init-network.service ssh.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/lab-host

[Install]
WantedBy=sysinit.target
"""

_CLOUD_CONFIG: Final = """\
# Written by Q8S's lab.
datasource_list: [NoCloud, None]
disable_root: true
network: {config: disabled}
# as in Debian's own cloud images: /etc/hosts is written anew at each boot
manage_etc_hosts: true
apt: {preserve_sources_list: true}
# a container has no disk to grow and no locale to generate
cloud_init_modules: [bootcmd, write_files, set_hostname, update_etc_hosts, users_groups, ssh]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts_user, keys_to_console]
system_info:
  default_user:
    name: debian
    lock_passwd: true
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
"""

_CUSTOMIZE: Final = r"""
set -eu
root=$1
for unit in MASKED; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
mkdir -p "$root/etc/systemd/system.conf.d" "$root/etc/cloud/cloud.cfg.d"
# pods that ignore SIGTERM would hold a stopping host for 90 s
printf '[Manager]\nDefaultTimeoutStopSec=5s\n' > "$root/etc/systemd/system.conf.d/lab.conf"
cp "$FILES/lab-host.service" "$root/etc/systemd/system/"
cp "$FILES/91_lab.cfg" "$root/etc/cloud/cloud.cfg.d/"
systemctl --root="$root" -q enable lab-host.service ssh.service
# packages are unpacked without waiting for a disk that the next host replaces anyway
echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/lab"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
: > "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/log/*.log
"""


def ensure() -> tuple[Path, bool]:
    """Build the image if it is not in the cache.

    :returns: the image, a tar archive compressed with zstd, and whether this call built it
    :raises LabError: mmdebstrap failed; the hint names its log
    """
    key = cache.content_key(_SUITE, *_PACKAGES, *_MASKED, _HOST_UNIT, _CLOUD_CONFIG, _CUSTOMIZE)
    folder, built = cache.entry("lab-image", f"debian-{_SUITE}", key, _build)
    return folder / "image.tar.zst", built


def _build(folder: Path) -> None:
    places = debs.mirrors()
    files = folder / "files"
    files.mkdir()
    (files / "lab-host.service").write_text(_HOST_UNIT)
    (files / "91_lab.cfg").write_text(_CLOUD_CONFIG)
    script = files / "customize"
    script.write_text("#!/bin/sh\n" + _CUSTOMIZE.replace("MASKED", " ".join(_MASKED)).replace("$FILES", str(files)))
    script.chmod(0o755)
    sources = [f"deb {places.archive} {_SUITE} main", f"deb {places.archive} {_SUITE}-updates main"]
    if places.security:
        sources.append(f"deb {places.security} {_SUITE}-security main")
    log = cache.cache_root() / "logs" / "lab-image.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        '--aptopt=Apt::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
        *[f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")],
        "--dpkgopt=force-unsafe-io",
        "--skip=cleanup/apt/lists",
        f"--customize-hook={script}",
        _SUITE,
        str(folder / "image.tar.zst"),
        *sources,
    ]
    with log.open("wb") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise LabError(f"Failed to create the host image: {tail}", hint=f"the whole log is {log}")
