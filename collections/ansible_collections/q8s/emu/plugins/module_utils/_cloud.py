# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud client: log in to an OpenStack project, and reach each of its resources.

Only ``_cloud*.py`` call openstacksdk, one module a kind of resource. Each class gets the connection as an argument, so
that a test passes its own. Every failure is a CloudError that says what failed, why, and what to do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _read, _state
from ansible_collections.q8s.emu.plugins.module_utils._cloud_clusters import Clusters
from ansible_collections.q8s.emu.plugins.module_utils._cloud_errors import CloudError, doing
from ansible_collections.q8s.emu.plugins.module_utils._cloud_images import Flavors, Images
from ansible_collections.q8s.emu.plugins.module_utils._cloud_keypairs import KeyPairs
from ansible_collections.q8s.emu.plugins.module_utils._cloud_network import FloatingIps, Networks, Ports
from ansible_collections.q8s.emu.plugins.module_utils._cloud_quota import Quota
from ansible_collections.q8s.emu.plugins.module_utils._cloud_requests import retry_policy
from ansible_collections.q8s.emu.plugins.module_utils._cloud_security_groups import SecurityGroups
from ansible_collections.q8s.emu.plugins.module_utils._cloud_servers import Needs, ServerGroups, Servers

_API_SECONDS = 60.0

__all__ = ["Cloud", "CloudError", "Needs", "connect", "login"]


def login(name: Optional[str] = None) -> str:
    """Return the fingerprint of the credentials that :func:`connect` would use. Send nothing to the cloud.

    :param name: a cloud of clouds.yaml; None leaves the choice to the OS_* variables
    :raises CloudError: there are no such credentials
    """
    with doing(_log_in(name), logged_in=False):
        config = _load_config(name)
        return _state.fingerprint(config.config.get("auth") or {}, config.get_region_name() or "")


def connect(name: Optional[str] = None) -> Cloud:
    """Log in to a project.

    :param name: a cloud of clouds.yaml; None leaves the choice to the OS_* variables
    :raises CloudError: there is no such cloud, or it rejects the credentials
    """
    try:
        from openstack.connection import Connection
    except ImportError as error:
        hint = "run make setup, and ansible from .venv/bin"
        raise CloudError(f"Failed to use the cloud: openstacksdk is missing ({error})\nhint: {hint}") from None
    # It would print a line of its own where an error follows.
    logging.getLogger("keystoneauth").addHandler(logging.NullHandler())
    with doing(_log_in(name), logged_in=False):
        connection: Any = Connection(config=_load_config(name))
        # If clouds.yaml has no api_timeout: a cloud that does not answer is an error after this time.
        connection.session.timeout = connection.session.timeout or _API_SECONDS
        adapters: Iterable[Any] = connection.session.session.adapters.values()
        for adapter in adapters:
            adapter.max_retries = retry_policy()
        _authenticate(connection)
    return Cloud(connection)


def _authenticate(connection: Any) -> None:
    """Log in.

    :raises CloudError: there is no password, for which keystoneauth has no error of its own
    """
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    try:
        connection.session.get_token()
    except (ClientException, SDKException, OSError):
        raise
    except Exception as error:
        if "required attribute" not in str(error):
            raise
        raise CloudError(
            f"Failed to log in to the cloud: no credentials: {error}"
            "\nhint: add it to clouds.yaml or secure.yaml, set the OS_* variable, or use an application credential"
        ) from None


def _log_in(name: Optional[str]) -> str:
    return "log in to the cloud" + (f" {name}" if name else "")


