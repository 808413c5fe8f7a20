# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Summarize when the certificates of a control plane end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _certificates

DOCUMENTATION = r"""
name: certificates
short_description: Summarize when the certificates of a control plane end
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Reads what C(certificates.sh) of the role P(q8s.emu.control_plane#role) printed on a host.
options:
  _input:
    description: Result of the task that ran the script.
    type: dict
    required: true
  node:
    description: Name of the node, for messages.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show which certificates end soon
  ansible.builtin.debug:
    msg: "{{ (ends | q8s.emu.certificates('demo-control-plane')).warnings }}"
"""

RETURN = r"""
_value:
  description:
    - C(ends) says when each certificate ends, by kubeadm's names and C(kubelet). It is empty on a host that is not a control plane.
    - C(expired) has the names of those that have ended, and C(problem) says so in words.
    - C(warnings) has a text for those that end within 30 days, and for each CA that does.
    - C(renew_kubelet) says whether the kubelet needs a new client certificate, although it renews its own.
    - C(restart_due) says whether an interrupted run renewed certificates and did not restart what uses them.
  type: dict
  sample:
    ends: {apiserver: "2026-12-10T08:00:00Z"}
    expired: []
    problem: ""
    warnings: ["the certificate apiserver of demo-control-plane ends on 2026-12-10; renew: q8s-run renew FILE"]
    renew_kubelet: false
    restart_due: false
"""


def certificates(result: Mapping[str, Any], node: str) -> dict[str, Any]:
    """Return the summary. See DOCUMENTATION."""
    try:
        return _certificates.summarize(str(result.get("stdout") or "").splitlines(), node)
    except (ValueError, KeyError, TypeError):
        lines = [line.strip() for line in str(result.get("stderr") or "").splitlines() if line.strip()]
        problem = lines[-1] if lines else "kubeadm certs check-expiration printed no JSON"
        warning = f"the certificates of {node} cannot be read: {problem}"
        return {**_certificates.summarize([], node), "problem": warning, "warnings": [warning]}


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"certificates": certificates}
