#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record on a cluster's servers which version of Kubernetes the cluster has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_version
short_description: Record on a cluster's servers which version of Kubernetes the cluster has
version_added: 0.2.0
description:
  - Each server carries in its metadata the version that its cluster had when the server was created. An upgrade records the new one, so that
    every controller refuses a cluster file with an older one before it changes anything.
options:
  begins:
    description:
      - Record that an upgrade to the version begins. Until the module runs without this option, every controller refuses whatever is no upgrade
        to that version.
    type: bool
    default: false
extends_documentation_fragment: [q8s.emu.cloud]
attributes:
  diff_mode:
    description: Shows the servers and their versions.
    support: full
"""

EXAMPLES = r"""
- name: Record that an upgrade begins
  q8s.emu.cluster_version:
    cluster: "{{ q8s_cluster }}"
    begins: true

- name: Record the version that the cluster has now
  q8s.emu.cluster_version:
    cluster: "{{ q8s_cluster }}"
"""

RETURN = r"""
servers:
  description: Names of the servers that recorded something else, or nothing.
  returned: success
  type: list
  elements: str
  sample: [demo-control-plane]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _identity, _module


def apply(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Record the version on the servers that record something else."""
    metadata = _identity.version_metadata(cluster, begins=module.params["begins"])
    servers = _identity.outdated(cluster, cloud.servers.list_servers(), metadata)
    if not module.check_mode:
        cloud.servers.set_metadata(servers, metadata)
    before = {server.name: {key: server.metadata.get(key, "") for key in metadata} for server in servers}
    return {
        "changed": bool(servers),
        "servers": sorted(before),
        "diff": {"before": before, "after": dict.fromkeys(before, metadata)},
    }


def main() -> None:
    """Run the module."""
    _module.run({"begins": {"type": "bool", "default": False}}, apply)


if __name__ == "__main__":
    main()
