#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make or remove the security group of a cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: security_group
short_description: Make or remove the security group of a cluster
version_added: 0.1.0
description:
  - The group is called C(q8s-cluster) and is known by its description, so that clusters in one project do not share one.
  - Its ingress rules are exactly the cluster's ports from O(cluster.remote_ip_prefix), node ports, ping, and the port by which the initial
    control plane serves bundles inside the group. Egress rules are left as they are.
  - An initial instance that exists and was not made by Q8S is put into the group, and taken out before the group is removed.
extends_documentation_fragment: [q8s.emu.cloud]
options:
  state:
    description: Whether the group is there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  diff_mode:
    description: Shows the rules before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make the security group and its rules
  q8s.emu.security_group:
    cluster: "{{ q8s_cluster }}"
"""

RETURN = r"""
id:
  description: Id of the group; empty when there is none.
  returned: success
  type: str
  sample: 2f0cf2a1-1ed4-4d55-8a4f-1f6f6a3b8a10
added:
  description: Rules that were added, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: ["tcp 6443 from 10.254.1.0/24"]
removed:
  description: Number of rules that were removed, or would be in check mode.
  returned: success
  type: int
  sample: 0
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _module, _plan


def apply(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Bring the group to the wanted state."""
    group = cloud.group(cluster.cluster_name)
    foreign, problems = _plan.foreign_initial(cluster, cloud.servers())
    if module.params["state"] == "absent":
        return _remove(module, group, foreign, cloud)
    if problems:
        raise _cloud.CloudError(f"Failed to make the security group: {problems[0]}")
    wanted = _plan.wanted_rules(cluster)
    existing = group.rules if group else None
    plan = _plan.plan_rules(wanted, existing)
    join = foreign is not None and not (group and cloud.has_group(foreign, group))
    if not module.check_mode:
        if plan.make_group:
            group = cloud.make_group(cluster.cluster_name)
        cloud.change_rules(group, plan.add, plan.remove)
        if join:
            cloud.join_group(foreign, group, True)
    diff = _plan.rules_diff(wanted, existing)
    if foreign is not None and join:
        diff["after"] += f"member {foreign.name}\n"
    return {
        "changed": plan.changed or join,
        "id": group.id if group else "",
        "added": [str(rule) for rule in plan.add],
        "removed": len(plan.remove),
        "diff": diff,
    }


def _remove(module: AnsibleModule, group: Any, foreign: Any, cloud: Any) -> dict[str, Any]:
    if group is not None and not module.check_mode:
        if foreign is not None:
            cloud.join_group(foreign, group, False)
        cloud.remove_group(group)
    rules = group.rules if group else {}
    return {
        "changed": group is not None,
        "id": "",
        "added": [],
        "removed": len(rules),
        "diff": _plan.rules_diff(frozenset(), rules),
    }


def main() -> None:
    """Run the module."""
    _module.run({"state": _module.STATE}, apply)


if __name__ == "__main__":
    main()
