#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a cloud has all that a cluster needs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_preflight
short_description: Check that a cloud has all that a cluster needs
version_added: 0.1.0
description:
  - Looks up the image, flavors, network, subnet and security groups that a cluster names, and compares the quota with the servers that are still to be made.
  - Fails with every shortfall at once, and changes nothing.
  - Where every server exists already, there is nothing left to fit, and only the servers are looked up.
extends_documentation_fragment: [q8s.emu.cloud]
"""

EXAMPLES = r"""
- name: Check image, flavors, network and quota
  q8s.emu.cloud_preflight:
    cluster: "{{ q8s_cluster }}"
"""

RETURN = r"""
problems:
  description: Everything that stands against the cluster; empty on success.
  returned: always
  type: list
  elements: str
  sample: ["there is no flavor called 'c1.huge' (or it is not visible to this project)"]
to_create:
  description: Names of the servers that do not exist yet.
  returned: success
  type: list
  elements: str
  sample: [demo-control-plane, demo-arm-mid-1]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _module, _plan


def check(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Compare what the cluster needs with what the cloud has."""
    plan = _plan.plan_servers(cluster, cloud.servers(), present=True)
    # A server in ERROR is replaced, so what it holds of the quota is free again: not counted twice.
    replaced = {server.name for server in plan.delete}
    create = [spec for spec in plan.create if spec.name not in replaced]
    problems = list(plan.problems)
    if plan.create:
        problems += _plan.preflight_problems(cluster, cloud.findings(cluster), create)
    if problems:
        text = "\n".join(f"- {problem}" for problem in problems)
        module.fail_json(msg=f"Failed to prepare the cluster: the cloud does not fit\n{text}", problems=problems)
    return {"changed": False, "problems": [], "to_create": [spec.name for spec in plan.create]}


def main() -> None:
    """Run the module."""
    _module.run({}, check)


if __name__ == "__main__":
    main()
