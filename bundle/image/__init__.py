"""Guest images: for an architecture, a root disk (qcow2, bare ext4), a kernel, an initrd and a kernel command line."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bundle import cache, debs
from bundle.cache import Artifact
from bundle.errors import BundleError
from bundle.image import finish, initrd, rootfs
from bundle.progress import say, step

_HERE: Final = Path(__file__).parent
# loglevel: the console shows warnings and what our own programs say, both of which are few.
_COMMON: Final = "root=LABEL=rootfs rw quiet loglevel=5 systemd.show_status=0 audit=0"
_CMDLINES: Final = {
    "x86_64": f"console=ttyS0 {_COMMON} no_timer_check",
    # kpti: the emulated CPU has no Meltdown, and its remedy costs 17 % of the CPU time.
    "aarch64": f"console=ttyAMA0 {_COMMON} kpti=off",
}


@dataclass(frozen=True)
class ImageArtifacts:
    """What a guest of one architecture boots from."""

    root: Artifact
    kernel: Artifact
    initrd: Artifact
    cmdline: str
    changed: bool


def ensure(arch: str) -> ImageArtifacts:
    """The image for ``arch`` (``x86_64`` or ``aarch64``), built of Debian's packages if the cache lacks it."""
    if arch not in rootfs.DEBIAN_ARCHITECTURES:
        raise BundleError(
            f"Failed to build a guest image: no architecture {arch!r}; there are {sorted(rootfs.DEBIAN_ARCHITECTURES)}"
        )
    parts: list[str | bytes | Path] = ["2", arch, rootfs.key(arch), *sorted(_HERE.rglob("*.py")), _HERE / "files"]
    folder, built = cache.entry("images", arch, cache.content_key(*parts), lambda work: _build(arch, work))
    return ImageArtifacts(
        root=cache.recall(folder / f"root-{arch}.qcow2"),
        kernel=cache.recall(folder / f"kernel-{arch}"),
        initrd=cache.recall(folder / f"initrd-{arch}"),
        cmdline=_CMDLINES[arch],
        changed=built,
    )


def _build(arch: str, folder: Path) -> None:
    system, _ = rootfs.ensure(arch)
    with step(f"build the guest image for {arch}"):
        kernel, _ = kernel_tree(arch)
        busybox, _ = debs.tree(rootfs.DEBIAN_ARCHITECTURES[arch], rootfs.SUITE, ["busybox-static"])
        image = folder / f"kernel-{arch}"
        shutil.copyfile(next((kernel / "boot").glob("vmlinuz-*")), image)
        ramdisk = folder / f"initrd-{arch}"
        ramdisk.write_bytes(initrd.build((busybox / "usr/bin/busybox").read_bytes(), finish.modules_folder(kernel)))
        root = folder / f"root-{arch}.qcow2"
        finish.root_disk(system, kernel, root)
        for file in (image, ramdisk, root):
            artifact = cache.record(file)
            say(f"{file.name}: {artifact.size / 1e6:.1f} MB")


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
        "kernels", arch, cache.content_key("1", name), lambda folder: finish.kernel_tree(packages, folder)
    )
