# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What drops the packets that a worker host forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _packet_filters

DOCUMENTATION = r"""
name: forward_drops
short_description: List what drops the packets that a worker host forwards
version_added: 0.2.0
author:
  - Q8S contributors (!UNKNOWN)
description:
  - Judges what C(probe.sh) of the role C(qemu_host) printed on a host. A guest behind such a host would not be reachable, because the rules of Q8S
    are rules of iptables, and cannot accept what another table drops.
  - Found are firewalld, base chains of nftables and the chain C(FORWARD) of iptables-legacy. Their policy counts, and the first rule without a
    condition, also after C(counter) and C(log), and in a chain to which they jump.
options:
  _input:
    description: The lines that the script printed.
    type: list
    elements: str
    required: true
  proxied:
    description:
      - Whether the guest reaches the Kubernetes API through the proxy on its host. Then what drops incoming packets counts, too, unless its table has a
        rule that accepts packets from C(virbr0) or to port 6443.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Stop on a host whose firewall drops the guest's traffic
  ansible.builtin.assert:
    that: probe.stdout_lines | q8s.emu.forward_drops == []
    fail_msg: "{{ probe.stdout_lines | q8s.emu.forward_drops | join('; ') }}"
"""

RETURN = r"""
_value:
  description: What was found, each in a clause; empty if nothing drops what is forwarded.
  type: list
  elements: str
  sample: ["the chain forward of nftables table inet filter drops what is forwarded"]
"""


def forward_drops(lines: Iterable[str], proxied: bool = False) -> list[str]:
    """Return what was found. See DOCUMENTATION."""
    return _packet_filters.forward_drops(lines, proxied)


class FilterModule:
    """Ansible's entry point: filter names and functions."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"forward_drops": forward_drops}
