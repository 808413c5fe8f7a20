# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and results that all cloud modules have."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation shared by the cloud modules."""

    DOCUMENTATION = r"""
options:
  cluster:
    description:
      - The cluster, in the form of a cluster file. The inventory plugin P(q8s.emu.openstack#inventory) gives it as C(q8s_cluster).
      - Do not pass C(git_url), which may hold a token.
    type: dict
    required: true
  cloud:
    description:
      - A cloud of C(clouds.yaml). Without it, the C(OS_*) variables of the environment choose, C(OS_CLOUD) first.
    type: str
requirements:
  - openstacksdk
  - PyYAML
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Says what would change and changes nothing.
    support: full
"""

    RETURN = r"""
changes:
  description: What was changed, in this order; in check mode, and from M(q8s.emu.cloud_preflight), what would be.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: What it is.
      type: str
      sample: server
    action:
      description: C(create), C(delete), C(replace), C(start) or C(attach).
      type: str
      sample: create
    name:
      description: Its name, or a rule in words.
      type: str
      sample: demo-arm-mid-1
    before:
      description: A line that says what is there; empty for nothing.
      type: str
      sample: ""
    after:
      description: A line that says what is there afterwards; empty for nothing.
      type: str
      sample: server demo-arm-mid-1 ACTIVE
notes:
  description: What is left alone although it is not as the cluster file says, and why.
  returned: success
  type: list
  elements: str
  sample: ["the rule tcp 12345 from 0.0.0.0/0 in q8s-cluster is not Q8S's; it is left"]
"""
