# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers and server groups of a project. Part of the cloud client, see ``_cloud``."""

from __future__ import annotations

import base64
import datetime
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, TypeVar

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects, _plan_servers
from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import CloudError, doing
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import Network
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server, ServerGroup
from ansible_collections.q8s.emu.plugins.module_utils._cloud_requests import map_concurrently, raise_first
from ansible_collections.q8s.emu.plugins.module_utils._server_requests import Request
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec
from ansible_collections.q8s.emu.plugins.module_utils._text import first_line

_POLL_SECONDS = 1.0
_ROUNDS = 3
_SECONDS_BETWEEN_DELETES = 10.0
# A request without an answer may still be in work: a proxy before Nova gives up after a minute, as a rule.
_SECONDS_UNTIL_REPEATED = 60.0
_SECONDS_WITHOUT_ANSWER = 600.0

T = TypeVar("T")


@dataclass(frozen=True)
class Needs:
    """Ids of the resources that every new server of a cluster uses."""

    image: str
    network: Network
    flavors: Mapping[str, str]
    groups: tuple[str, ...]
    server_group: str = ""  # that new servers join, if any


class Patience:
    """A deadline that every change moves: what a wait is for may be large, or the cloud slow, as long as something happens."""

    def __init__(self, seconds: float) -> None:
        """Wait for ``seconds`` after the last change."""
        self.seconds = seconds
        self._seen: Any = None
        self._end = time.monotonic() + seconds

    def is_over(self, seen: Any) -> bool:
        """Return whether what is seen has been the same for longer than that."""
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._end = seen, now + self.seconds
        return now > self._end

    def read(self, function: Callable[[], T]) -> Optional[T]:
        """Return what a function reads, or None while the cloud does not answer.

        :raises CloudError: the function failed for good, or the cloud has not answered until the deadline
        """
        try:
            return function()
        except CloudError as error:
            if not error.temporary or time.monotonic() > self._end:
                raise
            return None


