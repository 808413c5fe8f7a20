"""Take programs from upstream's releases, instead of building them: downloads with pinned checksums.

Which releases those are is in ``upstream.sha256``; a program that is not pinned there at its version has no release for
us. The result is the same folder of binaries as ``gobuild.build`` gives.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from q8s_bundle import cache, download
from q8s_bundle.errors import BundleError
from q8s_bundle.node import elf, versions
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.versions import Architecture

_RECIPE: Final = "1"  # raised when the way from files to binaries changes
_PINS: Final = Path(__file__).with_name("upstream.sha256")
_REPLACED: Final = (
    "something on the way (a proxy, a mirror) answers in upstream's place, or upstream replaced the file; "
    "`--source source` (`bundle_source: source` in a cluster file) builds the program instead"
)
# The one program that upstream does not link statically (KUBE_STATIC_BINARIES in Kubernetes' hack/lib/golang.sh). It
# may need glibc, for it runs on the node itself; what goes into images may not.
_ON_GLIBC: Final = "kubelet"
_GLIBC: Final = frozenset(
    {
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/ld-linux-aarch64.so.1",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
        *(f"lib{name}" for name in ("c.so.6", "dl.so.2", "m.so.6", "pthread.so.0", "resolv.so.2", "rt.so.1")),
    }
)


@dataclass(frozen=True)
class File:
    """A file of a release. ``members`` maps our binaries to their paths in the archive; "" is the file itself."""

    url: str
    sha256: str
    members: Mapping[str, str]


def read_pins(text: str) -> dict[str, str]:
    """Return URL -> sha256 (hex) of lines as sha256sum(1) writes them. Skip empty lines and those that begin with #."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {url: checksum for checksum, url in lines}


def _pins() -> dict[str, str]:
    return read_pins(_PINS.read_text(encoding="ascii"))


@dataclass(frozen=True)
class Releases:
    """The releases that we know: the addresses that they are below, and the checksums of their files."""

    kubernetes: str = "https://dl.k8s.io/release"
    github: str = "https://github.com"
    pins: Mapping[str, str] = field(default_factory=_pins)

    def files(self, program: Program, architecture: Architecture) -> tuple[File, ...]:
        """Return the files that a program is taken from; none if there is no pinned release of its version."""
        places = self._places(program, architecture)
        if not all(url in self.pins for url in places):
            return ()
        return tuple(File(url, self.pins[url], members) for url, members in places.items())

    def _places(self, program: Program, architecture: Architecture) -> dict[str, dict[str, str]]:
        """Return URL -> members, in the layout in which upstream publishes a program."""
        go = architecture.go
        same = {name: name for name in program.packages}
        match program.name:
            case "kubernetes-node" | "kubernetes-control-plane":
                base = f"{self.kubernetes}/v{versions.KUBERNETES}/bin/linux/{go}"
                return {f"{base}/{name}": {name: ""} for name in program.packages}
            case "runc":
                return {f"{self._assets('opencontainers/runc', versions.RUNC)}/runc.{go}": {"runc": ""}}
            case "cni" | "cni-flannel":
                version = versions.CNI_PLUGINS if program.name == "cni" else versions.CNI_FLANNEL
                assets = self._assets("containernetworking/plugins", version)
                return {f"{assets}/cni-plugins-linux-{go}-v{version}.tgz": same}
            case "crictl":
                assets = self._assets("kubernetes-sigs/cri-tools", versions.CRICTL)
                return {f"{assets}/crictl-v{versions.CRICTL}-linux-{go}.tar.gz": same}
            case "etcd":
                folder = f"etcd-v{versions.ETCD}-linux-{go}"
                assets = self._assets("etcd-io/etcd", versions.ETCD)
                return {f"{assets}/{folder}.tar.gz": {"etcd": f"{folder}/etcd"}}
        return {}

    def _assets(self, repository: str, version: str) -> str:
        return f"{self.github}/{repository}/releases/download/v{version}"


def key(program: Program, files: tuple[File, ...]) -> str:
    """Return the cache key of a program that is taken from these files."""
    parts = [part for file in files for part in (file.sha256, *sorted(file.members), *sorted(file.members.values()))]
    return cache.content_key("upstream", _RECIPE, program.name, *parts)


def fetch(program: Program, architecture: Architecture, files: tuple[File, ...]) -> tuple[Path, bool]:
    """Download a program if it is not cached.

    :returns: the folder with its binaries, and whether it was downloaded now
    :raises UnavailableError: a file is not available
    :raises BundleError: a file is not what it must be
    """

    def build(folder: Path) -> None:
        for file in files:
            _take(file, architecture, folder)

    return cache.entry("programs", f"{program.name}-{architecture.name}", key(program, files), build)


def _take(file: File, architecture: Architecture, folder: Path) -> None:
    """Download a file and put the binaries that are wanted of it into ``folder``."""
    name = file.url.rpartition("/")[2]
    what = f"{name} for {architecture.name}"
    packed = folder / f".{name}"
    download.fetch(what, file.url, f"sha256:{file.sha256}", packed, _REPLACED)
    for binary, member in file.members.items():
        if member:
            _extract(packed, member, folder / binary)
        else:
            packed.rename(folder / binary)
        (folder / binary).chmod(0o755)
        allowed = _GLIBC if binary == _ON_GLIBC else frozenset()
        if libraries := sorted(set(elf.needed(folder / binary)) - allowed):
            raise BundleError(f"Failed to use {binary} from {file.url}: it needs {', '.join(libraries)}")
    packed.unlink(missing_ok=True)


def _extract(archive: Path, member: str, target: Path) -> None:
    """Copy one regular file out of a tar; nothing else of the archive is unpacked."""
    with tarfile.open(archive) as packed:
        for entry in packed:
            if entry.name.removeprefix("./") == member and entry.isreg():
                source = packed.extractfile(entry)
                assert source is not None  # of a regular file
                with source, target.open("wb") as output:
                    shutil.copyfileobj(source, output)
                return
    raise BundleError(f"Failed to unpack {archive.name.removeprefix('.')}: it has no file {member}")
