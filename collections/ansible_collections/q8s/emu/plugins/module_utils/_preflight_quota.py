# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the changes of a plan fit into the quota. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Findings, Flavor
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server
from ansible_collections.q8s.emu.plugins.module_utils._plan import (
    FLOATING_IP,
    KEYPAIR,
    RULE,
    SECURITY_GROUP,
    SERVER,
    SERVER_GROUP,
    Change,
    Plan,
)
from ansible_collections.q8s.emu.plugins.module_utils._plan_servers import ServersPlan
from ansible_collections.q8s.emu.plugins.module_utils._spec import ServerSpec

# What is counted: the quota's name in a message, and its unit
_QUOTAS = {
    "instances": "servers",
    "cores": "vCPUs",
    "ram": "MB of memory",
    "ports": "ports",
    "security_groups": "security groups",
    "security_group_rules": "security group rules",
    "key_pairs": "key pairs",
    "server_groups": "server groups",
    "server_group_members": "servers in a server group",
    "floating_ips": "floating IPs",
}


def needed_quota(plans: Sequence[Plan], flavors: Mapping[str, Flavor]) -> dict[str, int]:
    """Return what the changes need of each quota, less what they free."""
    needs = dict.fromkeys(_QUOTAS, 0)
    kinds = {
        KEYPAIR: "key_pairs",
        SECURITY_GROUP: "security_groups",
        RULE: "security_group_rules",
        SERVER_GROUP: "server_groups",
        SERVER: "instances",
        FLOATING_IP: "floating_ips",
    }
    for change in [change for plan in plans for change in plan.changes]:
        sign = {"create": 1, "delete": -1}.get(change.action, 0)
        if change.kind == RULE and sign < 0:
            continue  # new rules are created before old ones are deleted
        if change.kind in kinds:
            needs[kinds[change.kind]] += sign
        if change.kind == SECURITY_GROUP:
            # Neutron gives every new group two rules, for what goes out.
            needs["security_group_rules"] += 2 * sign
        if change.kind == SERVER:
            needs["ports"] += sign
            old, spec = _sides(change)
            flavor = flavors.get(spec.flavor) if spec else None
            needs["cores"] += (flavor.vcpus if flavor else 0) - (old.vcpus if old else 0)
            needs["ram"] += (flavor.ram if flavor else 0) - (old.ram if old else 0)
    plan = next((plan for plan in plans if isinstance(plan, ServersPlan)), None)
    if plan is not None and any("server group" in line for line in (*plan.kept, *(str(c) for c in plan.changes))):
        needs["server_group_members"] = len(plan.wanted)
    return {key: max(need, 0) for key, need in needs.items()}


def _sides(change: Change) -> tuple[Optional[Server], Optional[ServerSpec]]:
    """Return the server that a change deletes, and the one that it creates."""
    if change.action == "replace":
        return change.subject.old, change.subject.spec
    if change.action == "create":
        return None, change.subject
    return (change.subject, None) if change.action == "delete" else (None, None)


def quota_table(findings: Findings, plans: Sequence[Plan]) -> dict[str, dict[str, int]]:
    """Return what the changes need of each quota that the cloud shows, what is used, and the limit."""
    needs = needed_quota(plans, findings.flavors)
    return {
        key: {"needed": needs[key], "used": usage.used, "limit": usage.limit} for key, usage in findings.quota.items()
    }


def quota_problems(findings: Findings, needs: Mapping[str, int]) -> list[str]:
    """Return the quotas that the changes exceed."""
    problems = []
    for key, needed in needs.items():
        usage = findings.quota.get(key)
        if usage is not None and usage.limit >= 0 and needed and needed > usage.limit - usage.used:
            problems.append(f"quota of {_QUOTAS[key]}: needs {needed}, {usage.used} of {usage.limit} used")
    return problems
