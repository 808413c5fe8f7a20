#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a cloud has everything that a cluster needs, and show what will change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_preflight
short_description: Check that a cloud has everything that a cluster needs, and show what will change
version_added: 0.1.0
description:
  - Plans the key pair, the security group and the servers of a cluster, and returns every change that their modules would make.
  - If servers have to be created, looks up the image, flavors, network, subnet, free addresses and security groups that the cluster names, and
    compares the quota with what the changes take.
  - Compares flavors with what their servers need (memory of a host for its guest, QEMU and the system; disk), and the CPU and machine models of guests
    with what the QEMU of the image's system has.
  - Fails first if the file changes what an existing cluster was created with and cannot change, such as C(guest_ip_prefix).
  - Fails with every shortfall at once, and applies none of the changes. What may go wrong, but need not, is in C(notes) and a warning.
  - Tags the cluster's security group with the owner and the time of this run, and warns if somebody else started a run within the last hour.
extends_documentation_fragment: [q8s.emu.cloud]
options:
  public_key:
    description: The public key that is going to be uploaded. Without it, an existing key pair of the cluster's name is accepted.
    type: str
  remove_surplus:
    description: As in M(q8s.emu.servers).
    type: bool
    default: false
  replace_control_plane:
    description: As in M(q8s.emu.servers).
    type: bool
    default: false
  survivors:
    description: As in M(q8s.emu.servers).
    type: list
    elements: str
    default: []
  replace_nodes:
    description: Kubernetes nodes whose servers are going to be replaced. Their replacements must fit.
    type: list
    elements: str
    default: []
  limit:
    description: As in M(q8s.emu.servers).
    type: list
    elements: str
    version_added: 0.2.0
  upgrade:
    description: Whether the run is an upgrade, so that the cluster file may have a newer version of Kubernetes than the cluster.
    type: bool
    default: false
  timeout:
    description: As in M(q8s.emu.servers).
    type: int
    default: 600
attributes:
  diff_mode:
    description: Shows everything of the cluster in the cloud before and after.
    support: full
"""

EXAMPLES = r"""
- name: Check image, flavors, network and quota
  q8s.emu.cloud_preflight:
    cluster: "{{ q8s_cluster }}"
"""

RETURN = r"""
extends_documentation_fragment: [q8s.emu.cloud]
problems:
  description: Everything that prevents the cluster, empty on success.
  returned: always
  type: list
  elements: str
  sample: ["quota of vCPUs: needs 2, 19 of 20 used"]
refused:
  description: Edits of the cluster file that an existing cluster does not allow, each with both values, the reason and what to do.
  returned: if there are any
  type: list
  elements: str
  sample: ["guest_ip_prefix is 172.30.0.0/16 in the cluster file, but the cluster has 172.29.0.0/16. ..."]
quota:
  description: By name of a quota, what the changes need of it, what is used and what the limit is (-1 is none). Empty if no server has to be created.
  returned: success
  type: dict
  sample: {"cores": {"needed": 6, "used": 4, "limit": 40}}
plan:
  description: C(changes), C(notes) and C(quota) in one dictionary.
  returned: success
  type: dict
initial_created:
  description: Whether the changes create the server of an initial control plane with a new CA.
  returned: success
  type: bool
  sample: false
removed_servers:
  description: Names of the servers that the changes delete or replace.
  returned: success
  type: list
  elements: str
  sample: [demo-arm-mid-2]
settled:
  description: Whether nothing has to be changed and every server is active.
  returned: success
  type: bool
  sample: false
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud_objects,
    _identity,
    _login,
    _module,
    _plan,
    _plan_access,
    _plan_servers,
    _preflight,
    _preflight_quota,
)


def check(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Compare what the cluster needs with what the cloud has."""
    name = cluster.cluster_name
    key = cloud.keypairs.find_public_key(_cloud_objects.keypair_name(name))
    existing = cloud.clusters.find_existing(cluster)
    refused = _identity.refused_edits(cluster, existing.servers, upgrades=module.params["upgrade"])
    if refused:
        text = "\n".join(f"- {problem}" for problem in refused)
        module.fail_json(msg=f"Failed to change the cluster: these edits are refused\n{text}", refused=list(refused))
    group = cloud.security_groups.find_security_group(name)
    servers, ports = existing.servers, cloud.ports.list_ports(name)
    if group is not None:
        _module.tag_run_owner(module, cloud, group.id, group.tags, _cloud_objects.running_initial(cluster, servers))
    plans = [
        _plan_access.plan_keypair(name, key, module.params["public_key"] or key or "ssh-ed25519 (new)"),
        _plan_access.plan_group(cluster, group, servers, ports),
        _module.servers_plan(module, cluster, cloud, existing),
    ]
    problems = list(dict.fromkeys(problem for plan in plans for problem in plan.problems))
    problems += _module.missing_key(cluster, servers)
    problems += _module.missing_floating_ip(cluster, existing)
    quota: dict[str, Any] = {}
    if plans[2].of(_plan.SERVER, "create", "replace"):
        findings = cloud.clusters.find_requirements(cluster)
        problems += _preflight.problems(cluster, findings, plans)
        # If the cluster has servers, the run that created them has shown the note.
        ours = any(_cloud_objects.is_ours(server, name) for server in servers)
        routed = ours or _login.has_route(cluster.remote_ip_prefix)
        plans.append(_plan.Plan(notes=tuple(_preflight.notes(cluster, findings, routed=routed))))
        quota = _preflight_quota.quota_table(findings, plans)
    if problems:
        text = "\n".join(f"- {problem}" for problem in problems)
        module.fail_json(msg=f"Failed to prepare the cluster: the cloud does not fit\n{text}", problems=problems)
    whole = _plan.joined(plans)
    waiting = any(s.status != "ACTIVE" for s in servers if _cloud_objects.is_ours(s, name))
    result = _module.plan_result(module, whole)
    return {
        **result,
        "changed": False,
        "plan": {"changes": result["changes"], "notes": result["notes"], "quota": quota},
        "initial_created": _plan_servers.creates_initial(cluster, existing, plans[2], module.params["survivors"]),
        "removed_servers": [change.name for change in whole.of(_plan.SERVER, "delete", "replace")],
        "problems": [],
        "quota": quota,
        "settled": not whole.changed and not waiting,
    }


def main() -> None:
    """Run the module."""
    _module.run(
        {
            "public_key": {"type": "str", "no_log": False},
            "remove_surplus": {"type": "bool", "default": False},
            "replace_control_plane": {"type": "bool", "default": False},
            "survivors": {"type": "list", "elements": "str", "default": []},
            "replace_nodes": {"type": "list", "elements": "str", "default": []},
            "limit": {"type": "list", "elements": "str"},
            "upgrade": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        check,
    )


if __name__ == "__main__":
    main()
