# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Describe when certificates end, and when they end after a renewal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _certificates

DOCUMENTATION = r"""
name: renewed_certificates
short_description: Describe when certificates end, and when they end after a renewal
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Groups certificates by the days on which they end.
options:
  _input:
    description: When each certificate ends, by name, as P(q8s.emu.certificates#filter) returns it.
    type: dict
    required: true
  renewed:
    description:
      - When each ends after the renewal. Those that were not renewed are left out.
      - Without it, the text says when all of them end.
    type: dict
"""

EXAMPLES = r"""
- name: Show what was renewed
  ansible.builtin.debug:
    msg: "{{ before.ends | q8s.emu.renewed_certificates(after.ends) }}"
"""

RETURN = r"""
_value:
  description: A text for each pair of days.
  type: list
  elements: str
  sample: ["admin.conf, apiserver: ended on 2026-12-10, now on 2027-11-27"]
"""


def renewed_certificates(ends: Mapping[str, str], renewed: Optional[Mapping[str, str]] = None) -> list[str]:
    """Return the texts. See DOCUMENTATION."""
    return _certificates.describe_ends(ends, renewed or {})


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"renewed_certificates": renewed_certificates}
