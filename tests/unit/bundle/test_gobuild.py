"""Builds from Go modules: the versions in ``versions.py`` are those that the modules pin."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from q8s_bundle.errors import BundleError
from q8s_bundle.node import gobuild, toolchain, versions

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


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gobuild.Program:
    """A program that requires example.org/m, which a module proxy has. Go has downloaded nothing yet."""
    go = toolchain.find()
    if go is None:
        pytest.skip("this machine has no Go")
    place = tmp_path / "proxy/example.org/m/@v"
    place.mkdir(parents=True)
    (place / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    (place / "v1.0.0.mod").write_text("module example.org/m\n")
    with zipfile.ZipFile(place / "v1.0.0.zip", "w") as archive:
        archive.writestr("example.org/m@v1.0.0/go.mod", "module example.org/m\n")
        archive.writestr("example.org/m@v1.0.0/m.go", "package m\n")
    folder = tmp_path / "go/tiny"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module tiny\n\ngo 1.21\n\nrequire example.org/m v1.0.0\n")
    for name, value in {
        "GOPROXY": (tmp_path / "proxy").as_uri(),
        "GOSUMDB": "off",
        "GOMODCACHE": str(tmp_path / "first"),
        "Q8S_CACHE": str(tmp_path / "cache"),
        "GOTOOLCHAIN": "local",
    }.items():
        monkeypatch.setenv(name, value)
    command = [go, "mod", "download", "example.org/m"]
    subprocess.run(command, cwd=folder, env={**os.environ, "GOFLAGS": "-mod=mod -modcacherw"}, check=True)
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "cleaned"))
    monkeypatch.setattr(gobuild, "_MODULES", tmp_path / "go")
    return gobuild.Program("tiny", "tiny", {"tiny": "tiny"})


def test_sources_of_a_module_that_go_no_longer_has_are_downloaded(program: gobuild.Program, tmp_path: Path) -> None:
    sums = (tmp_path / "go/tiny/go.sum").read_text()
    assert "example.org/m v1.0.0 h1:" in sums
    assert (gobuild.module_folder(program, "example.org/m") / "m.go").read_text() == "package m\n"
    assert (tmp_path / "go/tiny/go.sum").read_text() == sums, "the key of the program stays the same"


def test_sources_that_cannot_be_downloaded_are_named(program: gobuild.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(BundleError, match=r"^Failed to download the Go module example\.org/m: exit code 1"):
        gobuild.module_folder(program, "example.org/m")
