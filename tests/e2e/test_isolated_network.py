"""Workers in a network without a gateway, which only the user's own server reaches: it has a NIC in two networks.

That server has a floating IP in the first network, and is the control plane and the way to all others in the second,
whose MTU is smaller. Packages and images come through a proxy on it. The tests build on each other.
"""

from __future__ import annotations

import json
import re
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import yaml

from q8s_lab import settings
from q8s_lab.machine import wait
from tests.e2e.clusters import Cluster, changes, ready, small_cluster
from tests.e2e.instances import USER, Instance, instance

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("a quarter of an hour"),
]
NAME: Final = "isolated"
SERVER, WORKER = f"{NAME}-control-plane", "x86-small-1"
SUBNET: Final = "10.253.7.0/28"
MTU: Final = 1400
FLANNEL_MTU: Final = MTU - 50  # VXLAN's headers
PROXY_PORT: Final = 3128
REGISTRY: Final = "registry.q8s.invalid"


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=0) as found:
        yield found


@pytest.fixture(scope="module")
def network(cluster: Cluster) -> Iterator[str]:
    """The name of a network of the project's own."""
    made = cluster.cloud.network.create_network(name=f"{NAME}-net", mtu=MTU)
    cluster.cloud.network.create_subnet(
        network_id=made.id, name=made.name, cidr=SUBNET, ip_version=4, gateway_ip=None, is_dhcp_enabled=False
    )
    yield made.name
    cluster.cloud.network.delete_network(made)


@pytest.fixture(scope="module")
def mine(cluster: Cluster, network: str) -> Iterator[Instance]:
    """The user's server, with a floating IP, and a proxy that the other network's servers reach."""
    cloud, lab = cluster.cloud, settings.load()
    with instance(cloud, cluster.file.parent, NAME, SERVER, ("private", network)) as found:
        external = cloud.network.find_network("external", ignore_missing=False)
        (port,) = cloud.network.ports(device_id=found.server.id, fixed_ips=f"ip_address={found.address}")
        floating = cloud.network.create_ip(floating_network_id=external.id, port_id=port.id)
        inside = found.server.addresses[network][0]["addr"]
        found.run(
            f"systemd-run --unit=my-proxy --socket-property=ListenStream={inside}:{PROXY_PORT}"
            f" /usr/lib/systemd/systemd-socket-proxyd {lab.gateway}:{lab.proxy_port}"
        )
        # cloud-init lets nobody log in as root.
        found.run(f"cp ~{USER}/.ssh/authorized_keys /root/.ssh/authorized_keys")
        proxy = f"http://{inside}:{PROXY_PORT}"
        data = yaml.safe_load(cluster.file.read_text())
        data |= {
            "private_network_id": network,
            "remote_ip_prefix": SUBNET,
            "initial_instance_user": "root",
            "initial_instance_private_key": str(found.key),
            "access": {"type": "floating_ip", "floating_network": "external"},
            "proxy": {"http_proxy": proxy, "https_proxy": proxy},
        }
        cluster.file.write_text(yaml.safe_dump(data, sort_keys=False))
        try:
            yield found
        finally:
            cluster.attempt("destroy", "--yes")
            cloud.network.delete_ip(floating)


def kubectl(mine: Instance, arguments: str) -> Any:
    return json.loads(mine.run(f"/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf {arguments} -o json"))


def floating_ip(mine: Instance, cluster: Cluster) -> str:
    (found,) = cluster.cloud.network.ips(fixed_ip_address=mine.address)
    return str(found.floating_ip_address)


def test_it_is_deployed_through_the_floating_ip(mine: Instance, cluster: Cluster) -> None:
    cluster.command("deploy", "--yes")
    nodes = {item["metadata"]["name"]: item for item in kubectl(mine, "get nodes")["items"]}
    assert ready(nodes) == {SERVER, WORKER}
    addresses = [a["address"] for n in nodes.values() for a in n["status"]["addresses"] if a["type"] == "InternalIP"]
    assert all(address.startswith("10.253.7.") for address in addresses), addresses
    assert changes(cluster.command("deploy", "--yes")) == 0
    cluster.command("verify")


def test_the_worker_has_no_other_way(mine: Instance, cluster: Cluster) -> None:
    """The lab gives a server of such a subnet no default route, as a cloud does."""
    assert "default" not in cluster.command("ssh", f"{NAME}-{WORKER}", "--", "ip route")


def test_the_guest_has_the_networks_mtu(mine: Instance, cluster: Cluster) -> None:
    links = cluster.command("ssh", WORKER, "--", "ip -o link")
    assert re.search(rf"flannel\.1:.* mtu {FLANNEL_MTU} ", links), links
    assert re.search(rf": e\w+:.* mtu {MTU} ", links), links


def test_the_kubeconfig_names_the_floating_ip(mine: Instance, cluster: Cluster) -> None:
    config = yaml.safe_load(cluster.attempt("kubeconfig").stdout)
    url = config["clusters"][0]["cluster"]["server"]
    assert url == f"https://{floating_ip(mine, cluster)}:6443"
    trusted = ssl.create_default_context(cadata=mine.run("cat /etc/kubernetes/pki/ca.crt"))
    with urllib.request.urlopen(f"{url}/readyz", context=trusted, timeout=30) as answer:
        assert answer.read() == b"ok"


def test_images_are_pulled_through_the_proxy(mine: Instance, cluster: Cluster) -> None:
    """Its refusal is the pod's reason: without it, the node would look for the registry itself."""
    mine.run(
        "/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf run pulling --restart=Never"
        f" --image={REGISTRY}/pulling:1"
    )

    def reasons() -> list[str]:
        events = kubectl(mine, "get events --field-selector involvedObject.name=pulling")["items"]
        return [event["message"] for event in events if event["reason"] == "Failed" and REGISTRY in event["message"]]

    assert wait(reasons, 180)
    assert "CONNECT denied" in reasons()[0], reasons()


def test_destroy_leaves_what_is_the_users(mine: Instance, cluster: Cluster) -> None:
    cluster.command("destroy", "--yes")
    assert cluster.servers() == {SERVER: mine.server.id}
    assert floating_ip(mine, cluster) and mine.answers()
