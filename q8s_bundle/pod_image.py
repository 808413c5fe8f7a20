"""Container images that are archives of their own, beside the bundle: only clusters that ask for one have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_bundle.cache import Artifact
from q8s_bundle.node import oci
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import run, say, step

# An image is a function of these sources too.
SOURCES: Final = (Path(__file__), Path(oci.__file__))


@dataclass(frozen=True)
class Recipe:
    """How an image is made.

    :param kind: the kind of its entry in the cache
    :param artifact: the name of its archive, without a suffix
    :param name: the name by which pods refer to it
    :param key: the entry's cache key
    :param contents: returns what is in the image; it may build or download that
    """

    kind: str
    artifact: str
    name: str
    key: str
    architecture: Architecture
    contents: Callable[[], oci.Image]


@dataclass(frozen=True)
class PodImage:
    """A built image: its archive, the name by which pods refer to it, and whether this call built it."""

    archive: Artifact
    name: str
    changed: bool


def ensure(recipe: Recipe) -> PodImage:
    """Build an image's archive, unless it is in the cache.

    :raises NotCachedError: it is not in the cache, and builds are not allowed
    """
    file = f"{recipe.artifact}.tar.gz"

    def build(folder: Path) -> None:
        image = recipe.contents()
        with step(f"write {file}"):
            _write(image, recipe, folder / file)
        cache.record(folder / file)

    folder, changed = cache.entry(recipe.kind, recipe.artifact, recipe.key, build)
    if not changed:
        say(f"{file}: cached")
    return PodImage(cache.recall(folder / file), recipe.name, changed)


def _write(image: oci.Image, recipe: Recipe, target: Path) -> None:
    """Write the image as an OCI layout, compressed as a whole with gzip, which every Debian has."""
    log = cache.cache_root() / "logs" / f"{recipe.artifact}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    archive = target.with_suffix("")
    oci.write(image, recipe.architecture.go, archive)
    run(f"compress {archive.name}", ["gzip", "-n", "-6", archive], log=log)
