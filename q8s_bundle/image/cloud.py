"""A cloud image of Debian or Ubuntu as the source of a guest's system, with its own kernel and modules.

Nothing of the image is run: its files are copied out of the disk, natively. ``q8s_bundle.image.finish`` makes a guest of
them as it does of a system of ours.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs, download
from q8s_bundle.errors import BundleError
from q8s_bundle.image import initrd, kernels
from q8s_bundle.image.kernels import Kernel
from q8s_bundle.progress import run, step

_URL: Final = r"(https://|file:///|/)[^/].*"
_CHECKSUM: Final = r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"
_MACHINES: Final = {"x86_64": 62, "aarch64": 183}  # as ELF files say it
# What is run in a guest: by the node's units, containerd, the kubelet, portmap and Ansible.
_PROGRAMS: Final = "cloud-init ip iptables modprobe mount mountpoint python3 sshd sudo udevadm".split()
_SERVICES: Final = ("ssh.service", "systemd-networkd.service", "systemd-udevd.service")
_MODULES: Final = "br_netfilter ext4 overlay veth virtio_blk virtio_net virtio_pci vxlan".split()

# A partition is copied if it is a system's root, or its /boot. It is mounted where nobody else sees it, so that nothing
# stays mounted however this ends. noload: the journal of an image that was not unmounted stays as it is.
_COPY: Final = """\
set -eu
mount -t ext4 -o "ro,noload,loop,offset=$2,sizelimit=$3" "$1" "$4"
set -- "$4" "$5" "$4"/vmlinuz-*
[ -e "$1/etc/os-release" ] || [ -L "$1/etc/os-release" ] || [ -e "$3" ] || exit 0
exec cp --archive "$1" "$2"
"""


@dataclass(frozen=True)
class CloudImage:
    """A cloud image: where it is (https, or a file of this machine), and its checksum as ``sha512:HEX``."""

    url: str
    checksum: str


def parse(text: str) -> tuple[str, CloudImage]:
    """The architecture and the image that ``ARCH,URL,CHECKSUM`` means.

    :raises ValueError: it does not have that form
    """
    architecture, _, rest = text.partition(",")
    url, _, checksum = rest.rpartition(",")
    if architecture not in _MACHINES or not re.fullmatch(_URL, url) or not re.fullmatch(_CHECKSUM, checksum):
        raise ValueError(text)
    return architecture, CloudImage(url, checksum)


def fetch(image: CloudImage) -> Path:
    """The image's file in the cache, fetched if it is not there. It is kept by its checksum, wherever it came from."""
    name = image.url.rpartition("/")[2]
    hint = (
        "take the checksum from where the image is published (SHA512SUMS or SHA256SUMS beside it), and the address of "
        "a dated folder: behind `latest` and `current` the file changes"
    )
    folder, _ = cache.entry(
        "cloud-images",
        "image",
        cache.content_key(image.checksum),
        lambda work: download.fetch(f"the guest image {name}", image.url, image.checksum, work / "disk", hint),
    )
    return folder / "disk"


def unpack(image: CloudImage, architecture: str, root: Path, log: Path) -> None:
    """Copy the system of an image to ``root``; refuse one that cannot be a node."""
    debs.require("sfdisk")
    file = fetch(image)
    raw, mounted, copies = (root.with_name(f"cloud-{name}") for name in ("raw", "mounted", "copies"))
    mounted.mkdir()
    copies.mkdir()
    with step(f"copy the system out of {image.url.rpartition('/')[2]}"):
        run(f"read the guest image {image.url}", ["qemu-img", "convert", "-O", "raw", file, raw], log=log)
        for number, (start, size) in enumerate(_partitions(raw)):
            if _is_ext(raw, start):
                isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _COPY, "sh"]
                arguments = (raw, str(start), str(size), mounted, copies / str(number))
                run(f"read a partition of the guest image {image.url}", [*isolated, *arguments], log=log)
        raw.unlink()
        mounted.rmdir()
        _assemble(sorted(copies.iterdir()), root, image)
        copies.rmdir()
    _check(root, architecture, image)


