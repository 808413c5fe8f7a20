# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the benchmark of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _bench_plan, _bench_resume, _spec

DOCUMENTATION = r"""
name: bench_plan
short_description: Plan which commands a benchmark runs on which nodes
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Fails if a node is not Ready or has too little memory for the pods of the benchmark.
options:
  _input:
    description: Nodes and pods of the cluster, as C(kubectl get nodes,pods -A -o json) lists them.
    type: list
    elements: dict
    required: true
  cluster:
    description: The cluster, as the inventory has it in C(q8s_cluster).
    type: dict
    required: true
  nodes:
    description: Names of the nodes to measure; all if empty.
    type: list
    elements: str
    default: []
  groups:
    description: What to measure, of C(network), C(cpu), C(memory) and C(disk); all if empty.
    type: list
    elements: str
    default: []
  quick:
    description: Whether to measure each figure once and briefly.
    type: bool
    default: false
  earlier:
    description:
      - What P(q8s.emu.bench_report#module) returns of results that are resumed. Their nodes and groups are measured, and what is finished is left out.
      - Fails if a node has changed since, or if what is finished would be measured in another way now.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Plan the benchmark
  ansible.builtin.set_fact:
    q8s_bench: "{{ (q8s_found.stdout | from_json)['items'] | q8s.emu.bench_plan(q8s_cluster, quick=true) }}"
"""

RETURN = r"""
_value:
  description:
    - The nodes, the measurements in the order in which they run, how long each takes, and what the pods need.
    - C(batches) has what is left to measure, in parts, each with its C(progress) for P(q8s.emu.bench_progress#filter).
    - C(limit_seconds) is how long all of it may take.
  type: dict
  sample:
    nodes: [{name: arm-mid-1, kind: arm-mid, architecture: aarch64, emulated: true}]
    measurements: [{name: cpu/integer/arm-mid-1/1, pod: pod-arm-mid-1, argv: [stress-ng, --cpu, "1"]}]
"""


def bench_plan(
    items: Sequence[Mapping[str, Any]],
    cluster: Mapping[str, Any],
    nodes: Sequence[str] = (),
    groups: Sequence[str] = (),
    *,
    quick: bool = False,
    earlier: Optional[Mapping[str, Any]] = None,
) -> dict[str, Any]:
    """Return the plan. See DOCUMENTATION."""
    if earlier:
        nodes = [node["name"] for node in earlier["nodes"]]
        groups, quick = earlier["groups"], bool(earlier["quick"])
    unknown = [group for group in groups if group not in _bench_plan.GROUPS]
    if unknown:
        raise AnsibleFilterError(f"{', '.join(unknown)}: allowed are {', '.join(_bench_plan.GROUPS)}")
    chosen_groups = [group for group in _bench_plan.GROUPS if not groups or group in groups]
    effort = _bench_plan.QUICK if quick else _bench_plan.FULL
    try:
        wanted = cluster_nodes(_spec.load_mapping(cluster, "cluster"))
        found = _bench_plan.read_nodes(items, wanted)
        # Before choosing: a node that is gone is not a name that was typed wrong.
        _comparable(_bench_resume.differences(earlier["nodes"], [asdict(node) for node in found]) if earlier else [])
        chosen = _bench_plan.choose_nodes(found, nodes)
        measurements = [asdict(one) for one in _bench_plan.measurements(chosen, chosen_groups, effort)]
        _comparable(_bench_resume.changed_commands(earlier["done"], measurements) if earlier else [])
    except (_bench_plan.BenchError, _spec.SpecError) as error:
        raise AnsibleFilterError(f"Failed to plan the benchmark:\n{error}") from error
    plan = {
        "quick": quick,
        "groups": chosen_groups,
        "effort": asdict(effort),
        "timeout": _bench_plan.TIMEOUT,
        "namespace": _bench_plan.NAMESPACE,
        "pod_memory": _bench_plan.POD_MEMORY,
        "ports": {"iperf3": _bench_plan.IPERF_PORT, "sockperf": _bench_plan.SOCKPERF_PORT},
        "nodes": [asdict(node) for node in chosen],
        "topology": [asdict(node) for node in found],
        "measurements": measurements,
    }
    batches = _bench_resume.batches(plan, earlier["done"] if earlier else (), _bench_plan.BATCH)
    left = [one for batch in batches for one in batch["measurements"]]
    for batch, progress in zip(batches, _bench_plan.progress(batches, effort)):
        batch["progress"] = progress
    return {**plan, "batches": batches, "limit_seconds": _bench_plan.limit_seconds(left, effort)}


def _comparable(changed: Sequence[str]) -> None:
    """Check that figures of earlier sessions can be compared with new ones.

    :raises BenchError: something has changed
    """
    if changed:
        hint = "hint: the figures cannot be compared; measure everything again with --force"
        raise _bench_plan.BenchError("\n".join([*changed, hint]))


def cluster_nodes(cluster: Any) -> list[dict[str, Any]]:
    """Return the nodes that a cluster file asks for."""
    return [
        {
            "name": server.node,
            "kind": server.kind,
            "architecture": server.architecture,
            "emulated": bool(server.vm_type),
            "host": server.name if server.vm_type else "",
            "machine": machine(server.vm_type) if server.vm_type else "",
        }
        for server in cluster.servers()
    ]


def machine(vm_type: Any) -> str:
    """Describe what of a type decides how fast its nodes are, beside their number of CPUs."""
    parts = [vm_type.cpu_model, f"machine {vm_type.machine_model}", f"{vm_type.ram_mb} MB", f"accel {vm_type.accel}"]
    parts += [f"tb_cache {vm_type.tb_cache_mb} MiB"] if vm_type.tb_cache_mb else []
    parts += [f"qemu_args {vm_type.qemu_args}"] if vm_type.qemu_args else []
    return ", ".join(parts)


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"bench_plan": bench_plan}
