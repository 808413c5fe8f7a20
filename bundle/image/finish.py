"""Make the root disk: the bootstrapped system, a kernel's modules, our configuration, in a bare ext4 qcow2.

Everything here is native and quick; nothing of the guest is run. Root is needed for the owners of files.
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bundle import cache, debs
from bundle.errors import BundleError
from bundle.image.masks import MASKED, MASKED_GENERATORS
from bundle.progress import run, say, step

_FILES: Final = Path(__file__).parent / "files"
_INSTALLED: Final = {
    "fstab": "etc/fstab",
    "10-q8s-sshd.conf": "etc/ssh/sshd_config.d/10-q8s.conf",
    "91_q8s.cfg": "etc/cloud/cloud.cfg.d/91_q8s.cfg",
    "q8s-cloud-init.service": "etc/systemd/system/q8s-cloud-init.service",
    "q8s-cloud-init.timer": "etc/systemd/system/q8s-cloud-init.timer",
}
_ENABLED: Final = ("systemd-networkd.service", "systemd-timesyncd.service", "ssh.service", "q8s-cloud-init.timer")
_SIZE: Final = "3G"  # of the file system as built; it grows to its disk at boot, and disks are larger than this


def root_disk(system: Path, kernel: Path, target: Path) -> None:
    """Write the qcow2 ``target`` from a system's tar and a kernel package's tree (with depmod's files)."""
    if os.geteuid() != 0:
        raise BundleError("Failed to build a guest image: it needs root", "run it as root or with sudo")
    log = cache.cache_root() / "logs" / f"{target.stem}.log"
    log.unlink(missing_ok=True)
    root = target.parent / "root"
    raw = target.parent / "root.raw"
    root.mkdir()
    try:
        with step("unpack and configure the system"):
            run(
                "unpack the system",
                ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "-f", system, "-C", root],
                log=log,
            )
            shutil.copytree(kernel / "usr/lib/modules", root / "usr/lib/modules", symlinks=True)
            trust_certificates(root)
            _configure(root, log)
            _clean(root)
            compile_python(root)
        with step("write the disk"):
            run("make a disk file", ["truncate", "-s", _SIZE, raw], log=log)
            # Tables are written now, sparsely: lazily, an emulated CPU would do it in the first minutes.
            options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
            run(
                "make the root file system",
                ["mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-m", "1", "-E", options, "-d", root, raw],
                log=log,
            )
            compress = ["-c", "-o", "compression_type=zstd", "-W", "-m", "2"]
            run("make the root disk", ["qemu-img", "convert", *compress, "-O", "qcow2", raw, target], log=log)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        raw.unlink(missing_ok=True)


def kernel_tree(packages: Path, folder: Path) -> None:
    """Copy an unpacked kernel package to ``folder``: its modules uncompressed and indexed (depmod), its /boot."""
    debs.require("depmod")
    shutil.copytree(packages / "usr/lib/modules", folder / "usr/lib/modules", symlinks=True)
    shutil.copytree(packages / "boot", folder / "boot")
    (folder / "lib").symlink_to("usr/lib")
    # xz is slow under emulation, and the disk is compressed anyway.
    for module in list((folder / "usr/lib/modules").rglob("*.ko.xz")):
        plain = module.with_suffix("")
        plain.write_bytes(lzma.decompress(module.read_bytes()))
        module.unlink()
    version = modules_folder(folder).name
    run("index the modules", ["depmod", "-b", folder, version], log=cache.cache_root() / "logs" / "depmod.log")


def modules_folder(kernel: Path) -> Path:
    """The one ``lib/modules/<version>`` folder of a kernel's tree."""
    found = list((kernel / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise BundleError(f"Failed to read the kernel package in {kernel}: {len(found)} kernels in it instead of one")
    return found[0]


def trust_certificates(root: Path) -> None:
    """What update-ca-certificates does: the bundle, and links by name and by subject hash."""
    home = root / "etc/ssl/certs"
    home.mkdir(parents=True, exist_ok=True)
    store = root / "usr/share/ca-certificates"
    sources = sorted(store.rglob("*.crt"))
    (root / "etc/ca-certificates.conf").write_text("".join(f"{file.relative_to(store)}\n" for file in sources))
    (home / "ca-certificates.crt").write_bytes(b"".join(file.read_bytes() for file in sources))
    for file in sources:
        by_name = home / f"{file.stem}.pem"
        digest = subprocess.run(
            ["openssl", "x509", "-noout", "-subject_hash", "-in", file], check=True, capture_output=True, text=True
        ).stdout.strip()
        by_hash = home / f"{digest}.0"
        for link, destination in ((by_name, f"/{file.relative_to(root)}"), (by_hash, by_name.name)):
            link.unlink(missing_ok=True)
            link.symlink_to(destination)


def _configure(root: Path, log: Path) -> None:
    for source, destination in _INSTALLED.items():
        file = root / destination
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes((_FILES / source).read_bytes())
        file.chmod(0o644)
    run("enable units", ["systemctl", f"--root={root}", "--quiet", "enable", *_ENABLED], log=log)
    masks = [f"system/{unit}" for unit in MASKED] + [f"system-generators/{name}" for name in MASKED_GENERATORS]
    for mask in masks:
        place = root / "etc/systemd" / mask
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")
    target = root / "etc/systemd/system/default.target"
    target.unlink(missing_ok=True)
    target.symlink_to("/usr/lib/systemd/system/multi-user.target")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)


def _clean(root: Path) -> None:
    """Remove what must be each guest's own, and what only the build needed."""
    for pattern in (
        "etc/hostname",
        "etc/resolv.conf",
        "etc/ssh/ssh_host_*",
        "var/lib/dbus/machine-id",
        "var/cache/apt/*.bin",
        "var/cache/debconf/*-old",
        "var/log/*.log",
        "var/lib/dpkg/*-old",
    ):
        for file in root.glob(pattern):
            file.unlink()
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    (root / "etc/machine-id").write_text("")
    # Says to systemd that /etc and /var belong to this /usr, so that it runs no "system was updated" units.
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()
        times = (root / "usr").stat()
        os.utime(root / name, ns=(times.st_atime_ns, times.st_mtime_ns))


def compile_python(root: Path) -> None:
    """Compile the guest's Python modules here: bytecode depends on Python's version and not on the architecture."""
    folders = sorted((root / "usr/lib").glob("python3.*"))
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if [folder.name for folder in folders] != [ours]:
        say(f"not compiling Python modules: the guest has {[folder.name for folder in folders]}, this is {ours}")
        return
    # Some modules are deliberately broken Python (tests), so the exit code says nothing.
    command = [sys.executable, "-m", "compileall", "-qq", "-j", "2", "-s", str(root), "-p", "/"]
    subprocess.run([*command, *folders, root / "usr/lib/python3/dist-packages"], check=False, stdin=subprocess.DEVNULL)
