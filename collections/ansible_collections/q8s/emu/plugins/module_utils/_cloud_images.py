# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and flavors of a project. Part of the cloud client, see ``_cloud``.

These methods raise openstacksdk's errors: their callers read several resources, and name all of them in one message.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Image


class Images:
    """The images that the project can use."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def find_images(self, name: str) -> list[Image]:
        """Return the active images of this name, or the one of this id. If none is active, return the others."""
        found = list(self._os.image.images(name=name))
        if not found:
            image = self._os.image.find_image(name, ignore_missing=True)
            found = [image] if image is not None and image.id == name else []
        active = [image for image in found if image.status == "active"]
        return [_image(image) for image in active or found]

    def describe_images(self) -> list[dict[str, Any]]:
        """Return the active images, for a first cluster file."""
        return [
            {
                "id": found.id,
                "name": found.name,
                "architecture": found.architecture or "",
                "min_ram": found.min_ram or 0,
                "min_disk": found.min_disk or 0,
                "created_at": found.created_at or "",
            }
            for found in self._os.image.images(status="active")
        ]


class Flavors:
    """The flavors that the project can use."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def list_flavors(self) -> list[Any]:
        """Return openstacksdk's flavors."""
        return list(self._os.compute.flavors())

    def describe_flavors(self) -> list[dict[str, Any]]:
        """Return the flavors, for a first cluster file."""
        return [
            {"name": found.name, "vcpus": found.vcpus, "ram": found.ram, "disk": found.disk or 0}
            for found in self.list_flavors()
        ]


def _image(found: Any) -> Image:
    properties = found.properties or {}
    # A raw image has the size of its disk. Of other formats, Glance may not know the size of the disk.
    size = found.virtual_size or (found.size if found.disk_format == "raw" else 0) or 0
    return Image(
        found.id,
        found.min_ram or 0,
        found.min_disk or 0,
        -(-int(size) // (1 << 30)),
        str(found.status or ""),
        str(found.architecture or properties.get("architecture") or ""),
        str(found.name or ""),
        str(found.os_distro or properties.get("os_distro") or ""),
        str(found.os_version or properties.get("os_version") or ""),
    )
