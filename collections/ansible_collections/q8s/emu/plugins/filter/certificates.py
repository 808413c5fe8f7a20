# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report when the certificates of a control plane end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _certificates

DOCUMENTATION = r"""
name: certificates
short_description: Report when the certificates of a control plane end
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Judges what C(certificates.sh) of the role C(control_plane) printed on a control plane.
options:
  _input:
    description: What the script printed.
    type: str
    required: true
  node:
    description: Name of the control plane's node.
    type: str
    required: true
  days:
    description: How many days before its end a certificate is warned of.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Show when certificates end soon
  ansible.builtin.debug:
    msg: "{{ (certificates.stdout | q8s.emu.certificates('demo-control-plane')).soon }}"
"""

RETURN = r"""
_value:
  description:
    - C(end) and C(first) are the day on which the first certificate ends, and its name.
    - C(ended) and C(soon) are messages, empty where there is nothing to say.
    - C(lacks) are names that the API server's certificate must have and does not.
  type: dict
  sample:
    end: "2027-11-27"
    first: apiserver
    ended: ""
    soon: ""
    lacks: []
"""


def certificates(text: str, node: str, days: int = _certificates.DAYS) -> dict[str, Any]:
    """Return the report. See DOCUMENTATION."""
    return _certificates.report(str(text).splitlines(), node, int(days))


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"certificates": certificates}
