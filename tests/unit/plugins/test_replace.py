"""``replace`` deletes the server of one node and no other, down to the module's requests to the cloud."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _plan_servers, _spec
from ansible_collections.q8s.emu.plugins.modules import servers

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
NAMES = ["demo-control-plane", "demo-x86-small-1", "demo-arm-mid-1"]
EXISTING = _plan_servers.Existing(
    [_cloud_objects.Server(f"id-{name}", name, "ACTIVE", ("10.254.1.9",), {"q8s_cluster": "demo"}) for name in NAMES],
    [_cloud_objects.Port(f"port-{name}", name, ours=True) for name in NAMES],
    _cloud_objects.ServerGroup("group", "q8s-demo", _plan_servers.SPREAD),
)


class Recorded:
    """Stands in for our own client: has those servers, and records what the module deletes."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def find_existing(self, cluster: Any) -> _plan_servers.Existing:
        return EXISTING

    def delete_servers(self, gone: list[_cloud_objects.Server], deadline: float) -> dict[str, str]:
        self.removed += [server.name for server in gone]
        return {}

    def delete_ports(self, gone: list[_cloud_objects.Port]) -> None:
        self.removed += [f"port {port.name}" for port in gone]

    def delete_floating_ips(self, gone: list[Any]) -> None:
        self.removed += ["floating IP" for _ in gone]

    def delete_server_group(self, gone: Any) -> None:
        self.removed.append("server group")


def run(cloud: Recorded, **params: Any) -> dict[str, Any]:
    defaults = {"state": "absent", "nodes": None, "timeout": 600, "remove_surplus": False, "public_key": None}
    module: Any = SimpleNamespace(params={**defaults, **params}, check_mode=False, warn=pytest.fail)
    resources = ("clusters", "servers", "server_groups", "ports", "floating_ips", "security_groups")
    return servers.apply(module, CLUSTER, SimpleNamespace(**dict.fromkeys(resources, cloud)))


def test_the_server_of_one_node_goes_and_no_other() -> None:
    cloud = Recorded()
    result = run(cloud, nodes=["arm-mid-1"])
    assert cloud.removed == ["demo-arm-mid-1", "port demo-arm-mid-1"]
    announced = [(change["action"], change["kind"], change["name"]) for change in result["changes"]]
    assert announced == [("delete", "server", "demo-arm-mid-1"), ("delete", "port", "demo-arm-mid-1")]


def test_no_nodes_are_none_and_not_all() -> None:
    cloud = Recorded()
    assert not run(cloud, nodes=[])["changed"]
    assert cloud.removed == []


def test_without_nodes_all_go() -> None:
    cloud = Recorded()
    run(cloud)
    assert set(NAMES) < set(cloud.removed)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"nodes": ["arm-mid-9"]}, "the cluster has no node arm-mid-9"),
        ({"nodes": ["arm-mid-1"], "state": "present"}, "nodes goes with state=absent only"),
    ],
)
def test_what_cannot_be_meant_removes_nothing(params: dict[str, Any], message: str) -> None:
    cloud = Recorded()
    with pytest.raises(_cloud.CloudError, match=message):
        run(cloud, **params)
    assert cloud.removed == []
