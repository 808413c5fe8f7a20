#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until Kubernetes nodes are Ready."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nodes_ready
short_description: Wait until Kubernetes nodes are Ready
version_added: 0.2.0
description:
  - Asks the API server with kubectl until all nodes are Ready and all deployments are Available.
  - Kubernetes calls a node Ready for 40 s after its machine has stopped. A node with O(nodes[].started_at) must have reported since that time.
  - The time limit starts again whenever another node or deployment is ready. The failure names each node that is not, and why.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: In check mode, the module asks once, does not wait, and does not fail.
    support: full
  diff_mode:
    description: The module changes nothing.
    support: none
options:
  nodes:
    description: The nodes to wait for.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the node.
        type: str
        required: true
      started_at:
        description: Time at which its machine was started, in UTC as C(YYYY-MM-DDTHH:MM:SSZ). Empty if it was running already.
        type: str
        default: ""
  deployments:
    description: Deployments to wait for, each as C(NAMESPACE/NAME).
    type: list
    elements: str
    default: []
  kubectl:
    description: The command that reaches the cluster, with its first arguments.
    type: list
    elements: str
    default: [kubectl]
  timeout:
    description: Seconds in which another node or deployment must become ready.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Wait until the nodes and the cluster's DNS are ready
  q8s.emu.nodes_ready:
    kubectl: [/var/lib/q8s/bin/kubectl, --kubeconfig=/etc/kubernetes/admin.conf]
    nodes:
      - {name: demo-control-plane}
      - {name: arm-mid-1, started_at: "2026-11-27T01:02:03Z"}
    deployments: [kube-system/coredns]
"""

RETURN = r"""
waiting:
  description: What is not ready, each with the reason. Empty on success, except in check mode.
  returned: always
  type: list
  elements: str
  sample: ["node arm-mid-1 is NotReady: container runtime network not ready"]
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.q8s.emu.plugins.module_utils._kubernetes import condition, reason

INTERVAL = 2.0  # seconds between two questions
REQUEST_TIMEOUT = 10  # seconds that the API server has for an answer
Command = Callable[[list[str]], tuple[int, str, str]]


def node_problem(node: Optional[Mapping[str, Any]], started_at: str) -> str:
    """Return why a node is not ready, or nothing if it is.

    :param node: the node as the API returns it, None if there is none
    :param started_at: time since which it must have reported, empty if there is none
    """
    if node is None:
        return "has not joined the cluster"
    ready = condition(node)
    if ready.get("status") != "True":
        state = "NotReady" if ready.get("status") == "False" else "in an unknown state"
        why = reason(ready, otherwise="")
        return f"is {state}: {why}" if why else f"is {state}"
    # Both are in UTC, and of one length: text compares like time.
    if str(ready.get("lastHeartbeatTime") or "") < started_at:
        return f"has not reported since its machine was started at {started_at}"
    return ""


def deployment_problem(deployment: Optional[Mapping[str, Any]]) -> str:
    """Return why a deployment is not available, or nothing if it is."""
    if deployment is None:
        return "does not exist"
    conditions = deployment.get("status", {}).get("conditions") or []
    available: Mapping[str, Any] = next((c for c in conditions if c["type"] == "Available"), {})
    if available.get("status") == "True":
        return ""
    why = reason(available, otherwise="")
    return f"is not Available: {why}" if why else "is not Available"


def waiting(
    items: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, str]], deployments: Sequence[str]
) -> list[str]:
    """Return what is not ready, each with the reason.

    :param items: nodes and deployments as the API returns them
    :param nodes: the nodes to wait for, each with ``name`` and ``started_at``
    :param deployments: the deployments to wait for, each as NAMESPACE/NAME
    """
    found_nodes = {item["metadata"]["name"]: item for item in items if item["kind"] == "Node"}
    found_deployments = {
        f"{item['metadata']['namespace']}/{item['metadata']['name']}": item
        for item in items
        if item["kind"] == "Deployment"
    }
    problems = [(f"node {n['name']}", node_problem(found_nodes.get(n["name"]), n["started_at"])) for n in nodes]
    problems += [(f"deployment {name}", deployment_problem(found_deployments.get(name))) for name in deployments]
    return [f"{what} {problem}" for what, problem in problems if problem]


def ask(run: Command, kubectl: Sequence[str], namespaces: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Return all nodes, and the deployments of some namespaces; or nothing, and why the API server did not answer."""
    items: list[dict[str, Any]] = []
    for question in [["nodes,deployments.apps", f"--namespace={name}"] for name in namespaces] or [["nodes"]]:
        code, out, err = run([*kubectl, "get", *question, "--output=json", f"--request-timeout={REQUEST_TIMEOUT}s"])
        if code != 0:
            lines = err.strip().splitlines() or [f"kubectl exited with {code}"]
            return [], f"the API server does not answer: {lines[-1]}"
        items += json.loads(out)["items"]
    return items, ""


def wait(look: Callable[[], list[str]], timeout: float) -> list[str]:
    """Wait until nothing is left to wait for, or nothing more became ready within ``timeout`` seconds.

    :param look: returns what is not ready
    :returns: what is not ready at the end
    """
    left = look()
    fewest, deadline = len(left), time.monotonic() + timeout
    while left and time.monotonic() < deadline:
        time.sleep(INTERVAL)
        left = look()
        if len(left) < fewest:
            fewest, deadline = len(left), time.monotonic() + timeout
    return left


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "nodes": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": {"type": "str", "required": True}, "started_at": {"type": "str", "default": ""}},
            },
            "deployments": {"type": "list", "elements": "str", "default": []},
            "kubectl": {"type": "list", "elements": "str", "default": ["kubectl"]},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    params = module.params
    for name in params["deployments"]:
        if name.count("/") != 1:
            module.fail_json(msg=f"deployments has {name}; it must be NAMESPACE/NAME")
    namespaces = sorted({name.split("/")[0] for name in params["deployments"]})

    def look() -> list[str]:
        items, problem = ask(module.run_command, params["kubectl"], namespaces)
        if problem:
            # as many as can be waited for, so that an API server that stops and starts again is no progress
            names = [f"node {node['name']}" for node in params["nodes"]]
            names += [f"deployment {name}" for name in params["deployments"]]
            return [f"{name} is unknown: {problem}" for name in names]
        return waiting(items, params["nodes"], params["deployments"])

    left = wait(look, 0 if module.check_mode else params["timeout"])
    if left and not module.check_mode:
        text = "\n".join(f"- {problem}" for problem in left)
        module.fail_json(
            msg=f"Failed to wait until all is ready: none of these became ready within {params['timeout']} s\n{text}",
            waiting=left,
        )
    module.exit_json(changed=False, waiting=left)


if __name__ == "__main__":
    main()
