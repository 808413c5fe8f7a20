"""What a stock guest boots from in a benchmark: the lab's Debian 13 cloud image, a seed, and its firmware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_bundle.image import rootfs
from q8s_bundle.progress import run
from q8s_lab import cloud_image

_IMAGE: Final = "debian-13-cloud"

# A key for the image's own user. The network is left to cloud-init, which uses DHCP.
_SEED: Final = {
    "user-data": """\
#cloud-config
ssh_authorized_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f benchmark"]
""",
    "meta-data": "instance-id: stock-1\nlocal-hostname: stock\n",
}


@dataclass(frozen=True)
class _Firmware:
    """An architecture's UEFI firmware: its Debian package, and its files below usr/share."""

    package: str
    code: str
    variables: str


_FIRMWARE: Final = {
    "x86_64": _Firmware("ovmf", "OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd"),
    "aarch64": _Firmware("qemu-efi-aarch64", "AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd"),
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
        """Return the files that QEMU opens."""
        return (self.disk, self.seed, self.firmware, self.variables, self.kernel, self.initrd)


def ensure(arch: str) -> StockImage:
    """Return the stock image of an architecture; what the cache lacks is built.

    :raises BundleError: the build failed
    """
    image, _ = cloud_image.build(_IMAGE, arch)
    firmware, _ = debs.tree(rootfs.DEBIAN_ARCHITECTURES[arch], rootfs.SUITE, [_FIRMWARE[arch].package])
    seed, _ = cache.entry(
        "stock-seeds",
        "seed",
        cache.content_key(*_SEED, *_SEED.values()),
        lambda folder: write_seed(folder / "seed.img", _SEED),
    )
    return StockImage(
        disk=image.disk,
        seed=seed / "seed.img",
        firmware=firmware / "usr/share" / _FIRMWARE[arch].code,
        variables=firmware / "usr/share" / _FIRMWARE[arch].variables,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
    )


def write_seed(disk: Path, files: Mapping[str, str]) -> None:
    """Write files (name -> text) of cloud-init's data source NoCloud as a disk of its own."""
    log = cache.cache_root() / "logs" / "stock-seed.log"
    run("create the seed's file system", ["mkfs.vfat", "-n", "CIDATA", "-C", disk, "1024"], log=log)
    for name, text in files.items():
        file = disk.with_name(name)
        file.write_text(text)
        run("fill the seed", ["mcopy", "-i", disk, file, "::/"], log=log)
        file.unlink()
