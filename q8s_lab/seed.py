"""Create the initial objects of an empty OpenStack: services, users, two projects, networks, flavors, an image."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import openstack
import yaml

from q8s_lab import hollow, servers
from q8s_lab.configuration import Secrets
from q8s_lab.private_file import open_private
from q8s_lab.settings import ADMIN_CLOUD_NAME, CLOUD_NAME, IMAGE_NAME, REGION, SCALE_CLOUD_NAME, Settings

_PATHS = {
    "glance": ("image", ""),
    "placement": ("placement", ""),
    "neutron": ("network", ""),
    "nova": ("compute", "/v2.1"),
}
_VM: Final = {servers.SPEC: servers.VM}
_FLAVORS: Final[tuple[tuple[str, int, int, int, dict[str, str]], ...]] = (
    ("c1.small", 2, 3072, 20, {}),
    ("c1.medium", 2, 4096, 20, {}),
    ("c1.large", 6, 8192, 40, {}),
    ("v1.small", 2, 2048, 20, _VM),
    ("v1.medium", 2, 4096, 20, _VM),
    ("v1.large", 2, 6144, 40, _VM),
    ("hollow.small", 2, 3072, 20, {hollow.SPEC: hollow.PLAIN}),
    ("hollow.error", 2, 3072, 20, {hollow.SPEC: hollow.ERROR}),
    ("hollow.stuck", 2, 3072, 20, {hollow.SPEC: hollow.STUCK}),
)
_PROJECTS = {"lab": CLOUD_NAME, "scale": SCALE_CLOUD_NAME}


def _connect(settings: Settings, user: str, password: str, project: str) -> Any:
    """Connect to the lab's cloud."""
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth={
            "auth_url": settings.url("keystone") + "/v3",
            "username": user,
            "password": password,
            "project_name": project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
        region_name=REGION,
    )


def identity(settings: Settings, passwords: Secrets) -> dict[str, str]:
    """Create services, endpoints, projects and members, and write clouds.yaml for members and the administrator.

    :returns: the ids of the projects, by name
    """
    admin = _connect(settings, "admin", passwords.admin, "admin").identity
    roles = {role.name: role for role in admin.roles()}
    service_role = roles.get("service") or admin.create_role(name="service")
    project = admin.create_project(name="service", domain_id="default")
    for name, (kind, path) in _PATHS.items():
        user = admin.create_user(
            name=name, password=passwords.service, domain_id="default", default_project_id=project.id
        )
        for role in (roles["admin"], service_role):
            admin.assign_project_role_to_user(project, user, role)
        service = admin.create_service(name=name, type=kind)
        for interface in ("public", "internal"):
            admin.create_endpoint(
                service_id=service.id, interface=interface, region_id=REGION, url=settings.url(name) + path
            )
    ids, clouds = {}, {}
    for name, cloud in _PROJECTS.items():
        project = admin.create_project(name=name, domain_id="default")
        user, password = f"{name}-member", secrets.token_hex(16)
        member = admin.create_user(name=user, password=password, domain_id="default", default_project_id=project.id)
        admin.assign_project_role_to_user(project, member, roles["member"])
        own = _connect(settings, user, password, name)
        secret = secrets.token_hex(32)
        credential = own.identity.create_application_credential(own.current_user_id, "q8s", secret=secret)
        clouds[cloud] = {
            "auth_type": "v3applicationcredential",
            "auth": {"application_credential_id": credential.id, "application_credential_secret": secret},
        }
        ids[name] = str(project.id)
    _write_clouds(settings, settings.clouds_yaml, clouds)
    auth = {"username": "admin", "password": passwords.admin, "project_name": "admin"}
    auth |= {"user_domain_id": "default", "project_domain_id": "default"}
    _write_clouds(settings, settings.admin_clouds_yaml, {ADMIN_CLOUD_NAME: {"auth": auth}})
    return ids


def resources(settings: Settings, passwords: Secrets, image: Path) -> None:
    """Create the networks, the router, the image, and the default rules of security groups.

    :param image: the image of containers
    """
    admin = _connect(settings, "admin", passwords.admin, "admin")
    if not list(admin.network.default_security_group_rules()):
        for direction in ("egress", "ingress"):
            for family in ("IPv4", "IPv6"):
                remote = {"remote_group_id": "PARENT"} if direction == "ingress" else {}
                admin.network.create_default_security_group_rule(
                    direction=direction,
                    ethertype=family,
                    used_in_default_sg=True,
                    used_in_non_default_sg=direction == "egress",
                    **remote,
                )
    network = admin.network.create_network(name="private", is_shared=True)
    subnet = admin.network.create_subnet(
        network_id=network.id,
        name="private-subnet",
        cidr=str(settings.subnet),
        ip_version=4,
        gateway_ip=str(settings.gateway),
        dns_nameservers=[str(settings.gateway)],
        is_dhcp_enabled=False,  # without DHCP, Nova writes the address to the config drive
    )
    # This machine is the router: q8s_lab.firewall implements it with iptables.
    external = admin.network.create_network(name="external", is_router_external=True)
    admin.network.create_subnet(
        network_id=external.id,
        name="external-subnet",
        cidr=str(settings.external),
        ip_version=4,
        gateway_ip=str(settings.external_gateway),
        is_dhcp_enabled=False,
    )
    router = admin.network.create_router(name="router", external_gateway_info={"network_id": external.id})
    admin.network.add_interface_to_router(router, subnet_id=subnet.id)
    admin.create_image(
        IMAGE_NAME, filename=str(image), container_format="bare", disk_format="raw", visibility="public", wait=True
    )


def flavors(settings: Settings, passwords: Secrets, projects: Mapping[str, str]) -> None:
    """Create the flavors, and set an ordinary quota for one project and an unlimited one for the other. Needs Nova."""
    admin = _connect(settings, "admin", passwords.admin, "admin")
    for name, vcpus, memory, disk, specs in _FLAVORS:
        flavor = admin.compute.create_flavor(name=name, vcpus=vcpus, ram=memory, disk=disk)
        if specs:
            admin.compute.create_flavor_extra_specs(flavor, specs)
    admin.set_compute_quotas(projects["lab"], instances=20, cores=40, ram=96 * 1024, key_pairs=20)
    admin.set_compute_quotas(projects["scale"], instances=-1, cores=-1, ram=-1, key_pairs=-1)
    admin.set_network_quotas(projects["scale"], ports=-1, security_groups=-1, security_group_rules=-1)


def _write_clouds(settings: Settings, path: Path, clouds: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a clouds.yaml with mode 0600."""
    url = settings.url("keystone") + "/v3"
    data = {
        "clouds": {
            name: {**cloud, "auth": {"auth_url": url, **cloud["auth"]}, "region_name": REGION}
            for name, cloud in clouds.items()
        }
    }
    with open_private(path) as stream:
        yaml.safe_dump(data, stream)
