# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say how far a benchmark is, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils._bench_plan import progress_line

DOCUMENTATION = r"""
name: bench_progress
short_description: Say how far a benchmark is, and how long the rest takes
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - The rest takes as long as the pace of what is measured lets expect.
  - Before anything is measured, it is the time on a machine that does nothing else.
options:
  _input:
    description: The C(progress) of a part, as P(q8s.emu.bench_plan#filter) returns it.
    type: dict
    required: true
  elapsed:
    description: Seconds since the first part has begun.
    type: float
    required: true
"""

EXAMPLES = r"""
- name: Show how far the benchmark is
  ansible.builtin.debug:
    msg: "{{ {'done': 9, 'total': 55, 'before': 40, 'left': 200} | q8s.emu.bench_progress(80) }}"
"""

RETURN = r"""
_value:
  description: A line for the user.
  type: str
  sample: 9 of 55 measurements, about 7 min left
"""


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"bench_progress": progress_line}
