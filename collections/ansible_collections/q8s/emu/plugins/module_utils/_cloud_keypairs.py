# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Key pairs of a project. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import doing
from ansible_collections.q8s.emu.plugins.module_utils._plan import Plan


class KeyPairs:
    """The key pairs of the user."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def find_public_key(self, name: str) -> Optional[str]:
        """Return the public key of the key pair of this name, or None if there is none."""
        with doing(f"look up the key pair {name}"):
            found = self._os.compute.find_keypair(name, ignore_missing=True)
            return None if found is None else str(found.public_key)

    def count_keypairs(self) -> int:
        """Return the number of key pairs. The caller handles openstacksdk's errors."""
        return len(list(self._os.compute.keypairs()))

    def apply_plan(self, plan: Plan) -> None:
        """Create and delete key pairs as the plan says."""
        for change in plan.changes:
            if change.action == "create":
                with doing(f"upload the key pair {change.name}"):
                    self._os.compute.create_keypair(name=change.name, public_key=change.subject)
            else:
                with doing(f"remove the key pair {change.name}"):
                    self._os.compute.delete_keypair(change.name, ignore_missing=True)
