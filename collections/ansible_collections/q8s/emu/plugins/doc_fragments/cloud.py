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
      - The cluster, in the form of a cluster file. The inventory plugin P(q8s.emu.openstack#inventory) returns it as C(q8s_cluster).
      - Do not pass C(git_url), which may hold a token.
    type: dict
    required: true
  cloud:
    description:
      - A cloud of C(clouds.yaml). Without it, the C(OS_*) environment variables select the cloud, C(OS_CLOUD) first.
    type: str
requirements:
  - openstacksdk
  - PyYAML
author:
  - Q8S contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Returns what would change, and changes nothing.
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
      description: Kind of the resource.
      type: str
      sample: server
    action:
      description: C(create), C(delete), C(replace), C(start) or C(attach).
      type: str
      sample: create
    name:
      description: Name of the resource, or the rule as text.
      type: str
      sample: demo-arm-mid-1
    before:
      description: Description of the resource before the change; empty if it did not exist.
      type: str
      sample: ""
    after:
      description: Description of the resource after the change; empty if it does not exist.
      type: str
      sample: server demo-arm-mid-1 ACTIVE
notes:
  description: Differences from the cluster file that are kept, and why.
  returned: success
  type: list
  elements: str
  sample: ["the rule tcp 12345 from 0.0.0.0/0 in q8s-cluster was not created by Q8S; it is kept"]
"""
