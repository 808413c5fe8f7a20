# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that touches openstacksdk: reads and changes what a cluster has in a cloud.

Every failure is a CloudError that says what was tried, why it failed and what to do.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, TypeVar, Union

from ansible_collections.q8s.emu.plugins.module_utils import _plan
from ansible_collections.q8s.emu.plugins.module_utils._plan import Findings, Flavor, Rule, Server
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec

WORKERS = 8
POLL_SECONDS = 1.0
GROUP = "q8s-cluster"

T = TypeVar("T")


class CloudError(Exception):
    """The cloud refused or did not answer. ``str()`` is one message for people, with a hint line where one helps."""


def _why(error: Exception) -> tuple[str, str]:
    """The reason and a hint, in words."""
    name = type(error).__name__
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    details = getattr(error, "details", None)
    text = str(details or getattr(error, "message", None) or error).strip().splitlines()
    reason = text[0] if text else name
    if name == "ConfigException" or ("was not found" in reason and "Cloud" in reason):
        return reason, "set OS_CLOUD to a cloud of clouds.yaml (OS_CLIENT_CONFIG_FILE names the file)"
    if name in ("MissingRequiredOptions", "MissingAuthPlugin"):
        return f"no credentials: {reason}", "set OS_CLOUD to a cloud of clouds.yaml, or source your openrc file"
    if status == 401:
        return f"the cloud does not accept these credentials ({reason})", "check or renew the application credential"
    if status == 403 and "uota" in reason:
        return reason, "remove servers that are not needed, ask for fewer workers, or ask for more quota"
    if status == 403:
        return reason, "the role of this user does not allow it"
    if name in ("ConnectFailure", "ConnectTimeout", "ConnectionError", "SSLFailure", "UnknownConnectionError"):
        # requests tells the same story three times; the address and the system's reason are enough.
        where, cause = (
            re.search(r"https?://[^\s:/]+(:[0-9]+)?", reason),
            re.search(r"\[Errno -?[0-9]+\] ([^'\")]+)", reason),
        )
        short = f"{where.group(0)}: {cause.group(1)}" if where and cause else reason
        return (
            f"the cloud cannot be reached ({short})",
            "check auth_url in clouds.yaml, the network, and that the cloud runs",
        )
    if name in ("EndpointNotFound", "NotSupported", "ServiceDisabledException"):
        return reason, "check region_name and interface in clouds.yaml"
    return (f"{reason} (HTTP {status})" if status else reason), ""


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Turn every failure of the cloud inside into a CloudError that says what was tried."""
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    try:
        yield
    except (SDKException, ClientException, OSError) as error:
        reason, hint = _why(error)
        raise CloudError(f"Failed to {what}: {reason}" + (f"\nhint: {hint}" if hint else "")) from None


def _parallel(function: Callable[[Any], T], items: Iterable[Any]) -> list[Union[T, CloudError]]:
    """The results in the order of the items; a failure is a result, so that one does not hide the others."""

    def one(item: Any) -> Union[T, CloudError]:
        try:
            return function(item)
        except CloudError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, items))


def _raise_first(results: Iterable[Any]) -> None:
    errors = [str(result) for result in results if isinstance(result, CloudError)]
    if errors:
        more = f"\n({len(errors) - 1} more like it)" if len(errors) > 1 else ""
        raise CloudError(errors[0] + more)


@dataclass(frozen=True)
class Group:
    """The cluster's security group as the cloud has it; a rule of another form than Q8S's is text."""

    id: str
    rules: Mapping[str, Union[Rule, str]]


class Cloud:
    """A connection to one project."""

    def __init__(self, name: Optional[str] = None) -> None:
        """Log in.

        :param name: a cloud of clouds.yaml; None leaves the choice to the OS_* variables
        :raises CloudError: there is no such cloud, or it does not let us in
        """
        try:
            import openstack
        except ImportError as error:
            hint = "run make setup, and ansible from .venv/bin"
            raise CloudError(f"Failed to use the cloud: openstacksdk is missing ({error})\nhint: {hint}") from None
        with _doing("log in to the cloud" + (f" {name}" if name else "")):
            # Deadlines: a cloud that does not answer is an error, not a hang.
            self._os: Any = openstack.connect(cloud=name, app_name="q8s", api_timeout=60)
            self._os.session.get_token()

    # -- reading --

    def servers(self) -> list[Server]:
        """Every server of the project."""
        with _doing("list the servers"):
            return [_server(found) for found in self._os.compute.servers(details=True)]

    def findings(self, cluster: Cluster) -> Findings:
        """What the cloud has of all that the cluster file names."""
        with _doing("look up the image, flavors, network and limits"):
            images = self._images(cluster.default_image_name)
            flavors = {}
            wanted = {spec.flavor for spec in cluster.servers()}
            for found in self._os.compute.flavors():
                for key in {found.name, found.id} & wanted:
                    flavors[key] = Flavor(found.name, found.vcpus, found.ram)
            networks = self._networks(cluster.private_network_id)
            subnets = []
            if len(networks) == 1:
                listed = self._os.network.subnets(network_id=networks[0], ip_version=4)
                subnets = sorted(subnet.cidr for subnet in listed)
            groups = {key for group in self._os.network.security_groups() for key in (group.name, group.id)}
            missing = tuple(name for name in cluster.security_groups if name != GROUP and name not in groups)
            absolute = self._os.compute.get_limits().absolute
        limits = {"instances": absolute.instances, "cores": absolute.total_cores, "ram": absolute.total_ram}
        used = {
            "instances": absolute.instances_used,
            "cores": absolute.total_cores_used,
            "ram": absolute.total_ram_used,
        }
        return Findings(
            len(images),
            flavors,
            len(networks),
            tuple(subnets),
            missing,
            {key: -1 if value is None else int(value) for key, value in limits.items()},
            {key: int(value or 0) for key, value in used.items()},
        )

    def _images(self, name: str) -> list[str]:
        """Ids of active images of that name or id."""
        found = [image.id for image in self._os.image.images(name=name, status="active")]
        if not found:
            image = self._os.image.find_image(name, ignore_missing=True)
            found = [image.id] if image is not None and image.id == name and image.status == "active" else []
        return found

    def _networks(self, name: str) -> list[str]:
        """Ids of networks of that id, of that subnet id, or of that name."""
        networks = list(self._os.network.networks())
        by_id = [network.id for network in networks if network.id == name]
        if not by_id:
            by_id = [subnet.network_id for subnet in self._os.network.subnets() if subnet.id == name]
        return by_id or [network.id for network in networks if network.name == name]

    # -- key pair --

    def keypair(self, name: str) -> Optional[str]:
        """The public key of that name, or None."""
        with _doing(f"look up the key pair {name}"):
            found = self._os.compute.find_keypair(name, ignore_missing=True)
            return None if found is None else str(found.public_key)

    def make_keypair(self, name: str, public_key: str) -> None:
        """Upload a public key."""
        with _doing(f"upload the key pair {name}"):
            self._os.compute.create_keypair(name=name, public_key=public_key)

    def remove_keypair(self, name: str) -> None:
        """Remove a key pair; none is fine."""
        with _doing(f"remove the key pair {name}"):
            self._os.compute.delete_keypair(name, ignore_missing=True)

    # -- security group --

    def group(self, cluster_name: str) -> Optional[Group]:
        """The cluster's security group, known by its description, or None."""
        with _doing(f"look up the security group {GROUP}"):
            description = _plan.group_description(cluster_name)
            for found in self._os.network.security_groups(name=GROUP, description=description):
                rules = self._os.network.security_group_rules(security_group_id=found.id, direction="ingress")
                return Group(found.id, {rule.id: _rule(rule, found.id) for rule in rules})
        return None

    def make_group(self, cluster_name: str) -> Group:
        """Make the cluster's security group, without rules of ours."""
        with _doing(f"make the security group {GROUP}"):
            description = _plan.group_description(cluster_name)
            made = self._os.network.create_security_group(name=GROUP, description=description)
            return Group(made.id, {})

    def change_rules(self, group: Group, add: Sequence[Rule], remove: Sequence[str]) -> None:
        """Add and remove rules; rules are added first, so that no traffic is refused in between."""

        def make(rule: Rule) -> None:
            source = {"remote_ip_prefix": rule.source} if rule.source else {"remote_group_id": group.id}
            with _doing(f"add the rule {rule} to the security group {GROUP}"):
                self._os.network.create_security_group_rule(
                    security_group_id=group.id,
                    direction="ingress",
                    ether_type="IPv4",
                    protocol=rule.protocol,
                    port_range_min=rule.port_min,
                    port_range_max=rule.port_max,
                    **source,
                )

        def delete(rule_id: str) -> None:
            with _doing(f"remove a rule from the security group {GROUP}"):
                self._os.network.delete_security_group_rule(rule_id, ignore_missing=True)

        _raise_first(_parallel(make, add))
        _raise_first(_parallel(delete, remove))

    def remove_group(self, group: Group, deadline: float = 60) -> None:
        """Remove the group. Neutron refuses while a port of a server that is going still has it: ask again."""
        from openstack.exceptions import ConflictException

        end = time.monotonic() + deadline
        with _doing(f"remove the security group {GROUP}"):
            while True:
                try:
                    self._os.network.delete_security_group(group.id, ignore_missing=True)
                    return
                except ConflictException:
                    if time.monotonic() > end:
                        raise
                    time.sleep(POLL_SECONDS)

    def has_group(self, server: Server, group: Group) -> bool:
        """Whether every port of the server is in the group."""
        with _doing(f"look up the ports of {server.name}"):
            ports = list(self._os.network.ports(device_id=server.id))
            return bool(ports) and all(group.id in port.security_group_ids for port in ports)

    def join_group(self, server: Server, group: Group, member: bool) -> bool:
        """Put every port of the server into the group, or take it out; whether anything changed."""
        changed = False
        with _doing(f"change the security groups of {server.name}"):
            for port in self._os.network.ports(device_id=server.id):
                groups = list(port.security_group_ids or [])
                if (group.id in groups) != member:
                    groups = [*groups, group.id] if member else [g for g in groups if g != group.id]
                    self._os.network.update_port(port, security_groups=groups)
                    changed = True
        return changed

    # -- servers --

    def make_servers(
        self,
        cluster: Cluster,
        specs: Sequence[ServerSpec],
        user_data: Callable[[ServerSpec], tuple[str, Mapping[str, str]]],
    ) -> list[str]:
        """Ask for all servers at once; gives the failures, so that those which were made are waited for.

        :param user_data: makes a server's user-data and metadata, called once for each
        """
        if not specs:
            return []
        with _doing("look up the image, flavors, network and security groups"):
            images, networks = self._images(cluster.default_image_name), self._networks(cluster.private_network_id)
            flavors = {key: flavor.id for flavor in self._os.compute.flavors() for key in (flavor.id, flavor.name)}
            groups = {key: g.id for g in self._os.network.security_groups() for key in (g.id, g.name)}
        group = self.group(cluster.cluster_name)
        missing = [spec.flavor for spec in specs if spec.flavor not in flavors]
        missing += [name for name in cluster.security_groups if name not in groups]
        if len(images) != 1 or len(networks) != 1 or missing or group is None:
            raise CloudError(
                "Failed to make the servers: the image, a flavor, the network or a security group is missing"
                "\nhint: run q8s.emu.cloud_preflight, which names it, and q8s.emu.security_group before q8s.emu.servers"
            )
        group_ids = [group.id if name == GROUP else groups[name] for name in cluster.security_groups]

        def make(spec: ServerSpec) -> None:
            text, metadata = user_data(spec)
            with _doing(f"make the server {spec.name}"):
                self._os.compute.create_server(
                    name=spec.name,
                    image_id=images[0],
                    flavor_id=flavors[spec.flavor],
                    networks=[{"uuid": networks[0]}],
                    key_name=_plan.keypair_name(cluster.cluster_name),
                    security_groups=[{"name": group_id} for group_id in group_ids],
                    user_data=base64.b64encode(text.encode()).decode(),
                    metadata=dict(metadata),
                )

        return [str(result) for result in _parallel(make, specs) if isinstance(result, CloudError)]

    def remove_servers(self, servers: Sequence[Server], deadline: float) -> None:
        """Remove servers, all requests at once, and wait until the last is gone.

        :raises CloudError: the cloud refuses, or some are left after ``deadline`` seconds
        """

        def remove(server: Server) -> None:
            with _doing(f"remove the server {server.name}"):
                self._os.compute.delete_server(server.id, ignore_missing=True)

        _raise_first(_parallel(remove, servers))
        ids = {server.id for server in servers}
        end = time.monotonic() + deadline
        while ids:
            left = [server for server in self.servers() if server.id in ids and server.status != "DELETED"]
            if not left:
                return
            if time.monotonic() > end:
                names = ", ".join(f"{server.name} ({server.status})" for server in left)
                raise CloudError(f"Failed to remove servers: after {deadline:.0f} s there are still {names}")
            time.sleep(POLL_SECONDS)

    def start_servers(self, servers: Sequence[Server]) -> None:
        """Power on servers that are off."""

        def start(server: Server) -> None:
            with _doing(f"start the server {server.name}"):
                self._os.compute.start_server(server.id)

        _raise_first(_parallel(start, servers))

    def wait_active(self, cluster: Cluster, names: Iterable[str], deadline: float) -> tuple[list[Server], list[str]]:
        """Poll until each of the cluster's named servers is ACTIVE with an address, or in ERROR.

        Gives the servers and, for each that did not come, a line that says why.
        """
        wanted = set(names)
        end = time.monotonic() + deadline
        while True:
            servers = [s for s in self.servers() if s.name in wanted and _plan.is_ours(s, cluster.cluster_name)]
            failed = [f"{s.name}: {s.fault or 'ERROR without a reason'}" for s in servers if s.status == "ERROR"]
            ready = {s.name for s in servers if s.status == "ACTIVE" and s.address(cluster.remote_ip_prefix)}
            states = {s.name: s.status for s in servers}
            waiting = sorted(wanted - ready - {s.name for s in servers if s.status == "ERROR"})
            if not waiting:
                return servers, failed
            if time.monotonic() > end:
                late = []
                for name in waiting:
                    found = next((s for s in servers if s.name == name), None)
                    where = (
                        f"with no address in {cluster.remote_ip_prefix} " if found and found.status == "ACTIVE" else ""
                    )
                    late.append(f"{name}: {states.get(name, 'absent')} {where}after {deadline:.0f} s")
                return servers, failed + late
            time.sleep(POLL_SECONDS)


def _server(found: Any) -> Server:
    addresses = []
    for listed in (found.addresses or {}).values():
        for address in listed:
            if address.get("version") == 4 and address.get("OS-EXT-IPS:type", "fixed") == "fixed":
                addresses.append(str(address["addr"]))
    fault = (found.fault or {}).get("message", "") if found.status == "ERROR" else ""
    return Server(found.id, found.name, found.status, tuple(addresses), dict(found.metadata or {}), str(fault))


def _rule(rule: Any, group_id: str) -> Union[Rule, str]:
    """A rule in our form, or text for one that has another form."""
    source = rule.remote_ip_prefix or ""
    if rule.ether_type != "IPv4" or not rule.protocol or (rule.remote_group_id or group_id) != group_id:
        source = source or rule.remote_group_id or "anywhere"
        return f"{rule.ether_type} {rule.protocol or 'any protocol'} from {source}"
    if not source and not rule.remote_group_id:
        source = "0.0.0.0/0"
    return Rule(rule.protocol, rule.port_range_min, rule.port_range_max, source)
