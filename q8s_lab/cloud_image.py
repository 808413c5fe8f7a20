"""Disk images as Debian publishes them for clouds, built here from Debian's packages: what the lab's VMs boot from.

The source is https://salsa.debian.org/cloud-team/debian-cloud-images, an FAI configuration. The packages are those of
its classes ``SYSTEM_BOOT``, ``CLOUD``, ``GENERIC``, ``LINUX_VARIANT_CLOUD``, ``TIME_SYSTEMD`` and ``AMD64`` in
``config_space/{12,13}/package_config``, the partitions those of ``hooks``, the settings those of ``files`` and
``scripts``. Both releases have netplan with systemd-networkd, systemd-resolved, AppArmor and unattended-upgrades.
The packages' own scripts do the work: initramfs-tools builds the initrd with ``MODULES=most``, grub-mkconfig writes
GRUB's menu, and shim and GRUB are the signed programs that grub-install would copy. An x86_64 image boots by BIOS, as
Nova's servers do unless the image asks for UEFI, and by UEFI; an aarch64 image boots by UEFI. By BIOS GRUB needs a
display adapter: without a video BIOS its ``load_video`` never returns. Package lists are empty, as in a published
image.

The differences from Debian's images:

- The class ``EXTRAS`` (editors, curl, tcpdump) and manual pages are missing.
- apt's mirrors are those of this machine, without ``deb-src`` and backports.
- ``manage_etc_hosts: true`` is set. Debian sets it in its images of version 11 and older, and clouds set it by
  vendor-data, so a server of any release may have it.

``debian-13-cloud-baked`` exists only to save the gate's time. It has the packages of a worker's host that take minutes
to unpack on an emulated CPU. The small one, conntrack, is left out, so that the roles install a package.
"""

from __future__ import annotations

import platform
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_bundle.image import finish, rootfs
from q8s_bundle.progress import run, step
from q8s_lab.errors import LabError

# The same in all images: no machine has two of these disks.
_ROOT_PART: Final = "6f3d2b5e-5c0a-4c36-9a0e-1f1e6a2d7b01"
_ESP_PART: Final = "6f3d2b5e-5c0a-4c36-9a0e-1f1e6a2d7b02"
_ROOT_FS: Final = "6f3d2b5e-5c0a-4c36-9a0e-1f1e6a2d7b03"
_MIB: Final = 1 << 20
_SECTOR: Final = 512
_DISK_MIB: Final = 3072
_BIOS_START_MIB: Final = 1
_ESP_START_MIB: Final = 4
_ROOT_START_MIB: Final = 128

_PACKAGES: Final = (
    "apparmor",
    "apt-utils",
    "cloud-guest-utils",
    "cloud-init",
    "cloud-initramfs-growroot",
    "e2fsprogs",
    "init",
    "iptables",
    "iputils-ping",
    "less",
    "libnss-myhostname",
    "libpam-systemd",
    "nano",
    "netbase",
    "netplan.io",
    "openssh-server",
    "polkitd",
    "ssh-import-id",
    "sudo",
    "systemd-resolved",
    "systemd-timesyncd",
    "unattended-upgrades",
    "vim-tiny",
    "whiptail",
    "zstd",
)


@dataclass(frozen=True)
class _Release:
    """A Debian release: its suite, its packages besides the common ones, and what /etc/resolv.conf links to."""

    suite: str
    packages: tuple[str, ...]
    resolver: str


