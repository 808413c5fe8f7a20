"""The artifacts of a build: which are wanted, which the cache has, and how the missing ones are built."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q8s_bundle import (
    addons,
    bench,
    cache,
    conformance,
    image,
    node,
    pack,
    pod_image,
    requirements,
)
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.node import images as node_images
from q8s_bundle.node import minors, versions
from q8s_bundle.progress import Part, building, end_running

_SUFFIXES: Final = {
    "root": ".qcow2",
    "bundle": ".qcow2",
    "bench": ".tar.gz",
    "addon": ".tar.gz",
    "conformance": ".tar.gz",
}  # by the part of an artifact's name before the first hyphen


@dataclass(frozen=True)
class Choice:
    """The artifacts to build.

    :param workers: architectures of workers
    :param control_planes: architectures of control planes
    :param source: where programs are from: auto, upstream or source
    :param images: cloud images from which guest images are built, by architecture; Debian's packages for all others
    :param benches: architectures of the container image with measuring tools
    :param kubernetes: version of Kubernetes
    :param addons: names of add-ons, whose container images are built for the architectures of control planes
    :param conformances: architectures of the images of Kubernetes' conformance tests
    :param tests: architectures of the program that runs these tests
    """

    workers: Sequence[str]
    control_planes: Sequence[str]
    source: node.Choice
    images: Mapping[str, CloudImage]
    benches: Sequence[str] = ()
    kubernetes: str = versions.KUBERNETES
    addons: Sequence[str] = ()
    conformances: Sequence[str] = ()
    tests: Sequence[str] = ()

    @property
    def node_names(self) -> list[str]:
        """Return the names of the bundles."""
        return [f"control-plane-{name}" for name in self.control_planes] + [f"bundle-{name}" for name in self.workers]

    @property
    def archives(self) -> dict[str, pod_image.Recipe | conformance.Tests]:
        """Return how each archive is made that is an artifact of its own: container images, and tests. By its name.

        :raises BundleError: the tests of this version of Kubernetes are not known
        """
        known = versions.ARCHITECTURES
        recipes: list[pod_image.Recipe | conformance.Tests] = [bench.recipe(known[name]) for name in self.benches]
        recipes += [
            addons.recipe(addons.ADDONS[name], known[architecture])
            for name in self.addons
            for architecture in self.control_planes
        ]
        if self.tests:
            conformance.require(self.kubernetes)
        recipes += [conformance.Tests(known[name]) for name in self.tests]
        for name in self.conformances:
            recipes += conformance.recipes(known[name], self.kubernetes)
        return {recipe.artifact: recipe for recipe in recipes}

    @property
    def recipe(self) -> str:
        """Return a checksum of this choice and of the programs that build it.

        Where it is the same, another machine builds the same, but for newer Debian packages.
        """
        return hashlib.sha256(f"{pack.checksum()} {self}".encode()).hexdigest()

    def supply(self) -> node.Supply:
        """Return where the bundles' programs are from."""
        return node.Supply(self.source, replaced=minors.MINORS[self.kubernetes].programs)


def require_ability(choice: Choice, missing: Sequence[str]) -> None:
    """Check that this machine can build the missing artifacts, before a build that would fail after minutes.

    :raises BundleError: this machine cannot build; the message lists everything that is missing
    """
    if found := requirements.obstacles(missing, choice.images):
        raise requirements.explain(found, missing)


def ensure(choice: Choice, missing: Sequence[str]) -> dict[str, Any]:
    """Build the missing artifacts.

    :param missing: names of the missing artifacts
    :returns: all artifacts, in the form that ``bundle ensure`` prints
    :raises BundleError: this machine cannot build, or a build failed
    """
    require_ability(choice, missing)
    parts = {name: Part(name, number, len(missing)) for number, name in enumerate(missing, 1)}
    # Run both concurrently: mmdebstrap uses one core, and Go builds do not use all cores all the time.
    with cache.patiently_locked(cache.builds_lock(), "wait for a removal from the cache", fcntl.LOCK_SH):
        programs, guests = _side_by_side(lambda: _nodes(choice, parts), lambda: _guests(choice, parts))
        pods = _archives(choice, parts)
    return _answer(choice, programs, guests, pods)


