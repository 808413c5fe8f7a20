"""The artifacts of ``q8s-run conformance``: upstream's tests, and the images of their pods."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from q8s_bundle import cli, conformance, requirements
from q8s_bundle.errors import BundleError
from q8s_bundle.node import elf, gobuild, minors, oci, versions

X86 = versions.ARCHITECTURES["x86_64"]


def test_a_look_names_program_and_images_without_building_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    assert cli.main(["ensure", "--check", "--conformance", "aarch64", "--tests", "x86_64"]) == 0
    answer = json.loads(capsys.readouterr().out)
    images = [f"conformance-{name}-aarch64" for name in ("agnhost", "busybox", "nginx")]
    assert answer["missing"] == ["conformance-tests-x86_64", *images]
    assert [image["artifact"] for image in answer["conformance_images"]["aarch64"]] == images
    assert all(image["name"].startswith("q8s.local/conformance-") for image in answer["conformance_images"]["aarch64"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("option", ["--conformance", "--tests"])
def test_another_version_of_kubernetes_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = next(version for version in minors.MINORS if version != conformance.KUBERNETES)
    assert cli.main(["ensure", "--check", option, "x86_64", "--kubernetes", other]) == 1
    said = capsys.readouterr().err
    assert f"the conformance tests of Kubernetes {other}" in said and "q8s-run upgrade FILE" in said


def test_the_modules_are_of_the_bundles_kubernetes() -> None:
    """Another patch release in one of the two would test what is not there."""
    folder = Path(gobuild.__file__).parent / "go"
    wanted = f"k8s.io/kubernetes v{versions.KUBERNETES}"
    for module in ("kubernetes", "conformance"):
        assert wanted in (folder / module / "go.mod").read_text()


def test_the_tests_need_go_and_no_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def has(program: str) -> bool:
        asked.append(program)
        return True

    def no_go() -> BundleError:
        return BundleError("no Go", "install Go")

    monkeypatch.setattr(requirements, "_has", has)
    monkeypatch.setattr(requirements.namespace, "needed", lambda: False)
    monkeypatch.setattr(requirements.toolchain, "obstacle", no_go)
    assert requirements.obstacles(["conformance-nginx-aarch64", "conformance-busybox-aarch64"]) == []
    [obstacle] = requirements.obstacles(["conformance-agnhost-aarch64"])
    assert obstacle.hint == "install Go"
    assert not any(program.endswith("gcc") for program in asked)


def test_an_image_has_upstreams_names_and_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox = tmp_path / "tree/usr/bin/busybox"
    busybox.parent.mkdir(parents=True)
    busybox.write_bytes(b"busybox")
    busybox.chmod(0o755)
    monkeypatch.setattr(elf, "closure", lambda *_: {})
    monkeypatch.setattr("q8s_bundle.debs.tree", lambda *_: (tmp_path / "tree", False))
    recipe = next(one for one in conformance.recipes(X86, versions.KUBERNETES) if "busybox" in one.artifact)
    target = tmp_path / "image.tar"
    oci.write(recipe.contents(), X86.go, target)
    with tarfile.open(target) as archive:
        index = json.loads(archive.extractfile("index.json").read())  # type: ignore[union-attr]
        names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
        layer = archive.extractfile(max(archive.getmembers(), key=lambda member: member.size))
        assert layer is not None
        with tarfile.open(fileobj=io.BytesIO(layer.read())) as inner:
            links = {member.name: member.linkname for member in inner.getmembers() if member.issym()}
            files = [member.name for member in inner.getmembers() if member.isfile()]
    assert "registry.k8s.io/e2e-test-images/busybox:1.37.0-1" in names and recipe.name in names
    assert links["bin"] == "usr/bin" and links["usr/bin/sh"] == "busybox"
    assert {"etc/passwd", "etc/group", "usr/bin/busybox"} <= set(files)


def test_a_shell_runs_the_image_s_own_programs() -> None:
    """Debian's static busybox, as a shell, runs its own nc whatever the PATH has: it knows no UDP."""
    for image in conformance.IMAGES:
        names = {Path(tool).name for tool in image.tools}
        assert not names & {"nc", "ip"} or image.tools.get("/usr/bin/sh", "busybox") != "busybox", image.name
