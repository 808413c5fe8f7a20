#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create or delete the security group of a cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: security_group
short_description: Create or delete the security group of a cluster
version_added: 0.1.0
description:
  - The group is called C(q8s-cluster) and is known by its description, so that clusters in one project do not share one.
  - Its ingress rules are the cluster's ports from C(remote_ip_prefix), without those of etcd and VXLAN, node ports, ping, and everything from the
    group's own members. With C(inside=listed) in the cluster file, members reach the listed ports of one another, etcd and VXLAN if they are
    listed, and the port by which the initial control plane serves bundles.
  - A rule that is missing is added; one that Q8S made (its description says so) and that is no longer asked for is removed, after the missing rules
    and members were added. A rule that others made stays, with a note. Egress rules are left as they are.
  - Every server of the cluster is put into the group, and so is an initial instance that exists and was not created by Q8S; that one is taken out
    before the group is removed.
extends_documentation_fragment: [q8s.emu.cloud]
options:
  state:
    description: Whether the group exists.
    type: str
    choices: [present, absent]
    default: present
attributes:
  diff_mode:
    description: Shows the group, its rules and members before and after.
    support: full
"""

EXAMPLES = r"""
- name: Create the security group and its rules
  q8s.emu.security_group:
    cluster: "{{ q8s_cluster }}"

- name: Remove the security group
  q8s.emu.security_group:
    cluster: "{{ q8s_cluster }}"
    state: absent
"""

RETURN = r"""
extends_documentation_fragment: [q8s.emu.cloud]
id:
  description: Id of the group, empty if it does not exist.
  returned: success
  type: str
  sample: 2f0cf2a1-1ed4-4d55-8a4f-1f6f6a3b8a10
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _module, _plan_access


def apply(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Bring the group to the wanted state."""
    group = cloud.security_groups.find_security_group(cluster.cluster_name)
    plan_group = _plan_access.plan_group if module.params["state"] == "present" else _plan_access.plan_group_absent
    plan = plan_group(cluster, group, cloud.servers.list_servers(), cloud.ports.list_ports(cluster.cluster_name))
    if plan.problems:
        raise _cloud.CloudError(f"Failed to create the security group: {plan.problems[0]}")
    group_id = group.id if group else ""
    if plan.changed and not module.check_mode:
        group_id = cloud.security_groups.apply_plan(cluster.cluster_name, group, plan)
        if group is None:
            _module.tag_run_owner(module, cloud, group_id, ())
    return {**_module.plan_result(module, plan), "id": group_id}


def main() -> None:
    """Run the module."""
    _module.run({"state": _module.STATE}, apply)


if __name__ == "__main__":
    main()
