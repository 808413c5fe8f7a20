# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's inventory plugin ``q8s.emu.openstack`` under its former name, for inventory files that have it."""

from __future__ import annotations

from ansible_collections.q8s.emu.plugins.inventory import openstack

DOCUMENTATION = openstack.DOCUMENTATION
EXAMPLES = openstack.EXAMPLES


class InventoryModule(openstack.InventoryModule):
    """Lists a cluster."""

    NAME = "q8s_openstack"
