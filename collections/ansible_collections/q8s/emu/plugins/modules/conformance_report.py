#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the results of conformance tests to a folder on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: conformance_report
short_description: Write the results of conformance tests to a folder
version_added: 0.2.0
description:
  - Reads JUnit reports of Kubernetes' C(e2e.test), and writes C(results.json), a table in Markdown, and the logs of failed tests.
  - The folder gets its name when it is complete. If a file cannot be written, nothing has changed.
  - This is an action plugin. It runs on the controller.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Not supported; a test has nothing to predict.
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
    description: Whether to add to the results that are there, which may be of this run or of an earlier one.
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
    default: ''
  kubernetes:
    description: Version of Kubernetes.
    type: str
    default: ''
  nodes:
    description: The nodes, as P(q8s.emu.conformance_nodes#filter) returns them.
    type: list
    elements: dict
    default: []
  plan:
    description: The plan, as P(q8s.emu.conformance_plan#filter) returns it.
    type: dict
    default: {}
  processes:
    description: The tests of each process of a batch, as P(q8s.emu.conformance_plan#filter) returns them.
    type: list
    elements: list
    default: []
  reports:
    description: The JUnit report of each process.
    type: list
    elements: str
    default: []
  logs:
    description: The end of the output of each process.
    type: list
    elements: str
    default: []
  session:
    description: When this run C(started), its number of processes (C(parallel)), and the load of the initial control plane.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check that no results are lost
  q8s.emu.conformance_report:
    output: conformance-demo
    state: checked
"""

RETURN = r"""
earlier:
  description: With O(resume), what P(q8s.emu.conformance_plan#filter) has to know of the results that are there; empty otherwise.
  type: dict
  returned: when checked
summary:
  description: Counts, and each test that did not pass, as lines.
  type: list
  elements: str
  returned: when written
failures:
  description: The number of tests that failed.
  type: int
  returned: when written
complete:
  description: Whether every test that can run has a result.
  type: bool
  returned: when written
ended:
  description: The number of tests of the batch that have a result.
  type: int
  returned: when written
reason:
  description: Why a test of the batch has no result, empty if all have one.
  type: str
  returned: when written
"""
