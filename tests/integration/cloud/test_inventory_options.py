"""What an Ansible user adds to the inventory: groups and variables of their own, and a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab

LISTING = r"/servers/detail"


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> Cluster:
    for name in ("keypair", "security_group", "servers"):
        assert not cluster.module(name).get("failed")
    return cluster


def write(cluster: Cluster, name: str, **options: Any) -> Path:
    path = cluster.folder / f"{name}.q8s.yml"
    path.write_text(yaml.safe_dump({"plugin": "q8s.emu.openstack", **options}))
    return path


def test_groups_and_variables_of_the_users_own(deployed: Cluster) -> None:
    source = write(
        deployed,
        "constructed",
        compose={"where": "q8s_cluster.cluster_name ~ '/' ~ inventory_hostname"},
        groups={"small": "q8s_vm is defined and q8s_vm.ram_mb < 2048"},
        keyed_groups=[{"key": "q8s_status | lower", "prefix": "status"}],
    )
    found = deployed.inventory(source=source)
    assert found["small"]["hosts"] == [deployed.worker, "tiny-1"]
    assert found["status_active"]["hosts"] == [deployed.initial, deployed.worker]
    assert found["_meta"]["hostvars"]["tiny-1"]["where"] == f"{deployed.name}/tiny-1"
    assert found["_meta"]["hostvars"]["tiny-1"]["q8s_missing_servers"] == []


def test_one_question_a_reading(deployed: Cluster, faulty: Any) -> None:
    through = faulty("compute")
    deployed.inventory(**through.environment)
    assert len(through.proxy.requests("GET", LISTING)) == 1


def test_a_cache_is_used_until_the_inventory_is_refreshed(deployed: Cluster, faulty: Any, tmp_path: Path) -> None:
    through = faulty("compute")
    options = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_timeout": 600}
    source = write(deployed, "cached", cache_connection=str(tmp_path / "cache"), **options)
    first = deployed.inventory(source=source, **through.environment)
    second = deployed.inventory(source=source, **through.environment)
    assert first["_meta"] == second["_meta"] and len(first["_meta"]["hostvars"]) == 3
    assert len(through.proxy.requests("GET", LISTING)) == 1
    playbook = deployed.folder / "refresh.yml"
    tasks = [{"ansible.builtin.meta": "refresh_inventory"}]
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    command = ["ansible-playbook", "-i", source, playbook, "-e", f"q8s_cluster_file={deployed.file()}"]
    assert deployed.run(command, **through.environment).returncode == 0
    assert len(through.proxy.requests("GET", LISTING)) == 2
    (kept,) = (tmp_path / "cache").iterdir()
    assert "PRIVATE" not in kept.read_text()
