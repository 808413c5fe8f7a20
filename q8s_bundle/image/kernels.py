"""Kernels for guests: in a form that QEMU boots, with modules that are uncompressed and indexed."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_bundle.errors import BundleError
from q8s_bundle.progress import run


def _unzstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "--decompress", "--quiet"], input=data, check=True, capture_output=True).stdout


_MODULES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gz": gzip.decompress,
    "xz": lzma.decompress,
    "zst": _unzstd,
}
# By the first letters of the name that such a program says.
_EFI: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.decompress,
    "xz": lzma.decompress,
    "zstd": _unzstd,
}


@dataclass(frozen=True)
class Kernel:
    """A kernel as QEMU boots it, and the ``lib/modules/<version>`` folder of its modules, indexed by depmod."""

    image: bytes
    modules: Path


def newest(tree: Path) -> Path | None:
    """The newest ``boot/vmlinuz-<version>`` of a tree that has modules for it, or None."""
    found = [file for file in tree.glob("boot/vmlinuz-*") if modules_folder(tree, file).is_dir()]
    return max(found, key=lambda file: [int(number) for number in re.findall("[0-9]+", file.name)], default=None)


def modules_folder(tree: Path, vmlinuz: Path) -> Path:
    """Where a tree has the modules of one of its kernels."""
    return tree / "usr/lib/modules" / vmlinuz.name.removeprefix("vmlinuz-")


def copy_package(packages: Path, folder: Path) -> None:
    """Copy an unpacked kernel package to ``folder``: its modules uncompressed and indexed (depmod), its /boot."""
    vmlinuz = newest(packages)
    if vmlinuz is None:
        raise BundleError(f"Failed to read the kernel package in {packages}: there is no kernel with modules in it")
    shutil.copytree(packages / "usr/lib/modules", folder / "usr/lib/modules", symlinks=True)
    shutil.copytree(packages / "boot", folder / "boot")
    (folder / "lib").symlink_to("usr/lib")
    index_modules(folder, modules_folder(folder, vmlinuz))


def index_modules(tree: Path, modules: Path) -> None:
    """Uncompress a kernel's modules, in its folder below ``tree/usr/lib/modules``, and index them (depmod)."""
    debs.require("depmod")
    # xz and zstd are slow under emulation, and the disk is compressed anyway.
    for suffix, plain in _MODULES.items():
        for module in list(modules.rglob(f"*.ko.{suffix}")):
            module.with_suffix("").write_bytes(plain(module.read_bytes()))
            module.unlink()
    log = cache.cache_root() / "logs" / "depmod.log"
    run("index the modules", ["depmod", "-b", tree, modules.name], log=log)


def bootable(data: bytes, architecture: str) -> bytes:
    """A kernel in the form that every QEMU boots.

    One for aarch64 may be compressed as a whole, or within an EFI program ("zboot"), which QEMU knows from 8.1 on.

    :raises ValueError: it is no kernel of the architecture in a form that we know
    """
    if architecture == "aarch64":
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if data[:2] == b"MZ" and data[4:8] == b"zimg":
            offset, size = struct.unpack_from("<II", data, 8)
            name = data[24:32].partition(b"\0")[0].decode("ascii", "replace")
            unpack = next((unpack for start, unpack in _EFI.items() if name.startswith(start)), None)
            if unpack is None:
                raise ValueError(f"it is compressed by {name}")
            data = unpack(data[offset : offset + size])
    place, magic = {"x86_64": (0x202, b"HdrS"), "aarch64": (56, b"ARM\x64")}[architecture]
    if data[place : place + 4] != magic:
        raise ValueError(f"it is no Linux kernel for {architecture}")
    return data
