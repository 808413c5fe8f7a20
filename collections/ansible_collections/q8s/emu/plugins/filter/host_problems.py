# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a host cannot be a control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _host_check

DOCUMENTATION = r"""
name: host_problems
short_description: List the reasons why a host cannot be a control plane
version_added: 0.1.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Judges what C(survey.sh) of the role C(k8s_common) printed on a host. Each problem comes with what to do about it.
options:
  _input:
    description: Result of the task that ran the script; of a server that may not answer, with C(ignore_unreachable).
    type: dict
    required: true
  api_name:
    description: The cluster's API name. A host that carries another Q8S cluster is refused.
    type: str
    default: ""
  artifact_port:
    description: Port of the artifact server, where this host will have it.
    type: int
  login:
    description:
      - How the server is reached, where it may not answer, with the keys C(name), C(status) (Nova's), C(address), C(prefix), C(user), C(key_file)
        and C(public_key).
    type: dict
"""

EXAMPLES = r"""
- name: Stop on a host that cannot be a control plane
  ansible.builtin.assert:
    that: survey | q8s.emu.host_problems == []
    fail_msg: "{{ survey | q8s.emu.host_problems | join('; ') }}"
"""

RETURN = r"""
_value:
  description: The problems, empty if there is none.
  type: list
  elements: str
  sample: ["the firewall ufw is active and blocks the Kubernetes API and the pod network: sudo ufw disable (the security group stays in force)"]
"""


def host_problems(
    result: Mapping[str, Any],
    api_name: str = "",
    artifact_port: Optional[int] = None,
    login: Optional[Mapping[str, str]] = None,
) -> list[str]:
    """Return the problems. See DOCUMENTATION."""
    if login is not None:
        problem = _host_check.first_contact(result, _host_check.Login(**login))
        if problem:
            return [problem]
    return _host_check.host_problems(str(result.get("stdout", "")).splitlines(), api_name, artifact_port)


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"host_problems": host_problems}
