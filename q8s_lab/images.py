"""Disk images for the lab's virtual machines: images that Q8S builds, images of the user, and the lab's Glance."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from q8s_bundle.errors import BundleError
from q8s_lab import cloud_image, servers, vm
from q8s_lab.errors import LabError
from q8s_lab.machine import MachineError
from q8s_lab.settings import ADMIN_CLOUD_NAME, CONTAINER_IMAGE, DISK_FORMAT, IMAGE_NAME, Settings

_UEFI: Final = "uefi"
_GB: Final = 1 << 30
# Nova's default of 60 s is too short for an emulated machine, and a worker's host waits up to 300 s for its guest.
_SHUTDOWN_SECONDS: Final = 420


@dataclass(frozen=True)
class Disk:
    """A disk image file: its format, the virtual size in bytes, and whether it boots with UEFI."""

    path: Path
    format: str
    size: int
    uefi: bool


@dataclass(frozen=True)
class Image:
    """An image in the lab's Glance."""

    name: str
    kind: str
    megabytes: int
    firmware: str


def find_disk(name: str, file: Path | None = None, *, uefi: bool = False) -> Disk:
    """Find a disk image: a file, or an image that Q8S builds. Build the latter if it is not in the cache.

    :param name: name of an image that Q8S builds, or path of a file if ``file`` is None
    :param file: the file
    :param uefi: whether the file boots with UEFI
    :raises LabError: the image does not exist, or servers cannot use its format
    """
    if file is None and name in cloud_image.NAMES:
        try:
            path, _ = cloud_image.ensure(name)
        except BundleError as error:
            raise LabError(str(error), error.hint or "") from error
        return Disk(path, DISK_FORMAT, vm.inspect_image(path).size, uefi)
    path = (file or Path(name)).absolute()
    if not path.is_file():
        raise LabError(
            f"Failed to find the image {name}: Q8S builds no image of that name, and {path} is not a file",
            hint=f"use a file, or one of {', '.join(cloud_image.STOCK_NAMES)}",
        )
    try:
        found = vm.inspect_image(path)
    except MachineError as error:
        raise LabError(f"Failed to read the image {path}: {error}") from None
    if found.format not in (DISK_FORMAT, "raw"):
        raise _unusable(path, f"its format is {found.format}, and servers take qcow2 and raw", found.format)
    if found.backing:
        raise _unusable(path, f"it is a layer over another file, {found.backing}", DISK_FORMAT)
    if found.format == "raw" and not _boots(path):
        raise LabError(
            f"Failed to use the image {path}: it is not qcow2, and its first sector is not a boot sector",
            hint="use a cloud image, such as one from cloud-images.ubuntu.com; unpack it if it is compressed",
        )
    return Disk(path, found.format, found.size, uefi)


def _boots(path: Path) -> bool:
    """Return whether a raw disk has a boot sector. GPT disks have one, too: the protective MBR."""
    with path.open("rb") as stream:
        return stream.read(512)[510:] == b"\x55\xaa"


def _unusable(path: Path, reason: str, given: str) -> LabError:
    convert = f"qemu-img convert -f {given} -O {DISK_FORMAT} {path} {path.stem}.new.{DISK_FORMAT}"
    return LabError(f"Failed to use the image {path}: {reason}", hint=f"convert it: {convert}")


class Images:
    """The images in the Glance of a running lab."""

    def __init__(self, settings: Settings) -> None:
        """Check the access to the lab.

        :raises LabError: the user is not root, or the lab is down
        """
        if os.geteuid() != 0:
            raise LabError("Failed to use the lab's images: it needs root", hint="run it as root")
        if not (settings.folder / "since").exists():
            raise LabError("Failed to use the lab's images: the lab is down", hint="start it: q8s-run lab up")
        self._settings = settings

    def list(self) -> list[Image]:
        """List the images, sorted by name."""
        with self._connect() as cloud:
            found = [
                Image(
                    str(image.name),
                    servers.VM if image.disk_format == DISK_FORMAT else servers.CONTAINER,
                    (image.size or 0) >> 20,
                    image.properties.get("hw_firmware_type", ""),
                )
                for image in cloud.image.images()
            ]
        return sorted(found, key=lambda image: image.name)

    def add(self, name: str, disk: Disk) -> bool:
        """Upload a disk image as a public image, converted to qcow2.

        :returns: whether it was uploaded; False if the cloud has the same image
        :raises LabError: the cloud has another image of that name
        """
        with self._connect() as cloud, TemporaryDirectory(dir=self._settings.folder) as folder:
            path = disk.path
            if disk.format != DISK_FORMAT:
                path = Path(folder) / name.replace("/", "-")
                convert = ["qemu-img", "convert", "-f", disk.format, "-O", DISK_FORMAT]
                subprocess.run([*convert, disk.path, path], check=True, capture_output=True)
            existing = cloud.image.find_image(name)
            if existing:
                with path.open("rb") as stream:
                    if existing.checksum == hashlib.file_digest(stream, "md5").hexdigest():
                        return False
                raise LabError(
                    f"Failed to add the image {name}: the cloud has another image of that name",
                    hint=f"choose another name, or remove it: q8s-run lab image remove {name}",
                )
            cloud.create_image(
                name,
                filename=str(path),
                container_format="bare",
                disk_format=DISK_FORMAT,
                visibility="public",
                min_disk=-(-disk.size // _GB),
                wait=True,
                **_properties(name, disk),
            )
        return True

    def remove(self, name: str) -> None:
        """Delete an image, and the local copy of it unless a server uses it.

        :raises LabError: the image does not exist, or the lab's containers need it
        """
        if name == IMAGE_NAME:
            raise LabError(f"Failed to remove the image {name}: the lab's containers use it")
        with self._connect() as cloud:
            image = cloud.image.find_image(name)
            if image is None:
                raise LabError(f"Failed to remove the image {name}: the cloud has no image of that name")
            cloud.image.delete_image(image)
        fetched = self._settings.images / f"{image.id}.{DISK_FORMAT}"
        used = {getattr(server.spec, "image", "") for server in servers.with_machines(self._settings.machines)}
        if str(fetched) not in used:
            fetched.unlink(missing_ok=True)

    @contextmanager
    def _connect(self) -> Iterator[Any]:
        """Connect to the lab's cloud as administrator."""
        from openstack.config import OpenStackConfig
        from openstack.connection import Connection

        config = OpenStackConfig(config_files=[str(self._settings.admin_clouds_yaml)], load_envvars=False)
        with Connection(config=config.get_one(cloud=ADMIN_CLOUD_NAME)) as cloud:
            yield cloud


def _properties(name: str, disk: Disk) -> dict[str, str]:
    """Return the properties of an image that Nova and the lab's driver read."""
    properties = {"os_shutdown_timeout": str(_SHUTDOWN_SECONDS), CONTAINER_IMAGE: IMAGE_NAME}
    if disk.uefi:
        properties["hw_firmware_type"] = _UEFI
    if name in cloud_image.NAMES:
        properties["os_distro"] = "debian"
    return properties
