#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Download files from the artifact server, also while they are still being uploaded to it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: download
short_description: Download files from the artifact server of a cluster
version_added: 0.2.0
description:
  - Downloads files over HTTP into a folder of the host. A file gets its name when its SHA-256 is right.
  - A file that the folder has by name is not downloaded again, so names have to change with the content.
  - A file that the server does not have yet is waited for while the server's folder changes, such as a file with the suffix
    C(.part) that grows (M(q8s.emu.upload)). How long an upload may take therefore has no limit.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: In check mode, nothing is downloaded, and the result lists what is missing.
    support: full
options:
  url:
    description: URL of the server's folder. Proxies of the host's environment are not used.
    type: str
    required: true
  directory:
    description: Folder on the host.
    type: path
    required: true
  files:
    description: Files to download.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the file, on the server and on the host.
        type: str
        required: true
      sha256:
        description: Its SHA-256, in hexadecimal.
        type: str
        required: true
  idle_seconds:
    description: How long to wait for a file while nothing changes on the server, in seconds.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Download the guest's image
  q8s.emu.download:
    url: http://10.0.0.11:8099
    directory: /var/lib/q8s-guest
    files:
      - name: root-aarch64-2d5812ac1a4f.qcow2
        sha256: 2d5812ac1a4f2997b9ad4a27c1f7d1b1c3b5bb7b9c1cfd9a4ab3b9f0f7a4d7d1
"""

RETURN = r"""
downloaded:
  description: Names of the files that were downloaded, or in check mode would be.
  type: list
  elements: str
  returned: success
"""

import hashlib
import http.client
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

_BLOCK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte
_PAUSE = 2  # seconds between two attempts
_NETWORK_ERRORS = (OSError, http.client.HTTPException)  # URLError and HTTPError are OSErrors


class UnavailableError(Exception):
    """The server does not answer, or does not have the file: it may later."""


class DownloadError(Exception):
    """A file cannot be downloaded, and another attempt would not help."""


@dataclass(frozen=True)
class Wanted:
    """A file to download: its URL, its path on this host, and its SHA-256."""

    url: str
    path: str
    sha256: str


def snapshot(url: str) -> str:
    """Return what the server's folder has and how large its unfinished files are, empty if the server does not answer."""
    try:
        listing = open_url(f"{url}/", use_proxy=False, timeout=_TIMEOUT).read().decode(errors="replace")
        parts = sorted(set(re.findall(r'href="([^"/]+\.part)"', listing)))
        sizes = [
            open_url(f"{url}/{name}", method="HEAD", use_proxy=False, timeout=_TIMEOUT).headers["Content-Length"]
            for name in parts
        ]
    except _NETWORK_ERRORS:
        return ""
    return "\n".join([listing, *map(str, sizes)])


def blocks(url: str) -> Iterator[bytes]:
    """Yield the content of a file of the server.

    :raises UnavailableError: the server does not answer, does not have the file, or closes the connection early
    """
    size = 0
    try:
        response = open_url(url, use_proxy=False, timeout=_TIMEOUT)
        block = response.read(_BLOCK)
        while block:
            size += len(block)
            yield block
            block = response.read(_BLOCK)
    except _NETWORK_ERRORS as error:
        raise UnavailableError(str(error)) from error
    expected = response.headers.get("Content-Length")
    if expected and int(expected) != size:
        raise UnavailableError(f"the connection ended after {size} of {expected} bytes")


def download(file: Wanted) -> None:
    """Download a file.

    :raises UnavailableError: the server does not answer, or does not have the file
    :raises DownloadError: the file has another checksum
    :raises OSError: the file cannot be written
    """
    part = f"{file.path}.part"
    digest = hashlib.sha256()
    content = blocks(file.url)
    with open(part, "wb") as stream:
        for block in content:
            digest.update(block)
            stream.write(block)
        # A file that has its name is not downloaded again, so its content has to survive a crash of the host.
        stream.flush()
        os.fsync(stream.fileno())
    if digest.hexdigest() != file.sha256:
        os.remove(part)
        raise DownloadError(
            f"its SHA-256 is {digest.hexdigest()}, expected {file.sha256}. Remove {os.path.basename(file.path)} from the "
            "folder of the artifact server (/var/lib/q8s-artifacts on the initial control plane), and run this again"
        )
    os.chmod(part, 0o644)
    os.replace(part, file.path)


def await_download(file: Wanted, idle_seconds: float) -> None:
    """Download a file, and wait for it while anything changes on the server.

    :raises DownloadError: nothing changed for ``idle_seconds``, or the file has another checksum
    :raises OSError: the file cannot be written
    """
    folder = file.url.rpartition("/")[0]
    seen, changed = "", time.monotonic()
    while True:
        try:
            return download(file)
        except UnavailableError as error:
            reason = str(error)
        now = snapshot(folder)
        if now != seen:
            seen, changed = now, time.monotonic()
        elif time.monotonic() - changed >= idle_seconds:
            raise DownloadError(f"{reason}. Nothing has changed on the server for {idle_seconds:g} s")
        time.sleep(_PAUSE)


def main() -> None:
    file = {"name": {"type": "str", "required": True}, "sha256": {"type": "str", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "files": {"type": "list", "elements": "dict", "required": True, "options": file},
            "idle_seconds": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    url, directory = module.params["url"].rstrip("/"), module.params["directory"]
    missing = [file for file in module.params["files"] if not os.path.exists(os.path.join(directory, file["name"]))]
    for file in missing if not module.check_mode else ():
        wanted = Wanted(f"{url}/{file['name']}", os.path.join(directory, file["name"]), file["sha256"])
        try:
            await_download(wanted, module.params["idle_seconds"])
        except (DownloadError, OSError) as error:
            module.fail_json(msg=f"Failed to download {wanted.url}: {error}")
    module.exit_json(changed=bool(missing), downloaded=[file["name"] for file in missing])


if __name__ == "__main__":
    main()