class Servers:
    """The servers of the project."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def list_servers(self) -> list[Server]:
        """Return every server of the project."""
        with doing("list the servers"):
            return [_server(found) for found in self._os.compute.servers(details=True)]

    def create_servers(
        self,
        cluster: Cluster,
        needs: Needs,
        requests: Sequence[Request],
        user_data: Callable[[ServerSpec], tuple[str, Mapping[str, str]]],
        ports: Mapping[str, str],
    ) -> dict[str, CloudError]:
        """Create all servers concurrently. Return the failures by server name; the caller waits for the rest.

        After a temporary failure, the servers are listed before the rest is requested again: a cloud may create a server
        and fail to say so. It may also create it later: after a request without an answer, they are listed for a while.

        :param user_data: returns user-data and metadata for the servers of a request, of which it gets the first
        :param ports: ids of the ports that Q8S created, by server name; Nova creates the port of every other server
        """

        def create(request: Request) -> None:
            text, metadata = user_data(request.specs[0])
            with doing(f"create {request}"):
                self._os.compute.create_server(
                    name=request.name,
                    image_id=needs.image,
                    flavor_id=needs.flavors[request.specs[0].flavor],
                    key_name=_cloud_objects.keypair_name(cluster.cluster_name),
                    user_data=base64.b64encode(text.encode()).decode(),
                    metadata=dict(metadata),
                    **_network_arguments(cluster, needs, request, ports.get(request.name)),
                )

        failed: dict[str, CloudError] = {}
        pending = list(requests)
        for number in range(1, _ROUNDS + 1):
            errors = [(q, r) for q, r in zip(pending, map_concurrently(create, pending)) if isinstance(r, CloudError)]
            failed.update({spec.name: error for request, error in errors for spec in request.specs})
            pending = [request for request, error in errors if error.temporary]
            expected = {spec.name for request, error in errors if error.unanswered for spec in request.specs}
            is_last = number == _ROUNDS
            if not pending or (is_last and not expected):
                break
            there = self._wait_until_listed(cluster, expected, _POLL_SECONDS * 2**number)
            pending = [part for request in pending for part in request.without(there)]
            again = set() if is_last else {spec.name for request in pending for spec in request.specs}
            failed = {name: error for name, error in failed.items() if name not in there | again}
        return failed

    def _wait_until_listed(self, cluster: Cluster, expected: Collection[str], pause: float) -> set[str]:
        """List the cluster's servers until all expected ones are there, but not for long. Return the names of all."""
        waited = 0.0
        patience = Patience(_SECONDS_WITHOUT_ANSWER)
        while True:
            time.sleep(pause)
            listed = patience.read(self.list_servers)
            if listed is None:
                continue  # without an answer, nobody knows what has been created
            waited += pause
            there = {s.name for s in listed if _cloud_objects.is_ours(s, cluster.cluster_name) and not s.deleting}
            if there.issuperset(expected) or waited >= _SECONDS_UNTIL_REPEATED:
                return there

    def delete_servers(self, servers: Sequence[Server], timeout: float) -> dict[str, str]:
        """Delete servers concurrently and wait until the last is gone. Repeat the request for a server that stays.

        Return by id of each server that is left the reason in one line: the cloud refused twice to delete it, or no further
        server was gone within ``timeout`` seconds.
        """

        def delete(server: Server) -> None:
            with doing(f"remove the server {server.name}"):
                self._os.compute.delete_server(server.id, ignore_missing=True)

        left = list(servers)
        why: dict[str, CloudError] = {}
        refused: dict[str, str] = {}
        patience = Patience(timeout)
        asked = -_SECONDS_BETWEEN_DELETES
        while left:
            if time.monotonic() - asked >= _SECONDS_BETWEEN_DELETES:
                asked = time.monotonic()
                results = map_concurrently(delete, left)
                before, why = why, {s.id: r for s, r in zip(left, results) if isinstance(r, CloudError)}
                for server in left:
                    error = why.get(server.id)
                    if error and not error.temporary and str(error) == str(before.get(server.id)):
                        refused[server.id] = f"server {server.name}: not removed ({first_line(error)})"
            ids = {server.id for server in left} - set(refused)
            listed = patience.read(self.list_servers)
            if listed is None:
                time.sleep(_POLL_SECONDS)
                continue
            left = [server for server in listed if server.id in ids and server.status != "DELETED"]
            if left and patience.is_over({server.id for server in left}):
                reasons = {s.id: first_line(why.get(s.id, "")) or s.fault or s.status for s in left}
                late = {s.id: f"server {s.name}: not removed within {timeout:.0f} s ({reasons[s.id]})" for s in left}
                return {**refused, **late}
            if left:
                time.sleep(_POLL_SECONDS)
        return refused

    def start_servers(self, servers: Sequence[Server]) -> dict[str, CloudError]:
        """Start servers that are shut off. Return the failures by server name."""

        def start(server: Server) -> None:
            with doing(f"start the server {server.name}"):
                self._os.compute.start_server(server.id)

        results = map_concurrently(start, servers)
        return {s.name: result for s, result in zip(servers, results) if isinstance(result, CloudError)}

    def set_metadata(self, servers: Sequence[Server], metadata: Mapping[str, str]) -> None:
        """Set values in the metadata of servers. Others stay."""

        def update(server: Server) -> None:
            with doing(f"set the metadata of the server {server.name}"):
                self._os.compute.set_server_metadata(server.id, **metadata)

        raise_first(map_concurrently(update, servers))

    def wait_until_started(self, server: Server, deadline: float) -> None:
        """Wait until a started server, which Q8S did not create, is ACTIVE.

        :raises CloudError: it is not ACTIVE after ``deadline`` seconds, or is in ERROR
        """

        def look_up() -> Any:
            with doing(f"look up the server {server.name}"):
                return self._os.compute.get_server(server.id)

        patience = Patience(deadline)
        while True:
            found = patience.read(look_up)
            if found is None:
                time.sleep(_POLL_SECONDS)
                continue
            if found.status == "ACTIVE":
                return
            if found.status == "ERROR" or patience.is_over(None):
                fault = (found.fault or {}).get("message", "")
                raise CloudError(
                    f"Failed to start the server {server.name}: it is {found.status}" + (f" ({fault})" if fault else "")
                )
            time.sleep(_POLL_SECONDS)

    def wait_until_active(
        self, cluster: Cluster, names: Iterable[str], timeout: float
    ) -> tuple[list[Server], list[Server], dict[str, str]]:
        """Poll until each of the cluster's named servers is ACTIVE with an address, or in ERROR.

        The wait ends when none of them has changed its state for ``timeout`` seconds.
        Return the servers that are ready, those in ERROR, and by name of each other server the reason in one line.
        """
        wanted = set(names)
        patience = Patience(timeout)
        while True:
            begin = time.monotonic()
            # List without details while servers are built: for details, Nova queries Neutron about every server.
            listed_building = patience.read(self._list_building)
            building = wanted & (listed_building or set())
            over = bool(building) and patience.is_over(building)
            listed = None
            if over or (listed_building is not None and not building):
                listed = patience.read(self.list_servers)
            if listed is not None:
                servers = [s for s in listed if s.name in wanted and _cloud_objects.is_ours(s, cluster.cluster_name)]
                errors = [s for s in servers if s.status == "ERROR"]
                ready = [s for s in servers if s.status == "ACTIVE" and s.address(cluster.remote_ip_prefix)]
                waiting = sorted(wanted - {s.name for s in (*ready, *errors)})
                if not waiting:
                    return ready, errors, {}
                over = over or patience.is_over({(s.name, s.status, s.addresses) for s in servers})
                if over:
                    unseen = sum(not server.name for server in listed)
                    return ready, errors, {name: _late(name, servers, unseen, cluster, timeout) for name in waiting}
            # Poll a slow cloud less often.
            time.sleep(max(_POLL_SECONDS, time.monotonic() - begin))

    def _list_building(self) -> set[str]:
        """Return the names of the project's servers that are in BUILD."""
        with doing("list the servers"):
            return {found.name for found in self._os.compute.servers(details=False, status="BUILD")}


