"""Check whether this machine can build the artifacts that are not cached: programs and rights."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import debs, namespace, search_path
from q8s_bundle.errors import BundleError
from q8s_bundle.node import toolchain, versions

_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
# Program -> Debian package. q8s_bundle/packages.txt has the purpose of each package.
_ALWAYS: Final = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "tar": "tar",
    "zstd": "zstd",
}
_FOR_IMAGES: Final = {"depmod": "kmod", "mmdebstrap": "mmdebstrap", "openssl": "openssl", "systemctl": "systemd"}
_FOR_CLOUD_IMAGES: Final = {"sfdisk": "fdisk"}
_FOR_FOREIGN_IMAGES: Final = {"arch-test": "arch-test"}
_FOR_PROGRAMS: Final = {"gcc": "gcc", "pkg-config": "pkg-config"}
_FOR_NAMESPACE: Final = {"newgidmap": "uidmap", "newuidmap": "uidmap", "unshare": "util-linux"}


# The first words of the names of artifacts that a deploy builds. Other commands build the others, on this machine.
_DEPLOYED: Final = ("addon-", "bundle-", "control-plane-", "image-")
_ON_SERVER: Final = "Q8S_BUNDLE_ON_SERVER"  # environment variable of a build on the cluster (q8s.emu.cluster_build)


@dataclass(frozen=True)
class Obstacle:
    """A reason why this machine cannot build, and what to do about it."""

    reason: str
    hint: str


def obstacles(missing: Collection[str], cloud_images: Collection[str] = ()) -> list[Obstacle]:
    """Return the reasons why this machine cannot build the missing artifacts.

    :param missing: names of artifacts: ``bundle-x86_64``, ``control-plane-x86_64``, ``image-aarch64``, ``bench-…``
    :param cloud_images: architectures whose guest image is built from a cloud image
    """
    if not missing:
        return []
    if platform.system() != "Linux":
        return [Obstacle(f"this machine runs {platform.system()}", "build on Linux")]
    if platform.machine() not in versions.ARCHITECTURES:
        known = ", ".join(versions.ARCHITECTURES)
        return [Obstacle(f"this machine is {platform.machine()}", f"build on one of {known}")]
    found = [*_programs(missing, cloud_images)]
    if namespace.needed():
        found += _rights(missing, cloud_images, able=not found)
    return found


def _programs(missing: Collection[str], cloud_images: Collection[str]) -> Iterator[Obstacle]:
    """Yield an obstacle for missing programs, and one for a missing Go toolchain."""
    wanted = dict(_ALWAYS)
    images = {name.removeprefix("image-") for name in missing if name.startswith("image-")}
    nodes = {name.rpartition("-")[2] for name in missing if not name.startswith(("bench-", "conformance-", "image-"))}
    if images:
        wanted |= _FOR_IMAGES
    if images & set(cloud_images):
        wanted |= _FOR_CLOUD_IMAGES
    if images - set(cloud_images) - {platform.machine()}:
        wanted |= _FOR_FOREIGN_IMAGES
    if nodes:
        wanted |= _FOR_PROGRAMS
    for name in sorted(nodes - {platform.machine()}):
        gnu = versions.ARCHITECTURES[name].gnu
        wanted[f"{gnu}-gcc"] = f"gcc-{gnu.replace('_', '-')}"
    if namespace.needed():
        wanted |= _FOR_NAMESPACE
    lacking = {program: package for program, package in sorted(wanted.items()) if not _has(program)}
    if lacking:
        yield Obstacle(
            f"these programs are missing: {', '.join(lacking)}",
            f"as root: apt-get install {' '.join(sorted(set(lacking.values())))}",
        )
    needs_go = nodes or any(name.startswith(("conformance-agnhost-", "conformance-tests-")) for name in missing)
    if needs_go and (reason := toolchain.obstacle()):
        yield Obstacle("a Go toolchain is missing", reason.hint or "install Go")
    # Add-ons and the program of the conformance tests have no Debian packages in them.
    if any(not name.startswith(("addon-", "conformance-tests-")) for name in missing):
        try:
            debs.mirrors()
        except BundleError as error:
            yield Obstacle(str(error).partition(": ")[2], error.hint or "install Debian")


def _has(program: str) -> bool:
    """Return whether this machine has a program."""
    return shutil.which(program, path=search_path.complete(os.environ.get("PATH", ""))) is not None


def _rights(missing: Collection[str], cloud_images: Collection[str], *, able: bool) -> Iterator[Obstacle]:
    """Yield an obstacle for each right that a user other than root lacks.

    :param able: whether all programs are installed, so that a namespace can be tried
    """
    names = namespace.user_names()
    lacking = [file for file in ("/etc/subuid", "/etc/subgid") if namespace.range_missing(Path(file), names)]
    if lacking:
        yield Obstacle(
            f"{' and '.join(lacking)} give{'s' if len(lacking) == 1 else ''} the user {names[0]} no range of 65536 ids",
            f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {names[0]} "
            "(a range that nobody else in those files has)",
        )
    elif able and (refused := namespace.refusal()):
        yield Obstacle(*refused)
    images = sorted(name.removeprefix("image-") for name in missing if name.startswith("image-"))
    if from_cloud := [name for name in images if name in cloud_images]:
        yield Obstacle(
            f"the guest image for {', '.join(from_cloud)} is made from a cloud image, which needs a loop device, "
            "and the kernel gives those to root only",
            "build as root",
        )
    foreign = [name for name in images if name not in cloud_images and name != platform.machine()]
    # Where binfmt_misc is not mounted, the namespace mounts and fills one of its own (Linux 6.7).
    for name in foreign:
        if (_BINFMT / "register").exists() and not any((_BINFMT / f"{who}-{name}").exists() for who in ("qemu", "q8s")):
            yield Obstacle(f"programs of {name} do not run here", "as root: apt-get install qemu-user-static")


def explain(found: Sequence[Obstacle], missing: Collection[str]) -> BundleError:
    """Return the error that lists all obstacles.

    :param found: the obstacles
    :param missing: names of the artifacts that cannot be built
    """
    reasons = "; ".join(obstacle.reason for obstacle in found)
    hints = "; ".join(obstacle.hint for obstacle in found)
    elsewhere = ""
    if all(name.startswith(_DEPLOYED) for name in missing) and not os.environ.get(_ON_SERVER):
        elsewhere = ". Or build on the cluster: q8s-run deploy FILE --build cluster"
    return BundleError(f"Failed to build {', '.join(missing)} on this machine: {reasons}", f"{hints}{elsewhere}")
