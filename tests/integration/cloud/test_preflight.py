"""What a user is told when a cloud does not fit a cluster, or does not let anybody in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Cluster

pytestmark = pytest.mark.lab


def preflight(change: str, **more: str) -> dict[str, Any]:
    """A task that must fail, on the cluster with a change."""
    arguments = {"cluster": f"{{{{ q8s_cluster | combine({change}, recursive=true) }}}}", **more}
    return {"q8s.emu.cloud_preflight": arguments, "ignore_errors": True}


@pytest.fixture(scope="module")
def clouds(cluster: Cluster) -> Path:
    """clouds.yaml with the lab's cloud, and others that are wrong in one way each."""
    data = yaml.safe_load(Path(cluster.environment["OS_CLIENT_CONFIG_FILE"]).read_text())
    good = data["clouds"][cluster.environment["OS_CLOUD"]]
    for name in ("secret", "address", "region"):
        data["clouds"][name] = copy.deepcopy(good)
    data["clouds"]["secret"]["auth"]["application_credential_secret"] = "wrong"
    data["clouds"]["address"]["auth"]["auth_url"] = "http://127.0.0.1:1/v3"
    data["clouds"]["region"]["region_name"] = "Nowhere"
    path = cluster.folder / "clouds.yaml"
    path.write_text(yaml.safe_dump(data))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def told(cluster: Cluster, clouds: Path) -> dict[str, Any]:
    """Every failure, from one run of Ansible."""
    tasks = {
        "good": {"q8s.emu.cloud_preflight": {"cluster": "{{ q8s_cluster }}"}},
        "image": preflight("{'default_image_name': 'no-image'}"),
        "flavor": preflight("{'cluster_definition': {'master_node_flavor': 'no-flavor'}}"),
        "network": preflight("{'private_network_id': 'no-network'}"),
        "subnet": preflight("{'remote_ip_prefix': '192.168.77.0/24'}"),
        "group": preflight("{'security_groups': ['q8s-cluster', 'no-group']}"),
        "memory": preflight("{'vm_types': {'types': {'tiny': {'ram': 4096}}}}"),
        "quota": preflight("{'cluster_definition': {'worker': {'tiny': 45}}}"),
        "all": preflight("{'default_image_name': 'no-image', 'private_network_id': 'no-network'}"),
        **{name: preflight("{}", cloud=name) for name in ("secret", "address", "region", "absent")},
    }
    return cluster.play(tasks, OS_CLIENT_CONFIG_FILE=str(clouds))


def test_a_cloud_that_fits(told: dict[str, Any], cluster: Cluster) -> None:
    assert told["good"]["problems"] == [] and not told["good"]["changed"]
    servers = [change["name"] for change in told["good"]["changes"] if change["kind"] == "server"]
    assert servers == [cluster.initial, cluster.worker] and not told["good"]["settled"]


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("image", "default_image_name: there is no image called 'no-image'"),
        ("flavor", "there is no flavor called 'no-flavor'"),
        ("network", "private_network_id: there is no network or subnet called 'no-network'"),
        ("subnet", "remote_ip_prefix: is 192.168.77.0/24; the network private has "),
        ("group", "security_groups: there is no group called 'no-group'"),
        (
            "memory",
            "vm_types.types.tiny.openstack_flavor: hollow.small has 3072 MB, no more than the 4096 MB of its guest",
        ),
    ],
)
def test_one_shortfall_is_one_message(case: str, problem: str, told: dict[str, Any]) -> None:
    (only,) = told[case]["problems"]
    assert told[case]["failed"] and only.startswith(problem), only
    assert told[case]["msg"] == f"Failed to prepare the cluster: the cloud does not fit\n- {only}"


def test_all_shortfalls_come_at_once(told: dict[str, Any]) -> None:
    assert len(told["all"]["problems"]) == 2
    assert all(name in told["all"]["msg"] for name in ("no-image", "no-network"))


def test_the_quota(told: dict[str, Any], cloud: Any) -> None:
    limits = cloud.compute.get_limits().absolute
    servers, cores, memory = told["quota"]["problems"]
    assert servers == f"quota of servers: needs 46, {limits.instances_used} of {limits.instances} used"
    assert cores == f"quota of vCPUs: needs 92, {limits.total_cores_used} of {limits.total_cores} used"
    assert memory == f"quota of MB of memory: needs {46 * 3072}, {limits.total_ram_used} of {limits.total_ram} used"
    assert told["good"]["quota"]["cores"] == {
        "needed": 4,
        "used": limits.total_cores_used,
        "limit": limits.total_cores,
    }


@pytest.mark.parametrize(
    ("case", "message", "hint"),
    [
        ("secret", "Failed to log in to the cloud secret: the cloud does not accept these", "credential"),
        (
            "address",
            "Failed to log in to the cloud address: the cloud cannot be reached (http://127.0.0.1:1",
            "auth_url",
        ),
        ("region", "Failed to ", "region_name"),
        ("absent", "Failed to log in to the cloud absent: Cloud absent was not found", "OS_CLOUD"),
    ],
)
def test_a_cloud_that_lets_nobody_in(case: str, message: str, hint: str, told: dict[str, Any]) -> None:
    first, *more = told[case]["msg"].splitlines()
    assert told[case]["failed"] and first.startswith(message), first
    assert len(more) == 1 and more[0].startswith("hint: ") and hint in more[0]


def test_deploy_says_it_too(cluster: Cluster, clouds: Path) -> None:
    done = cluster.run(["q8s-run", "deploy", cluster.file()], OS_CLIENT_CONFIG_FILE=str(clouds), OS_CLOUD="secret")
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stderr.split())  # lines are broken at the width of the terminal
    assert "Failed to log in to the cloud secret: the cloud does not accept these credentials" in said
    assert f"hint: mend the cause and run `q8s-run deploy {cluster.file()}` again" in said
    assert "Traceback" not in done.stdout + done.stderr


def test_an_inventory_without_a_cloud_still_has_variables(cluster: Cluster, clouds: Path) -> None:
    found = cluster.inventory(OS_CLIENT_CONFIG_FILE=str(clouds), OS_CLOUD="secret")
    assert "does not accept these credentials" in found["stderr"] and "Traceback" not in found["stderr"]
    assert not [name for name in found["_meta"]["hostvars"] if name.startswith(cluster.name)]
