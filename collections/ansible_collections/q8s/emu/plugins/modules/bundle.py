#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build node bundles and guest images, and show the progress."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle
short_description: Build node bundles and guest images on the controller
version_added: 0.2.0
description:
  - Runs the program that builds what nodes run, and shows each of its steps while the task is running.
  - What is in the controller's cache is not built again.
  - This is an action plugin. It runs on the controller.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: In check mode, nothing is built, and the result lists what is missing in the cache.
    support: full
options:
  command:
    description: The program and its first arguments.
    type: list
    elements: str
    required: true
  architectures:
    description: Architectures of emulated workers.
    type: list
    elements: str
    required: true
  control_planes:
    description: Architectures of control planes.
    type: list
    elements: str
    default: [x86_64]
  benches:
    description: Architectures of the container image with measuring tools (C(q8s-run bench)).
    type: list
    elements: str
    default: []
  conformance:
    description: Architectures of the images of Kubernetes' conformance tests (C(q8s-run conformance)).
    type: list
    elements: str
    default: []
  tests:
    description: Architectures of the program that runs these tests.
    type: list
    elements: str
    default: []
  kubernetes_version:
    description: Version of Kubernetes, without a leading v. The newest one that the program builds if this is not set.
    type: str
  addons:
    description: Add-ons, whose container images are built for the architectures of control planes.
    type: list
    elements: str
    default: []
  source:
    description: Where the programs are from.
    type: str
    choices: [auto, upstream, source]
    default: auto
  guest_images:
    description: Cloud images of guests by architecture, each with C(url) and C(checksum).
    type: dict
    default: {}
  where:
    description:
      - Where to build what is not in the controller's cache.
      - With V(auto), the controller builds if it can. Otherwise the cluster has to.
      - If the cluster has to build, this module builds nothing, and RV(on_cluster) is true.
    type: str
    choices: [auto, here, cluster]
    default: auto
  if_cached:
    description: If something is not in the controller's cache, build nothing, as in check mode.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Build node bundles and guest images
  q8s.emu.bundle:
    command: [q8s-run, bundle]
    architectures: [aarch64]
  register: q8s_bundle
"""

RETURN = r"""
bundle:
  description:
    - Path, name, SHA-256 and size of each artifact, kernel command lines, images of pods, and what is missing.
    - C(recipe) is a checksum of what was asked for and of the programs that build it.
  type: dict
  returned: success
artifacts:
  description: Name and SHA-256 of each artifact, by kind and architecture.
  type: dict
  returned: success
  sample: {"bundle-aarch64": {"name": "bundle-aarch64-0a1b.qcow2", "sha256": "5f2c"}}
files:
  description: Name and path of each artifact, as the role C(artifact_server) takes them.
  type: list
  elements: dict
  returned: success
  sample: [{"name": "bundle-aarch64-0a1b.qcow2", "path": "/root/.cache/q8s/bundle-aarch64-0a1b.qcow2"}]
on_cluster:
  description: Whether something is missing that the cluster has to build.
  type: bool
  returned: success
arguments:
  description: Arguments of the build, for M(q8s.emu.cluster_build).
  type: list
  elements: str
  returned: success
"""
