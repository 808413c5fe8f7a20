# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tags of the cluster's security group: who runs, and which server has the CA and etcd. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

_RUN = "q8s-run:"
_RUN_SECONDS = 3600


def run_owner_tags(tags: Sequence[str], owner: str, now: int) -> tuple[tuple[str, ...], str]:
    """Return the group's tags with the owner of a run that starts, and a message about others that started one, or nothing.

    OpenStack has no locks, so this is advisory: anyone who starts another run within the next hour sees a warning. Tags that
    are not Q8S's are kept.

    :param owner: who starts the run, such as user@host
    :param now: seconds since 1970
    """
    owner = owner[:40]  # a tag has at most 60 characters, in older releases of Neutron
    others = []
    for tag in tags:
        when, _colon, who = tag.removeprefix(_RUN).partition(":")
        if tag.startswith(_RUN) and when.isdigit() and who != owner and now - int(when) < _RUN_SECONDS:
            minutes = max(now - int(when), 0) // 60
            others.append(f"{who} started a run on this cluster {minutes} min ago")
    kept = [tag for tag in tags if not tag.startswith(_RUN)]
    return (*kept, f"{_RUN}{now}:{owner}"), "; ".join(others)


_ETCD = "q8s-etcd:"


def etcd_server(tags: Sequence[str]) -> str:
    """Return the id of the server that holds the cluster's CA and etcd, as the group's tags record it; empty if none does."""
    return next((tag[len(_ETCD) :] for tag in tags if tag.startswith(_ETCD)), "")


def record_etcd_server(tags: Sequence[str], server_id: str) -> tuple[str, ...]:
    """Return the group's tags with another record of the server that holds the cluster's CA and etcd; empty for none."""
    kept = [tag for tag in tags if not tag.startswith(_ETCD)]
    return (*kept, *([_ETCD + server_id] if server_id else []))
