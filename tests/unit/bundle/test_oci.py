"""OCI image archives: digests match their blobs, the layer has the requested files, and builds are reproducible."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from q8s_bundle.node import oci


@pytest.fixture
def image(tmp_path: Path) -> oci.Image:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF...")
    program.chmod(0o755)
    data = tmp_path / "data"
    data.write_text("text")
    data.chmod(0o600)
    return oci.Image(
        ("registry.example/a/b:1", "registry.example/a/b:2"),
        ("/usr/bin/program",),
        {"/usr/bin/program": program, "/etc/data": data},
        {"/bin": "usr/bin"},
    )


def read(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    return files, json.loads(files["index.json"])


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    data = files["blobs/" + descriptor["digest"].replace(":", "/")]
    assert len(data) == descriptor["size"]
    assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"]
    return data


def test_every_descriptor_fits_its_blob(image: oci.Image, tmp_path: Path) -> None:
    oci.write(image, "arm64", tmp_path / "out.tar")
    files, index = read(tmp_path / "out.tar")
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == list(image.names)
    assert {entry["platform"]["architecture"] for entry in index["manifests"]} == {"arm64"}
    manifest = json.loads(blob(files, index["manifests"][0]))
    config = json.loads(blob(files, manifest["config"]))
    (layer,) = manifest["layers"]
    assert config["architecture"] == "arm64"
    assert config["config"]["Entrypoint"] == ["/usr/bin/program"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    blob(files, layer)


def test_the_layer_is_all_of_root_with_parents_first(image: oci.Image, tmp_path: Path) -> None:
    oci.write(image, "amd64", tmp_path / "out.tar")
    files, index = read(tmp_path / "out.tar")
    layer = json.loads(blob(files, index["manifests"][0]))["layers"][0]
    with tarfile.open(fileobj=io.BytesIO(blob(files, layer))) as archive:
        members = archive.getmembers()
    assert [(member.name, member.mode) for member in members if member.isdir()] == [
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
    ]
    modes = {member.name: member.mode for member in members if member.isfile()}
    assert modes == {"usr/bin/program": 0o755, "etc/data": 0o644}
    assert {member.name: member.linkname for member in members if member.issym()} == {"bin": "usr/bin"}
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 0)}


def test_the_same_image_is_the_same_bytes(image: oci.Image, tmp_path: Path) -> None:
    oci.write(image, "amd64", tmp_path / "one.tar")
    oci.write(image, "amd64", tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
