# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Complete the commands of a benchmark with the addresses of its pods and Services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _bench_plan

DOCUMENTATION = r"""
name: bench_commands
short_description: Complete the commands of a benchmark with the addresses of its pods and Services
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Pods and Services have an address only when they exist.
options:
  _input:
    description: The measurements, as P(q8s.emu.bench_plan#filter) returns them.
    type: list
    elements: dict
    required: true
  items:
    description: The benchmark's pods and Services, as C(kubectl get pods,services -o json) lists them.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: List the commands
  ansible.builtin.debug:
    msg: "{{ q8s_bench.measurements | q8s.emu.bench_commands((q8s_pods.stdout | from_json)['items']) }}"
"""

RETURN = r"""
_value:
  description: The measurements, each with a command that can be run.
  type: list
  elements: dict
  sample: [{name: latency/pod-pod/a/b/1, pod: pod-a, argv: [ping, -c, "20", 10.244.1.7]}]
"""


def bench_commands(
    measurements: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the measurements. See DOCUMENTATION."""
    addresses = {
        item["metadata"]["name"]: item["status"].get("podIP", "")
        if item["kind"] == "Pod"
        else item["spec"]["clusterIP"]
        for item in items
    }
    try:
        return [_bench_plan.fill_addresses(measurement, addresses) for measurement in measurements]
    except KeyError as error:
        raise AnsibleFilterError(f"Failed to complete the commands: {error} has no address") from error


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"bench_commands": bench_commands}
