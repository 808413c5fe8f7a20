# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report what the kubelets' serving certificates need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _certificates

DOCUMENTATION = r"""
name: kubelet_certificates
short_description: Report what the kubelets' serving certificates need
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Judges what C(kubelets.sh) of the role C(control_plane) printed on a control plane.
options:
  _input:
    description: What the script printed.
    type: str
    required: true
  days:
    description: How many days before its end a certificate is warned of.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Show which certificates end soon
  ansible.builtin.debug:
    msg: "{{ (kubelets.stdout | q8s.emu.kubelet_certificates).warnings }}"
"""

RETURN = r"""
_value:
  description:
    - C(other) are nodes whose kubelets serve a certificate that the cluster's CA has not signed for them.
    - C(problems) are messages about those nodes, and about kubelets that have no certificate; C(unheard) about those that do not answer.
    - C(warnings) are messages about certificates that end soon or have ended, and about those of C(other).
  type: dict
  sample:
    other: []
    problems: []
    unheard: []
    warnings: []
"""


def kubelet_certificates(text: str, days: int = _certificates.DAYS) -> dict[str, list[str]]:
    """Return the report. See DOCUMENTATION."""
    return _certificates.kubelets(str(text).splitlines(), int(days))


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"kubelet_certificates": kubelet_certificates}
