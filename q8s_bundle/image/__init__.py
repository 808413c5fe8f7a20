"""Guest images: for an architecture, a root disk (qcow2, bare ext4), a kernel, an initrd and a kernel command line."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache, debs
from q8s_bundle.cache import Artifact
from q8s_bundle.errors import BundleError
from q8s_bundle.image import cloud, finish, initrd, kernels, rootfs
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.image.kernels import Kernel
from q8s_bundle.progress import run, say, step

_HERE: Final = Path(__file__).parent
# loglevel: the console shows warnings and what our own programs say, both of which are few.
_COMMON: Final = "root=LABEL=rootfs rw quiet loglevel=5 systemd.show_status=0 audit=0"
_CMDLINES: Final = {
    "x86_64": f"console=ttyS0 {_COMMON} no_timer_check",
    # kpti: the emulated CPU has no Meltdown, and its remedy costs 17 % of the CPU time.
    "aarch64": f"console=ttyAMA0 {_COMMON} kpti=off",
}
# With AppArmor, whose programs an image of ours lacks, containerd would compile a profile on the emulated CPU. The list
# is what the kernel may have: with apparmor=0 alone Debian's takes SELinux, for which there is no policy.
_OF_CLOUD: Final = " lsm=landlock,yama,bpf"


@dataclass(frozen=True)
class ImageArtifacts:
    """What a guest of one architecture boots from."""

    root: Artifact
    kernel: Artifact
    initrd: Artifact
    cmdline: str
    changed: bool


def ensure(arch: str, source: CloudImage | None = None) -> ImageArtifacts:
    """The image for ``arch`` (``x86_64`` or ``aarch64``), built if the cache lacks it.

    It is built of Debian's packages, or of a cloud image.
    """
    if arch not in rootfs.DEBIAN_ARCHITECTURES:
        raise BundleError(
            f"Failed to build a guest image: no architecture {arch!r}; there are {sorted(rootfs.DEBIAN_ARCHITECTURES)}"
        )
    base = source.checksum if source else rootfs.key(arch)
    parts: list[str | bytes | Path] = ["2", arch, base, *sorted(_HERE.rglob("*.py")), _HERE / "files"]
    folder, built = cache.entry("images", arch, cache.content_key(*parts), lambda work: _build(arch, source, work))
    return ImageArtifacts(
        root=cache.recall(folder / f"root-{arch}.qcow2"),
        kernel=cache.recall(folder / f"kernel-{arch}"),
        initrd=cache.recall(folder / f"initrd-{arch}"),
        cmdline=_CMDLINES[arch] + (_OF_CLOUD if source else ""),
        changed=built,
    )


def _build(arch: str, source: CloudImage | None, folder: Path) -> None:
    if os.geteuid() != 0:
        raise BundleError("Failed to build a guest image: it needs root", "run it as root or with sudo")
    log = cache.cache_root() / "logs" / f"root-{arch}.log"
    log.unlink(missing_ok=True)
    tree = folder / "root"
    with step(f"build the guest image for {arch}"):
        if source:
            cloud.unpack(source, arch, tree, log)
        else:
            system, _ = rootfs.ensure(arch)
            tree.mkdir()
            extract = ["tar", "--extract", "--numeric-owner", "--preserve-permissions"]
            run("unpack the system", [*extract, "-f", system, "-C", tree], log=log)
        kernel = (cloud.kernel(tree, arch, source) if source else None) or _our_kernel(arch, tree)
        busybox, _ = debs.tree(rootfs.DEBIAN_ARCHITECTURES[arch], rootfs.SUITE, ["busybox-static"])
        image, ramdisk, root = (folder / f"kernel-{arch}", folder / f"initrd-{arch}", folder / f"root-{arch}.qcow2")
        image.write_bytes(kernel.image)
        ramdisk.write_bytes(initrd.build((busybox / "usr/bin/busybox").read_bytes(), kernel.modules))
        finish.root_disk(tree, root, log, cloud=source is not None)
        for file in (image, ramdisk, root):
            artifact = cache.record(file)
            say(f"{file.name}: {artifact.size / 1e6:.1f} MB")


def _our_kernel(arch: str, tree: Path) -> Kernel:
    """Debian's cloud kernel; puts its modules into a system."""
    packages, _ = kernel_tree(arch)
    shutil.copytree(packages / "usr/lib/modules", tree / "usr/lib/modules", symlinks=True, dirs_exist_ok=True)
    vmlinuz = kernels.newest(packages)
    assert vmlinuz is not None  # kernel_tree has made sure
    return Kernel(vmlinuz.read_bytes(), kernels.modules_folder(packages, vmlinuz))


def kernel_tree(arch: str) -> tuple[Path, bool]:
    """A tree with Debian's cloud kernel (the one without drivers for real hardware): /boot, and indexed modules."""
    debian = rootfs.DEBIAN_ARCHITECTURES[arch]
    meta, _ = debs.fetch(debian, rootfs.SUITE, [f"linux-image-cloud-{debian}"])
    # The meta package names the current kernel: "linux-image-6.12.x+deb13-cloud-arm64 (= ...)".
    depends = subprocess.run(
        ["dpkg-deb", "--field", next(meta.glob("*.deb")), "Depends"], check=True, capture_output=True, text=True
    ).stdout
    name = depends.split()[0]
    packages, _ = debs.tree(debian, rootfs.SUITE, [name])
    return cache.entry(
        "kernels", arch, cache.content_key("1", name), lambda folder: kernels.copy_package(packages, folder)
    )
