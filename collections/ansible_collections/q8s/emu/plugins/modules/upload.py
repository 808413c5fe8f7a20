#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy large files to a host, with progress, and from where an interrupted copy stopped."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upload
short_description: Copy large files to a host, and resume an interrupted copy
version_added: 0.2.0
description:
  - Copies files from the controller to a folder on the host, in pieces over Ansible's connection, and shows bytes and rate.
  - A file that the folder has by name is not copied again, so names have to change with the content.
  - A copy that was interrupted goes on where it stopped. The file gets its name when its SHA-256 is right.
  - This is an action plugin. On the host it needs a shell and the GNU coreutils, and no Python.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: In check mode, nothing is copied, and the result lists what is missing on the host.
    support: full
options:
  files:
    description: Files to copy.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name on the host.
        type: str
        required: true
      path:
        description: Path on the controller.
        type: path
        required: true
      sha256:
        description: The checksum that the file must have, if it is known. A file with another one is damaged, and not given its name on the host.
        type: str
        default: ""
  directory:
    description: Folder on the host. It exists.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Upload a node bundle
  q8s.emu.upload:
    directory: /var/lib/q8s-artifacts
    files:
      - name: bundle-aarch64-3f1c0a94be77.qcow2
        path: /home/alice/.cache/q8s/bundles/bundle-aarch64/bundle-aarch64.qcow2
        sha256: 3f1c0a94be77d6d0ad9f2e42b8b6a2d6c9b9c0a4c4f7c4b5b0d9d2a5e6f7a8b9
"""

RETURN = r"""
uploaded:
  description: Names of the files that were copied, or in check mode would be.
  type: list
  elements: str
  returned: success
bytes:
  description: How many bytes were sent.
  type: int
  returned: success
"""
