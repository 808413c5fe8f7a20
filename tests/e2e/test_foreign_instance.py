"""A server of the user's becomes the control plane, and is the user's again after ``destroy``, with all that was on it.

The tests build on each other, in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.e2e.clusters import Cluster, changes, ready, small_cluster
from tests.e2e.instances import USER, Instance, instance

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("ten minutes"),
]
NAME: Final = "foreign"
SERVER, WORKER = f"{NAME}-control-plane", "x86-small-1"
# Files at places where a control plane has some of its own, and one beside them.
OWN: Final = {
    "/etc/crictl.yaml": "timeout: 10\n",
    "/usr/local/bin/kubectl": "#!/bin/sh\necho my own\n",
    "/root/.kube/config": "apiVersion: v1\nkind: Config\n",
    "/opt/cni/bin/own": "a plugin\n",
    "/etc/sysctl.d/50-own.conf": "vm.swappiness = 50\n",
    "/srv/data": "my data\n",
}


def listing(mine: Instance) -> set[str]:
    """Return what a cluster could leave behind or take away: files by checksum, users, units, rules and hosts."""
    output = mine.run(
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


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=0) as found:
        yield found


@pytest.fixture(scope="module")
def mine(cluster: Cluster) -> Iterator[Instance]:
    with instance(cluster.cloud, cluster.file.parent, NAME, SERVER) as found:
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
    return listing(mine)


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
    assert_equal(listing(mine), before)


def test_nothing_is_left_to_destroy(before: set[str], mine: Instance, cluster: Cluster) -> None:
    assert changes(cluster.command("destroy", "--yes")) == 0
    assert_equal(listing(mine), before)


def test_it_becomes_a_control_plane_once_more(before: set[str], mine: Instance, cluster: Cluster) -> None:
    cluster.command("deploy", "--yes")
    cluster.command("destroy", "--yes")
    assert_equal(listing(mine), before)
