"""Of two control planes one is lost for good: etcd has no majority, and the data of the other is kept with a yes.

The tests build on each other, in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.e2e.clusters import Cluster, changes, ready, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("forty minutes"),
]
NAME: Final = "majority"
FIRST, SECOND, WORKER = f"{NAME}-control-plane", f"{NAME}-control-plane-2", "x86-small-1"
RESTORE: Final = ("--", "-e", "q8s_restore_etcd=true")


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=1) as found:
        found.command("deploy", "--yes")
        on_first(found, "kubectl create configmap kept --from-literal=a=b")
        yield found


def on_first(cluster: Cluster, command: str) -> str:
    done = cluster.attempt("ssh", FIRST, "--", f"sudo {command}")
    assert done.returncode == 0
    return done.stdout


def nodes(cluster: Cluster) -> dict[str, Any]:
    listed = json.loads(on_first(cluster, "kubectl get nodes -o json"))["items"]
    return {node["metadata"]["name"]: node for node in listed}


def delete(cluster: Cluster, name: str) -> None:
    server = cluster.servers()[name]
    cluster.cloud.compute.delete_server(server)
    cluster.cloud.compute.wait_for_delete(cluster.cloud.compute.get_server(server), wait=60)


def ca(cluster: Cluster) -> str:
    return on_first(cluster, "sha256sum /etc/kubernetes/pki/ca.crt")


def test_a_deploy_says_what_is_lost_and_changes_no_node(cluster: Cluster) -> None:
    delete(cluster, SECOND)
    done = cluster.attempt("deploy", "--yes")
    said = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert "etcd has no leader, because no majority of its members answers" in said
    assert f"its members are {FIRST}, {SECOND}" in said and "-e q8s_restore_etcd=true" in said


def restored(cluster: Cluster, before: str) -> None:
    """Deploy with a yes, and check that everything is there with the CA of before."""
    cluster.command("deploy", "--yes", *RESTORE)
    assert ca(cluster) == before
    assert ready(nodes(cluster)) == {FIRST, SECOND, WORKER}
    assert json.loads(on_first(cluster, "kubectl get configmap kept -o json"))["data"] == {"a": "b"}


def test_with_a_yes_the_other_ones_data_is_kept(cluster: Cluster) -> None:
    restored(cluster, ca(cluster))


def test_afterwards_nothing_is_left_to_change(cluster: Cluster) -> None:
    assert changes(cluster.command("deploy", "--yes", *RESTORE)) == 0, "with a leader, nothing is restored"
    assert "--force-new-cluster" not in on_first(cluster, "cat /etc/kubernetes/manifests/etcd.yaml")


def test_a_member_that_was_away_during_the_restore_joins_anew(cluster: Cluster) -> None:
    gone = "for i in $(seq 60); do pgrep -x etcd >/dev/null || exit 0; sleep 2; done; exit 1"
    stop = f"sudo sh -c 'mv /etc/kubernetes/manifests/etcd.yaml /root/; {gone}'"
    assert cluster.attempt("ssh", SECOND, "--", stop).returncode == 0
    restored(cluster, ca(cluster))
    assert changes(cluster.command("deploy", "--yes")) == 0


def test_the_first_one_may_be_the_lost_one(cluster: Cluster) -> None:
    before = ca(cluster)
    delete(cluster, FIRST)
    done = cluster.attempt("deploy", "--yes")
    assert done.returncode == 1 and "-e q8s_restore_etcd=true" in " ".join(done.stderr.split())
    restored(cluster, before)
    assert changes(cluster.command("deploy", "--yes")) == 0
