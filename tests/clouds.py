"""Connections to the lab's clouds that depend on no environment variable of the test's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openstack.config import OpenStackConfig
from openstack.connection import Connection


def connect(environment: Mapping[str, str], cloud: str = "") -> Any:
    """Connect to a cloud.

    :param environment: the variables that select the cloud: ``OS_CLIENT_CONFIG_FILE`` and ``OS_CLOUD``
    :param cloud: name of another cloud of the same file
    """
    config = OpenStackConfig(config_files=[environment["OS_CLIENT_CONFIG_FILE"]], load_envvars=False)
    return Connection(config=config.get_one(cloud=cloud or environment["OS_CLOUD"]))
