"""The minor versions of Kubernetes that a bundle may have: the newest one, and older ones.

``versions`` describes the newest one. A folder ``go/kubernetes-<minor>`` has what is different about an older one: its
Go modules, and in ``release.json`` the image tags that its kubeadm asks for. etcd, CoreDNS and all other programs are
the same for every minor version: they get the tags besides their own, as ``versions`` says of CoreDNS.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q8s_bundle.node import gobuild, images, versions
from q8s_bundle.node.gobuild import Program

_MODULES: Final = Path(__file__).parent / "go"


@dataclass(frozen=True)
class Minor:
    """A minor version of Kubernetes: its pinned patch release, and what its kubeadm asks for.

    :param programs: the programs that are built from its modules, by name
    """

    kubernetes: str
    coredns_tag: str
    etcd_tag: str
    pause: str
    programs: tuple[Program, ...]


NEWEST: Final = Minor(
    versions.KUBERNETES,
    versions.KUBEADM_COREDNS_TAG,
    versions.KUBEADM_ETCD_TAG,
    versions.PAUSE,
    (gobuild.KUBERNETES_NODE, gobuild.KUBERNETES_CONTROL_PLANE),
)


def _read(folder: Path) -> Minor:
    """Read the description of an older minor version."""
    found = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    return Minor(programs=gobuild.kubernetes_programs(found["kubernetes"], folder.name), **found)


def _number(minor: Minor) -> tuple[int, ...]:
    return tuple(map(int, minor.kubernetes.split(".")))


# By version, the newest one first.
MINORS: Final = {
    minor.kubernetes: minor
    for minor in sorted([NEWEST, *map(_read, _MODULES.glob("kubernetes-*"))], key=_number, reverse=True)
}


@contextmanager
def selected(version: str) -> Iterator[Minor]:
    """Build bundles of another minor version within the context, in all threads.

    ``build`` and ``images`` take it from constants. Their sources are part of every bundle's key, and with an argument
    more, the bundles of the newest version would be built again on every machine.
    """
    minor = MINORS[version]
    pause = images.PAUSE.replace(versions.PAUSE, minor.pause)
    constants: list[tuple[Any, str, object]] = [
        (versions, "KUBERNETES", minor.kubernetes),
        (versions, "KUBEADM_COREDNS_TAG", minor.coredns_tag),
        (versions, "KUBEADM_ETCD_TAG", minor.etcd_tag),
        (images, "PAUSE", pause),
        (images, "BY_PURPOSE", {**images.BY_PURPOSE, "pause": pause}),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in constants]
    try:
        for module, name, value in constants:
            setattr(module, name, value)
        yield minor
    finally:
        for module, name, value in before:
            setattr(module, name, value)
