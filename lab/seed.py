"""Fill an empty OpenStack: services, their users, a project with a plain member, network, flavors, image."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import openstack
import yaml

from lab.services import Secrets
from lab.settings import CLOUD_NAME, IMAGE_NAME, REGION, Settings

_PATHS = {
    "glance": ("image", ""),
    "placement": ("placement", ""),
    "neutron": ("network", ""),
    "nova": ("compute", "/v2.1"),
}
_FLAVORS = (("c1.small", 2, 3072, 20), ("c1.medium", 2, 4096, 20), ("c1.large", 6, 8192, 40))


def _connect(settings: Settings, user: str, password: str, project: str) -> Any:
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


def identity(settings: Settings, passwords: Secrets) -> str:
    """Services, endpoints and the member; writes clouds.yaml. Gives the project's id."""
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
    lab = admin.create_project(name="lab", domain_id="default")
    password = secrets.token_hex(16)
    member = admin.create_user(name="member", password=password, domain_id="default", default_project_id=lab.id)
    admin.assign_project_role_to_user(lab, member, roles["member"])
    own = _connect(settings, "member", password, "lab")
    secret = secrets.token_hex(32)
    credential = own.identity.create_application_credential(own.current_user_id, "q8s", secret=secret)
    _write_clouds(settings, credential.id, secret)
    return str(lab.id)


def resources(settings: Settings, passwords: Secrets, image: Path) -> None:
    """Network, image and the rules that Neutron gives every new security group."""
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
    admin.network.create_subnet(
        network_id=network.id,
        name="private-subnet",
        cidr=str(settings.subnet),
        ip_version=4,
        gateway_ip=str(settings.gateway),
        dns_nameservers=[str(settings.gateway)],
    )
    admin.create_image(
        IMAGE_NAME, filename=str(image), container_format="bare", disk_format="raw", visibility="public", wait=True
    )


def flavors(settings: Settings, passwords: Secrets, project: str) -> None:
    """What needs Nova: flavors and an ordinary quota."""
    admin = _connect(settings, "admin", passwords.admin, "admin")
    for name, vcpus, memory, disk in _FLAVORS:
        admin.compute.create_flavor(name=name, vcpus=vcpus, ram=memory, disk=disk)
    admin.set_compute_quotas(project, instances=20, cores=40, ram=96 * 1024, key_pairs=20)


def _write_clouds(settings: Settings, identifier: str, secret: str) -> None:
    data = {
        "clouds": {
            CLOUD_NAME: {
                "auth_type": "v3applicationcredential",
                "auth": {
                    "auth_url": settings.url("keystone") + "/v3",
                    "application_credential_id": identifier,
                    "application_credential_secret": secret,
                },
                "region_name": REGION,
            }
        }
    }
    with open(settings.clouds_yaml, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        yaml.safe_dump(data, stream)
