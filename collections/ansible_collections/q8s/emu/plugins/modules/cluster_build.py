#!/usr/bin/python
# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build node bundles and guest images on a server of the cluster, and show the progress."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_build
short_description: Build node bundles and guest images on a server of the cluster
version_added: 0.2.0
description:
  - Runs the program that builds what nodes run as a systemd unit of the server, and shows each of its steps.
  - The build goes on when the controller or the connection is lost. The next run of the task follows it.
  - What is in the server's cache is not built again. The rest needs free space, which is checked first.
  - What Go downloaded and compiled, and sources that were not used for a day, are removed after a successful build.
  - This is an action plugin.
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: In check mode, nothing is built.
    support: full
options:
  arguments:
    description: Arguments of the program, as M(q8s.emu.bundle) returns them.
    type: list
    elements: str
    required: true
  sources:
    description: Folder on the server with the program, unpacked from what C(q8s-run bundle pack) writes.
    type: path
    required: true
  directory:
    description: Folder on the server for the cache and the progress. It exists.
    type: path
    required: true
  environment:
    description:
      - Environment variables of the build, such as proxies. They may have passwords. The build reads them from a file that only
        root can read, and removes it.
      - While a build with other arguments or another environment is running, the task waits.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Build on the initial control plane
  q8s.emu.cluster_build:
    arguments: "{{ q8s_built.arguments }}"
    sources: /var/lib/q8s-build/sources
    directory: /var/lib/q8s-build
  become: true
  register: q8s_remote
"""

RETURN = r"""
bundle:
  description: Path, name, SHA-256 and size of each artifact, kernel command lines, images of pods, and what is missing.
  type: dict
  returned: success
artifacts:
  description: Name and SHA-256 of each artifact, by kind and architecture.
  type: dict
  returned: success
files:
  description: Empty, because the controller has nothing to upload. M(q8s.emu.bundle) returns a list by this name, too.
  type: list
  elements: dict
  returned: success
"""
