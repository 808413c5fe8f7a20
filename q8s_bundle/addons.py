"""The container images of add-ons, for one architecture: what only clusters have whose file asks for it.

Each image is an archive of its own, beside the bundle, so that an add-on changes no bundle and its versions are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_bundle.cache import Artifact
from q8s_bundle.node import gobuild, oci
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import run, say, step

METRICS_SERVER: Final = "0.9.0"

KIND: Final = "addons"
_STAMPS: Final = "k8s.io/client-go/pkg/version"


@dataclass(frozen=True)
class Addon:
    """An add-on: its name in a cluster file, the name of its image, and the program that the image holds."""

    name: str
    image: str
    program: Program


ADDONS: Final[Mapping[str, Addon]] = {
    addon.name: addon
    for addon in (
        Addon(
            "metrics_server",
            f"registry.k8s.io/metrics-server/metrics-server:v{METRICS_SERVER}",
            Program(
                "metrics-server",
                "metricsserver",
                {"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
                {f"{_STAMPS}.gitVersion": f"v{METRICS_SERVER}"},
            ),
        ),
    )
}


@dataclass(frozen=True)
class AddonImage:
    """A built image: its archive, the name by which pods refer to it, and whether this call built it."""

    archive: Artifact
    name: str
    changed: bool


def ensure(addon: Addon, architecture: Architecture) -> AddonImage:
    """Build an add-on's image archive, unless it is in the cache.

    :raises NotCachedError: it is not in the cache, and builds are not allowed
    """
    entry = f"{addon.name}-{architecture.name}"
    file = f"{entry}.tar.gz"

    def build(folder: Path) -> None:
        # Before anything else: it takes the longest, and is kept on its own.
        programs, _ = gobuild.build(addon.program, architecture)
        with step(f"write {file}"):
            _write(addon, architecture, programs, folder / file)
        cache.record(folder / file)

    folder, changed = cache.entry(KIND, entry, _key(addon, architecture), build)
    if not changed:
        say(f"{file}: cached")
    return AddonImage(cache.recall(folder / file), addon.image, changed)


def _key(addon: Addon, architecture: Architecture) -> str:
    """Return the cache key: an image is a function of its program, its name, and the sources that write it."""
    return cache.content_key(addon.image, gobuild.key(addon.program, architecture), Path(__file__), Path(oci.__file__))


def _write(addon: Addon, architecture: Architecture, programs: Path, target: Path) -> None:
    """Write the image as an OCI layout, compressed as a whole with gzip, which every Debian has."""
    log = cache.cache_root() / "logs" / f"{addon.name}-{architecture.name}.log"
    log.unlink(missing_ok=True)
    (program,) = addon.program.packages
    image = oci.Image((addon.image,), (f"/{program}",), {f"/{program}": programs / program})
    archive = target.with_suffix("")
    oci.write(image, architecture.go, archive)
    run(f"compress {archive.name}", ["gzip", "-n", "-6", archive], log=log)
