# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a cluster fits into a cloud: image, network, flavors and quota. Pure functions, as the plan's are.

All that does not fit is reported at once, before anything is created. What is only suspicious is a note.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Findings
from ansible_collections.q8s.emu.plugins.module_utils._plan import Plan
from ansible_collections.q8s.emu.plugins.module_utils._preflight_flavors import flavor_notes, flavor_problems
from ansible_collections.q8s.emu.plugins.module_utils._preflight_image import (
    host_system_notes,
    image_problems,
    model_problems,
)
from ansible_collections.q8s.emu.plugins.module_utils._preflight_network import (
    access_notes,
    access_problems,
    group_notes,
    group_problems,
    network_notes,
    network_problems,
)
from ansible_collections.q8s.emu.plugins.module_utils._preflight_quota import needed_quota, quota_problems
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster


def problems(cluster: Cluster, findings: Findings, plans: Sequence[Plan]) -> list[str]:
    """Return every reason why the cluster does not fit into this cloud."""
    return [
        *image_problems(cluster, findings),
        *model_problems(cluster, findings),
        *network_problems(cluster, findings, plans),
        *group_problems(findings),
        *flavor_problems(cluster, findings),
        *access_problems(cluster, findings),
        *quota_problems(findings, needed_quota(plans, findings.flavors)),
    ]


def notes(cluster: Cluster, findings: Findings, *, routed: bool = True) -> list[str]:
    """Return what may go wrong in this cloud, and does not stop a deploy.

    :param routed: whether this machine has a route to the servers' network besides its default one
    """
    return [
        *host_system_notes(cluster, findings),
        *network_notes(cluster, findings),
        *group_notes(findings),
        *flavor_notes(cluster, findings),
        *access_notes(cluster, routed=routed),
    ]
