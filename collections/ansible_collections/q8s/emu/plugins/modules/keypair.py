#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upload or delete the SSH key of a cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: keypair
short_description: Upload or delete the SSH key of a cluster
version_added: 0.1.0
description:
  - The key pair is called C(q8s-) and the cluster's name, and has C(Q8S cluster) and that name as the comment of its key.
  - The same key under that name is used as it is. A different key is never replaced; the module fails.
  - O(state=absent) deletes it only with that comment; a key pair that somebody else created is kept, with a note.
extends_documentation_fragment: [q8s.emu.cloud]
options:
  public_key:
    description: The public key in OpenSSH's form. Needed for O(state=present).
    type: str
  state:
    description: Whether the key pair exists.
    type: str
    choices: [present, absent]
    default: present
attributes:
  diff_mode:
    description: Shows the public key before and after.
    support: full
"""

EXAMPLES = r"""
- name: Upload the ssh key
  q8s.emu.keypair:
    cluster: "{{ q8s_cluster }}"
    public_key: "{{ lookup('ansible.builtin.file', q8s_private_key ~ '.pub') }}"

- name: Remove the ssh key from the cloud
  q8s.emu.keypair:
    cluster: "{{ q8s_cluster }}"
    state: absent
"""

RETURN = r"""
extends_documentation_fragment: [q8s.emu.cloud]
name:
  description: Name of the key pair in the cloud.
  returned: success
  type: str
  sample: q8s-demo
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _module, _plan_access


def apply(module: AnsibleModule, cluster: Any, cloud: Any) -> dict[str, Any]:
    """Bring the key pair to the wanted state."""
    name = _cloud_objects.keypair_name(cluster.cluster_name)
    wanted = module.params["public_key"] if module.params["state"] == "present" else None
    plan = _plan_access.plan_keypair(cluster.cluster_name, cloud.keypairs.find_public_key(name), wanted)
    if plan.problems:
        raise _cloud.CloudError(
            f"Failed to upload the key pair {name}: {plan.problems[0]}\nhint: {_plan_access.KEYPAIR_HINT}"
        )
    if not module.check_mode:
        cloud.keypairs.apply_plan(plan)
    return {**_module.plan_result(module, plan), "name": name}


def main() -> None:
    """Run the module."""
    _module.run(
        {"public_key": {"type": "str", "no_log": False}, "state": _module.STATE},
        apply,
        required_if=[("state", "present", ["public_key"])],
    )


if __name__ == "__main__":
    main()
