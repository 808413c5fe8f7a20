# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the filters share: errors of the cluster file as errors of a filter, and variables of hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.module_utils import _spec


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raise every error of the cluster file in this context as an AnsibleFilterError.

    :param what: what the filter reads, for the message: the cluster, or its links
    """
    try:
        yield
    except _spec.SpecError as error:
        raise AnsibleFilterError(f"Failed to read the {what}:\n{error}") from error


def variables_of(
    hosts: Mapping[str, Mapping[str, Any]], names: Optional[Iterable[str]] = None
) -> dict[str, Mapping[str, Any]]:
    """Return the variables of hosts by name, as a dictionary.

    ``hostvars`` has no get(): to read a host that it does not have is an error.

    :param names: the hosts to return, of which some may not exist; None for all
    """
    return {str(name): hosts[name] for name in (hosts if names is None else names) if name in hosts}
