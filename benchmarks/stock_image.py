"""A guest image as distributions ship it, to compare with: the same packages, none of our masks and settings.

It is kinder to the stock side than a downloaded cloud image: the kernel is booted directly, with our small initrd; the
seed is in the image, so that cloud-init probes no disks; nothing needs to grow.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from bundle import cache, debs
from bundle.image import finish, kernel_tree, rootfs
from bundle.progress import run, step

_USER_DATA: Final = """#cloud-config
disable_root: false
users:
  - name: root
    ssh_authorized_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f benchmark"]
"""
_META_DATA: Final = "instance-id: stock-1\nlocal-hostname: stock\n"
_NETWORK: Final = """version: 2
ethernets:
  primary: {match: {macaddress: "52:54:00:12:34:56"}, dhcp4: true}
"""  # QEMU's own default


def ensure(arch: str) -> Path:
    """The qcow2 of an architecture, built if the cache lacks it.

    :raises BundleError: it could not be built
    """
    parts = (rootfs.key(arch), Path(__file__))
    folder, _ = cache.entry("stock-images", arch, cache.content_key(*parts), lambda work: _build(arch, work))
    return folder / "stock.qcow2"


def _build(arch: str, folder: Path) -> None:
    system, _ = rootfs.ensure(arch)
    modules, _ = kernel_tree(arch)
    log = cache.cache_root() / "logs" / f"stock-{arch}.log"
    root, raw, target = folder / "root", folder / "root.raw", folder / "stock.qcow2"
    root.mkdir()
    with step(f"build a stock image for {arch}"):
        extract = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
        run("unpack the system", [*extract, "-f", system, "-C", root], log=log)
        shutil.copytree(modules / "usr/lib/modules", root / "usr/lib/modules", symlinks=True)
        finish.trust_certificates(root)
        finish.compile_python(root)
        for pattern in ("etc/hostname", "etc/ssh/ssh_host_*"):
            for file in root.glob(pattern):
                file.unlink()
        (root / "etc/machine-id").write_text("")
        (root / "etc/fstab").write_text("LABEL=rootfs / ext4 defaults 0 1\n")
        run("enable units", ["systemctl", f"--root={root}", "--quiet", "preset-all"], log=log)
        units = ["ssh.service", "systemd-networkd.service", "systemd-timesyncd.service"]
        run("enable units", ["systemctl", f"--root={root}", "--quiet", "enable", *units], log=log)
        seed = root / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True)
        for name, text in (("user-data", _USER_DATA), ("meta-data", _META_DATA), ("network-config", _NETWORK)):
            (seed / name).write_text(text)
        run("make a disk file", ["truncate", "-s", "3G", raw], log=log)
        options = ["-q", "-t", "ext4", "-L", "rootfs", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
        run("make the root file system", ["mke2fs", *options, "-d", root, raw], log=log)
        debs.require("qemu-img")
        convert = ["qemu-img", "convert", "-c", "-o", "compression_type=zstd", "-O", "qcow2"]
        run("make the disk", [*convert, raw, target], log=log)
    shutil.rmtree(root)
    raw.unlink()
