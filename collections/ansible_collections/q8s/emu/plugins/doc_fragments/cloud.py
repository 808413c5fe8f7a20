# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that all cloud modules have."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation shared by the cloud modules."""

    DOCUMENTATION = r"""
options:
  cluster:
    description:
      - The cluster, in the form of a cluster file. The inventory plugin C(q8s_openstack) gives it as C(q8s_cluster).
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
