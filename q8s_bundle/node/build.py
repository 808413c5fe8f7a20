"""Put a node's bundle together: one tree per architecture and role, as design and manifest describe it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from q8s_bundle import cache
from q8s_bundle.cache import Artifact
from q8s_bundle.errors import BundleError
from q8s_bundle.node import disk, gobuild, images, oci, store, versions
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.supply import Origin, Supply
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import say, step

_HERE: Final = Path(__file__).parent
_FILES: Final = _HERE / "files"
# A bundle is a function of its programs, of these sources, and of the packages that they name.
_SOURCES: Final = tuple(_HERE / f"{name}.py" for name in ("build", "disk", "elf", "images", "oci", "store", "versions"))


@dataclass(frozen=True)
class NodeArtifacts:
    """A built bundle, whether this call built it, and where each of its programs is from."""

    bundle: Artifact
    changed: bool
    origins: Mapping[str, Origin]


@dataclass(frozen=True)
class _Kind:
    """A kind of bundle: its name, the form that its tree is written in, and whether it is a control plane's."""

    name: str
    suffix: str
    write: Callable[[Path, Path], None]
    control_plane: bool


_WORKER: Final = _Kind("bundle", "qcow2", disk.write_disk, False)
_CONTROL_PLANE: Final = _Kind("control-plane", "tar.zst", disk.write_archive, True)


def ensure_worker(architecture: Architecture, supply: Supply) -> NodeArtifacts:
    """The bundle disk of an architecture's workers."""
    return _ensure(_WORKER, architecture, supply)


def ensure_control_plane(architecture: Architecture, supply: Supply) -> NodeArtifacts:
    """The bundle archive of an architecture's control planes."""
    return _ensure(_CONTROL_PLANE, architecture, supply)


def _ensure(kind: _Kind, architecture: Architecture, supply: Supply) -> NodeArtifacts:
    entry = f"{kind.name}-{architecture.name}"
    file = f"{entry}.{kind.suffix}"
    programs = gobuild.NODE_PROGRAMS + (gobuild.CONTROL_PLANE_PROGRAMS if kind.control_plane else ())

    def key(origins: Mapping[str, Origin]) -> str:
        parts = [supply.key(program, architecture, origins[program.name]) for program in programs]
        return cache.content_key(*parts, *_SOURCES, _FILES)

    for origins in supply.preferences(programs, architecture):
        if found := cache.find("bundles", entry, key(origins)):
            say(f"{file}: cached, {describe(origins)}")
            return NodeArtifacts(cache.recall(found / file), False, origins)

    # Before anything else: they take the longest and are kept one by one.
    obtained = {program.name: supply.obtain(program, architecture) for program in programs}
    origins = {name: origin for name, (_, origin) in obtained.items()}
    binaries = {name: folder for name, (folder, _) in obtained.items()}
    say(f"{file}: {describe(origins)}")

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            tree = Path(work) / "tree"
            unpacker, _ = supply.obtain(gobuild.CONTAINERD, store.machine())
            with step(f"put {kind.name} for {architecture.name} together"):
                _write_tree(tree, architecture, kind.control_plane, binaries, unpacker)
            with step(f"write {file}"):
                kind.write(tree, folder / file)
        cache.record(folder / file)

    folder, changed = cache.entry("bundles", entry, key(origins), build)
    return NodeArtifacts(cache.recall(folder / file), changed, origins)


def describe(origins: Mapping[str, Origin]) -> str:
    """Where programs are from, for people: "all from source", or which ones are from upstream and which are not."""
    released = sorted(name for name, origin in origins.items() if origin == "upstream")
    built = sorted(name for name, origin in origins.items() if origin == "source")
    if not released:
        return "all from source"
    return f"from upstream: {', '.join(released)}; from source: {', '.join(built)}"


def _write_tree(
    tree: Path, architecture: Architecture, control_plane: bool, programs: images.Binaries, unpacker: Path
) -> None:
    held = images.node_images(architecture, programs)
    if control_plane:
        held += images.control_plane_images(programs)
    _copy_programs(tree, control_plane, programs)
    _copy_files(tree)
    archives = []
    packed = tree.parent / "images"
    packed.mkdir()
    for image in held:
        archive = packed / f"{image.names[0].rpartition('/')[2].partition(':')[0]}.tar"
        oci.write(image, architecture.go, archive)
        archives.append(archive)
    store.fill(tree / "containerd", archives, architecture, unpacker)
    shutil.rmtree(packed)
    manifest = _manifest(architecture, held)
    if control_plane and architecture == store.machine():
        _check_image_names(tree / "bin/kubeadm", images.names(held))
    (tree / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _copy_programs(tree: Path, control_plane: bool, programs: images.Binaries) -> None:
    """``bin`` and ``cni``: what runs on the node itself, outside of containers."""
    chosen: list[tuple[str, Program, tuple[str, ...]]] = [
        ("bin", gobuild.KUBERNETES_NODE, ("kubelet", "kubeadm")),
        ("bin", gobuild.CONTAINERD, tuple(gobuild.CONTAINERD.packages)),
        ("bin", gobuild.RUNC, ("runc",)),
        ("bin", gobuild.CRICTL, ("crictl",)),
        ("cni", gobuild.CNI, tuple(gobuild.CNI.packages)),
        ("cni", gobuild.CNI_FLANNEL, ("flannel",)),
    ]
    if control_plane:
        chosen.append(("bin", gobuild.KUBERNETES_CONTROL_PLANE, ("kubectl",)))
    for place, program, names in chosen:
        (tree / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(programs[program.name] / name, tree / place / name)
            (tree / place / name).chmod(0o755)


def _copy_files(tree: Path) -> None:
    """Configuration files, with the pause image's name filled in. Units and manifests are the roles' own."""
    for source in sorted(file for file in _FILES.rglob("*") if file.is_file()):
        target = tree / source.relative_to(_FILES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text(encoding="utf-8").replace("@PAUSE_IMAGE@", images.PAUSE), encoding="utf-8")


def _manifest(architecture: Architecture, held: list[oci.Image]) -> dict[str, object]:
    return {
        "kubernetes_version": f"v{versions.KUBERNETES}",
        "architecture": architecture.name,
        "versions": {
            "cni_plugins": versions.CNI_PLUGINS,
            "containerd": versions.CONTAINERD,
            "coredns": versions.COREDNS,
            "crictl": versions.CRICTL,
            "etcd": versions.ETCD,
            "flannel": versions.FLANNEL,
            "kubernetes": versions.KUBERNETES,
            "runc": versions.RUNC,
        },
        "images": images.names(held),
        "pod_images": images.BY_PURPOSE,
    }


def _check_image_names(kubeadm: Path, held: list[str]) -> None:
    """Ask this very kubeadm which images it will want: a name that the store lacks would be pulled from a registry."""
    answer = subprocess.run(
        [kubeadm, "config", "images", "list", "--kubernetes-version", f"v{versions.KUBERNETES}"],
        check=False,
        capture_output=True,
        text=True,
    )
    missing = sorted(set(answer.stdout.split()) - set(held))
    if answer.returncode or missing:
        raise BundleError(
            f"Failed to check the control plane's images: kubeadm wants {', '.join(missing) or answer.stderr.strip()}"
        )
