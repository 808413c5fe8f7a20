"""What somebody broke by hand: ``status`` names it while Kubernetes still calls the nodes Ready, ``deploy`` repairs it.

The tests build on each other, in the order of the file. Afterwards, servers fail: one that the cloud cannot create, one
that is switched off during a deploy, and the only control plane, which is deleted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pytest
import yaml

from tests.e2e.clusters import Cluster, changes, ready, small_cluster

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("twenty minutes"),
]
NAME: Final = "repair"
WORKER, CONTROL_PLANE = "x86-small-1", f"{NAME}-control-plane"
HOST: Final = f"{NAME}-{WORKER}"
NODES: Final = {WORKER, CONTROL_PLANE}
VIRSH: Final = "virsh --connect qemu:///system"
NOTICED: Final = 120  # seconds within which a repaired cluster is reported as well, on a machine under load
PRESSURE: Final = 300  # seconds for which a kubelet keeps DiskPressure when space is free again (its own default)
# Allocates what is free at once, and writes the rest: Kubernetes wants 10 % of a disk free.
FILL: Final = (
    "fallocate --length $(( $(df --output=avail --block-size=1 / | tail -n 1) - (64 << 20) )) /full"
    " && { head --bytes 1G /dev/zero > /full-2; df /; }"
)


@dataclass(frozen=True)
class Break:
    """What is broken at once: commands by the machine that runs them, and what ``status`` says then by node."""

    commands: Mapping[str, str]
    named: Mapping[str, tuple[str, ...]]


BREAKS: Final = {
    "rules, units, a running guest's definition, the control plane's kubelet": Break(
        {
            HOST: "systemctl disable --now q8s-rules-check.timer q8s-guest.service"
            " && iptables -t nat -F && iptables -F && iptables -P FORWARD DROP && nft delete table ip q8s"
            f" && {VIRSH} undefine {WORKER}",
            CONTROL_PLANE: "systemctl stop kubelet && systemctl disable q8s-containerd",
        },
        {
            WORKER: (
                f"Q8S's rules on the host {HOST} are not in force",
                f"the unit q8s-rules-check.timer on the host {HOST} is inactive and disabled",
                f"the unit q8s-guest.service on the host {HOST} is inactive and disabled",
                f"libvirt has no definition of the guest {WORKER} any more",
            ),
            CONTROL_PLANE: (
                f"the unit kubelet.service on the host {CONTROL_PLANE} is inactive",
                f"the unit q8s-containerd.service on the host {CONTROL_PLANE} is disabled",
            ),
        },
    ),
    "the guest's kubelet, and the control plane's node": Break(
        {WORKER: "systemctl stop kubelet", CONTROL_PLANE: f"kubectl delete node {CONTROL_PLANE}"},
        {
            WORKER: (f"the kubelet of {WORKER} does not run, though its guest does",),
            CONTROL_PLANE: (f"{CONTROL_PLANE} has not joined the cluster",),
        },
    ),
    "a paused guest, and the control plane's rules": Break(
        {
            HOST: f"{VIRSH} suspend {WORKER}",
            CONTROL_PLANE: "systemctl disable --now q8s-rules-check.timer && iptables -F Q8S_FWD",
        },
        {
            WORKER: (f"the guest {WORKER} is paused",),
            CONTROL_PLANE: (f"Q8S's rules on the host {CONTROL_PLANE} are not in force",),
        },
    ),
    "the guest's network": Break(
        {HOST: f"{VIRSH} net-destroy q8s"},
        {WORKER: (f"the guest {WORKER} is cut off",)},
    ),
    "the worker's node": Break(
        {CONTROL_PLANE: f"kubectl delete node {WORKER}"},
        # that it has not joined, or, five minutes after its start, that it is not in the cluster though its guest runs
        {WORKER: (f"{WORKER} ", " the cluster")},
    ),
    "a guest that is gone": Break(
        {HOST: f"{VIRSH} destroy {WORKER} && {VIRSH} undefine {WORKER}"},
        {WORKER: (f"the host {HOST} has no guest",)},
    ),
}


@pytest.fixture(scope="module")
def cluster(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with small_cluster(lab, tmp_path_factory.mktemp(NAME), NAME, additional=0) as found:
        found.command("deploy", "--yes")
        yield found


def on(cluster: Cluster, machine: str, command: str) -> str:
    """Run a command as root on a host or in a guest."""
    sudo = () if machine == WORKER else ("sudo",)
    return cluster.command("ssh", machine, "--", *sudo, "sh", "-c", command)


def status(cluster: Cluster) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code of ``status``, and its rows by node."""
    begin = time.monotonic()
    done = cluster.attempt("status", "--json")
    print(f"status answered within {time.monotonic() - begin:.0f} s", flush=True)
    return done.returncode, {row["node"]: row for row in json.loads(done.stdout)}


def wait_until_well(cluster: Cluster, seconds: float = NOTICED) -> dict[str, dict[str, Any]]:
    """Wait until ``status`` finds no problem. Return its rows."""
    begin = time.monotonic()
    while True:
        code, rows = status(cluster)
        if code == 0:
            return rows
        assert time.monotonic() - begin < seconds, {name: row["problem"] for name, row in rows.items()}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named_and_repaired(cluster: Cluster, name: str) -> None:
    broken = BREAKS[name]
    wait_until_well(cluster)
    for machine, command in broken.commands.items():
        on(cluster, machine, command)
    code, rows = status(cluster)
    assert code == 1
    for node, texts in broken.named.items():
        for text in texts:
            assert text in rows[node]["problem"], rows[node]
        assert "q8s-run" in rows[node]["hint"]
    assert changes(cluster.command("deploy", "--yes")) > 0
    assert set(wait_until_well(cluster)) == NODES
    assert changes(cluster.command("deploy")) == 0


