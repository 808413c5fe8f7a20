# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return image and archive of add-ons, from what was built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: addon_artifacts
short_description: Return image and archive of add-ons
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Returns what the role C(control_plane) needs to know of each add-on.
options:
  _input:
    description: What the module M(q8s.emu.bundle) returned.
    type: dict
    required: true
  addons:
    description: Names of the add-ons.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the images of add-ons
  ansible.builtin.debug:
    msg: "{{ q8s_built | q8s.emu.addon_artifacts(['metrics_server']) }}"
"""

RETURN = r"""
_value:
  description: For each add-on, its image's name C(image), and C(name) and C(sha256) of the image's archive.
  type: dict
  sample: {"metrics_server": {"image": "registry.k8s.io/metrics-server/metrics-server:v0.9.0", "name": "addon-1.tar.gz", "sha256": "5f2c"}}
"""

_ARCHITECTURE = "x86_64"  # of control planes


def addon_artifacts(built: Mapping[str, Any], addons: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the add-ons. See DOCUMENTATION."""
    return {
        name: {
            "image": built["bundle"]["addon_images"][name],
            **{key: built["artifacts"][f"addon-{name}-{_ARCHITECTURE}"][key] for key in ("name", "sha256")},
        }
        for name in addons
    }


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"addon_artifacts": addon_artifacts}
