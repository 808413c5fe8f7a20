#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Set labels and taints of Kubernetes nodes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_labels
short_description: Set labels and taints of Kubernetes nodes
version_added: 0.1.0
description:
  - A node registers with labels and taints, and its kubelet never changes them afterwards. This module changes them with kubectl.
  - The node's annotation C(q8s.io/set) records what the module has set. It removes only those labels and taints, when they are no longer wanted.
  - A node that does not exist is skipped.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Can run in check mode and say which nodes would change.
    support: full
  diff_mode:
    description: Shows labels and taints before and after.
    support: full
options:
  nodes:
    description: Labels and taints by the node's name.
    type: dict
    required: true
  kubectl:
    description: The command that reaches the cluster, with its first arguments.
    type: list
    elements: str
    default: [kubectl]
"""

EXAMPLES = r"""
- name: Set the nodes' labels and taints
  q8s.emu.node_labels:
    kubectl: [/var/lib/q8s/bin/kubectl, --kubeconfig=/etc/kubernetes/admin.conf]
    nodes:
      arm-mid-1:
        labels: {disk: ssd}
        taints:
          - {key: dedicated, value: arm, effect: NoSchedule}
"""

RETURN = r"""
nodes:
  description: Names of the nodes that changed.
  returned: always
  type: list
  elements: str
  sample: [arm-mid-1]
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, TypedDict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils import _read

ANNOTATION = "q8s.io/set"
ATTEMPTS = 5  # the node controller changes taints, too


class _Ours(TypedDict, total=False):
    """What the annotation records."""

    labels: list[str]
    taints: list[list[str]]


class Change(NamedTuple):
    """The change of a node: a merge patch for kubectl, and its labels and taints before and after as text."""

    node: str
    patch: dict[str, Any]
    before: str
    after: str


def plan_node(node: Mapping[str, Any], labels: Mapping[str, str], taints: list[dict[str, str]]) -> Optional[Change]:
    """Return the change that a node needs, None if it needs none. The node is as the API returns it.

    The patch names the version of the node that it was made for, so that a taint that someone sets meanwhile is not lost.
    """
    metadata = node["metadata"]
    has_labels, has_taints = metadata.get("labels") or {}, node.get("spec", {}).get("taints") or []
    annotation = (metadata.get("annotations") or {}).get(ANNOTATION, "{}")
    place = _read.Place(ANNOTATION)
    try:
        ours = _read.parse(_Ours, _read.json_data(annotation, place), place)
    except _read.ReadError:  # a user has edited it
        ours = {}
    wanted = [{key: taint[key] for key in ("key", "value", "effect") if taint.get(key)} for taint in taints]
    gone = [name for name in ours.get("labels", ()) if name not in labels and name in has_labels]
    # key and effect identify a taint
    replaced = {(t["key"], t["effect"]) for t in wanted} | {tuple(pair) for pair in ours.get("taints", ())}
    others = [taint for taint in has_taints if (taint["key"], taint["effect"]) not in replaced]
    missing = [t for t in wanted if not any(t.items() <= has.items() for has in has_taints)]
    stale = [t for t in has_taints if t not in others and not any(w.items() <= t.items() for w in wanted)]
    record = {"labels": sorted(labels), "taints": sorted([t["key"], t["effect"]] for t in wanted)}
    patch: dict[str, Any] = {"metadata": {}}
    changed = {name: value for name, value in labels.items() if has_labels.get(name) != value}
    if changed or gone:
        patch["metadata"]["labels"] = {**changed, **dict.fromkeys(gone)}
    if missing or stale:
        patch["spec"] = {"taints": [*others, *wanted]}
    if record != ours:
        patch["metadata"]["annotations"] = {ANNOTATION: json.dumps(record)}
    if patch == {"metadata": {}}:
        return None
    patch["metadata"]["resourceVersion"] = metadata["resourceVersion"]
    after = {name: value for name, value in {**has_labels, **labels}.items() if name not in gone}
    name = str(metadata["name"])
    new_taints = [*others, *wanted] if missing or stale else has_taints
    return Change(name, patch, _shown(name, has_labels, has_taints), _shown(name, after, new_taints))


def _shown(name: str, labels: Mapping[str, str], taints: list[dict[str, str]]) -> str:
    lines = [f"{name}: {key}={value}" for key, value in sorted(labels.items())]
    lines += sorted(f"{name}: taint {t['key']}={t.get('value', '')}:{t['effect']}" for t in taints)
    return "".join(f"{line}\n" for line in lines)


def plan(nodes: list[dict[str, Any]], wanted: Mapping[str, Any]) -> list[Change]:
    """Return the changes that the nodes need."""
    changes = []
    for node in nodes:
        one = wanted.get(node["metadata"]["name"])
        if one is not None:
            changes.append(plan_node(node, one.get("labels") or {}, one.get("taints") or []))
    return [change for change in changes if change]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {"type": "dict", "required": True},
            "kubectl": {"type": "list", "elements": "str", "default": ["kubectl"]},
        },
        supports_check_mode=True,
    )
    kubectl = module.params["kubectl"]
    done: dict[str, Change] = {}
    problem = ""
    for _attempt in range(ATTEMPTS):
        code, out, err = module.run_command([*kubectl, "get", "nodes", "--output=json"])
        if code != 0:
            module.fail_json(msg=f"Failed to list the nodes: {err.strip()}")
        changes = plan(json.loads(out)["items"], module.params["nodes"])
        problem = ""
        for change in changes:
            if not module.check_mode:
                patch = f"--patch={json.dumps(change.patch)}"
                code, out, err = module.run_command([*kubectl, "patch", "node", change.node, "--type=merge", patch])
                if code != 0:
                    problem = f"Failed to change the node {change.node}: {err.strip()}"
                    continue
            done.setdefault(change.node, change)
        if not problem:
            break
    if problem:
        module.fail_json(msg=problem, nodes=sorted(done))
    diff = [{"before": c.before, "after": c.after} for c in done.values() if c.before != c.after]
    module.exit_json(changed=bool(done), nodes=sorted(done), diff=diff)


if __name__ == "__main__":
    main()