class ServerGroups:
    """The server groups of the project."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection."""
        self._os = connection

    def find_server_group(self, name: str) -> Optional[ServerGroup]:
        """Return the server group of this name, or None."""
        from openstack.exceptions import ForbiddenException, NotFoundException

        with doing(f"look up the server group {name}"):
            try:
                listed = list(self._os.compute.server_groups())
            except (ForbiddenException, NotFoundException):
                return None  # the cloud has no server groups: a file that asks for one fails when it is created
        for group in listed:
            if group.name == name:
                policy = group.policy or next(iter(group.policies or []), "")
                return ServerGroup(group.id, group.name, policy, tuple(group.member_ids or ()))
        return None

    def create_server_group(self, name: str) -> str:
        """Create a group whose servers Nova spreads over machines as far as it can. Return its id."""
        with doing(f"create the server group {name}"):
            return str(self._os.compute.create_server_group(name=name, policy=_plan_servers.SPREAD).id)

    def delete_server_group(self, group: ServerGroup) -> None:
        """Delete a server group. A group that no longer exists is no error."""
        with doing(f"remove the server group {group.name}"):
            self._os.compute.delete_server_group(group.id, ignore_missing=True)


def _network_arguments(cluster: Cluster, needs: Needs, request: Request, port: Optional[str]) -> dict[str, Any]:
    """Return the part of a request for servers that depends on their network, number and server group."""
    subnet = needs.network.subnet(cluster.remote_ip_prefix)
    arguments: dict[str, Any] = {"networks": [{"port": port} if port else {"uuid": needs.network.id}]}
    if not port:
        arguments["security_groups"] = [{"name": group} for group in needs.groups]
    if needs.server_group:
        arguments["scheduler_hints"] = {"group": needs.server_group}
    if len(request.specs) > 1:
        arguments["min_count"] = arguments["max_count"] = len(request.specs)
    if subnet is not None and not subnet.dhcp:
        arguments["config_drive"] = True  # the only source of a server's address
    return arguments


def _late(name: str, servers: Sequence[Server], unseen: int, cluster: Cluster, timeout: float) -> str:
    """Return why a server is not ready, in one line.

    :param unseen: number of servers that the cloud lists without a name
    """
    found = next((s for s in servers if s.name == name), None)
    if found is None and unseen:
        return f"server {name}: {_plan_servers.unseen_problem(unseen)}"
    if found is None:
        return f"server {name}: it was deleted while Q8S waited for it"
    if found.status == "ACTIVE":
        have = ", ".join(found.addresses) or "none"
        return f"server {name}: no address in {cluster.remote_ip_prefix} after {timeout:.0f} s (it has {have})"
    return f"server {name}: still {found.status}; no server changed its state for {timeout:.0f} s"


def _server(found: Any) -> Server:
    addresses: dict[str, list[str]] = {"fixed": [], "floating": []}
    for listed in (found.addresses or {}).values():
        for address in listed:
            if address.get("version") == 4:
                addresses.setdefault(address.get("OS-EXT-IPS:type", "fixed"), []).append(str(address["addr"]))
    fault = (found.fault or {}).get("message", "") if found.status == "ERROR" else ""
    age = 0.0
    if found.created_at:
        created = datetime.datetime.fromisoformat(str(found.created_at).replace("Z", "+00:00"))
        age = (datetime.datetime.now(datetime.timezone.utc) - created).total_seconds()
    return Server(
        found.id,
        found.name or "",
        found.status,
        tuple(addresses["fixed"]),
        dict(found.metadata or {}),
        str(fault),
        age,
        found.task_state == "deleting",
        tuple(addresses["floating"]),
        str(found.availability_zone or ""),
        int((found.flavor or {}).get("vcpus") or 0),
        int((found.flavor or {}).get("ram") or 0),
        str((found.flavor or {}).get("original_name") or ""),
        bool(found.launched_at),
        str(found.created_at or ""),
        bool(found.is_locked),
        str(found.user_id or ""),
        str(getattr(found.image, "id", None) or ""),
        tuple(found.addresses or ()),
        int((found.flavor or {}).get("disk") or 0),
    )
