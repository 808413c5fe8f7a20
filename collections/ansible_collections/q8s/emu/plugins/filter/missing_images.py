# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the artifacts of the container images that a node does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

DOCUMENTATION = r"""
name: missing_images
short_description: List the artifacts of the container images that a node does not have
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns what M(q8s.emu.download) takes as O(q8s.emu.download#module:files).
options:
  _input:
    description: The images that a node needs. C(name) is the image's name, and C(artifact) the name of its artifact.
    type: list
    elements: dict
    required: true
  present:
    description: What C(ctr images list --quiet) prints on the node.
    type: str
    required: true
  artifacts:
    description: Name and SHA-256 of each artifact, as M(q8s.emu.bundle) returns them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Download the images
  q8s.emu.download:
    url: http://10.0.0.1:8099
    directory: /var/tmp
    files: "{{ q8s_images | q8s.emu.missing_images(q8s_listed.stdout, q8s_built.artifacts) }}"
"""

RETURN = r"""
_value:
  description: File name and SHA-256 of each artifact.
  type: list
  elements: dict
  sample: [{"name": "bench-x86_64-0123456789ab.tar.gz", "sha256": "0123456789ab"}]
"""


def missing_images(
    images: Sequence[Mapping[str, str]], present: str, artifacts: Mapping[str, Mapping[str, str]]
) -> list[dict[str, str]]:
    """Return the artifacts. See DOCUMENTATION."""
    names = set(str(present).split())
    return [dict(artifacts[image["artifact"]]) for image in images if image["name"] not in names]


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"missing_images": missing_images}
