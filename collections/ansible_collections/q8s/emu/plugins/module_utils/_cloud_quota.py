# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quota of a project. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Usage
from ansible_collections.q8s.emu.plugins.module_utils._cloud_keypairs import KeyPairs


class Quota:
    """The limits of the project in Nova and Neutron."""

    def __init__(self, connection: Any, keypairs: KeyPairs) -> None:
        """Use an openstacksdk connection, and the key pairs, whose use Nova does not count."""
        self._os = connection
        self._keypairs = keypairs

    def find_usage(self) -> dict[str, Usage]:
        """Return limit and use by resource, without the resources whose quota the cloud does not show to its users."""
        from openstack.exceptions import HttpException

        try:
            limits = self._os.compute.get_limits().absolute
            key_pairs = self._keypairs.count_keypairs()
        except HttpException:
            return {}  # a cloud may hide its limits from users; it then refuses the request that exceeds one
        named = {
            "instances": (limits.instances, limits.instances_used),
            "cores": (limits.total_cores, limits.total_cores_used),
            "ram": (limits.total_ram, limits.total_ram_used),
            "server_groups": (limits.server_groups, limits.server_groups_used),
            "server_group_members": (limits.server_group_members, 0),
            "key_pairs": (limits.keypairs, key_pairs),
        }
        quota = {key: Usage(int(limit), int(used or 0)) for key, (limit, used) in named.items() if limit is not None}
        try:
            network = self._os.network.get_quota(str(self._os.current_project_id), details=True)
        except HttpException:
            return quota
        for key in ("ports", "security_groups", "security_group_rules", "floating_ips"):
            found = getattr(network, key)
            if isinstance(found, Mapping):
                used = int(found.get("used", 0)) + int(found.get("reserved", 0))
                quota[key] = Usage(int(found["limit"]), used)
        return quota
