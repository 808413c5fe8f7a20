"""Put a node's bundle together: one tree per architecture and role, as design and manifest describe it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bundle import cache
from bundle.cache import Artifact
from bundle.errors import BundleError
from bundle.node import disk, gobuild, images, oci, store, versions
from bundle.node.gobuild import Program
from bundle.node.versions import Architecture
from bundle.progress import step

_HERE: Final = Path(__file__).parent
_FILES: Final = _HERE / "files"
# A bundle is a function of its programs, of these sources, and of the packages that they name.
_SOURCES: Final = tuple(_HERE / f"{name}.py" for name in ("build", "disk", "elf", "images", "oci", "store", "versions"))


@dataclass(frozen=True)
class NodeArtifacts:
    """A built bundle, whether this call built it, and what it is made from."""

    bundle: Artifact
    changed: bool
    source: str


def ensure_worker(architecture: Architecture) -> NodeArtifacts:
    """The bundle disk of an architecture's workers."""
    return _ensure("bundle", architecture, f"bundle-{architecture.name}.qcow2", False, disk.write_disk)


def ensure_control_plane(architecture: Architecture) -> NodeArtifacts:
    """The bundle archive of an architecture's control planes."""
    return _ensure(
        "control-plane", architecture, f"control-plane-{architecture.name}.tar.zst", True, disk.write_archive
    )


def _ensure(
    name: str, architecture: Architecture, file: str, control_plane: bool, write: Callable[[Path, Path], None]
) -> NodeArtifacts:
    programs = gobuild.NODE_PROGRAMS + (gobuild.CONTROL_PLANE_PROGRAMS if control_plane else ())
    keys = [gobuild.key(program, architecture) for program in programs]

    def build(folder: Path) -> None:
        for program in programs:  # before anything else: they take the longest and are kept one by one
            gobuild.build(program, architecture)
        with tempfile.TemporaryDirectory(prefix=".work-", dir=folder) as work:
            tree = Path(work) / "tree"
            with step(f"put {name} for {architecture.name} together"):
                _write_tree(tree, architecture, control_plane)
            with step(f"write {file}"):
                write(tree, folder / file)
        cache.record(folder / file)

    folder, changed = cache.entry(
        "bundles", f"{name}-{architecture.name}", cache.content_key(*keys, *_SOURCES, _FILES), build
    )
    return NodeArtifacts(cache.recall(folder / file), changed, "source")


def _write_tree(tree: Path, architecture: Architecture, control_plane: bool) -> None:
    held = images.node_images(architecture)
    if control_plane:
        held += images.control_plane_images(architecture)
    _copy_programs(tree, architecture, control_plane)
    _copy_files(tree)
    archives = []
    packed = tree.parent / "images"
    packed.mkdir()
    for image in held:
        archive = packed / f"{image.names[0].rpartition('/')[2].partition(':')[0]}.tar"
        oci.write(image, architecture.go, archive)
        archives.append(archive)
    store.fill(tree / "containerd", archives, architecture)
    shutil.rmtree(packed)
    manifest = _manifest(architecture, held)
    if control_plane and architecture == store.machine():
        _check_image_names(tree / "bin/kubeadm", images.names(held))
    (tree / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _copy_programs(tree: Path, architecture: Architecture, control_plane: bool) -> None:
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
        built, _ = gobuild.build(program, architecture)
        for name in names:
            shutil.copyfile(built / name, tree / place / name)
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
            "go": versions.GO,
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
