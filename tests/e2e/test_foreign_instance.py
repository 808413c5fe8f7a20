"""A server of the user's becomes the control plane, and is the user's again after ``destroy``, with all that was on it.

The tests build on each other, in the order of the file.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openstack
import pytest
import yaml

from q8s_lab.machine import wait
from tests.e2e.clusters import Cluster, changes, ready, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("ten minutes"),
]
NAME: Final = "foreign"
SERVER, WORKER = f"{NAME}-control-plane", "x86-small-1"
USER: Final = "debian"
# Files at places where a control plane has some of its own, and one beside them.
OWN: Final = {
    "/etc/crictl.yaml": "timeout: 10\n",
    "/usr/local/bin/kubectl": "#!/bin/sh\necho my own\n",
    "/root/.kube/config": "apiVersion: v1\nkind: Config\n",
    "/opt/cni/bin/own": "a plugin\n",
    "/etc/sysctl.d/50-own.conf": "vm.swappiness = 50\n",
    "/srv/data": "my data\n",
}


@dataclass(frozen=True)
class Instance:
    """The user's server, its address, and the key that it accepts."""

    server: Any
    address: str
    key: Path

    def run(self, command: str) -> str:
        """Run a command as root, not by way of Q8S. Return its output."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        done = subprocess.run(
            ["ssh", "-F", "none", "-i", self.key, *options, f"{USER}@{self.address}", "sudo sh -s"],
            input=command, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answers(self) -> bool:
        """Return whether one can log in."""
        try:
            return self.run("echo yes") == "yes\n"
        except AssertionError:
            return False

    def listing(self) -> set[str]:
        """Return what a cluster could leave behind or take away: files by checksum, users, units, rules and hosts."""
        output = self.run(
            f"sha256sum {' '.join(OWN)}; stat --format '%n %U:%G %a' {' '.join(OWN)}; cat /etc/hosts /etc/passwd;"
            " systemctl list-unit-files --state=enabled --no-legend | sort;"
            " find /etc /opt /usr/local /var/lib -maxdepth 2 | grep -i -e q8s -e kube -e etcd -e cni;"
            " iptables-save 2>/dev/null | grep -i -e q8s -e kube -e flannel; nft list tables | grep -i q8s;"
            " ip -brief link | grep -e cni0 -e flannel; mount | grep -i -e kubelet -e q8s;"
            " pgrep -l -e kube -e etcd -e containerd -e flanneld; :"
        )
        return set(output.splitlines())


def assert_equal(after: set[str], before: set[str]) -> None:
    left, lost = sorted(after - before), sorted(before - after)
    assert (left, lost) == ([], [])


@contextmanager
def instance(cloud: openstack.connection.Connection, folder: Path) -> Iterator[Instance]:
    """A server that somebody made before, with a key and a security group of its own."""
    key = folder / "my_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pair = cloud.compute.create_keypair(name=f"{NAME}-own", public_key=key.with_suffix(".pub").read_text())
    group = cloud.network.create_security_group(name=f"{NAME}-own")
    cloud.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ethertype="IPv4", protocol="tcp",
        port_range_min=22, port_range_max=22,
    )  # fmt: skip
    server = cloud.compute.create_server(
        name=SERVER,
        image_id=cloud.image.find_image("debian-13").id,
        flavor_id=cloud.compute.find_flavor("c1.small").id,
        networks=[{"uuid": cloud.network.find_network("private").id}],
        key_name=pair.name,
        security_groups=[{"name": group.name}],
    )
    try:
        server = cloud.compute.wait_for_server(server, wait=120)
        found = Instance(server, next(iter(server.addresses.values()))[0]["addr"], key)
        assert wait(found.answers, 120)
        yield found
    finally:
        cloud.compute.delete_server(server, ignore_missing=True)
        cloud.compute.wait_for_delete(server, wait=60)
        cloud.network.delete_security_group(group)
        cloud.compute.delete_keypair(pair)


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=0) as found:
        yield found


@pytest.fixture(scope="module")
def mine(cluster: Cluster) -> Iterator[Instance]:
    with instance(cluster.cloud, cluster.file.parent) as found:
        for path, text in OWN.items():
            found.run(f"mkdir -p $(dirname {path}); cat > {path} <<'END'\n{text}END\n")
        found.run("chmod +x /usr/local/bin/kubectl")
        data = yaml.safe_load(cluster.file.read_text())
        data |= {"initial_instance_user": USER, "initial_instance_private_key": str(found.key)}
        cluster.file.write_text(yaml.safe_dump(data, sort_keys=False))
        yield found
        cluster.attempt("destroy", "--yes")


@pytest.fixture(scope="module")
def before(mine: Instance) -> set[str]:
    """What was on the server when it was the user's alone."""
    return mine.listing()


def test_it_becomes_the_control_plane(before: set[str], mine: Instance, cluster: Cluster) -> None:
    cluster.command("deploy", "--yes")
    assert cluster.servers()[SERVER] == mine.server.id
    nodes = json.loads(mine.run("/var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf get nodes -o json"))
    assert ready({item["metadata"]["name"]: item for item in nodes["items"]}) == {SERVER, WORKER}
    assert mine.run("/usr/local/bin/kubectl") == "my own\n"
    assert mine.run("cat /root/.kube/config") == OWN["/root/.kube/config"]
    assert changes(cluster.command("deploy", "--yes")) == 0
    cluster.command("verify")


def test_another_cluster_does_not_take_it(before: set[str], mine: Instance, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(cluster.file.read_text().replace(f"cluster_name: {NAME}", "cluster_name: stranger"))
    other = Cluster("stranger", file, cluster.environment, cluster.cloud)
    done = other.attempt("deploy", "--yes")
    assert done.returncode in (1, 2) and SERVER in done.stderr
    assert not list(cluster.cloud.compute.servers(name="^stranger"))
    assert set(cluster.servers()) == {SERVER, f"{NAME}-{WORKER}"}


def test_destroy_gives_it_back(before: set[str], mine: Instance, cluster: Cluster) -> None:
    cluster.command("destroy", "--yes")
    server = cluster.cloud.compute.get_server(mine.server.id)
    assert server.status == "ACTIVE" and cluster.servers() == {SERVER: server.id}
    assert [group["name"] for group in server.security_groups] == [f"{NAME}-own"]
    assert_equal(mine.listing(), before)


def test_nothing_is_left_to_destroy(before: set[str], mine: Instance, cluster: Cluster) -> None:
    assert changes(cluster.command("destroy", "--yes")) == 0
    assert_equal(mine.listing(), before)


def test_it_becomes_a_control_plane_once_more(before: set[str], mine: Instance, cluster: Cluster) -> None:
    cluster.command("deploy", "--yes")
    cluster.command("destroy", "--yes")
    assert_equal(mine.listing(), before)
