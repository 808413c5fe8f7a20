"""A guest image as Debian makes its cloud image ``genericcloud`` for its version 13, to compare with.

What Debian does is in https://salsa.debian.org/cloud-team/debian-cloud-images, an FAI configuration. The packages are
those of its classes ``SYSTEM_BOOT``, ``CLOUD``, ``GENERIC``, ``LINUX_VARIANT_CLOUD`` and ``TIME_SYSTEMD`` in
``config_space/13/package_config``, the partitions those of ``hooks``, the settings those of ``files``. The packages do
the work here as there: the kernel's script makes the initrd (initramfs-tools, ``MODULES=most``), grub-mkconfig writes
GRUB's menu, and shim and GRUB are the signed programs that grub-install would copy.

It differs from Debian's in this: no class ``EXTRAS`` (editors, curl, tcpdump and the like; no manual pages), no boot by
BIOS, and apt's sources are those of this machine.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bundle import cache, debs
from bundle.image import finish, rootfs
from bundle.progress import run, step

# One for all images: a benchmark boots one at a time.
_ROOT_PART: Final = "6f3d2b5e-5c0a-4c36-9a0e-1f1e6a2d7b01"
_ESP_PART: Final = "6f3d2b5e-5c0a-4c36-9a0e-1f1e6a2d7b02"
_ROOT_FS: Final = "6f3d2b5e-5c0a-4c36-9a0e-1f1e6a2d7b03"
_MIB: Final = 1 << 20
_DISK_MIB: Final = 3072
_ROOT_START_MIB: Final = 128

_PACKAGES: Final = (
    "apparmor",
    "apt-utils",
    "cloud-guest-utils",
    "cloud-init",
    "cloud-initramfs-growroot",
    "dosfstools",
    "e2fsprogs",
    "init",
    "iptables",
    "iputils-ping",
    "less",
    "libnss-myhostname",
    "libnss-resolve",
    "libpam-systemd",
    "linux-sysctl-defaults",
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
*target=hints_string*) echo --hint-efi=hd0,gpt1 ;;
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
    f"PARTUUID={_ESP_PART} /boot/efi vfat defaults,umask=077 0 2\n",
    "etc/hostname": "",
    "etc/machine-id": "",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/modprobe.d/blacklist.conf": "blacklist pcspkr\nblacklist floppy\n",
}

# What a user gives: a key for the image's own user. The network is left to cloud-init, which uses DHCP.
_SEED: Final = {
    "user-data": """\
#cloud-config
ssh_authorized_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f benchmark"]
""",
    "meta-data": "instance-id: stock-1\nlocal-hostname: stock\n",
}


@dataclass(frozen=True)
class _Boot:
    """An architecture's names: of its partition's type (sfdisk), of its programs for EFI, of its firmware's package."""

    partition: str
    short: str
    grub: str
    package: str
    code: str
    variables: str


_BOOTS: Final = {
    "x86_64": _Boot("Linux root (x86-64)", "x64", "x86_64-efi", "ovmf", "OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"),
    "aarch64": _Boot(
        "Linux root (ARM-64)", "aa64", "arm64-efi", "qemu-efi-aarch64", "AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"
    ),
}


@dataclass(frozen=True)
class StockImage:
    """What a stock guest boots from. Kernel, initrd and command line are the image's own: for a boot without EFI."""

    disk: Path
    seed: Path
    firmware: Path
    variables: Path
    kernel: Path
    initrd: Path
    cmdline: str

    @property
    def files(self) -> tuple[Path, ...]:
        """All that QEMU opens."""
        return (self.disk, self.seed, self.firmware, self.variables, self.kernel, self.initrd)


def ensure(arch: str) -> StockImage:
    """The image of an architecture, built if the cache lacks it.

    :raises BundleError: it could not be built
    """
    parts = (rootfs.key(arch, _system(arch)), Path(__file__))
    folder, _ = cache.entry("stock-images", arch, cache.content_key(*parts), lambda work: _build(arch, work))
    return StockImage(
        disk=folder / "stock.qcow2",
        seed=folder / "seed.img",
        firmware=folder / "firmware.fd",
        variables=folder / "variables.fd",
        kernel=folder / "kernel",
        initrd=folder / "initrd",
        cmdline=(folder / "cmdline").read_text().strip(),
    )


def _system(arch: str) -> rootfs.System:
    debian = rootfs.DEBIAN_ARCHITECTURES[arch]
    packages = (*_PACKAGES, f"linux-image-cloud-{debian}", f"grub-cloud-{debian}")
    return rootfs.System(packages, rootfs.DONE_LATER, (_WRITE_MENU,))


