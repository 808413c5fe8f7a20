"""The container images of a node, under the names that kubeadm and the manifests ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from q8s_bundle import debs
from q8s_bundle.node import elf, gobuild, versions
from q8s_bundle.node.oci import Image
from q8s_bundle.node.versions import Architecture

# The name of each program -> the folder of its binaries.
type Binaries = Mapping[str, Path]

_REGISTRY: Final = "registry.k8s.io"
PAUSE: Final = f"{_REGISTRY}/pause:{versions.PAUSE}"
FLANNEL: Final = f"ghcr.io/flannel-io/flannel:v{versions.FLANNEL}"
PROBE: Final = "q8s.local/probe:1"
# By what they are for: what roles and playbooks need names of.
BY_PURPOSE: Final = {"flannel": FLANNEL, "pause": PAUSE, "probe": PROBE}

# iptables, and the packages that hold the libraries of its program and of its extensions.
IPTABLES_PACKAGES: Final = (
    "iptables", "libc6", "libip4tc2", "libip6tc2", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0", "libnftnl11",
    "libxtables12",
)  # fmt: skip
_IPTABLES_PROGRAM: Final = "usr/sbin/xtables-nft-multi"
_IPTABLES_NAMES: Final = (
    "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
)  # fmt: skip


def node_images(architecture: Architecture, programs: Binaries) -> list[Image]:
    """The images that every node holds."""
    iptables_files, iptables_links = iptables(architecture)
    return [
        _single((PAUSE,), programs[gobuild.PAUSE.name] / "pause", "/pause"),
        _single((PROBE,), programs[gobuild.PROBE.name] / "probe", "/probe"),
        _single(
            tuple(
                f"{_REGISTRY}/coredns/coredns:{tag}" for tag in (f"v{versions.COREDNS}", versions.KUBEADM_COREDNS_TAG)
            ),
            programs[gobuild.COREDNS.name] / "coredns",
            "/coredns",
        ),
        Image(
            (f"{_REGISTRY}/kube-proxy:v{versions.KUBERNETES}",),
            ("/usr/local/bin/kube-proxy",),
            {"/usr/local/bin/kube-proxy": programs[gobuild.KUBERNETES_NODE.name] / "kube-proxy"} | iptables_files,
            iptables_links,
        ),
        Image(
            (FLANNEL,),
            ("/opt/bin/flanneld",),
            {"/opt/bin/flanneld": programs[gobuild.FLANNEL.name] / "flanneld"} | iptables_files,
            iptables_links,
        ),
    ]


def control_plane_images(programs: Binaries) -> list[Image]:
    """The images that a control plane holds besides those of every node."""
    etcd = f"{_REGISTRY}/etcd:{versions.KUBEADM_ETCD_TAG}"
    components = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    return [
        *(
            _single(
                (f"{_REGISTRY}/{name}:v{versions.KUBERNETES}",),
                programs[gobuild.KUBERNETES_CONTROL_PLANE.name] / name,
                f"/usr/local/bin/{name}",
            )
            for name in components
        ),
        _single((etcd,), programs[gobuild.ETCD.name] / "etcd", "/usr/local/bin/etcd"),
    ]


def names(images: Sequence[Image]) -> list[str]:
    """Every name of these images, sorted."""
    return sorted(name for image in images for name in image.names)


def iptables(architecture: Architecture) -> tuple[dict[str, Path], dict[str, str]]:
    """Debian's iptables as files and links of an image: kube-proxy and Flannel run it.

    The extensions are loaded at run time and need libraries of their own (libxt_statistic.so: libm), which the
    program's header does not show; without them, Services with more than one endpoint fail.
    """
    root, _ = debs.tree(architecture.debian, versions.DEBIAN_SUITE, IPTABLES_PACKAGES)
    library = f"/usr/lib/{architecture.gnu}"
    program = root / _IPTABLES_PROGRAM
    extensions = {
        f"{library}/xtables/{file.name}": file
        for file in sorted((root / library.lstrip("/") / "xtables").glob("*.so"))
        if file.is_file() and not file.is_symlink()
    }
    links = {
        f"{library}/xtables/{file.name}": str(file.readlink())
        for file in sorted((root / library.lstrip("/") / "xtables").glob("*.so"))
        if file.is_symlink()
    }
    libraries = elf.closure([program, *extensions.values()], root, (library, "/usr/lib"))
    files = {f"/{_IPTABLES_PROGRAM}": program} | extensions
    for inside, file in libraries.items():
        # The interpreter's path begins with /lib or /lib64, which are links in a merged /usr.
        files[inside if inside.startswith("/usr/") else f"/usr{inside}"] = file
    links |= {f"/{name}": f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
    links |= {f"/usr/sbin/{name}": "xtables-nft-multi" for name in _IPTABLES_NAMES}
    return files, links


def _single(names: tuple[str, ...], binary: Path, path: str) -> Image:
    """An image of one static binary."""
    return Image(names, (path,), {path: binary})