def test_a_control_plane_that_registered_again_takes_no_ordinary_pods(cluster: Cluster) -> None:
    text = on(cluster, CONTROL_PLANE, f"kubectl get node {CONTROL_PLANE} --output=json")
    node = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert "node-role.kubernetes.io/control-plane" in node["metadata"]["labels"]
    assert "node-role.kubernetes.io/control-plane" in [taint["key"] for taint in node["spec"]["taints"]]


def test_a_full_disk_is_named_and_the_node_is_well_when_it_is_freed(cluster: Cluster) -> None:
    wait_until_well(cluster)
    on(cluster, WORKER, FILL)
    begin = time.monotonic()
    while "has DiskPressure" not in (row := status(cluster)[1][WORKER])["problem"]:
        assert time.monotonic() - begin < NOTICED, row
    assert row["hint"].endswith(f" {WORKER} -- df -h")

    # A deploy neither repairs a full disk nor fails because of it.
    cluster.command("deploy", "--yes")
    on(cluster, WORKER, "rm /full /full-2")
    assert set(wait_until_well(cluster, NOTICED + PRESSURE)) == NODES
    cluster.command("verify")
    assert changes(cluster.command("deploy")) == 0


def test_one_failure_stays_one_failure(cluster: Cluster) -> None:
    """The lab's flavor hollow.error: Nova accepts the server, and it goes to ERROR."""
    text = cluster.file.read_text()
    data = yaml.safe_load(text)
    types = data["vm_types"]["types"]
    types["broken"] = {**types["x86-small"], "openstack_flavor": "hollow.error", "ram": 1024}
    data["cluster_definition"]["worker"]["broken"] = 1
    cluster.file.write_text(yaml.safe_dump(data, sort_keys=False))
    done = cluster.attempt("deploy", "--yes")
    said = " ".join(re.sub(r"(?m)^\[ *[\d.]+s\]", "", done.stdout + done.stderr).split())
    assert done.returncode == 1
    assert f"server {NAME}-broken-1 is in ERROR" in said and "never start" in said
    assert "q8s-run deploy" in done.stderr.partition("never start")[2], "the next command"
    output = on(cluster, CONTROL_PLANE, "kubectl get nodes --output=json")
    items = json.loads(output[output.index("{") : output.rindex("}") + 1])["items"]
    assert ready({item["metadata"]["name"]: item for item in items}) >= {WORKER}
    code, rows = status(cluster)
    assert code == 1 and "is in ERROR" in rows["broken-1"]["problem"]
    assert {name for name, row in rows.items() if not row["problem"]} == NODES
    cluster.file.write_text(text)
    cluster.command("deploy", "--yes")
    assert set(wait_until_well(cluster)) == NODES and set(cluster.servers()) == {HOST, CONTROL_PLANE}


def test_a_host_that_dies_during_a_deploy_takes_no_other_with_it(cluster: Cluster) -> None:
    dead, other = "x86-small-2", "x86-small-3"
    text = cluster.file.read_text()
    data = yaml.safe_load(text)
    data["cluster_definition"]["worker"]["x86-small"] = 3
    cluster.file.write_text(yaml.safe_dump(data, sort_keys=False))
    with ThreadPoolExecutor(1) as pool:
        deploy = pool.submit(cluster.attempt, "deploy", "--yes")
        installing = ("ssh", f"{NAME}-{dead}", "--", "test", "-e", "/usr/bin/qemu-system-x86_64")
        while cluster.attempt(*installing).returncode != 0:
            assert not deploy.done()
            time.sleep(1)
        cluster.cloud.compute.stop_server(cluster.servers()[f"{NAME}-{dead}"])
        done = deploy.result()
    assert done.returncode == 1
    assert re.search(rf"error: {NAME}-{dead}: .*\n  [\d.]+ no longer answers by ssh\n", done.stderr)
    assert "hint:" in done.stderr
    _, rows = status(cluster)
    assert {name for name, row in rows.items() if not row["problem"]} == {*NODES, other}
    assert f"the server {NAME}-{dead} is switched off" in rows[dead]["problem"]

    cluster.command("deploy", "--yes")
    assert set(wait_until_well(cluster)) == {*NODES, dead, other}
    cluster.file.write_text(text)
    cluster.command("deploy", "--yes")
    assert set(cluster.servers()) == {HOST, CONTROL_PLANE}


def test_a_lost_control_plane_is_replaced_only_when_that_is_agreed_to(cluster: Cluster) -> None:
    servers, authority = cluster.servers(), on(cluster, CONTROL_PLANE, "sha256sum /etc/kubernetes/pki/ca.crt")
    cluster.cloud.compute.delete_server(servers[CONTROL_PLANE])
    cluster.cloud.compute.wait_for_delete(cluster.cloud.compute.get_server(servers[CONTROL_PLANE]))
    refused = cluster.attempt("deploy", "--yes")
    assert refused.returncode == 1 and "--replace-control-plane" in refused.stderr
    assert set(cluster.servers()) == {HOST}

    cluster.command("deploy", "--yes", "--replace-control-plane")
    assert set(wait_until_well(cluster)) == NODES
    assert cluster.servers()[HOST] != servers[HOST]
    assert on(cluster, CONTROL_PLANE, "sha256sum /etc/kubernetes/pki/ca.crt") != authority
    assert changes(cluster.command("deploy")) == 0
