#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the data disk of an emulated machine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_archive
short_description: Write the data disk of an emulated machine
version_added: 0.1.0
description:
  - Writes a tar archive that the initial ramdisk of a Q8S guest image unpacks over the root file system before systemd starts.
  - The same files give the same bytes, so a second run changes nothing.
  - A disk for libvirt needs a name that ends in C(.img) or C(.raw). The rules of AppArmor for libvirt let nobody probe other files.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Can run in check mode and say whether the archive would change.
    support: full
  diff_mode:
    description: Lists the paths that differ; contents may be secret and are never shown.
    support: full
options:
  path:
    description: The archive.
    type: path
    required: true
  files:
    description: Files and links of the archive. Folders are created as needed.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path in the guest.
        type: str
        required: true
      content:
        description: The file's text. Exactly one of O(files[].content) and O(files[].link) is needed.
        type: str
      link:
        description: Target of a symbolic link.
        type: str
      mode:
        description: Permissions in octal.
        type: str
        default: "0644"
  volatile:
    description: Paths whose changed content alone is no reason to write the archive again.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Write the data disk
  q8s.emu.guest_archive:
    path: /var/lib/q8s-guest/arm-mid-1-data.img
    files:
      - path: /etc/hostname
        content: "arm-mid-1\n"
      - path: /etc/systemd/system/multi-user.target.wants/kubelet.service
        link: ../kubelet.service
"""

RETURN = r"""
paths:
  description: Paths that were added, removed or changed.
  returned: always
  type: list
  elements: str
  sample: [/etc/hostname]
"""

import io
import os
import posixpath
import tarfile
import tempfile
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

# Other than 0755, which is what a folder of the root file system has.
_FOLDER_MODES = {
    "root/.ssh": 0o700,
    "etc/kubernetes/pki": 0o755,
    "var/lib/kubelet": 0o700,
    "var/lib/cloud/seed/nocloud": 0o700,
}


class Member(NamedTuple):
    """The properties by which a member of the archive is compared."""

    kind: str
    mode: int
    data: bytes  # the content, or the target of a link


def members(files: list[dict[str, Any]]) -> dict[str, Member]:
    """Return the archive's content by member name.

    :raises ValueError: a path is not absolute, occurs twice, or has not exactly one of content and link
    """
    found: dict[str, Member] = {}
    for entry in files:
        path = entry["path"]
        name = posixpath.normpath(path).lstrip("/")
        if not path.startswith("/") or name.startswith("..") or name in found:
            raise ValueError(f"path {path!r} must be absolute and occur once")
        if (entry.get("content") is None) == (entry.get("link") is None):
            raise ValueError(f"{path}: exactly one of content and link is needed")
        if entry.get("link") is not None:
            found[name] = Member("link", 0o777, entry["link"].encode())
        else:
            found[name] = Member("file", int(entry.get("mode") or "0644", 8), entry["content"].encode())
    return found


def pack(content: dict[str, Member]) -> bytes:
    """Return a USTAR archive of the members, folders first. Equal members give equal bytes."""
    folders = set()
    for name in content:
        parent = posixpath.dirname(name)
        while parent:
            folders.add(parent)
            parent = posixpath.dirname(parent)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            info.mode = _FOLDER_MODES.get(folder, 0o755)
            archive.addfile(info)
        for name, (kind, mode, data) in sorted(content.items()):
            info = tarfile.TarInfo(name)
            info.mode = mode
            if kind == "link":
                info.type = tarfile.SYMTYPE
                info.linkname = data.decode()
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(path: str) -> dict[str, Member]:
    """Return the members of an archive that this module wrote, nothing if it does not exist or is unreadable."""
    found: dict[str, Member] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info in archive:
                if info.issym():
                    found[info.name] = Member("link", 0o777, info.linkname.encode())
                elif info.isfile():
                    stream = archive.extractfile(info)
                    found[info.name] = Member("file", info.mode, stream.read() if stream else b"")
    except (OSError, tarfile.TarError):
        return {}
    return found


def differing(wanted: dict[str, Member], existing: dict[str, Member]) -> list[str]:
    """Return the absolute paths of the members that differ, sorted."""
    return ["/" + name for name in sorted(wanted.keys() | existing.keys()) if wanted.get(name) != existing.get(name)]


def write(path: str, data: bytes) -> None:
    """Replace the archive atomically. It is readable by its owner only, because it contains keys."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".q8s-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str", "no_log": True},
                    "link": {"type": "str"},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
            "volatile": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    try:
        wanted = members(module.params["files"])
        existing = unpack(path)
        changes = differing(wanted, existing)
        changed = bool(changes) and (not existing or bool(set(changes) - set(module.params["volatile"])))
        if changed and not module.check_mode:
            write(path, pack(wanted))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"Failed to write the data disk {path}: {error}")
    listing = "".join(f"{name}\n" for name in changes) if changed else ""
    module.exit_json(
        changed=changed, paths=changes if changed else [], diff={"before": "", "after": listing, "after_header": path}
    )


if __name__ == "__main__":
    main()