_DEBIAN_13: Final = _Release(
    "trixie", ("dosfstools", "libnss-resolve", "linux-sysctl-defaults"), "../run/systemd/resolve/stub-resolv.conf"
)
_DEBIAN_12: Final = _Release("bookworm", (), "/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True)
class _Image:
    """An image to build: a release, and the packages that it has besides those of Debian's image."""

    release: _Release
    baked: tuple[str, ...] = ()


BAKED: Final = "debian-13-cloud-baked"
_IMAGES: Final = {
    "debian-13-cloud": _Image(_DEBIAN_13),
    "debian-12-cloud": _Image(_DEBIAN_12),
    BAKED: _Image(
        _DEBIAN_13,
        ("ethtool", "kmod", "libvirt-clients", "libvirt-daemon-system", "openssl", "qemu-system-x86"),
    ),
}
NAMES: Final = tuple(_IMAGES)
STOCK_NAMES: Final = tuple(name for name, image in _IMAGES.items() if not image.baked)

# grub-mkconfig asks grub-probe for the root's device and UUIDs, and there is no device yet.
_WRITE_MENU: Final = f"""
set -eu
probe=$1/usr/sbin/grub-probe
mkdir -p "$1/etc/default/grub.d" "$1/boot/grub" "$1/boot/efi"
printf 'GRUB_DISABLE_LINUX_UUID=true\\nGRUB_DISABLE_LINUX_PARTUUID=\\n' > "$1/etc/default/grub.d/10_cloud.cfg"
echo GRUB_TIMEOUT=0 > "$1/etc/default/grub.d/15_timeout.cfg"
mv "$probe" "$probe.real"
cat > "$probe" <<'END'
#!/bin/sh
case "$*" in
*target=device*) echo PARTUUID={_ROOT_PART} ;;
*target=fs_uuid*) echo {_ROOT_FS} ;;
*target=partuuid*) echo {_ROOT_PART} ;;
*target=partmap*) echo gpt ;;
*target=fs*) echo ext2 ;;
*target=compatibility_hint*) echo hd0,gpt1 ;;
*target=hints_string*) echo --hint-bios=hd0,gpt1 --hint-efi=hd0,gpt1 ;;
esac
END
chmod 755 "$probe"
chroot "$1" grub-mkconfig -o /boot/grub/grub.cfg
mv "$probe.real" "$probe"
"""

# What GRUB on the EFI partition reads first; grub-install writes the same.
_FIRST_MENU: Final = f"""\
search.fs_uuid {_ROOT_FS} root hd0,gpt1
set prefix=($root)'/boot/grub'
configfile $prefix/grub.cfg
"""

_FILES: Final = {
    "etc/fstab": f"PARTUUID={_ROOT_PART} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n"
    # After the 90 s that systemd waits by default, an emulated machine on a busy host would boot into emergency mode.
    f"PARTUUID={_ESP_PART} /boot/efi vfat defaults,umask=077,x-systemd.device-timeout=15min 0 2\n",
    "etc/hostname": "",
    "etc/machine-id": "",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/modprobe.d/blacklist.conf": "blacklist pcspkr\nblacklist floppy\n",
    "etc/apt/sources.list": "# See /etc/apt/sources.list.d/debian.sources\n",
}
_SOURCE: Final = """\
Types: deb
URIs: mirror+file:///etc/apt/mirrors/{list}
Suites: {suites}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
# cloud-init writes these mirrors into apt's lists of mirrors at a server's first boot.
_CLOUD_CONFIG: Final = """\
apt:
  generate_mirrorlists: true

manage_etc_hosts: true

system_info:
  default_user:
    name: debian
    lock_passwd: True
    gecos: Debian
    groups: [adm, audio, cdrom, dialout, dip, floppy, plugdev, sudo, video]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash

  package_mirrors:
  - arches: [default]
    failsafe:
      primary: {archive}
      security: {security}
"""
# What mmdebstrap leaves behind, and what Debian's script 10-cleanup removes.
_REMOVED: Final = (
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/apt/sources.list.d/*.list",
    "etc/ssh/ssh_host_*",
    "var/lib/dbus/machine-id",
    "var/log/*.log",
)


@dataclass(frozen=True)
class _Boot:
    """An architecture's names: of its root partition's type (sfdisk), and of its programs for EFI."""

    partition: str
    short: str
    grub: str


_BOOTS: Final = {
    "x86_64": _Boot("Linux root (x86-64)", "x64", "x86_64-efi"),
    "aarch64": _Boot("Linux root (ARM-64)", "aa64", "arm64-efi"),
}
_BIOS_ARCHITECTURES: Final = ("x86_64",)


@dataclass(frozen=True)
class CloudImage:
    """A built image: its disk, and its own kernel, initrd and kernel command line, for a boot without firmware."""

    disk: Path
    kernel: Path
    initrd: Path
    cmdline: str


def ensure(name: str) -> tuple[Path, bool]:
    """Return the qcow2 disk of the x86_64 image ``name``, and whether this call built it.

    :raises LabError: there is no such image
    :raises BundleError: the build failed
    """
    image, built = build(name, "x86_64")
    return image.disk, built


def build(name: str, arch: str) -> tuple[CloudImage, bool]:
    """Return an image for an architecture, and whether this call built it.

    :raises LabError: there is no such image
    :raises BundleError: the build failed
    """
    if name not in _IMAGES:
        raise LabError(f"Failed to build a cloud image: no image {name!r}; known images: {', '.join(NAMES)}")
    image = _IMAGES[name]
    mirrors = debs.mirrors()
    parts = (rootfs.key(arch, _system(image, arch)), Path(__file__), mirrors.archive, mirrors.security or "")
    folder, built = cache.entry(
        "cloud-disks", f"{name}-{arch}", cache.content_key(*parts), lambda work: _build(name, arch, mirrors, work)
    )
    cmdline = (folder / "cmdline").read_text().strip()
    return CloudImage(folder / f"{name}.qcow2", folder / "kernel", folder / "initrd", cmdline), built


def _system(image: _Image, arch: str) -> rootfs.System:
    debian = rootfs.DEBIAN_ARCHITECTURES[arch]
    packages = (*_PACKAGES, *image.release.packages, f"linux-image-cloud-{debian}", f"grub-cloud-{debian}")
    diverted = rootfs.DONE_LATER if arch != platform.machine() else ()
    return rootfs.System((*packages, *image.baked), diverted, (_WRITE_MENU,), image.release.suite)


def _build(name: str, arch: str, mirrors: debs.Mirrors, folder: Path) -> None:
    for tool in ("sfdisk", "mkfs.vfat", "mcopy", "mke2fs", "qemu-img"):
        debs.require(tool)
    image = _IMAGES[name]
    wanted = _system(image, arch)
    system, _ = rootfs.ensure(arch, wanted)
    log = cache.cache_root() / "logs" / f"{name}-{arch}.log"
    log.unlink(missing_ok=True)
    root = folder / "root"
    root.mkdir()
    with step(f"build the cloud image {name} for {arch}"):
        extract = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
        run("unpack the system", [*extract, "-f", system, "-C", root], log=log)
        if wanted.diverted:
            finish.trust_certificates(root)
            finish.compile_python(root)
        _configure(root, image.release, mirrors, log)
        _install_grub(root, arch, log)
        _write_disk(root, arch, folder / f"{name}.qcow2", log)
        shutil.copyfile(next((root / "boot").glob("vmlinuz-*")), folder / "kernel")
        shutil.copyfile(next((root / "boot").glob("initrd.img-*")), folder / "initrd")
        (folder / "cmdline").write_text(_command_line((root / "boot/grub/grub.cfg").read_text()) + "\n")
    shutil.rmtree(root)


def _command_line(menu: str) -> str:
    """Return the kernel's command line of a GRUB menu's first entry."""
    first = next(words for line in menu.splitlines() if (words := line.split()) and words[0] == "linux")
    return " ".join(first[2:])


def _configure(root: Path, release: _Release, mirrors: debs.Mirrors, log: Path) -> None:
    """Apply Debian's configuration of its images, and remove what a published image does not have."""
    for pattern in _REMOVED:
        for file in root.glob(pattern):
            file.unlink()
    for name, text in {**_FILES, **_apt_files(release.suite, mirrors)}.items():
        file = root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    config = _CLOUD_CONFIG.format(archive=mirrors.archive, security=mirrors.security or mirrors.archive)
    (root / "etc/cloud/cloud.cfg.d/01_debian_cloud.cfg").write_text(config)
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.symlink_to(release.resolver)
    with (root / "etc/ssh/sshd_config").open("a") as settings:
        settings.write("PermitRootLogin without-password\nPasswordAuthentication no\nClientAliveInterval 120\n")
    units = ["systemd-networkd.service", "systemd-resolved.service"]
    run("enable units", ["systemctl", f"--root={root}", "--quiet", "enable", *units], log=log)


def _apt_files(suite: str, mirrors: debs.Mirrors) -> dict[str, str]:
    """Return apt's sources by path, in the form of Debian's image: a list of mirrors for each archive."""
    sources = [_SOURCE.format(list="debian.list", suites=f"{suite} {suite}-updates")]
    files = {"etc/apt/mirrors/debian.list": f"{mirrors.archive}\n"}
    if mirrors.security:
        sources.append(_SOURCE.format(list="debian-security.list", suites=f"{suite}-security"))
        files["etc/apt/mirrors/debian-security.list"] = f"{mirrors.security}\n"
    return {**files, "etc/apt/sources.list.d/debian.sources": "\n".join(sources)}


def _install_grub(root: Path, arch: str, log: Path) -> None:
    """Copy GRUB's modules into /boot, and build its BIOS core image, as grub-install does."""
    targets = [_BOOTS[arch].grub, *(["i386-pc"] if arch in _BIOS_ARCHITECTURES else [])]
    for target in targets:
        shutil.copytree(root / "usr/lib/grub" / target, root / "boot/grub" / target)
    (root / "boot/grub/fonts").mkdir()
    shutil.copyfile(root / "usr/share/grub/unicode.pf2", root / "boot/grub/fonts/unicode.pf2")
    if arch in _BIOS_ARCHITECTURES:
        core = "/boot/grub/i386-pc/core.img"
        options = ["--format", "i386-pc", "--prefix", "(,gpt1)/boot/grub", "--output", core]
        modules = ["biosdisk", "part_gpt", "ext2"]
        run("build GRUB's core image", ["chroot", root, "grub-mkimage", *options, *modules], log=log)


def _write_disk(root: Path, arch: str, target: Path, log: Path) -> None:
    """Write the partitions, the EFI file system and the root straight into a file, and convert it to qcow2."""
    raw, efi, partitions = (target.with_name(name) for name in ("disk.raw", "EFI", "partitions"))
    boot = _BOOTS[arch]
    (efi / "BOOT").mkdir(parents=True)
    (efi / "debian").mkdir()
    shim = root / f"usr/lib/shim/shim{boot.short}.efi.signed"
    shutil.copyfile(shim, efi / "BOOT" / f"BOOT{boot.short.upper()}.EFI")
    grub = root / f"usr/lib/grub/{boot.grub}-signed/grub{boot.short}.efi.signed"
    shutil.copyfile(grub, efi / "BOOT" / f"grub{boot.short}.efi")
    (efi / "debian/grub.cfg").write_text(_FIRST_MENU)
    esp_mib = _ROOT_START_MIB - _ESP_START_MIB
    partitions.write_text(
        "label: gpt\n"
        f'p14: start={_BIOS_START_MIB}MiB, size={_ESP_START_MIB - _BIOS_START_MIB}MiB, type="BIOS boot"\n'
        f'p15: start={_ESP_START_MIB}MiB, size={esp_mib}MiB, type="EFI System", uuid={_ESP_PART}\n'
        f'p1: start={_ROOT_START_MIB}MiB, type="{boot.partition}", uuid={_ROOT_PART}\n'
    )
    run("create the disk file", ["truncate", "-s", f"{_DISK_MIB}M", raw], log=log)
    run("write the partitions", ["sh", "-c", 'sfdisk --quiet "$1" < "$2"', "sh", raw, partitions], log=log)
    if arch in _BIOS_ARCHITECTURES:
        modules = root / "boot/grub/i386-pc"
        _embed_grub(raw, (modules / "boot.img").read_bytes(), (modules / "core.img").read_bytes())
    make = ["mkfs.vfat", "-F", "16", "--offset", str(_ESP_START_MIB * _MIB // _SECTOR)]
    run("create the EFI file system", [*make, raw, str(esp_mib * 1024)], log=log)
    run("fill the EFI file system", ["mcopy", "-s", "-i", f"{raw}@@{_ESP_START_MIB * _MIB}", efi, "::/"], log=log)
    options = ["-q", "-t", "ext4", "-U", _ROOT_FS, "-E", f"offset={_ROOT_START_MIB * _MIB}"]
    size = f"{_DISK_MIB - _ROOT_START_MIB - 1}M"
    run("create the root file system", ["mke2fs", *options, "-d", root, raw, size], log=log)
    convert = ["qemu-img", "convert", "-c", "-o", "compression_type=zstd", "-W", "-m", "2", "-O", "qcow2"]
    run("convert the disk", [*convert, raw, target], log=log)
    for file in (raw, partitions):
        file.unlink()
    shutil.rmtree(efi)


def _embed_grub(raw: Path, boot: bytes, core: bytes) -> None:
    """Write GRUB's boot sector and core image, as grub-bios-setup does on a disk that is a device.

    The offsets are those of GRUB's ``include/grub/i386/pc/boot.h`` and ``include/grub/offsets.h``.
    """
    first = _BIOS_START_MIB * _MIB // _SECTOR
    sector = bytearray(boot[:440])  # the partition table begins after it
    sector[0x5C:0x64] = struct.pack("<Q", first)
    sector[0x66:0x68] = b"\x90\x90"  # boot_drive_check: no workaround for BIOSes that pass a wrong drive
    image = bytearray(core + bytes(-len(core) % _SECTOR))
    image[0x1F4:0x1FC] = struct.pack("<Q", first + 1)
    image[0x1FC:0x1FE] = struct.pack("<H", len(image) // _SECTOR - 1)
    assert len(image) <= (_ESP_START_MIB - _BIOS_START_MIB) * _MIB
    with raw.open("r+b") as disk:
        disk.write(sector)
        disk.seek(first * _SECTOR)
        disk.write(image)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(ensure(wanted)[0])
