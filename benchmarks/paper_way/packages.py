"""What a guest installs: Kubernetes and containerd as Debian packages, and a node's pod images as in a registry.

The programs and images are those of the bundle. Packages have the names, contents and dependencies of upstream's
(Kubernetes' own, Docker's containerd.io), except that the kubelet's does not need ebtables. Both are folders that any
HTTP server can serve, see ``host.py``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from q8s_bundle import cache
from q8s_bundle.node import gobuild, images, oci, versions
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.supply import Supply
from q8s_bundle.node.versions import Architecture
from q8s_bundle.progress import run, step

_SOURCES: Final = (Path(__file__), Path(images.__file__), Path(oci.__file__))
_UNITS: Final = "/usr/lib/systemd/system"
_INDEX: Final = "Packages"
# What flannel's and kube-proxy's pods on a worker need. The pod's sandbox needs the first one.
IMAGES: Final = (images.PAUSE, f"registry.k8s.io/kube-proxy:v{versions.KUBERNETES}", images.FLANNEL)

_CONTAINERD_UNIT: Final = """\
[Unit]
Description=containerd container runtime
After=network.target dbus.service

[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
"""
_KUBELET_UNIT: Final = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
_KUBEADM_DROP_IN: Final = """\
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""  # noqa: E501
# As debhelper generates them.
_START: Final = """\
#!/bin/sh
set -e
deb-systemd-helper enable {unit} >/dev/null
systemctl --system daemon-reload
deb-systemd-invoke start {unit} >/dev/null
"""
_ENABLE: Final = """\
#!/bin/sh
set -e
deb-systemd-helper enable {unit} >/dev/null
systemctl --system daemon-reload
"""


@dataclass(frozen=True)
class _Package:
    """A Debian package.

    :param programs: programs of the bundle, with their folder in the package; or one of them, with its path
    :param texts: other files by path
    """

    name: str
    version: str
    programs: Sequence[tuple[Program, str]]
    depends: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    postinst: str = ""


_PACKAGES: Final = (
    _Package(
        "containerd.io",
        versions.CONTAINERD,
        ((gobuild.CONTAINERD, "/usr/bin"), (gobuild.RUNC, "/usr/bin")),
        texts={f"{_UNITS}/containerd.service": _CONTAINERD_UNIT},
        postinst=_START.format(unit="containerd.service"),
    ),
    _Package(
        "kubernetes-cni",
        versions.CNI_PLUGINS,
        # flannel's plugin is not in upstream's package: an init container of Flannel's pod copies it
        ((gobuild.CNI, "/opt/cni/bin"), (gobuild.CNI_FLANNEL, "/opt/cni/bin")),
    ),
    _Package("cri-tools", versions.CRICTL, ((gobuild.CRICTL, "/usr/bin"),)),
    _Package(
        "kubelet",
        versions.KUBERNETES,
        ((gobuild.KUBERNETES_NODE, "/usr/bin/kubelet"),),
        "conntrack, ethtool, iproute2, iptables, kubernetes-cni, mount, socat, util-linux",
        {f"{_UNITS}/kubelet.service": _KUBELET_UNIT, f"{_UNITS}/kubelet.service.d/10-kubeadm.conf": _KUBEADM_DROP_IN},
        _ENABLE.format(unit="kubelet.service"),
    ),
    _Package(
        "kubeadm", versions.KUBERNETES, ((gobuild.KUBERNETES_NODE, "/usr/bin/kubeadm"),), "cri-tools, kubelet"
    ),
)  # fmt: skip


def ensure(arch: str) -> Path:
    """Return a folder with ``apt`` (a Debian repository) and ``v2`` (a registry), built unless it is in the cache.

    :param arch: Q8S's name of the architecture
    :raises BundleError: a program cannot be obtained, or the build failed
    """
    architecture = versions.ARCHITECTURES[arch]
    supply = Supply("auto")
    programs, parts = {}, []
    for program in gobuild.NODE_PROGRAMS:
        programs[program.name], origin = supply.obtain(program, architecture)
        parts.append(supply.key(program, architecture, origin))

    def build(folder: Path) -> None:
        with step(f"package Kubernetes and containerd for {arch}"):
            _write_repository(folder / "apt", architecture, programs)
        with step(f"compress the pod images for {arch}"):
            for image in images.node_images(architecture, programs):
                if image.names[0] in IMAGES:
                    _write_image(folder / "v2", image, architecture)

    return cache.entry("paper-way", arch, cache.content_key(*parts, *_SOURCES), build)[0]


def _write_repository(folder: Path, architecture: Architecture, programs: images.Binaries) -> None:
    """Write a flat Debian repository: the packages, an index and a Release file."""
    folder.mkdir()
    log = cache.cache_root() / "logs" / f"paper-way-{architecture.name}.log"
    stanzas = []
    for package in _PACKAGES:
        file = folder / f"{package.name}_{package.version}_{architecture.debian}.deb"
        control = _control(package, architecture)
        with tempfile.TemporaryDirectory(prefix=".deb-", dir=folder) as work:
            _write_tree(Path(work), package, control, programs)
            # zstd unpacks faster than xz, which is dpkg-deb's default on Debian
            run(f"package {package.name}", ["dpkg-deb", "--root-owner-group", "-Zzstd", "-b", work, file], log=log)
        stanzas.append(
            f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {cache.sha256_of(file)}\n"
        )
    index = folder / _INDEX
    index.write_text("\n".join(stanzas))
    release = f"SHA256:\n {cache.sha256_of(index)} {index.stat().st_size} {_INDEX}\n"
    (folder / "Release").write_text(f"Architectures: {architecture.debian}\n{release}")


def _control(package: _Package, architecture: Architecture) -> str:
    depends = f"Depends: {package.depends}\n" if package.depends else ""
    return (
        f"Package: {package.name}\nVersion: {package.version}-1.1\nArchitecture: {architecture.debian}\n{depends}"
        f"Maintainer: Q8S's benchmarks\nDescription: {package.name}, as the baseline of a benchmark\n"
    )


def _write_tree(tree: Path, package: _Package, control: str, programs: images.Binaries) -> None:
    """Write what dpkg-deb packs."""
    tree.chmod(0o755)
    for program, place in package.programs:
        wanted = [name for name in program.packages if place.endswith(f"/{name}")] or list(program.packages)
        for name in wanted:
            target = tree / place.lstrip("/")
            target = target if target.name == name else target / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(programs[program.name] / name, target)
            target.chmod(0o755)
    for path, text in package.texts.items():
        file = tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(control)
    if package.postinst:
        (tree / "DEBIAN/postinst").write_text(package.postinst)
        (tree / "DEBIAN/postinst").chmod(0o755)


def _write_image(folder: Path, image: oci.Image, architecture: Architecture) -> None:
    """Write an image as a registry serves it: its manifest under its tag and its digest, and the compressed layer."""
    name, _, tag = image.names[0].partition("/")[2].rpartition(":")
    manifests, blobs = folder / name / "manifests", folder / name / "blobs"
    manifests.mkdir(parents=True)
    blobs.mkdir()
    with tempfile.TemporaryDirectory(prefix=".image-", dir=folder) as work:
        archive = Path(work) / "image.tar"
        oci.write(image, architecture.go, archive)
        with tarfile.open(archive) as layout:
            described: Mapping[str, Any] = json.loads(_read(layout, "index.json"))["manifests"][0]
            manifest: dict[str, Any] = json.loads(_read(layout, _blob(described)))
            (blobs / manifest["config"]["digest"]).write_bytes(_read(layout, _blob(manifest["config"])))
            layer = gzip.compress(_read(layout, _blob(manifest["layers"][0])), 6, mtime=0)
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    (blobs / digest).write_bytes(layer)
    media_type = f"{manifest['layers'][0]['mediaType']}+gzip"
    manifest["layers"] = [{"mediaType": media_type, "digest": digest, "size": len(layer)}]
    text = json.dumps(manifest, sort_keys=True).encode()
    for reference in (tag, f"sha256:{hashlib.sha256(text).hexdigest()}"):
        (manifests / reference).write_bytes(text)


def _blob(descriptor: Mapping[str, Any]) -> str:
    return f"blobs/{descriptor['digest'].replace(':', '/')}"


def _read(layout: tarfile.TarFile, name: str) -> bytes:
    member: IO[bytes] | None = layout.extractfile(name)
    assert member is not None
    return member.read()
