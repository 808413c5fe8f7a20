"""The container image of ``q8s-run bench``."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from q8s_bundle import bench, cli, requirements
from q8s_bundle.node import elf, oci, versions

X86, ARM = versions.ARCHITECTURES["x86_64"], versions.ARCHITECTURES["aarch64"]


def test_a_look_names_the_image_without_building_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    assert cli.main(["ensure", "--check", "--bench", "aarch64", "--bench", "aarch64"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["missing"] == ["bench-aarch64"] and sorted(answer["artifacts"]) == ["bench-aarch64"]
    assert answer["bench_images"] == {"aarch64": bench.image_name(ARM)}
    assert not (tmp_path / "cache").exists()


def test_each_architecture_has_an_image_of_its_own() -> None:
    assert bench.image_name(X86) != bench.image_name(ARM)
    assert "libipsec-mb2" in bench.packages(X86) and "libipsec-mb2" not in bench.packages(ARM)


def test_the_image_needs_neither_go_nor_a_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def has(program: str) -> bool:
        asked.append(program)
        return True

    monkeypatch.setattr(requirements, "_has", has)
    monkeypatch.setattr(requirements.namespace, "needed", lambda: False)
    assert requirements.obstacles(["bench-aarch64"]) == []
    assert "zstd" in asked and not any(program.endswith("gcc") for program in asked)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked tree with the tools, which need one library."""
    root = tmp_path / "tree"
    for path in (*bench.TOOLS, "/usr/lib/x86_64-linux-gnu/libc.so.6"):
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
        file.chmod(0o755)
    library = "/usr/lib/x86_64-linux-gnu/libc.so.6"
    monkeypatch.setattr(elf, "closure", lambda *_: {library: root / library.lstrip("/")})
    monkeypatch.setattr("q8s_bundle.debs.tree", lambda *_: (root, False))
    return root


def test_the_archive_has_the_tools_and_a_shell(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    target = tmp_path / "image.tar"
    oci.write(bench.contents(X86), X86.go, target)
    with tarfile.open(target) as archive:
        index = json.loads(archive.extractfile("index.json").read())  # type: ignore[union-attr]
        [entry] = index["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == bench.image_name(X86)
        largest = max(archive.getmembers(), key=lambda member: member.size)
        layer = archive.extractfile(largest)
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            names = {member.name for member in inner.getmembers()}
            links = {member.name: member.linkname for member in inner.getmembers() if member.issym()}
    assert {path.lstrip("/") for path in bench.TOOLS} <= names
    assert links["usr/bin/sh"] == "busybox" and links["bin"] == "usr/bin"


def test_a_changed_source_changes_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = bench.image_name(X86)
    other = tmp_path / "bench.py"
    other.write_text("another recipe")
    monkeypatch.setattr(bench, "_SOURCES", (other,))
    assert bench.image_name(X86) != before
