"""Builds from Go modules: the versions in ``versions.py`` are those that the modules pin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from q8s_bundle.node import gobuild, versions

MODULES = Path(gobuild.__file__).parent / "go"
X86 = versions.ARCHITECTURES["x86_64"]
ARM = versions.ARCHITECTURES["aarch64"]
PROGRAMS = (*gobuild.NODE_PROGRAMS, *gobuild.CONTROL_PLANE_PROGRAMS)


@pytest.mark.parametrize(
    ("module", "path", "version"),
    [
        ("kubernetes", "k8s.io/kubernetes", versions.KUBERNETES),
        ("containerd", "github.com/containerd/containerd/v2", versions.CONTAINERD),
        ("runc", "github.com/opencontainers/runc", versions.RUNC),
        ("etcd", "go.etcd.io/etcd/server/v3", versions.ETCD),
        ("coredns", "github.com/coredns/coredns", versions.COREDNS),
        ("flannel", "github.com/flannel-io/flannel", versions.FLANNEL),
        ("cni", "github.com/containernetworking/plugins", versions.CNI_PLUGINS),
        ("cniflannel", "github.com/containernetworking/plugins", versions.CNI_FLANNEL),
        ("crictl", "sigs.k8s.io/cri-tools", versions.CRICTL),
    ],
)
def test_stated_versions_are_the_pinned_ones(module: str, path: str, version: str) -> None:
    text = (MODULES / module / "go.mod").read_text()
    assert re.search(rf"^\s*{re.escape(path)} v{re.escape(version)}\b", text, re.MULTILINE)
    assert f"{path} v{version} h1:" in (MODULES / module / "go.sum").read_text()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_what_is_built_is_a_tool_of_its_module(program: gobuild.Program) -> None:
    text = (MODULES / program.module / "go.mod").read_text()
    for package in program.packages.values():
        assert re.search(rf"^(tool |module |\s+){re.escape(package)}$", text, re.MULTILINE), package


@pytest.mark.parametrize(
    "program", [program for program in PROGRAMS if len(program.packages) > 1], ids=lambda p: p.name
)
def test_go_gives_several_binaries_the_names_that_we_look_for(program: gobuild.Program) -> None:
    assert list(program.packages) == [package.rpartition("/")[2] for package in program.packages.values()]


def test_key_depends_on_architecture_and_flags() -> None:
    keys = {
        gobuild.key(program, architecture)
        for program in (gobuild.KUBERNETES_NODE, gobuild.KUBERNETES_CONTROL_PLANE, gobuild.RUNC)
        for architecture in (X86, ARM)
    }
    assert len(keys) == 6


def test_programs_with_c_are_linked_statically() -> None:
    assert "-static" in gobuild.RUNC.ldflags(ARM)
    assert "-static" in gobuild.FLANNEL.ldflags(X86)
    assert "-static" not in gobuild.FLANNEL.ldflags(ARM)  # no C there: Go links statically by itself
