# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Security groups of a project. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects, _cloud_tags, _plan
from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import CloudError, doing
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import TAG_EXTENSION
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import GROUP, Group, GroupRule, Port, Rule
from ansible_collections.q8s.emu.plugins.module_utils._cloud_requests import map_concurrently, raise_first
from ansible_collections.q8s.emu.plugins.module_utils._plan import Plan

_POLL_SECONDS = 1.0


class SecurityGroups:
    """The security groups of the project. The group of a cluster is known by its description."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def list_security_groups(self) -> list[Any]:
        """Return openstacksdk's security groups. The caller handles openstacksdk's errors."""
        return list(self._os.network.security_groups())

    def list_descriptions(self) -> list[str]:
        """Return the descriptions of the project's groups of Q8S's name. The caller handles openstacksdk's errors."""
        groups = self._os.network.security_groups(project_id=str(self._os.current_project_id), name=GROUP)
        return [group.description or "" for group in groups]

    def find_security_group(self, cluster_name: str) -> Optional[Group]:
        """Return the cluster's security group with its rules, or None.

        If a race created two groups, the older one is the cluster's.
        """
        group_id, tags = self.find_tags(cluster_name)
        if not group_id:
            return None
        with doing(f"look up the security group {GROUP}"):
            mark = _cloud_objects.mark(cluster_name)
            rules = self._os.network.security_group_rules(security_group_id=group_id, direction="ingress")
            own = tuple(GroupRule(rule.id, _rule(rule, group_id), rule.description == mark) for rule in rules)
            return Group(group_id, own, tags)

    def find_tags(self, cluster_name: str) -> tuple[str, tuple[str, ...]]:
        """Return id and tags of the cluster's security group; both are empty if there is no group."""
        with doing(f"look up the security group {GROUP}"):
            groups = _cloud_objects.list_marked(self._os, self._os.network.security_groups, cluster_name, name=GROUP)
            found = [group for group in groups if group.name == GROUP]
            if not found:
                return "", ()
            first = min(found, key=lambda group: (group.created_at or "", group.id))
            return str(first.id), tuple(first.tags or ())

    def set_tags(self, group_id: str, tags: Sequence[str]) -> None:
        """Set the tags of the group. In a cloud without tags, do nothing: the plan has a note of it.

        :raises CloudError: the cloud has tags, and rejects these
        """
        from openstack.exceptions import raise_from_response

        with doing(f"tag the security group {GROUP}, which records the server that has the cluster's CA and etcd"):
            answer = self._os.network.put(f"/security-groups/{group_id}/tags", json={"tags": list(tags)})
            if answer.status_code != 404 or self.has_tags():
                raise_from_response(answer)

    def has_tags(self) -> bool:
        """Return whether the cloud has tags. The caller handles openstacksdk's errors."""
        return bool(self._os.network.get(f"/extensions/{TAG_EXTENSION}").status_code != 404)

    def record_etcd_server(self, cluster_name: str, server_id: str) -> None:
        """Record in a tag which server has the cluster's CA and etcd. An empty id removes the record."""
        group_id, tags = self.find_tags(cluster_name)
        if group_id and _cloud_tags.etcd_server(tags) != server_id:
            self.set_tags(group_id, _cloud_tags.record_etcd_server(tags, server_id))

    def apply_plan(self, cluster_name: str, group: Optional[Group], plan: Plan) -> str:
        """Apply a plan of the security group. Return the id of the group, or nothing after its deletion."""
        if plan.of(_plan.SECURITY_GROUP, "delete"):
            if group is None:  # a plan deletes an existing group only
                return ""
            for change in plan.of(_plan.MEMBER):
                self._set_membership(change.subject, group.id, False)
            self._delete_security_group(group)
            return ""
        group_id = group.id if group else self._create_security_group(cluster_name)
        raise_first(
            map_concurrently(
                lambda c: self._create_rule(cluster_name, group_id, c.subject), plan.of(_plan.RULE, "create")
            )
        )
        for change in plan.of(_plan.MEMBER):
            self._set_membership(change.subject, group_id, True)
        # Last: until then the old rules let the traffic of a running cluster through.
        raise_first(map_concurrently(lambda c: self._delete_rule(c.subject), plan.of(_plan.RULE, "delete")))
        return group_id

    def _create_security_group(self, cluster_name: str) -> str:
        with doing(f"create the security group {GROUP}"):
            created = self._os.network.create_security_group(name=GROUP, description=_cloud_objects.mark(cluster_name))
            return str(created.id)

    def _delete_security_group(self, group: Group, deadline: float = 60) -> None:
        """Delete the group. Neutron refuses while a port of a deleted server still has it: try again."""
        from openstack.exceptions import ConflictException

        end = time.monotonic() + deadline
        with doing(f"remove the security group {GROUP}"):
            while True:
                try:
                    self._os.network.delete_security_group(group.id, ignore_missing=True)
                    return
                except ConflictException:
                    users = [p for p in self._os.network.ports() if group.id in (p.security_group_ids or [])]
                    # Ports of the cluster's deleted servers go away; ports of other servers stay.
                    if users and time.monotonic() > end:
                        names = ", ".join(f"port {p.id} of server {p.device_id or 'none'}" for p in users)
                        raise CloudError(
                            f"Failed to remove the security group {GROUP}: it is in use by {names}"
                            "\nhint: take it off these (openstack port unset --security-group), then destroy again"
                        ) from None
                    if time.monotonic() > end:
                        raise
                    time.sleep(_POLL_SECONDS)

    def _create_rule(self, cluster_name: str, group_id: str, rule: Rule) -> None:
        from openstack.exceptions import ConflictException

        source = {"remote_ip_prefix": rule.source} if rule.source else {"remote_group_id": group_id}
        with doing(f"add the rule {rule} to the security group {GROUP}"):
            try:
                self._os.network.create_security_group_rule(
                    security_group_id=group_id,
                    direction="ingress",
                    ether_type="IPv4",
                    protocol=rule.protocol or None,
                    port_range_min=rule.port_min,
                    port_range_max=rule.port_max,
                    description=_cloud_objects.mark(cluster_name),
                    **source,
                )
            except ConflictException as error:
                # Neutron reports an exceeded quota as a conflict, too.
                if "already exists" not in str(error):
                    raise

    def _delete_rule(self, rule: GroupRule) -> None:
        with doing(f"remove the rule {rule.rule} from the security group {GROUP}"):
            self._os.network.delete_security_group_rule(rule.id, ignore_missing=True)

    def _set_membership(self, ports: Sequence[Port], group_id: str, member: bool) -> None:
        """Add the group to ports, or remove it from them. Their other groups stay."""
        for port in ports:
            groups = [*port.groups, group_id] if member else [g for g in port.groups if g != group_id]
            with doing(f"change the security groups of port {port.id}"):
                self._os.network.update_port(port.id, security_groups=groups)


def _rule(rule: Any, group_id: str) -> Union[Rule, str]:
    """Return a rule in the plan's form, or as text if that form cannot express it."""
    if rule.remote_address_group_id:
        return f"{rule.ether_type} {rule.protocol or 'any protocol'} from address group {rule.remote_address_group_id}"
    source = rule.remote_ip_prefix or ""
    if rule.ether_type != "IPv4" or (rule.remote_group_id or group_id) != group_id:
        source = source or rule.remote_group_id or "anywhere"
        return f"{rule.ether_type} {rule.protocol or 'any protocol'} from {source}"
    if not source and not rule.remote_group_id:
        source = "0.0.0.0/0"
    return Rule(rule.protocol or "", rule.port_range_min, rule.port_range_max, source)
