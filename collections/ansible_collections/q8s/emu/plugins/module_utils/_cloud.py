# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only file that calls openstacksdk: reads and changes what a cluster has in a cloud.

Every failure is a CloudError that says what was tried, why it failed and what to do.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

from ansible_collections.q8s.emu.plugins.module_utils import _plan, _state
from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import (
    CloudError,
    check_clouds_file,
    doing,
    parallel,
    raise_first,
    retry_policy,
    together,
)
from ansible_collections.q8s.emu.plugins.module_utils._fit import Findings, Flavor, Image, Network, Subnet, Usage
from ansible_collections.q8s.emu.plugins.module_utils._plan import (
    GROUP,
    Existing,
    FloatingIp,
    Group,
    GroupRule,
    Plan,
    Port,
    Request,
    Rule,
    Server,
    ServerGroup,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec

POLL_SECONDS = 1.0
_API_SECONDS = 60.0
_ROUNDS = 3
_SECONDS_BETWEEN_DELETES = 10.0

__all__ = ["Cloud", "CloudError", "Needs"]


@dataclass(frozen=True)
class Needs:
    """Ids of what every new server of a cluster is made from."""

    image: str
    network: Network
    flavors: Mapping[str, str]
    groups: tuple[str, ...]
    server_group: str = ""  # that new servers join, if any


def login(name: Optional[str] = None) -> str:
    """Return the fingerprint of the credentials that :class:`Cloud` would use. The cloud is not asked.

    :param name: a cloud of clouds.yaml; None leaves the choice to the OS_* variables
    :raises CloudError: there are no such credentials
    """
    with doing(_log_in(name)):
        config = _config(name)
        return _state.fingerprint(config.config.get("auth") or {}, config.get_region_name() or "")


def _log_in(name: Optional[str]) -> str:
    return "log in to the cloud" + (f" {name}" if name else "")


def _config(name: Optional[str]) -> Any:
    """Return what clouds.yaml and the OS_* variables say.

    :raises CloudError: a file is not as openstacksdk needs it; by itself it ignores the file, or fails somewhere inside
    """
    from openstack.config import loader

    # those that are not in the current folder come first only if their variable is set
    for variable, files in (
        ("OS_CLIENT_CONFIG_FILE", loader.CONFIG_FILES),
        ("OS_CLIENT_SECURE_FILE", loader.SECURE_FILES),
    ):
        named = os.environ.get(variable)
        for path in [named] if named else files:
            if os.path.isfile(path):
                check_clouds_file(path)
                break
    try:
        return loader.OpenStackConfig().get_one(cloud=name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CloudError(
            f"Failed to {_log_in(name)}: clouds.yaml or an OS_* variable has a value of the wrong type ({error})"
            "\nhint: compare clouds.yaml with the one of your cloud's dashboard"
        ) from None


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
        with doing(_log_in(name)):
            _config(name)
            self._os: Any = openstack.connect(cloud=name, app_name="q8s")
            # A deadline, if clouds.yaml has no api_timeout: a cloud that does not answer is an error, not a hang.
            self._os.session.timeout = self._os.session.timeout or _API_SECONDS
            adapters: Iterable[Any] = self._os.session.session.adapters.values()
            for adapter in adapters:
                adapter.max_retries = retry_policy()
            self._os.session.get_token()

    def project(self) -> _state.Project:
        """Return the project that the credentials log in to.

        The region is the one in use: the first of the cloud, where the credentials name none.
        """
        with doing("look up the project"):
            config = self._os.config
            auth = config.config.get("auth") or {}
            named = config.get_region_name() or ""
            access = self._os.session.auth.get_access(self._os.session)
            endpoints = [
                found for service in access.service_catalog.catalog for found in service.get("endpoints") or []
            ]
            regions = (found.get("region_id") or found.get("region") for found in endpoints)
            first = next((str(region) for region in regions if region), "")
            return _state.Project(
                _state.normalized(str(auth.get("auth_url") or "")),
                self._project(),
                named or first,
                _state.fingerprint(auth, named),
            )

    # -- reading --

    def servers(self) -> list[Server]:
        """Every server of the project."""
        with doing("list the servers"):
            return [_server(found) for found in self._os.compute.servers(details=True)]

    def clusters(self) -> list[_plan.FoundCluster]:
        """Return the clusters that Q8S deployed in this project, by what their servers and security groups say."""
        with doing("list the servers and security groups"):
            servers, groups = together(
                self.servers, lambda: list(self._os.network.security_groups(project_id=self._project(), name=GROUP))
            )
            return _plan.found_clusters(servers, [group.description or "" for group in groups])

    def ports(self, cluster_name: str) -> list[Port]:
        """Every port that this project sees; those with the cluster's mark are ours."""
        with doing("list the ports"):
            return [_port(found, cluster_name) for found in self._os.network.ports(project_id=self._project())]

    def existing(self, cluster: Cluster) -> Existing:
        """All that a plan of the servers has to know."""
        name = cluster.cluster_name
        servers, ports, group, floating, tags = together(
            self.servers,
            lambda: self.ports(name),
            lambda: self._server_group(_plan.keypair_name(name)),
            lambda: self.floating_ips(name),
            lambda: self._group_tags(name)[1],
        )
        return Existing(
            servers,
            [port for port in ports if port.ours],
            group,
            floating,
            self._flavor_names(cluster, [server for server in servers if _plan.is_ours(server, name)]),
            _plan.etcd_server(tags),
        )

    def _flavor_names(self, cluster: Cluster, servers: Sequence[Server]) -> dict[str, str]:
        """Names of flavors by id; none where all that the file gives are names, as the servers' flavors show."""
        if not servers or {spec.flavor for spec in cluster.servers()} <= {server.flavor for server in servers}:
            return {}
        with doing("list the flavors"):
            return {found.id: found.name for found in self._os.compute.flavors()}

    def floating_ips(self, cluster_name: str) -> list[FloatingIp]:
        """The floating IPs with the cluster's mark; none where the cloud has no routers."""
        from openstack.exceptions import ForbiddenException, NotFoundException

        with doing("list the floating IPs"):
            try:
                listed = list(self._os.network.ips(description=_plan.mark(cluster_name)))
            except (ForbiddenException, NotFoundException):
                return []
            return [FloatingIp(ip.id, ip.floating_ip_address, ip.fixed_ip_address or "") for ip in listed]

    def _server_group(self, name: str) -> Optional[ServerGroup]:
        from openstack.exceptions import ForbiddenException, NotFoundException

        with doing(f"look up the server group {name}"):
            try:
                listed = list(self._os.compute.server_groups())
            except (ForbiddenException, NotFoundException):
                return None  # a cloud without them; a file that asks for one is refused when it is created
        for group in listed:
            if group.name == name:
                return ServerGroup(group.id, group.name, group.policy or next(iter(group.policies or []), ""))
        return None

    def _external(self, name: str) -> list[str]:
        network = self._os.network
        by_id = [item.id for item in network.networks(id=name, is_router_external=True)]
        return by_id or [item.id for item in network.networks(name=name, is_router_external=True)]

    def findings(self, cluster: Cluster) -> Findings:
        """Return what the cloud has of everything that the cluster file names."""
        with doing("look up the image, flavors, network and limits"):
            images, listed, all_groups, networks, quota, external = together(
                lambda: self._images(cluster.default_image_name),
                lambda: list(self._os.compute.flavors()),
                lambda: list(self._os.network.security_groups()),
                lambda: self._counted(self._networks(cluster.private_network_id)),
                self._quota,
                lambda: len(self._external(cluster.access.floating_network)) if cluster.access.floating_network else 1,
            )
        wanted = {spec.flavor for spec in cluster.servers()}
        flavors = {
            key: Flavor(found.name, found.vcpus, found.ram, found.disk or 0)
            for found in listed
            for key in {found.name, found.id} & wanted
        }
        groups = [key for group in all_groups for key in (group.name, group.id)]
        return Findings(
            tuple(images),
            flavors,
            tuple(networks),
            {name: groups.count(name) for name in cluster.security_groups if name != GROUP},
            quota,
            external,
        )

    def offer(self) -> dict[str, list[dict[str, Any]]]:
        """What the project may use, for a first cluster file: networks with their subnets, active images, flavors."""
        with doing("list the networks, images and flavors"):
            subnets: dict[str, list[dict[str, Any]]] = {}
            for found in self._os.network.subnets():
                subnets.setdefault(found.network_id, []).append({"id": found.id, "cidr": found.cidr})
            networks = [
                {
                    "id": found.id,
                    "name": found.name,
                    "subnets": subnets.get(found.id, []),
                    "external": bool(found.is_router_external),
                    "shared": bool(found.is_shared) and found.project_id != self._project(),
                }
                for found in self._os.network.networks()
            ]
            images = [
                {
                    "id": found.id,
                    "name": found.name,
                    "architecture": found.architecture or "",
                    "min_ram": found.min_ram or 0,
                    "min_disk": found.min_disk or 0,
                    "created_at": found.created_at or "",
                }
                for found in self._os.image.images(status="active")
            ]
            flavors = [
                {"name": found.name, "vcpus": found.vcpus, "ram": found.ram, "disk": found.disk or 0}
                for found in self._os.compute.flavors()
            ]
        return {"networks": networks, "images": images, "flavors": flavors}

    def _project(self) -> str:
        return str(self._os.current_project_id)

    def _quota(self) -> dict[str, Usage]:
        from openstack.exceptions import HttpException

        try:
            limits = self._os.compute.get_limits().absolute
            key_pairs = len(list(self._os.compute.keypairs()))
        except HttpException:
            return {}  # a cloud may keep it from its users; what is too much is then refused when it is asked for
        named = {
            "instances": (limits.instances, limits.instances_used),
            "cores": (limits.total_cores, limits.total_cores_used),
            "ram": (limits.total_ram, limits.total_ram_used),
            "server_groups": (limits.server_groups, limits.server_groups_used),
            "server_group_members": (limits.server_group_members, 0),
            "key_pairs": (limits.keypairs, key_pairs),
        }
        quota = {key: Usage(int(limit), int(used or 0)) for key, (limit, used) in named.items() if limit is not None}
        try:
            network = self._os.network.get_quota(self._project(), details=True)
        except HttpException:
            return quota
        for key in ("ports", "security_groups", "security_group_rules", "floating_ips"):
            found = getattr(network, key)
            if isinstance(found, Mapping):
                used = int(found.get("used", 0)) + int(found.get("reserved", 0))
                quota[key] = Usage(int(found["limit"]), used)
        return quota

    def _images(self, name: str) -> list[Image]:
        """Return the active images of that name, or the one of that id; if none is active, those that are not."""
        found = list(self._os.image.images(name=name))
        if not found:
            image = self._os.image.find_image(name, ignore_missing=True)
            found = [image] if image is not None and image.id == name else []
        active = [image for image in found if image.status == "active"]
        return [_image(image) for image in active or found]

    def networks(self, cluster: Cluster) -> list[Network]:
        """The network of that id, the one of the subnet of that id, or every one of that name."""
        with doing(f"look up the network {cluster.private_network_id}"):
            return self._networks(cluster.private_network_id)

    def _networks(self, name: str) -> list[Network]:
        network = self._os.network
        found = list(network.networks(id=name))
        chosen = [] if found else list(network.subnets(id=name))
        if not found and not chosen:
            found = list(network.networks(name=name))
        if not found and not chosen:
            chosen = list(network.subnets(name=name))
        result = [
            Network(
                item.id,
                item.name,
                _subnets(network.subnets(network_id=item.id, ip_version=4)),
                secured=item.is_port_security_enabled is not False,
                mtu=int(item.mtu or 0),
            )
            for item in found
        ]
        if len(chosen) == 1:
            # Its network is what servers need.
            (item,) = chosen
            owner = network.find_network(item.network_id, ignore_missing=True)
            result.append(
                Network(
                    item.network_id,
                    item.name,
                    _subnets([item]),
                    chosen=True,
                    secured=owner is None or owner.is_port_security_enabled is not False,
                    mtu=int(owner.mtu or 0) if owner else 0,
                )
            )
        else:
            # Of several subnets of one name, an error must give the ids.
            result += [Network(item.id, item.name, _subnets([item]), chosen=True) for item in chosen]
        return result

    def _counted(self, networks: list[Network]) -> list[Network]:
        """With the addresses in use, where it is one. Of a network that others share, a project sees its own ports only."""
        if len(networks) != 1:
            return networks
        network = networks[0]
        taken = [
            fixed.get("subnet_id") for port in self._os.network.ports(network_id=network.id) for fixed in port.fixed_ips
        ]
        return [replace(network, subnets=tuple(replace(s, used=taken.count(s.id)) for s in network.subnets))]

    def needs(self, cluster: Cluster) -> Needs:
        """Ids of what new servers are made from.

        :raises CloudError: something is missing or not unique
        """
        with doing("look up the image, flavors, network and security groups"):
            images, networks, listed, all_groups, group = together(
                lambda: self._images(cluster.default_image_name),
                lambda: self._networks(cluster.private_network_id),
                lambda: list(self._os.compute.flavors()),
                lambda: list(self._os.network.security_groups()),
                lambda: self.group(cluster.cluster_name),
            )
        flavors = {key: flavor.id for flavor in listed for key in (flavor.id, flavor.name)}
        groups = {key: g.id for g in all_groups for key in (g.id, g.name)}
        images = [image for image in images if image.status == "active"]
        lacking = [f"the image {cluster.default_image_name}"] if len(images) != 1 else []
        lacking += [f"the network {cluster.private_network_id}"] if len(networks) != 1 else []
        lacking += [f"the flavor {name}" for name in sorted({s.flavor for s in cluster.servers()} - set(flavors))]
        others = [name for name in cluster.security_groups if name != GROUP]
        lacking += [f"the security group {name}" for name in others if name not in groups]
        lacking += [f"the security group {GROUP}"] if group is None else []
        if lacking or group is None:
            raise CloudError(
                f"Failed to make the servers: missing or not unique: {', '.join(lacking)}"
                "\nhint: run q8s.emu.cloud_preflight, which says more, and q8s.emu.security_group before q8s.emu.servers"
            )
        return Needs(images[0].id, networks[0], flavors, (group.id, *(groups[name] for name in others)))

    # -- key pair --

    def keypair(self, name: str) -> Optional[str]:
        """The public key of that name, or None."""
        with doing(f"look up the key pair {name}"):
            found = self._os.compute.find_keypair(name, ignore_missing=True)
            return None if found is None else str(found.public_key)

    def apply_keypair(self, plan: Plan) -> None:
        """Do what a plan of the key pair says."""
        for change in plan.changes:
            if change.action == "create":
                with doing(f"upload the key pair {change.name}"):
                    self._os.compute.create_keypair(name=change.name, public_key=change.subject)
            else:
                with doing(f"remove the key pair {change.name}"):
                    self._os.compute.delete_keypair(change.name, ignore_missing=True)

    # -- security group --

    def group(self, cluster_name: str) -> Optional[Group]:
        """The cluster's security group, known by its description, or None. Of two, which a race may leave, the first."""
        group_id, tags = self._group_tags(cluster_name)
        if not group_id:
            return None
        with doing(f"look up the security group {GROUP}"):
            mark = _plan.mark(cluster_name)
            rules = self._os.network.security_group_rules(security_group_id=group_id, direction="ingress")
            own = tuple(GroupRule(rule.id, _rule(rule, group_id), rule.description == mark) for rule in rules)
            return Group(group_id, own, tags)

    def _group_tags(self, cluster_name: str) -> tuple[str, tuple[str, ...]]:
        """Return id and tags of the cluster's security group, empty if there is none."""
        with doing(f"look up the security group {GROUP}"):
            found = list(self._os.network.security_groups(name=GROUP, description=_plan.mark(cluster_name)))
            if not found:
                return "", ()
            first = min(found, key=lambda group: (group.created_at or "", group.id))
            return str(first.id), tuple(first.tags or ())

    def record_etcd_server(self, cluster_name: str, server_id: str) -> None:
        """Record which server has the cluster's CA and etcd, in a tag of the security group; an empty id for none."""
        group_id, tags = self._group_tags(cluster_name)
        if group_id and _plan.etcd_server(tags) != server_id:
            self.tag_group(group_id, _plan.record_etcd_server(tags, server_id))

    def tag_group(self, group_id: str, tags: Sequence[str]) -> None:
        """Set the tags of the group. They only serve warnings and refusals: a cloud that refuses them, or has none, is fine."""
        with doing(f"tag the security group {GROUP}"):
            self._os.network.put(f"/security-groups/{group_id}/tags", json={"tags": list(tags)})

    def apply_group(self, cluster_name: str, group: Optional[Group], plan: Plan) -> str:
        """Do what a plan of the group says; gives the group's id, or nothing when it is gone."""
        if plan.of(_plan.SECURITY_GROUP, "delete"):
            if group is None:  # the plan was made from it
                return ""
            for change in plan.of(_plan.MEMBER):
                self._set_members(change.subject, group.id, False)
            self._remove_group(group)
            return ""
        group_id = group.id if group else self._make_group(cluster_name)
        raise_first(
            parallel(lambda c: self._make_rule(cluster_name, group_id, c.subject), plan.of(_plan.RULE, "create"))
        )
        raise_first(parallel(lambda c: self._remove_rule(c.subject), plan.of(_plan.RULE, "delete")))
        for change in plan.of(_plan.MEMBER):
            self._set_members(change.subject, group_id, True)
        return group_id

    def _make_group(self, cluster_name: str) -> str:
        with doing(f"make the security group {GROUP}"):
            made = self._os.network.create_security_group(name=GROUP, description=_plan.mark(cluster_name))
            return str(made.id)

    def _make_rule(self, cluster_name: str, group_id: str, rule: Rule) -> None:
        from openstack.exceptions import ConflictException

        source = {"remote_ip_prefix": rule.source} if rule.source else {"remote_group_id": group_id}
        with doing(f"add the rule {rule} to the security group {GROUP}"):
            try:
                self._os.network.create_security_group_rule(
                    security_group_id=group_id,
                    direction="ingress",
                    ether_type="IPv4",
                    protocol=rule.protocol,
                    port_range_min=rule.port_min,
                    port_range_max=rule.port_max,
                    description=_plan.mark(cluster_name),
                    **source,
                )
            except ConflictException as error:
                # a quota is a conflict to Neutron, too
                if "already exists" not in str(error):
                    raise

    def _remove_rule(self, rule: GroupRule) -> None:
        with doing(f"remove the rule {rule.rule} from the security group {GROUP}"):
            self._os.network.delete_security_group_rule(rule.id, ignore_missing=True)

    def _remove_group(self, group: Group, deadline: float = 60) -> None:
        """Remove the group. Neutron refuses while a port of a server that is going still has it: ask again."""
        from openstack.exceptions import ConflictException

        end = time.monotonic() + deadline
        with doing(f"remove the security group {GROUP}"):
            while True:
                try:
                    self._os.network.delete_security_group(group.id, ignore_missing=True)
                    return
                except ConflictException:
                    users = [p for p in self._os.network.ports() if group.id in (p.security_group_ids or [])]
                    # What a server of ours leaves goes by itself; what others use stays in use.
                    if users and time.monotonic() > end:
                        names = ", ".join(f"port {p.id} of server {p.device_id or 'none'}" for p in users)
                        raise CloudError(
                            f"Failed to remove the security group {GROUP}: it is in use by {names}"
                            "\nhint: take it off these (openstack port unset --security-group), then destroy again"
                        ) from None
                    if time.monotonic() > end:
                        raise
                    time.sleep(POLL_SECONDS)

    def _set_members(self, ports: Sequence[Port], group_id: str, member: bool) -> None:
        """Put ports into the group, or take them out; their other groups stay."""
        for port in ports:
            groups = [*port.groups, group_id] if member else [g for g in port.groups if g != group_id]
            with doing(f"change the security groups of port {port.id}"):
                self._os.network.update_port(port.id, security_groups=groups)

    # -- ports --

    def make_ports(self, cluster: Cluster, needs: Needs, names: Sequence[str]) -> dict[str, str]:
        """Make a port for each server of these names, in the subnet that the cluster uses; gives ids by name."""
        subnet = needs.network.subnet(cluster.remote_ip_prefix)
        if not names or subnet is None:
            return {}
        with doing(f"make {len(names)} ports in the subnet {subnet.cidr}"):
            made = self._os.network.create_ports(
                [
                    {
                        "name": name,
                        "description": _plan.mark(cluster.cluster_name),
                        "network_id": subnet.network_id,
                        "fixed_ips": [{"subnet_id": subnet.id}],
                        "security_groups": list(needs.groups),
                    }
                    for name in names
                ]
            )
            return {port.name: port.id for port in made}

    def remove_ports(self, ports: Iterable[Port]) -> None:
        """Remove ports; those that are gone are fine."""

        def remove(port: Port) -> None:
            with doing(f"remove the port {port.name}"):
                self._os.network.delete_port(port.id, ignore_missing=True)

        raise_first(parallel(remove, ports))

    # -- server group --

    def make_server_group(self, name: str) -> str:
        """Make the group whose servers Nova spreads over machines as far as it can; gives its id."""
        with doing(f"make the server group {name}"):
            return str(self._os.compute.create_server_group(name=name, policy=_plan.SPREAD).id)

    def remove_server_group(self, group: ServerGroup) -> None:
        """Remove a server group; none is fine."""
        with doing(f"remove the server group {group.name}"):
            self._os.compute.delete_server_group(group.id, ignore_missing=True)

    # -- floating IP --

    def set_floating_ip(self, cluster: Cluster, existing: Optional[FloatingIp]) -> None:
        """Give the initial control plane a floating IP: one that is there, or a new one."""
        name = cluster.name_of_initial_instance
        with doing(f"give a floating IP to {name}"):
            server = next((s for s in self.servers() if s.name == name and s.address(cluster.remote_ip_prefix)), None)
            address = server.address(cluster.remote_ip_prefix) if server else None
            ports = self.ports(cluster.cluster_name) if server else []
            port = next((p for p in ports if server and p.server_id == server.id and p.address == address), None)
            if port is None:
                raise CloudError(
                    f"Failed to give a floating IP to {name}: it has no port with an address in {cluster.remote_ip_prefix}"
                )
            if existing is not None:
                self._os.network.update_ip(existing.id, port_id=port.id)
                return
            networks = self._external(cluster.access.floating_network)
            if len(networks) != 1:
                raise CloudError(
                    f"Failed to give a floating IP to {name}: {len(networks)} external networks are called "
                    f"{cluster.access.floating_network}\nhint: set access.floating_network to the id of one"
                )
            self._os.network.create_ip(
                floating_network_id=networks[0], port_id=port.id, description=_plan.mark(cluster.cluster_name)
            )

    def remove_floating_ips(self, floating: Iterable[FloatingIp]) -> None:
        """Give floating IPs back."""
        for item in floating:
            with doing(f"give the floating IP {item.address} back"):
                self._os.network.delete_ip(item.id, ignore_missing=True)

    # -- servers --

    def make_servers(
        self,
        cluster: Cluster,
        needs: Needs,
        requests: Sequence[Request],
        user_data: Callable[[ServerSpec], tuple[str, Mapping[str, str]]],
        ports: Mapping[str, str],
    ) -> dict[str, CloudError]:
        """Ask for all servers at once; gives the failures by name, so that those which were made are waited for.

        After a failure that may be a passing one, what is there is listed before the rest is asked for again: a cloud
        may have made a server and failed to say so.

        :param user_data: makes user-data and metadata of a call's servers, called once for each call with its first
        :param ports: ids of ports of Q8S's by server name; others get one from Nova
        """

        subnet = needs.network.subnet(cluster.remote_ip_prefix)

        def make(request: Request) -> None:
            text, metadata = user_data(request.specs[0])
            count = len(request.specs)
            port = ports.get(request.name)
            more: dict[str, Any] = {} if port else {"security_groups": [{"name": group} for group in needs.groups]}
            if needs.server_group:
                more["scheduler_hints"] = {"group": needs.server_group}
            if count > 1:
                more |= {"min_count": count, "max_count": count}
            if subnet is not None and not subnet.dhcp:
                more["config_drive"] = True  # the only way by which a server learns its address
            with doing(f"create {request}"):
                self._os.compute.create_server(
                    name=request.name,
                    image_id=needs.image,
                    flavor_id=needs.flavors[request.specs[0].flavor],
                    networks=[{"port": port} if port else {"uuid": needs.network.id}],
                    key_name=_plan.keypair_name(cluster.cluster_name),
                    user_data=base64.b64encode(text.encode()).decode(),
                    metadata=dict(metadata),
                    **more,
                )

        failed: dict[str, CloudError] = {}
        pending = list(requests)
        for number in range(1, _ROUNDS + 1):
            errors = [(q, r) for q, r in zip(pending, parallel(make, pending)) if isinstance(r, CloudError)]
            failed.update({spec.name: error for request, error in errors for spec in request.specs})
            pending = [request for request, error in errors if error.temporary]
            if not pending or number == _ROUNDS:
                break
            time.sleep(POLL_SECONDS * 2**number)
            there = {s.name for s in self.servers() if _plan.is_ours(s, cluster.cluster_name) and not s.deleting}
            pending = [part for request in pending for part in request.without(there)]
            again = there | {spec.name for request in pending for spec in request.specs}
            failed = {name: error for name, error in failed.items() if name not in again}
        return failed

    def remove_servers(self, servers: Sequence[Server], deadline: float) -> None:
        """Remove servers, all requests at once, and wait until the last is gone. One that stays is asked to go again.

        :raises CloudError: some are left after ``deadline`` seconds; it says which, and why
        """

        def remove(server: Server) -> None:
            with doing(f"remove the server {server.name}"):
                self._os.compute.delete_server(server.id, ignore_missing=True)

        left = list(servers)
        why: dict[str, str] = {}
        end = time.monotonic() + deadline
        asked = -_SECONDS_BETWEEN_DELETES
        while left:
            if time.monotonic() - asked >= _SECONDS_BETWEEN_DELETES:
                asked = time.monotonic()
                results = parallel(remove, left)
                why = {s.id: str(r) for s, r in zip(left, results) if isinstance(r, CloudError)}
            ids = {server.id for server in left}
            left = [server for server in self.servers() if server.id in ids and server.status != "DELETED"]
            if left and time.monotonic() > end:
                lines = [f"- {s.name}: {why.get(s.id) or s.fault or s.status}" for s in left]
                raise CloudError(
                    f"Failed to remove {len(left)} of {len(servers)} servers within {deadline:.0f} s; left are:\n"
                    + "\n".join(lines)
                    + "\nhint: run it again; what stays in this state needs the cloud's administrators"
                )
            if left:
                time.sleep(POLL_SECONDS)

    def start_servers(self, servers: Sequence[Server]) -> None:
        """Power on servers that are off."""

        def start(server: Server) -> None:
            with doing(f"start the server {server.name}"):
                self._os.compute.start_server(server.id)

        raise_first(parallel(start, servers))

    def wait_started(self, server: Server, deadline: float) -> None:
        """Wait until a server that Q8S did not create, and has asked to start, is ACTIVE.

        :raises CloudError: it is not after ``deadline`` seconds, or is in ERROR
        """
        end = time.monotonic() + deadline
        while True:
            with doing(f"look up the server {server.name}"):
                found = self._os.compute.get_server(server.id)
            if found.status == "ACTIVE":
                return
            if found.status == "ERROR" or time.monotonic() > end:
                fault = (found.fault or {}).get("message", "")
                raise CloudError(
                    f"Failed to start the server {server.name}: it is {found.status}" + (f" ({fault})" if fault else "")
                )
            time.sleep(POLL_SECONDS)

    def _building(self) -> set[str]:
        """Names of the project's servers that Nova still makes."""
        with doing("list the servers"):
            return {found.name for found in self._os.compute.servers(details=False, status="BUILD")}

    def wait_active(
        self, cluster: Cluster, names: Iterable[str], deadline: float
    ) -> tuple[list[Server], list[Server], dict[str, str]]:
        """Poll until each of the cluster's named servers is ACTIVE with an address, or in ERROR.

        Gives the servers that came, those in ERROR, and by name of each other one a line that says why it did not come.
        """
        wanted = set(names)
        end = time.monotonic() + deadline
        while True:
            begin = time.monotonic()
            # Asked without details as long as servers are built: for details, Nova asks Neutron about every server.
            if begin > end or not wanted & self._building():
                servers = [s for s in self.servers() if s.name in wanted and _plan.is_ours(s, cluster.cluster_name)]
                errors = [s for s in servers if s.status == "ERROR"]
                ready = [s for s in servers if s.status == "ACTIVE" and s.address(cluster.remote_ip_prefix)]
                waiting = sorted(wanted - {s.name for s in (*ready, *errors)})
                if not waiting:
                    return ready, errors, {}
                if begin > end:
                    return ready, errors, {name: _late(name, servers, cluster, deadline) for name in waiting}
            # A cloud that takes long to answer is not asked more often.
            time.sleep(max(POLL_SECONDS, time.monotonic() - begin))


def _late(name: str, servers: Sequence[Server], cluster: Cluster, deadline: float) -> str:
    found = next((s for s in servers if s.name == name), None)
    if found is None:
        return f"server {name}: somebody removed it while it was waited for"
    if found.status == "ACTIVE":
        have = ", ".join(found.addresses) or "none"
        return f"server {name}: no address in {cluster.remote_ip_prefix} after {deadline:.0f} s (it has {have})"
    return f"server {name}: still {found.status} after {deadline:.0f} s"


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
        found.name,
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
    )


def _image(found: Any) -> Image:
    properties = found.properties or {}
    # A raw image is as large as its disk; of others, Glance may know the size of the disk, or not.
    size = found.virtual_size or (found.size if found.disk_format == "raw" else 0) or 0
    return Image(
        found.id,
        found.min_ram or 0,
        found.min_disk or 0,
        -(-int(size) // (1 << 30)),
        str(found.status or ""),
        str(found.architecture or properties.get("architecture") or ""),
        str(found.name or ""),
        str(found.os_distro or properties.get("os_distro") or ""),
        str(found.os_version or properties.get("os_version") or ""),
    )


def _subnets(listed: Iterable[Any]) -> tuple[Subnet, ...]:
    return tuple(
        Subnet(
            item.id,
            item.network_id,
            item.cidr,
            sum(
                int(ipaddress.IPv4Address(pool["end"])) - int(ipaddress.IPv4Address(pool["start"])) + 1
                for pool in item.allocation_pools
            ),
            dhcp=item.is_dhcp_enabled is not False,
            gateway=item.gateway_ip or "",
            dns=bool(item.dns_nameservers),
        )
        for item in listed
        if item.ip_version == 4
    )


def _port(found: Any, cluster_name: str) -> Port:
    fixed = found.fixed_ips or [{}]
    return Port(
        found.id,
        found.name or found.id,
        found.device_id or "",
        tuple(found.security_group_ids or ()),
        str(fixed[0].get("ip_address", "")),
        found.description == _plan.mark(cluster_name),
        found.is_port_security_enabled is not False,
    )


def _rule(rule: Any, group_id: str) -> Union[Rule, str]:
    """A rule in our form, or text for one that has another form."""
    source = rule.remote_ip_prefix or ""
    if rule.ether_type != "IPv4" or not rule.protocol or (rule.remote_group_id or group_id) != group_id:
        source = source or rule.remote_group_id or "anywhere"
        return f"{rule.ether_type} {rule.protocol or 'any protocol'} from {source}"
    if not source and not rule.remote_group_id:
        source = "0.0.0.0/0"
    return Rule(rule.protocol, rule.port_range_min, rule.port_range_max, source)
