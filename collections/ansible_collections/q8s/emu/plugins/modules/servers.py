#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make or remove the servers of a cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: servers
short_description: Make or remove the servers of a cluster
version_added: 0.1.0
description:
  - Asks for all servers at once and polls all of them together until each is C(ACTIVE) with an address.
  - Each new server gets an ssh host key that is made here (hosts of workers a second one, for the guest). The public parts are in the
    server's metadata, the private ones in its user-data only.
  - A server in C(ERROR) is replaced, one that is off is started. A server that the cluster no longer asks for stays and is reported.
  - O(state=absent) removes every server that carries the cluster's name in its metadata, and waits until it is gone. Nothing else is touched.
extends_documentation_fragment: [q8s.emu.cloud]
options:
  public_key:
    description: The public key that may log in, in OpenSSH's form. Needed for O(state=present).
    type: str
  state:
    description: Whether the servers are there.
    type: str
    choices: [present, absent]
    default: present
  timeout:
    description: Seconds until all servers must be there, or gone.
    type: int
    default: 600
attributes:
  diff_mode:
    description: Shows the servers before and after.
    support: full
seealso:
  - module: q8s.emu.keypair
  - module: q8s.emu.security_group
"""

EXAMPLES = r"""
- name: Make the servers
  q8s.emu.servers:
    cluster: "{{ q8s_cluster }}"
    public_key: "{{ lookup('ansible.builtin.file', q8s_state_dir ~ '/id_ed25519.pub') }}"

- name: Remove the servers
  q8s.emu.servers:
    cluster: "{{ q8s_cluster }}"
    state: absent
"""

RETURN = r"""
created:
  description: Names of servers that were made, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [demo-control-plane]
removed:
  description: Names of servers that were removed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: []
started:
  description: Names of servers that were off and were started, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: []
surplus:
  description: Names of the cluster's servers that its file no longer asks for.
  returned: success
  type: list
  elements: str
  sample: []
servers:
  description: The cluster's servers after the run.
  returned: success, not in check mode, O(state=present)
  type: list
  elements: dict
  sample: [{"name": "demo-control-plane", "id": "5b0d...", "address": "10.254.1.17"}]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _hostkeys, _module, _plan


def apply(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Bring the servers to the wanted state."""
    present = module.params["state"] == "present"
    plan = _plan.plan_servers(cluster, cloud.servers(), present)
    if plan.problems:
        raise _cloud.CloudError("Failed to plan the servers: " + "; ".join(plan.problems))
    result: dict[str, Any] = {
        "changed": plan.changed,
        "created": [spec.name for spec in plan.create],
        "removed": [server.name for server in plan.delete],
        "started": [server.name for server in plan.start],
        "surplus": [server.name for server in plan.surplus],
        "diff": _plan.servers_diff(plan),
    }
    for server in plan.surplus:
        module.warn(
            f"The cluster file no longer asks for the server {server.name}; it stays until the cluster is removed"
        )
    if module.check_mode:
        return result
    timeout = float(module.params["timeout"])
    cloud.remove_servers(plan.delete, timeout)
    if present:
        result["servers"] = _make(module, cluster, cloud, plan, timeout)
    return result


def _make(module: AnsibleModule, cluster: Any, cloud: Any, plan: Any, timeout: float) -> list[dict[str, Any]]:
    public_key = module.params["public_key"]
    refused = cloud.make_servers(
        cluster, plan.create, lambda spec: _hostkeys.first_boot(spec, cluster.cluster_name, public_key)
    )
    cloud.start_servers(plan.start)
    # Wait for what was accepted even when something was refused: the next run then finds it whole.
    absent = {spec.name for spec in plan.create if any(f"the server {spec.name}:" in text for text in refused)}
    names = [item.name for item in (*plan.create, *plan.start, *plan.keep) if item.name not in absent]
    servers, failed = cloud.wait_active(cluster, names, timeout)
    if refused or failed:
        lines = [*refused, *failed]
        wanted = len(names) + len(refused)
        raise _cloud.CloudError(
            f"Failed to make {len(lines)} of {wanted} servers:\n"
            + "\n".join(f"- {line}" for line in lines)
            + "\nhint: run it again to replace what failed, or destroy the cluster to remove all of it"
        )
    return [
        {"name": server.name, "id": server.id, "address": server.address(cluster.remote_ip_prefix)}
        for server in sorted(servers, key=lambda server: server.name)
    ]


def main() -> None:
    """Run the module."""
    _module.run(
        {
            "public_key": {"type": "str", "no_log": False},
            "state": _module.STATE,
            "timeout": {"type": "int", "default": 600},
        },
        apply,
        required_if=[("state", "present", ["public_key"])],
    )


if __name__ == "__main__":
    main()
