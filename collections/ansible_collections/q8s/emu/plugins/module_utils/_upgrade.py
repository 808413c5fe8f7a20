# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions of Kubernetes a cluster may get. Pure functions."""

from __future__ import annotations

import re
from typing import Optional

from ansible_collections.q8s.emu.plugins.module_utils import _spec_fields

# What guests have that record none: the release of Q8S that created them had one version.
UNRECORDED = "1.36.3"


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers, which compare: ``v1.36.3`` -> ``(1, 36, 3)``."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def refusal(has: str, wanted: str, *, upgrades: bool) -> Optional[str]:
    """Return why a cluster does not get another version in this run; None if it does, or has it.

    :param has: the cluster's version, with or without a leading v
    :param wanted: the cluster file's
    :param upgrades: whether this run is an upgrade
    """
    has, wanted = has.lstrip("v"), wanted.lstrip("v")
    if number(has) == number(wanted):
        return None
    edit = f"kubernetes_version is {wanted} in the cluster file, but the cluster has {has}."
    if number(wanted) < number(has):
        return (
            f"{edit} Kubernetes does not support downgrades, and the data in etcd may be of the newer version. "
            f"Set it back to {has}, or destroy the cluster and deploy it again."
        )
    if number(wanted)[:2] > _next_minor(has):
        between = _between(has)
        remedy = f"set it to {between} and run `q8s-run upgrade FILE`, then the same with {wanted}"
        if not between:
            remedy = "first use a release of Q8S that has the next one"
        return f"{edit} Kubernetes cannot skip a minor version: {remedy}."
    if not upgrades:
        return f"{edit} deploy does not upgrade a cluster. Run `q8s-run upgrade FILE`, or set it back to {has}."
    return None


def unfinished(has: str, wanted: str, target: str, *, upgrades: bool) -> Optional[str]:
    """Return why a run must not go on while an upgrade has begun and not ended; None if there is none.

    :param has: the version of the initial control plane
    :param wanted: the cluster file's
    :param target: what the cluster is being upgraded to; empty if no upgrade has begun
    :param upgrades: whether this run is an upgrade
    """
    if not target or (upgrades and number(target) == number(wanted)):
        return refusal(has, wanted, upgrades=upgrades)
    return (
        f"An upgrade of the cluster to {target.lstrip('v')} has begun and not ended, and kubernetes_version is "
        f"{wanted.lstrip('v')} in the cluster file. With {target.lstrip('v')}, `q8s-run upgrade FILE` continues it."
    )


def _next_minor(version: str) -> tuple[int, ...]:
    major, minor = number(version)[:2]
    return (major, minor + 1)


def _between(version: str) -> str:
    """Return the version that this Q8S has of the next minor version; empty if it has none."""
    known = _spec_fields.KUBERNETES_VERSIONS
    return next((one for one in known if number(one)[:2] == _next_minor(version)), "")