def _partitions(raw: Path) -> list[tuple[int, int]]:
    """Where a disk's partitions begin and how long they are, in bytes; a disk without a table is one file system."""
    answer = subprocess.run(["sfdisk", "--json", raw], check=False, capture_output=True, text=True)
    return parse_partitions(answer.stdout) if answer.returncode == 0 else [(0, raw.stat().st_size)]


def parse_partitions(text: str) -> list[tuple[int, int]]:
    """Beginnings and lengths, in bytes, of the partitions in what ``sfdisk --json`` says."""
    table = json.loads(text)["partitiontable"]
    sector = table.get("sectorsize", 512)
    return [(one["start"] * sector, one["size"] * sector) for one in table.get("partitions", [])]


def _is_ext(raw: Path, start: int) -> bool:
    with raw.open("rb") as disk:
        disk.seek(start + 1080)  # the superblock's magic number
        return disk.read(2) == b"\x53\xef"


def _assemble(copies: list[Path], root: Path, image: CloudImage) -> None:
    """Make ``root`` of the one copy that is a system, with the others, which have kernels, as its /boot."""
    systems = [copy for copy in copies if _there(copy / "etc/os-release")]
    if len(systems) != 1:
        raise BundleError(
            f"Failed to find the system in the guest image {image.url}: {len(systems) or 'none'} of its ext4 file "
            "systems have etc/os-release",
            "it must be a cloud image of Debian or Ubuntu as they publish it, qcow2 or raw",
        )
    systems[0].rename(root)
    for copy in copies:
        if copy != systems[0]:
            shutil.copytree(copy, root / "boot", symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(copy)


def _check(root: Path, architecture: str, image: CloudImage) -> None:
    """Refuse a system that could not be a node, before a guest shows it by not coming up."""
    systemd = root / "usr/lib/systemd/systemd"
    head = systemd.read_bytes()[:20] if systemd.is_file() else b""
    if head[:4] != b"\x7fELF":
        raise BundleError(f"Failed to use the guest image {image.url}: it has no systemd")
    machine = int.from_bytes(head[18:20], "little")
    if machine != _MACHINES[architecture]:
        names = {number: name for name, number in _MACHINES.items()}
        raise BundleError(
            f"Failed to use the guest image {image.url} for {architecture}: "
            f"its programs are for {names.get(machine, f'the ELF machine {machine}')}",
            "publishers call x86_64 amd64, and aarch64 arm64",
        )
    missing = [name for name in _PROGRAMS if not any(_there(root / place / name) for place in ("usr/bin", "usr/sbin"))]
    units = [root / place / "systemd/system" for place in ("usr/lib", "etc")]
    missing += [name for name in _SERVICES if not any(_there(place / name) for place in units)]
    if missing:
        raise BundleError(
            f"Failed to use the guest image {image.url}: it has no {', '.join(missing)}, which a node needs",
            "a minimal image may lack them: take the full one, or one with these packages added",
        )


def _there(path: Path) -> bool:
    """Whether there is such a file, or a link, which leads elsewhere in the guest than here."""
    return path.is_symlink() or path.exists()


def kernel(root: Path, architecture: str, image: CloudImage) -> Kernel | None:
    """The newest kernel of a system, its modules made ready; None if the system has no kernel."""
    vmlinuz = kernels.newest(root)
    if vmlinuz is None:
        return None
    modules = kernels.modules_folder(root, vmlinuz)
    kernels.index_modules(root, modules)
    known = "".join((modules / name).read_text() for name in ("modules.dep", "modules.builtin"))
    missing = sorted(set(_MODULES) - {initrd.module_name(line.partition(":")[0]) for line in known.splitlines()})
    if missing:
        raise BundleError(
            f"Failed to use the guest image {image.url}: its kernel {modules.name} has no {', '.join(missing)}, which "
            "a node needs"
        )
    try:
        return Kernel(kernels.bootable(vmlinuz.read_bytes(), architecture), modules)
    except ValueError as error:
        raise BundleError(f"Failed to use the kernel {vmlinuz.name} of the guest image {image.url}: {error}") from error
