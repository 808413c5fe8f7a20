# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a deploy would change, build and upload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _links, _spec

DOCUMENTATION = r"""
name: deploy_plan
short_description: List what a deploy would change, build and upload
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Joins the changes in the cloud, the notes and the quota with what is missing in the caches.
options:
  _input:
    description: Result of M(q8s.emu.cloud_preflight).
    type: dict
    required: true
  built:
    description: Result of M(q8s.emu.bundle) in check mode. Empty if the caches were not looked up.
    type: dict
    required: true
  cluster:
    description: The cluster, as the inventory plugin returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what would change
  ansible.builtin.debug:
    msg: "{{ preflight | q8s.emu.deploy_plan(built, q8s_cluster) }}"
"""

RETURN = r"""
_value:
  description:
    - The keys C(changes), C(notes) and C(quota), and C(build) where the caches were looked up.
    - C(links) where the cluster file has some, as rows with C(from), C(to) (lists of nodes) and C(impairment) in words.
    - C(build) has C(missing) (names of artifacts), C(on_cluster), C(obstacles) (why the controller cannot build) and
      C(upload_bytes) (what a new initial control plane gets from the controller's cache).
  type: dict
"""


def deploy_plan(preflight: Mapping[str, Any], built: Mapping[str, Any], cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan. See DOCUMENTATION."""
    plan = dict(preflight["plan"])
    if cluster.get("network"):
        plan["links"] = _links.matrix_rows(_spec.load_mapping(cluster, "cluster").link_matrix())
    bundle = built.get("bundle")
    if bundle is None:
        return plan
    new = {c["name"] for c in plan["changes"] if c["kind"] == "server" and c["action"] in ("create", "replace")}
    sizes = [artifact["size"] for artifact in bundle["artifacts"].values()]
    plan["build"] = {
        "missing": bundle["missing"],
        "on_cluster": built["on_cluster"],
        "obstacles": [obstacle["reason"] for obstacle in bundle["obstacles"]],
        "upload_bytes": sum(sizes) if cluster["name_of_initial_instance"] in new else 0,
    }
    return plan


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"deploy_plan": deploy_plan}
