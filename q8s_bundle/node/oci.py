"""Container images made without a container engine: OCI image layout tarballs of one layer, the same bytes every time.

Source: https://github.com/opencontainers/image-spec (image-layout.md, manifest.md, config.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """What is in an image. ``files`` maps absolute paths in the image to files here, ``links`` paths to link targets.

    ``names`` are its full references, ``registry/repository:tag``; all of them are given to the one image.
    """

    names: tuple[str, ...]
    entrypoint: tuple[str, ...]
    files: Mapping[str, Path]
    links: Mapping[str, str] = field(default_factory=dict)


def write(image: Image, architecture: str, target: Path) -> None:
    """Write an image for an architecture (Go's name) as an OCI layout tarball."""
    with tempfile.TemporaryFile(dir=target.parent) as layer:
        _write_layer(image, layer)
        size = layer.tell()
        layer.seek(0)
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        config = _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Env": [_PATH], "Entrypoint": list(image.entrypoint), "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
        )
        layer_type = "application/vnd.oci.image.layer.v1.tar"
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
                "layers": [{"mediaType": layer_type, "digest": f"sha256:{digest}", "size": size}],
            }
        )
        platform = {"os": "linux", "architecture": architecture}
        entries = [
            _descriptor(_MANIFEST, manifest)
            | {
                "platform": platform,
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
            for name in image.names
        ]
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": entries}))
            for blob in (config, manifest):
                _add(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
            layer.seek(0)
            member = tarfile.TarInfo(f"blobs/sha256/{digest}")
            member.size = size
            archive.addfile(member, layer)


def _write_layer(image: Image, output: IO[bytes]) -> None:
    """The layer: folders first, then files and links by name, all of root, at the epoch."""
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in _folders([*image.files, *image.links, "/tmp/x"]):
            member = tarfile.TarInfo(folder.lstrip("/"))
            member.type = tarfile.DIRTYPE
            member.mode = 0o1777 if folder == "/tmp" else 0o755
            archive.addfile(member)
        for path in sorted({*image.files, *image.links}):
            member = tarfile.TarInfo(path.lstrip("/"))
            if path in image.links:
                member.type = tarfile.SYMTYPE
                member.linkname = image.links[path]
                archive.addfile(member)
                continue
            source = image.files[path]
            member.size = source.stat().st_size
            member.mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            with source.open("rb") as handle:
                archive.addfile(member, handle)


def _folders(paths: Sequence[str]) -> list[str]:
    """Every folder above these paths, parents first, without the root."""
    parents = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    return sorted(parents - {"/"})


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
