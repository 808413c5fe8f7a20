#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the results of a benchmark to a folder on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bench_report
short_description: Write the results of a benchmark to a folder
version_added: 0.2.0
description:
  - Parses the output of the measuring tools, and writes C(results.json), tables as Markdown and CSV, and the median and spread of each figure.
  - The folder gets its name when it is complete. If a file cannot be written, nothing has changed.
  - This is an action plugin. It runs on the controller.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Not supported; a benchmark has nothing to predict.
    support: none
options:
  output:
    description: Folder of the results. The folder above it exists.
    type: path
    required: true
  force:
    description: Whether to replace results that are there. A folder that holds something else is never replaced.
    type: bool
    default: false
  resume:
    description:
      - Whether to add to the results that are there, which may be of this run or of an earlier one.
      - A measurement that failed before is replaced. The others are kept.
    type: bool
    default: false
  state:
    description: With V(checked), only check whether the folder may be written.
    type: str
    choices: [checked, written]
    default: written
  cluster:
    description: Name of the cluster.
    type: str
    default: ""
  plan:
    description: The plan, as P(q8s.emu.bench_plan#filter) returns it.
    type: dict
    default: {}
  runs:
    description: Results of the commands, each with the measurement as C(item).
    type: list
    elements: dict
    default: []
  node_samples:
    description: By node, what its pod printed of the node's counters.
    type: dict
    default: {}
  host_samples:
    description: By emulated node, the counters of its QEMU process.
    type: dict
    default: {}
  history:
    description: File in which q8s-run records its runs.
    type: path
    default: ""
  timeline:
    description: File with the timeline of the deploy as SVG, which the page shows. C(q8s-run timeline --output) writes one.
    type: path
    default: ""
  session:
    description: When the current run of the benchmark began. Several tasks with the same time are one session.
    type: str
    default: ""
  versions:
    description: Versions of what was measured.
    type: dict
    default: {}
  machine:
    description: Load of the initial control plane before and after.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check that no results are lost
  q8s.emu.bench_report:
    output: bench-demo
    state: checked
"""

RETURN = r"""
earlier:
  description: With O(resume), what P(q8s.emu.bench_plan#filter) has to know of the results that are there; empty otherwise.
  type: dict
  returned: when checked
tables:
  description: Lines of the tables in Markdown.
  type: list
  elements: str
  returned: when written
problems:
  description: What could not be measured, each with the reason.
  type: list
  elements: str
  returned: when written
"""
