"""Make the root disk: a system, a kernel's modules, our configuration, in a bare ext4 qcow2.

Everything here is native and quick; nothing of the guest is run. Root is needed for the owners of files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from q8s_bundle.errors import BundleError
from q8s_bundle.image.masks import CLOUD_MASKED, CLOUD_MASKED_GENERATORS, MASKED, MASKED_GENERATORS
from q8s_bundle.progress import run, say, step

_FILES: Final = Path(__file__).parent / "files"
_INSTALLED: Final = {
    "fstab": "etc/fstab",
    "10-q8s-sshd.conf": "etc/ssh/sshd_config.d/10-q8s.conf",
    "91_q8s.cfg": "etc/cloud/cloud.cfg.d/91_q8s.cfg",
    "q8s-cloud-init.service": "etc/systemd/system/q8s-cloud-init.service",
    "q8s-cloud-init.timer": "etc/systemd/system/q8s-cloud-init.timer",
}
# A cloud image may have no crun, or one that is too old for containerd.
_INSTALLED_WITH_PACKAGES: Final = {"40-q8s-crun.toml": "etc/containerd/conf.d/40-q8s-crun.toml"}
_ENABLED: Final = ("systemd-networkd.service", "ssh.service", "q8s-cloud-init.timer")
_CLOCK: Final = "systemd-timesyncd.service"  # a cloud image may have chrony in its place
# The GiB that the file system may have as built. It grows to its disk at boot; no disk is smaller than the last.
_SIZES: Final = (3, 4)
_FREE: Final = 1.12  # the file system's own tables and journal, and room until it has grown

# What must be each guest's own, and what only the build needed.
_REMOVED: Final = (
    "etc/hostname",
    "etc/resolv.conf",
    "etc/ssh/ssh_host_*",
    "var/lib/dbus/machine-id",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/log/*.log",
    "var/lib/dpkg/*-old",
)
# What a cloud image has besides: networks other than ours, how Ubuntu ties ssh.service to its socket, mounts of snaps,
# and the initrd, which is not used.
_REMOVED_OF_CLOUD: Final = (
    "etc/netplan/*",
    "etc/systemd/network/*",
    "etc/systemd/system/ssh.service.d/00-socket.conf",
    "etc/systemd/system/*.wants/snap-*.mount",
    "boot/initrd.img-*",
)


def root_disk(root: Path, target: Path, log: Path, *, cloud: bool) -> None:
    """Write the qcow2 ``target`` from the tree of a system with its kernel's modules, which is used up by it.

    ``cloud``: the system is a cloud image's, with all that such images have for machines of other kinds.
    """
    raw = target.with_suffix(".raw")
    with step("configure the system"):
        if not cloud:  # a cloud image has its certificates, its builder's among them
            trust_certificates(root)
        _configure(root, log, cloud=cloud)
        _clean(root, cloud=cloud)
        compile_python(root)
    with step("write the disk"):
        run("make a disk file", ["truncate", "-s", f"{_size(root)}G", raw], log=log)
        # Tables are written now, sparsely: lazily, an emulated CPU would do it in the first minutes.
        options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        run(
            "make the root file system",
            ["mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-m", "1", "-E", options, "-d", root, raw],
            log=log,
        )
        compress = ["-c", "-o", "compression_type=zstd", "-W", "-m", "2"]
        run("make the root disk", ["qemu-img", "convert", *compress, "-O", "qcow2", raw, target], log=log)
    raw.unlink()
    shutil.rmtree(root)


def _size(root: Path) -> int:
    """The first of our sizes, in GiB, that a tree fits into."""
    used = int(
        subprocess.run(
            ["du", "--summarize", "--block-size=1", str(root)], check=True, capture_output=True, text=True
        ).stdout.split()[0]
    )
    size = next((size for size in _SIZES if used * _FREE < size << 30), None)
    if size is None:
        raise BundleError(
            f"Failed to make the root file system: the system takes {used / 1e9:.1f} GB, and the smallest disk that a "
            f"guest may have is of {_SIZES[-1]} GiB",
            "take an image with less in it",
        )
    return size


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


def _configure(root: Path, log: Path, *, cloud: bool) -> None:
    for source, destination in (_INSTALLED if cloud else _INSTALLED | _INSTALLED_WITH_PACKAGES).items():
        file = root / destination
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes((_FILES / source).read_bytes())
        file.chmod(0o644)
    units = MASKED | (CLOUD_MASKED if cloud else {})
    generators = MASKED_GENERATORS | (CLOUD_MASKED_GENERATORS if cloud else {})
    masks = [f"system/{unit}" for unit in units] + [f"system-generators/{name}" for name in generators]
    for mask in masks:
        place = root / "etc/systemd" / mask
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")
    # A unit that requires a masked one would fail.
    for link in (root / "etc/systemd/system").glob("*.requires/*"):
        if link.name in units:
            link.unlink()
    clock = [_CLOCK] if (root / "usr/lib/systemd/system" / _CLOCK).exists() else []
    run("enable units", ["systemctl", f"--root={root}", "--quiet", "enable", *_ENABLED, *clock], log=log)
    target = root / "etc/systemd/system/default.target"
    target.unlink(missing_ok=True)
    target.symlink_to("/usr/lib/systemd/system/multi-user.target")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)


def _clean(root: Path, *, cloud: bool) -> None:
    for pattern in _REMOVED + (_REMOVED_OF_CLOUD if cloud else ()):
        for file in root.glob(pattern):
            file.unlink()
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    (root / "etc/machine-id").unlink(missing_ok=True)
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
