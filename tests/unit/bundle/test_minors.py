"""Bundles of older minor versions: what is pinned for them. The bundles of the newest version stay as they are."""

from __future__ import annotations

import re

import pytest

from q8s_bundle.node import Supply, build, gobuild, images, minors, versions
from q8s_bundle.node.minors import Minor

X86 = versions.ARCHITECTURES["x86_64"]
OLDER = [minor for minor in minors.MINORS.values() if minor is not minors.NEWEST]


def test_there_are_the_newest_minor_version_and_the_two_before_it() -> None:
    numbers = [int(version.split(".")[1]) for version in minors.MINORS]
    assert numbers == [numbers[0], numbers[0] - 1, numbers[0] - 2]
    assert next(iter(minors.MINORS)) == versions.KUBERNETES


@pytest.mark.parametrize("minor", OLDER, ids=lambda minor: minor.kubernetes)
def test_the_modules_are_those_of_the_version(minor: Minor) -> None:
    for program in minor.programs:
        folder = gobuild._MODULES / program.module
        text = (folder / "go.mod").read_text()
        assert f"k8s.io/kubernetes v{minor.kubernetes}\n" in text
        assert f"k8s.io/kubernetes v{minor.kubernetes} h1:" in (folder / "go.sum").read_text()
        staged = re.findall(r"=> k8s\.io/\S+ v0\.(\S+)", text)
        assert set(staged) == {minor.kubernetes.partition(".")[2]}
        assert program.stamps["k8s.io/component-base/version.gitVersion"] == f"v{minor.kubernetes}"


def keys(supply: Supply) -> dict[str, str]:
    return {program.name: supply.key(program, X86, "source") for program in gobuild.NODE_PROGRAMS}


@pytest.mark.parametrize("minor", OLDER, ids=lambda minor: minor.kubernetes)
def test_only_the_programs_of_kubernetes_differ(minor: Minor) -> None:
    newest, older = keys(Supply("source")), keys(Supply("source", replaced=minor.programs))
    assert {name for name in newest if newest[name] != older[name]} == {"kubernetes-node"}


@pytest.mark.parametrize("minor", OLDER, ids=lambda minor: minor.kubernetes)
def test_the_images_have_the_tags_that_kubeadm_asks_for_and_then_the_newest_ones_again(minor: Minor) -> None:
    before = images.names(images.control_plane_images(_everywhere())), build._manifest(X86, [])
    with minors.selected(minor.kubernetes):
        names = images.names(images.control_plane_images(_everywhere()))
        assert f"registry.k8s.io/kube-apiserver:v{minor.kubernetes}" in names
        assert f"registry.k8s.io/etcd:{minor.etcd_tag}" in names
        manifest = build._manifest(X86, [])
        assert manifest["kubernetes_version"] == f"v{minor.kubernetes}"
        assert images.PAUSE == images.BY_PURPOSE["pause"] == f"registry.k8s.io/pause:{minor.pause}"
    assert (images.names(images.control_plane_images(_everywhere())), build._manifest(X86, [])) == before


def _everywhere() -> images.Binaries:
    """Programs whose folders nobody reads."""
    return {program.name: gobuild._MODULES for program in (*gobuild.NODE_PROGRAMS, *gobuild.CONTROL_PLANE_PROGRAMS)}