def look_up(choice: Choice) -> dict[str, Any]:
    """Look the artifacts up in the cache, without building any.

    :returns: as ``ensure``. For artifacts that are not cached, ``missing`` has the names, and ``sha256`` is
        ``missing``. ``obstacles`` has the reasons why this machine cannot build them
    """
    supply = choice.supply()
    programs: dict[str, node.NodeArtifacts] = {}
    guests: dict[str, image.ImageArtifacts] = {}
    pods: dict[str, pod_image.PodImage] = {}
    nowhere = cache.Artifact(Path(), "missing", 0)
    missing = []
    with cache.looking_only():
        for name in choice.node_names:
            try:
                programs[name] = _node(name, supply)
            except cache.NotCachedError:
                missing.append(name)
                programs[name] = node.NodeArtifacts(nowhere, True, {})
        for name in choice.workers:
            try:
                guests[name] = image.ensure(name, choice.images.get(name))
            except cache.NotCachedError:
                missing.append(f"image-{name}")
                guests[name] = image.ImageArtifacts(nowhere, nowhere, nowhere, "", True)
        for name, recipe in choice.archives.items():
            try:
                pods[name] = conformance.ensure(recipe)
            except cache.NotCachedError:
                missing.append(name)
                pods[name] = pod_image.PodImage(nowhere, recipe.name, True)
    found = requirements.obstacles(missing, choice.images)
    obstacles = [{"reason": obstacle.reason, "hint": obstacle.hint} for obstacle in found]
    return {**_answer(choice, programs, guests, pods), "missing": missing, "obstacles": obstacles}


def _answer(
    choice: Choice,
    programs: Mapping[str, node.NodeArtifacts],
    guests: Mapping[str, image.ImageArtifacts],
    pods: Mapping[str, pod_image.PodImage],
) -> dict[str, Any]:
    """Return the artifacts in the form that ``bundle ensure`` prints."""
    artifacts = {name: made.bundle for name, made in programs.items()}
    sources: dict[str, object] = {name: made.origins for name, made in programs.items()}
    for name, guest in guests.items():
        artifacts |= {f"root-{name}": guest.root, f"kernel-{name}": guest.kernel, f"initrd-{name}": guest.initrd}
        sources[f"image-{name}"] = choice.images[name].url if name in choice.images else "source"
    artifacts |= {name: made.archive for name, made in pods.items()}
    changed = [made.changed for made in programs.values()]
    changed += [made.changed for made in guests.values()] + [made.changed for made in pods.values()]
    return {
        "changed": any(changed),
        "recipe": choice.recipe,
        "kubernetes_version": f"v{versions.KUBERNETES}",
        "source": sources,
        "cmdlines": {name: guest.cmdline for name, guest in guests.items()},
        "pod_images": node_images.BY_PURPOSE,
        "bench_images": {name: pods[f"bench-{name}"].name for name in choice.benches},
        "conformance_images": {
            architecture: [
                {"name": recipe.name, "artifact": recipe.artifact}
                for recipe in conformance.recipes(versions.ARCHITECTURES[architecture], choice.kubernetes)
            ]
            for architecture in choice.conformances
        },
        "addon_images": {name: addons.ADDONS[name].image for name in choice.addons},
        "artifacts": {
            name: {
                "path": str(artifact.path),
                "name": served_name(name, artifact.sha256),
                "sha256": artifact.sha256,
                "size": artifact.size,
            }
            for name, artifact in artifacts.items()
        },
        "missing": [],
    }


def served_name(name: str, sha256: str) -> str:
    """Return the file name of an artifact on the initial control plane and on hosts. It changes with the content.

    Disks need a suffix: where AppArmor confines libvirt, virt-aa-helper may not read a backing file without one.
    """
    kind = name.partition("-")[0]
    return f"{name}-{sha256[:12]}{_SUFFIXES.get(kind, '')}"


def _nodes(choice: Choice, parts: Mapping[str, Part]) -> dict[str, node.NodeArtifacts]:
    """Build the bundles, and return them by name."""
    supply = choice.supply()
    made = {}
    for name in choice.node_names:
        with building(parts[name]) if name in parts else nullcontext():
            made[name] = _node(name, supply)
    return made


def _node(name: str, supply: node.Supply) -> node.NodeArtifacts:
    """Build a bundle by its name, ``control-plane-ARCH`` or ``bundle-ARCH``, if it is not cached."""
    kind, _, architecture = name.rpartition("-")
    build = node.ensure_control_plane if kind == "control-plane" else node.ensure_worker
    return build(versions.ARCHITECTURES[architecture], supply)


def _guests(choice: Choice, parts: Mapping[str, Part]) -> dict[str, image.ImageArtifacts]:
    """Build the guest images, and return them by architecture."""
    made = {}
    for name in choice.workers:
        with building(parts[f"image-{name}"]) if f"image-{name}" in parts else nullcontext():
            made[name] = image.ensure(name, choice.images.get(name))
    return made


def _archives(choice: Choice, parts: Mapping[str, Part]) -> dict[str, pod_image.PodImage]:
    """Build the archives that are artifacts of their own, and return them by the artifacts' names."""
    made = {}
    for name, recipe in choice.archives.items():
        with building(parts[name]) if name in parts else nullcontext():
            made[name] = conformance.ensure(recipe)
    return made


def _side_by_side[A, B](one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """Run two functions concurrently and return both results.

    If one fails, or on Ctrl-C, stop the tools of the other, and raise the error after they have exited.
    """
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(one), pool.submit(other)
        both: list[Future[Any]] = [first, second]
        try:
            for future in as_completed(both):
                future.result()
        except BaseException:
            while wait(both, timeout=1).not_done:
                end_running()
            raise
        return first.result(), second.result()
