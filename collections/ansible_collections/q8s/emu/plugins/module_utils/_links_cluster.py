# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The links of a cluster with the addresses of its servers: what the filters of links share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _links, _spec


@dataclass(frozen=True)
class LinkedCluster:
    """A cluster, the addresses of its nodes by name, and the rules that apply instead of the file's for now."""

    cluster: _spec.Cluster
    addresses: Mapping[str, str]
    overrides: tuple[_links.Rule, ...]

    @property
    def guests(self) -> frozenset[str]:
        """The names of the workers' nodes."""
        return frozenset(spec.node for spec in self.cluster.servers() if spec.vm_type)

    def matrix(self) -> dict[tuple[str, str], _links.Impairment]:
        """Return the impairment of every direction that has one now."""
        return self.cluster.link_matrix(self.overrides)


def with_links(cluster: Mapping[str, Any], links: Sequence[Mapping[str, Any]], origin: str) -> _spec.Cluster:
    """Return a cluster with these links instead of its own, and with the profiles of its file.

    :param cluster: the cluster in the cluster file's form
    :param links: links in that form
    :param origin: what messages name instead of a file
    :raises SpecError: a link has an error
    """
    profiles = (cluster.get("network") or {}).get("profiles") or {}
    data = {**cluster, "network": {"profiles": profiles, "links": list(links)}}
    data.pop("scenario", None)  # it was written for the cluster's own links
    return _spec.load_mapping(data, origin)


def read_cluster(
    hosts: Mapping[str, Mapping[str, Any]], cluster: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]]
) -> LinkedCluster:
    """Return the cluster.

    :param hosts: variables of the inventory's hosts
    :param cluster: the cluster, as the inventory has it
    :param overrides: links in the cluster file's form
    :raises SpecError: the overrides or the cluster have errors
    """
    wanted = _spec.load_mapping(cluster, "cluster")
    rules = with_links(cluster, overrides, "overrides").links.rules
    # hostvars has no get(): asking it for a host that is not there is an error.
    known = {spec.node: hosts[spec.name] for spec in wanted.servers() if spec.name in hosts}
    addresses = {node: str(values["q8s_private_ip"]) for node, values in known.items() if "q8s_private_ip" in values}
    return LinkedCluster(wanted, addresses, rules if overrides else ())
