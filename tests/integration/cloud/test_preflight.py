"""What a user is told when a cloud does not fit a cluster, or does not let anybody in."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from q8s_lab import settings

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster
    from tests.integration.conftest import FaultyCloud

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
            "vm_types.types.tiny.openstack_flavor: hollow.small has 3072 MB; the 4096 MB of its guest, QEMU and the "
            "host's system need at least 4432 MB",
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
        ("absent", "Failed to log in to the cloud absent: ", "OS_CLOUD"),
    ],
)
def test_a_cloud_that_lets_nobody_in(case: str, message: str, hint: str, told: dict[str, Any]) -> None:
    first, *more = told[case]["msg"].splitlines()
    assert told[case]["failed"] and first.startswith(message), first
    assert len(more) == 1 and more[0].startswith("hint: ") and hint in more[0]


@pytest.fixture(scope="module")
def diskless(admin: Any) -> Iterator[str]:
    """A flavor whose servers boot from a volume, as clouds with Cinder have them."""
    flavor = admin.compute.create_flavor(name=f"diskless-{secrets.token_hex(2)}", vcpus=2, ram=3072, disk=0)
    yield flavor.name
    admin.compute.delete_flavor(flavor)


def test_a_flavor_without_a_disk(cluster: Cluster, diskless: str) -> None:
    data = cluster.mapping()
    data["cluster_definition"]["master_node_flavor"] = diskless
    problems = cluster.module("cloud_preflight", data)["problems"]
    assert problems == [
        f"cluster_definition.master_node_flavor: {diskless} has no disk (disk 0): its servers would boot from a "
        "volume, which Q8S does not create; choose a flavor with a disk of at least 5 GB"
    ]


@pytest.fixture
def image(cloud: Any, cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Uploads an image of a few bytes with some properties; gives its name."""
    made = []

    def upload(**properties: Any) -> str:
        found = cloud.create_image(
            f"{cluster.name}-{len(made)}",
            data=b"q8s",
            container_format="bare",
            disk_format="raw",
            wait=True,
            **properties,
        )
        made.append(found)
        return str(found.name)

    yield upload
    for one in made:
        cloud.image.delete_image(one.id)


def test_an_image_for_another_architecture(cluster: Cluster, image: Callable[..., str]) -> None:
    name = image(architecture="aarch64")
    problems = cluster.module("cloud_preflight", cluster.mapping(default_image_name=name))["problems"]
    assert problems == [f"default_image_name: the image '{name}' is for aarch64; hosts are x86_64"]


def test_an_image_that_is_not_active(cluster: Cluster, image: Callable[..., str], admin: Any, cloud: Any) -> None:
    name = image()
    admin.image.deactivate_image(cloud.image.find_image(name).id)
    (problem,) = cluster.module("cloud_preflight", cluster.mapping(default_image_name=name))["problems"]
    assert problem.startswith(f"default_image_name: the image '{name}' is deactivated")


def test_the_images_properties_say_which_qemu_hosts_have(cluster: Cluster, image: Callable[..., str]) -> None:
    data = cluster.mapping(default_image_name=image(os_distro="debian", os_version="12", architecture="x86_64"))
    assert cluster.module("cloud_preflight", data)["problems"] == []
    data["vm_types"]["types"]["tiny"]["cpu_model"] = "neoverse-v1"
    (problem,) = cluster.module("cloud_preflight", data)["problems"]
    assert "vm_types.types.tiny.cpu_model: is 'neoverse-v1', which QEMU 7.2 of Debian 12 does not have; " in problem
    data["default_image_name"] = settings.IMAGE_NAME
    assert cluster.module("cloud_preflight", data)["problems"] == []


@pytest.mark.parametrize(
    ("service", "path"),
    [("compute", "/limits"), ("compute", "/os-server-groups"), ("network", "/quotas/"), ("network", "/floatingips")],
)
def test_what_a_cloud_keeps_from_its_users_is_no_failure(
    service: str, path: str, cluster: Cluster, faulty: Callable[[str], FaultyCloud]
) -> None:
    through = faulty(service)
    through.proxy.answer("GET", path, 403, times=None)
    answer = cluster.module("cloud_preflight", environment=through.environment)
    assert answer.get("problems") == [], answer.get("msg")
    assert through.proxy.requests("GET", path), "it was asked"


def test_deploy_says_it_too(cluster: Cluster, clouds: Path) -> None:
    done = cluster.run(["q8s-run", "deploy", cluster.file()], OS_CLIENT_CONFIG_FILE=str(clouds), OS_CLOUD="secret")
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stderr.split())  # lines are broken at the width of the terminal
    assert "Failed to log in to the cloud secret: the cloud does not accept these credentials" in said
    assert f"hint: fix the cause, then run `q8s-run deploy {cluster.file()}` again" in said
    assert "Traceback" not in done.stdout + done.stderr


def test_an_inventory_without_a_cloud_still_has_variables(cluster: Cluster, clouds: Path) -> None:
    found = cluster.inventory(OS_CLIENT_CONFIG_FILE=str(clouds), OS_CLOUD="secret")
    assert "does not accept these credentials" in found["stderr"] and "Traceback" not in found["stderr"]
    assert not [name for name in found["_meta"]["hostvars"] if name.startswith(cluster.name)]