def _load_config(name: Optional[str]) -> Any:
    """Return the configuration of a cloud, from clouds.yaml and the OS_* variables.

    :raises CloudError: a file has an invalid form, which openstacksdk would ignore, or report without its place
    """
    from openstack.config import loader

    # Without the variable, openstacksdk takes the first of these files that exists.
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
        clouds = loader.OpenStackConfig(app_name="q8s")
        wanted = name or os.environ.get("OS_CLOUD")
        if wanted and wanted not in clouds.get_cloud_names():
            raise CloudError(
                f"Failed to {_log_in(wanted)}: {_known_clouds(clouds)}"
                "\nhint: set OS_CLOUD to a cloud of clouds.yaml (OS_CLIENT_CONFIG_FILE names the file)"
            )
        config = clouds.get_one(cloud=name)
        url = (config.config.get("auth") or {}).get("auth_url")
        if url and not str(url).startswith(("http://", "https://")):
            raise CloudError(
                f"Failed to {_log_in(name)}: auth_url is {url}; it must begin with http:// or https://"
                "\nhint: fix it in clouds.yaml or OS_AUTH_URL"
            )
        return config
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CloudError(
            f"Failed to {_log_in(name)}: clouds.yaml or an OS_* variable has a value of the wrong type ({error})"
            "\nhint: compare clouds.yaml with the one of your cloud's dashboard"
        ) from None


def _known_clouds(clouds: Any) -> str:
    """Return which clouds there are to choose from, and where they are read."""
    named = os.environ.get("OS_CLIENT_CONFIG_FILE")
    if named and not os.path.isfile(named):
        return f"the file of OS_CLIENT_CONFIG_FILE, {named}, does not exist"
    if not clouds.config_filename:
        return "there is no clouds.yaml"
    names = sorted(set(clouds.get_cloud_names()) - {"defaults", "envvars"})
    return f"{clouds.config_filename} does not have it; it has {', '.join(names) or 'none'}"


def check_clouds_file(path: str) -> None:
    """Refuse a clouds.yaml or secure.yaml that openstacksdk cannot use.

    :raises CloudError: the file cannot be read, is no YAML, or has no mapping where one has to be
    """
    try:
        data = _read.yaml_data(_read.text(path), _read.Place(path))
    except (FileNotFoundError, _read.ReadError) as error:
        reason = error.reason if isinstance(error, _read.ReadError) else error.strerror
        raise CloudError(f"Failed to read {path}: {reason}\nhint: fix the file") from None
    clouds = data.get("clouds", {}) if isinstance(data, dict) else None
    if not isinstance(clouds, dict):
        raise CloudError(f"Failed to read {path}: it has no mapping `clouds`\nhint: fix the file")
    for name, cloud in clouds.items():
        if not isinstance(cloud, dict) or not isinstance(cloud.get("auth", {}), dict):
            raise CloudError(f"Failed to read {path}: the cloud {name} has no mapping `auth`\nhint: fix the file")


class Cloud:
    """Client for one OpenStack project, with an attribute for each kind of resource."""

    def __init__(self, connection: Any) -> None:
        """Use an openstacksdk connection that is logged in."""
        self._os = connection
        self.keypairs = KeyPairs(connection)
        self.images = Images(connection)
        self.flavors = Flavors(connection)
        self.servers = Servers(connection)
        self.server_groups = ServerGroups(connection)
        self.networks = Networks(connection)
        self.ports = Ports(connection)
        self.security_groups = SecurityGroups(connection)
        self.floating_ips = FloatingIps(connection, self.networks, self.ports, self.servers)
        self.clusters = Clusters(
            servers=self.servers,
            server_groups=self.server_groups,
            images=self.images,
            flavors=self.flavors,
            networks=self.networks,
            ports=self.ports,
            security_groups=self.security_groups,
            floating_ips=self.floating_ips,
            quota=Quota(connection, self.keypairs),
        )

    def project(self) -> _state.Project:
        """Return the project that the credentials log in to.

        If the credentials name no region, its region is the first one of the cloud.
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
                str(self._os.current_project_id),
                named or first,
                _state.fingerprint(auth, named),
            )

    def user_id(self) -> str:
        """Return the id of the user that the credentials belong to, or nothing if the cloud does not say it."""
        with doing("look up the user"):
            return str(self._os.current_user_id or "")

    def list_offer(self) -> dict[str, list[dict[str, Any]]]:
        """Return what a first cluster file can use: networks with their subnets, active images, flavors."""
        with doing("list the networks, images and flavors"):
            return {
                "networks": self.networks.describe_networks(),
                "images": self.images.describe_images(),
                "flavors": self.flavors.describe_flavors(),
            }
