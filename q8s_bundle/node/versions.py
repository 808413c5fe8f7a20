"""The versions of everything on a node, and an architecture's several names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GO: Final = "1.26.8"  # the toolchain that builds everything; Go fetches exactly this one if the machine has another
KUBERNETES: Final = "1.36.3"
CONTAINERD: Final = "2.3.7"
RUNC: Final = "1.4.3"
ETCD: Final = "3.6.8"
COREDNS: Final = "1.14.7"
FLANNEL: Final = "0.26.7"
CNI_PLUGINS: Final = "1.9.1"
CNI_FLANNEL: Final = "0.9.1"  # the last CNI plugins release that still had the `flannel` plugin in it
CRICTL: Final = "1.36.0"
PAUSE: Final = "3.10.2"

DEBIAN_SUITE: Final = "trixie"  # where the images' iptables comes from


@dataclass(frozen=True)
class Architecture:
    """An architecture as Q8S, Go, Debian and the cross compilers call it."""

    name: str
    go: str
    debian: str
    gnu: str  # GNU triplet: cross compiler prefix and library folder


ARCHITECTURES: Final = {
    "x86_64": Architecture("x86_64", "amd64", "amd64", "x86_64-linux-gnu"),
    "aarch64": Architecture("aarch64", "arm64", "arm64", "aarch64-linux-gnu"),
}


# What kubeadm of this Kubernetes version asks for unless its ClusterConfiguration says otherwise. CoreDNS gets this tag
# besides its own: the newer patch release serves the same configuration, and no override is needed anywhere.
KUBEADM_COREDNS_TAG: Final = "v1.14.2"
KUBEADM_ETCD_TAG: Final = f"{ETCD}-0"
