"""A cluster of these tests' own in the lab's cloud."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _state

from q8s_lab import settings
from q8s_lab.machine import wait
from tests.clouds import connect
from tests.integration.cloud.clusters import Cluster


@pytest.fixture(scope="session")
def cloud(lab: Mapping[str, str]) -> Iterator[Any]:
    """The lab's cloud, seen with openstacksdk as a user of its project sees it."""
    connection = connect(lab)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, lab: Mapping[str, str], cloud: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster that nobody else uses. What is left of it at the end is removed, whatever failed before.

    A module of tests may have a FLAVOR for its servers.
    """
    folder = tmp_path_factory.mktemp("cloud")
    name = f"itest-{secrets.token_hex(2)}"
    with pytest.MonkeyPatch.context() as environment:
        for variable, value in lab.items():
            environment.setenv(variable, value)
        project = _cloud.connect(lab["OS_CLOUD"]).project()
    state = Path(_state.folder(str(folder / "state"), project, name))
    state.mkdir(parents=True, mode=0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", state / "id_ed25519"], check=True)
    public_key = (state / "id_ed25519.pub").read_text().strip()
    flavor = getattr(request.module, "FLAVOR", Cluster.flavor)
    yield Cluster(name, folder, {**lab, "Q8S_STATE": str(folder / "state")}, state, public_key, flavor)
    left = [server for server in cloud.compute.servers() if server.name.startswith(name)]
    for server in left:
        cloud.compute.delete_server(server, ignore_missing=True)
    ids = {server.id for server in left}
    assert wait(lambda: not ids & {server.id for server in cloud.compute.servers()}, 60)
    for ip in cloud.network.ips(description=f"Q8S cluster {name}"):
        cloud.network.delete_ip(ip)
    for server_group in cloud.compute.server_groups():
        if server_group.name == f"q8s-{name}":
            cloud.compute.delete_server_group(server_group)
    for port in cloud.network.ports(description=f"Q8S cluster {name}"):
        cloud.network.delete_port(port)
    for group in cloud.network.security_groups():
        if name in (group.description or "").split():
            cloud.network.delete_security_group(group)
    cloud.compute.delete_keypair(f"q8s-{name}", ignore_missing=True)


@pytest.fixture(scope="session")
def admin(lab: Mapping[str, str]) -> Iterator[Any]:
    """The same cloud as its operator sees it, to do what a user cannot."""
    data = yaml.safe_load(settings.load().admin_clouds_yaml.read_text())["clouds"]
    connection = openstack.connect(load_yaml_config=False, load_envvars=False, **next(iter(data.values())))
    yield connection
    connection.close()