def _build(arch: str, folder: Path) -> None:
    for tool in ("sfdisk", "mkfs.vfat", "mcopy", "mke2fs", "qemu-img"):
        debs.require(tool)
    boot = _BOOTS[arch]
    system, _ = rootfs.ensure(arch, _system(arch))
    firmware, _ = debs.tree(rootfs.DEBIAN_ARCHITECTURES[arch], rootfs.SUITE, [boot.package])
    log = cache.cache_root() / "logs" / f"stock-{arch}.log"
    log.unlink(missing_ok=True)
    root = folder / "root"
    root.mkdir()
    with step(f"build a stock image for {arch}"):
        extract = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
        run("unpack the system", [*extract, "-f", system, "-C", root], log=log)
        _configure(root, boot, log)
        _write_disk(root, boot, folder, log)
        _write_seed(folder, log)
        shutil.copyfile(firmware / "usr/share" / boot.code, folder / "firmware.fd")
        shutil.copyfile(firmware / "usr/share" / boot.variables, folder / "variables.fd")
        shutil.copyfile(next((root / "boot").glob("vmlinuz-*")), folder / "kernel")
        shutil.copyfile(next((root / "boot").glob("initrd.img-*")), folder / "initrd")
        (folder / "cmdline").write_text(_command_line((root / "boot/grub/grub.cfg").read_text()) + "\n")
    shutil.rmtree(root)


def _command_line(menu: str) -> str:
    """The kernel's command line of a GRUB menu's first entry."""
    first = next(words for line in menu.splitlines() if (words := line.split()) and words[0] == "linux")
    return " ".join(first[2:])


def _configure(root: Path, boot: _Boot, log: Path) -> None:
    """What the packages' scripts did not do, and Debian's configuration of its image."""
    finish.trust_certificates(root)
    finish.compile_python(root)
    for name, text in _FILES.items():
        (root / name).write_text(text)
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    resolver.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for key in root.glob("etc/ssh/ssh_host_*"):
        key.unlink()
    with (root / "etc/ssh/sshd_config").open("a") as settings:
        settings.write("PermitRootLogin without-password\nPasswordAuthentication no\nClientAliveInterval 120\n")
    units = ["systemd-networkd.service", "systemd-resolved.service"]
    run("enable units", ["systemctl", f"--root={root}", "--quiet", "enable", *units], log=log)
    # as grub-install does
    shutil.copytree(root / "usr/lib/grub" / boot.grub, root / "boot/grub" / boot.grub)
    (root / "boot/grub/fonts").mkdir()
    shutil.copyfile(root / "usr/share/grub/unicode.pf2", root / "boot/grub/fonts/unicode.pf2")


def _write_disk(root: Path, boot: _Boot, folder: Path, log: Path) -> None:
    """GPT, the EFI partition and the root, straight into a file, and that as qcow2."""
    raw, efi = folder / "disk.raw", folder / "EFI"
    (efi / "BOOT").mkdir(parents=True)
    (efi / "debian").mkdir()
    shim = root / f"usr/lib/shim/shim{boot.short}.efi.signed"
    shutil.copyfile(shim, efi / "BOOT" / f"BOOT{boot.short.upper()}.EFI")
    grub = root / f"usr/lib/grub/{boot.grub}-signed/grub{boot.short}.efi.signed"
    shutil.copyfile(grub, efi / "BOOT" / f"grub{boot.short}.efi")
    (efi / "debian/grub.cfg").write_text(_FIRST_MENU)
    partitions = folder / "partitions"
    partitions.write_text(
        "label: gpt\n"
        f'p15: start=1MiB, size={_ROOT_START_MIB - 1}MiB, type="EFI System", uuid={_ESP_PART}\n'
        f'p1: start={_ROOT_START_MIB}MiB, type="{boot.partition}", uuid={_ROOT_PART}\n'
    )
    run("make a disk file", ["truncate", "-s", f"{_DISK_MIB}M", raw], log=log)
    run("write the partitions", ["sh", "-c", 'sfdisk --quiet "$1" < "$2"', "sh", raw, partitions], log=log)
    sectors, kib = _MIB // 512, (_ROOT_START_MIB - 1) * 1024
    make = ["mkfs.vfat", "-F", "16", "--offset", str(sectors)]
    run("make the EFI file system", [*make, raw, str(kib)], log=log)
    run("fill the EFI file system", ["mcopy", "-s", "-i", f"{raw}@@{_MIB}", efi, "::/"], log=log)
    options = ["-q", "-t", "ext4", "-U", _ROOT_FS, "-E", f"offset={_ROOT_START_MIB * _MIB}"]
    size = f"{_DISK_MIB - _ROOT_START_MIB - 1}M"
    run("make the root file system", ["mke2fs", *options, "-d", root, raw, size], log=log)
    convert = ["qemu-img", "convert", "-c", "-o", "compression_type=zstd", "-O", "qcow2"]
    run("make the disk", [*convert, raw, folder / "stock.qcow2"], log=log)
    for file in (raw, partitions):
        file.unlink()
    shutil.rmtree(efi)


def _write_seed(folder: Path, log: Path) -> None:
    """cloud-init's data source NoCloud as a disk of its own."""
    disk = folder / "seed.img"
    run("make the seed's file system", ["mkfs.vfat", "-n", "CIDATA", "-C", disk, "1024"], log=log)
    for name, text in _SEED.items():
        file = folder / name
        file.write_text(text)
        run("fill the seed", ["mcopy", "-i", disk, file, "::/"], log=log)
        file.unlink()
