"""The README's promise: one file, one command, a cluster of two architectures; and nothing is left after destroy.

The tests build on each other, in the order of the file: a cluster takes minutes, so they share one.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml

from q8s_lab import settings
from q8s_wrapper.config import REPOSITORY
from tests.e2e.clusters import DEMO, Q8S_RUN, changes, in_cloud

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

NAME = "e2e"
WORKERS = {"x86-small-1": "amd64", "arm-mid-1": "arm64"}
NODES = {f"{NAME}-control-plane": "amd64", **WORKERS}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's file under another name, so that a demo which runs is left alone, and on the lab of these tests."""
    file = tmp_path_factory.mktemp("e2e") / "cluster.yaml"
    text = DEMO.read_text().replace("demo", NAME)
    file.write_text(re.sub(r"(?m)^(remote_ip_prefix: )\S+", rf"\g<1>{settings.load().subnet}", text))
    return file


@pytest.fixture(scope="module")
def environment(lab: Mapping[str, str], cluster_file: Path) -> dict[str, str]:
    """The lab's cloud, and local state of these tests' own."""
    return {**os.environ, **lab, "XDG_STATE_HOME": str(cluster_file.parent / "state")}


@pytest.fixture(scope="module")
def q8s(environment: dict[str, str], cluster_file: Path) -> Iterator[Run]:
    """``q8s-run VERB FILE ...``; the cluster is gone afterwards."""

    def run(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [Q8S_RUN, verb, cluster_file, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        print(done.stdout, done.stderr, sep="\n")
        return done

    yield run
    run("destroy", "--yes")


@pytest.fixture(scope="module")
def deployed(q8s: Run) -> subprocess.CompletedProcess[str]:
    return q8s("deploy")


@pytest.fixture
def kubectl(q8s: Run) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        done = q8s("ssh", f"{NAME}-control-plane", "--", "sudo", "kubectl", *arguments, "--output=json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def servers_by_name(cloud: openstack.connection.Connection) -> dict[str, str]:
    return {server.name: server.id for server in cloud.compute.servers() if server.name.startswith(NAME)}


def local_files(cluster_file: Path) -> dict[str, bytes]:
    """The files of the cluster on this machine: keys, kubeconfig, and what is recorded, but for the runs."""
    (folder,) = (cluster_file.parent / "state" / "q8s").glob(f"*/{NAME}")
    of_runs = {"history.jsonl", "timeline.json", "timeline-last.json", "lock"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in of_runs}


def node_boots(kubectl: Callable[..., Any]) -> dict[str, str]:
    """The boot of every node that Kubernetes knows."""
    return {node["metadata"]["name"]: node["status"]["nodeInfo"]["bootID"] for node in kubectl("get", "nodes")["items"]}


@pytest.fixture
def cloud(lab: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> openstack.connection.Connection:
    for name, value in lab.items():
        monkeypatch.setenv(name, value)
    return openstack.connect()


def test_deploy_ends_well(deployed: subprocess.CompletedProcess[str]) -> None:
    assert deployed.returncode == 0
    assert changes(deployed.stderr + deployed.stdout) > 0


def test_every_node_is_ready_under_its_hosts_address(
    deployed: subprocess.CompletedProcess[str], kubectl: Callable[..., Any], cloud: openstack.connection.Connection
) -> None:
    nodes = {node["metadata"]["name"]: node for node in kubectl("get", "nodes")["items"]}
    architectures = {name: node["status"]["nodeInfo"]["architecture"] for name, node in nodes.items()}
    assert architectures == NODES
    for node in nodes.values():
        assert [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["True"]
    servers = {
        server.name.removeprefix(f"{NAME}-"): server.addresses["private"][0]["addr"]
        for server in cloud.compute.servers()
    }
    for worker in WORKERS:
        addresses = [a["address"] for a in nodes[worker]["status"]["addresses"] if a["type"] == "InternalIP"]
        assert addresses == [servers[worker]]


def test_pods_run_everywhere_and_reach_each_other_by_name(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    done = q8s("verify")
    assert done.returncode == 0
    said = done.stdout + done.stderr
    # what the workers show, beside the cluster file
    assert re.search(r"^x86-small-1 +CPU model +EPYC-Rome +AMD EPYC-Rome Processor +yes$", said, re.M)
    assert re.search(r"^arm-mid-1 +CPU model +cortex-a57 +cortex-a57 +yes$", said, re.M)
    assert re.search(r"^arm-mid-1 +memory +2048 MB +19\d\d MB +-\d\.\d % +yes$", said, re.M)
    # what each pod printed (kubectl logs): its own uname -m and processor
    assert re.search(rf"^{NAME}-control-plane: x86_64 \S", said, re.M)
    assert re.search(r"^x86-small-1: x86_64 AMD EPYC-Rome", said, re.M)
    assert re.search(r"^arm-mid-1: aarch64 .*0xd07", said, re.M)  # the part number of a Cortex-A57
    # what it got from the others (kubectl exec), by Service name
    for asking in NODES:
        for asked, architecture in NODES.items():
            if asking != asked:
                machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
                assert re.search(rf"^{asking} -> http://probe-{asked}:8080/: {machine} .*{asked}", said, re.M)


@pytest.mark.parametrize(("worker", "model"), [("x86-small-1", "AMD EPYC-Rome Processor"), ("arm-mid-1", "Cortex-A57")])
def test_a_guest_is_what_the_file_says(
    deployed: subprocess.CompletedProcess[str], q8s: Run, worker: str, model: str
) -> None:
    done = q8s(
        "ssh",
        worker,
        "--",
        "lscpu; cat /proc/meminfo; lsblk --bytes --noheadings --output NAME,SIZE /dev/vda; "
        "ls -d /sys/fs/cgroup/kubepods.slice; sudo crun --root /run/containerd/runc/k8s.io list",
    )
    assert done.returncode == 0
    assert re.search(rf"Model name:\s+{model}", done.stdout)
    assert re.search(r"^CPU\(s\):\s+2$", done.stdout, re.M)
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", done.stdout, re.M)
    # the kernel keeps some for itself
    assert memory and 0.9 * 2048 * 1024 < int(memory[1]) <= 2048 * 1024
    assert re.search(rf"^vda\s+{10 * 1024**3}$", done.stdout, re.M)
    assert "kubepods.slice" in done.stdout, "systemd manages the cgroups of pods, as of everything else"
    assert re.search(r"^[0-9a-f]{64} +\d+ +running ", done.stdout, re.M), "crun, and not runc, starts containers"


def test_names_of_the_cluster_come_from_the_control_plane(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    """Links and restarts of a worker do not reach them."""
    kubectl = "sudo kubectl --namespace=kube-system get pods --selector=k8s-app=kube-dns"
    done = q8s(
        "ssh", f"{NAME}-control-plane", "--", f"{kubectl} --output=jsonpath='{{.items[*].spec.nodeName}}'"
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.split() == [f"{NAME}-control-plane"] * 2


def test_status_agrees(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    done = q8s("status", "--json")
    assert done.returncode == 0
    table = {row["node"]: row for row in json.loads(done.stdout)}
    assert {name: row["kubernetes"] for name, row in table.items()} == dict.fromkeys(NODES, "Ready")
    assert {table[worker]["guest"] for worker in WORKERS} == {"running"}


def test_a_second_deploy_changes_nothing(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    again = q8s("deploy")
    assert again.returncode == 0
    assert changes(again.stderr + again.stdout) == 0


@pytest.mark.parametrize("limit", [[], ["--limit", "x86-small-1"]], ids=["all", "one"])
def test_a_check_of_it_finds_and_makes_no_change(
    deployed: subprocess.CompletedProcess[str],
    q8s: Run,
    cloud: openstack.connection.Connection,
    cluster_file: Path,
    limit: list[str],
) -> None:
    before = in_cloud(cloud, NAME), local_files(cluster_file)
    # The archive of a bundle that was built anew has another checksum, and is not unpacked over one that runs.
    done = q8s("deploy", "--check", *limit, "--", "-e", f"k8s_common_archive_sha256={'0' * 64}")
    assert done.returncode == 0
    assert "deploy --check: 0 changes would be made" in done.stderr
    assert (in_cloud(cloud, NAME), local_files(cluster_file)) == before


def test_a_controller_that_has_built_nothing_uses_what_the_cluster_serves(
    deployed: subprocess.CompletedProcess[str],
    q8s: Run,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(environment, "Q8S_CACHE", str(tmp_path))
    assert "build:" not in q8s("plan").stdout
    again = q8s("deploy")
    assert again.returncode == 0
    assert changes(again.stderr + again.stdout) == 0
    assert list(tmp_path.glob("programs/*")) == [], "nothing is built"


def test_an_edit_of_the_file_is_announced_or_refused(
    deployed: subprocess.CompletedProcess[str], q8s: Run, cluster_file: Path
) -> None:
    text = cluster_file.read_text()
    try:
        cluster_file.write_text(text.replace("ram: 2048", "ram: 1536", 1))
        said = " ".join(q8s("plan").stdout.split())
        assert "restart x86-small-1" in said and "ram 2048 MB -> 1536 MB" in said and "arm-mid-1" not in said
        refused = q8s("deploy")
        assert refused.returncode == 2 and "--yes" in refused.stderr
        edits = {"worker_port_range_max: 32767": "31999", "guest_ip_prefix: 172.29.0.0/16": "172.30.0.0/16"}
        edited = text
        for line, value in edits.items():
            edited = edited.replace(line, f"{line.split()[0]} {value}")
        cluster_file.write_text(edited)
        done = q8s("plan")
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 2
        for line, value in edits.items():
            field, has = line.split(": ")
            assert f"{field} is {value} in the cluster file, but the cluster has {has}." in said
    finally:
        cluster_file.write_text(text)


def test_a_limit_is_for_one_host(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    done = q8s("deploy", "--limit", "arm-mid-1", "--tags", "qemu_host,emulated_worker", "--json")
    assert done.returncode == 0
    result = json.loads(done.stdout.splitlines()[-1])
    stages = {stage["name"]: stage["hosts"] for stage in result["stages"] if stage["hosts"]}
    assert stages["Install QEMU and libvirt"] == stages["Boot guests"] == [f"{NAME}-arm-mid-1"]
    assert "Install Kubernetes" not in stages and result["changed"] == 0


def test_a_limit_without_the_wrapper(
    deployed: subprocess.CompletedProcess[str], environment: dict[str, str], cluster_file: Path
) -> None:
    command = [
        Q8S_RUN.with_name("ansible-playbook"), "playbooks/site.yml", "-e", f"q8s_cluster_file={cluster_file}",
        "-e", "q8s_limit=arm-mid-1", "--tags", "emulated_worker",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{NAME}-arm-mid-1 +: ok=\d+ +changed=0 ", done.stdout, re.M), done.stdout
    assert f"{NAME}-x86-small-1" not in done.stdout.partition("PLAY RECAP")[2]


def test_a_deploy_mends_a_guest_that_was_switched_off(
    deployed: subprocess.CompletedProcess[str], q8s: Run, kubectl: Callable[..., Any]
) -> None:
    before = kubectl("get", "node", "x86-small-1")["status"]["nodeInfo"]["bootID"]
    virsh = ["sudo", "virsh", "--connect", "qemu:///system"]
    assert q8s("ssh", f"{NAME}-x86-small-1", "--", *virsh, "destroy", "x86-small-1").returncode == 0
    unwell = q8s("status")
    assert unwell.returncode == 1 and f"start the guest: {Q8S_RUN} deploy " in " ".join(unwell.stdout.split())
    again = q8s("deploy")
    assert again.returncode == 0
    assert changes(again.stderr + again.stdout) == 1
    # Kubernetes misses the node only after 40 s: a deploy that believed its old "Ready" would end too early.
    node = kubectl("get", "node", "x86-small-1")
    assert node["status"]["nodeInfo"]["bootID"] != before
    assert [c["status"] for c in node["status"]["conditions"] if c["type"] == "Ready"] == ["True"]


def test_a_command_on_all_guests(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    done = q8s("exec", "emulated_workers", "--", "uname", "-m")
    assert done.returncode == 0
    assert sorted(line.split() for line in done.stdout.splitlines()) == [
        ["arm-mid-1", "aarch64"],
        ["x86-small-1", "x86_64"],
    ]


def test_logs_of_a_guest(deployed: subprocess.CompletedProcess[str], q8s: Run) -> None:
    done = q8s("logs", "arm-mid-1", "--lines", "400")
    assert done.returncode == 0
    console, kubelet = done.stdout.split("==> kubelet of arm-mid-1 <==")
    assert "q8s: data disk unpacked" in console, "its console"
    assert re.search(r"kubelet\[\d+\]:", kubelet), "its kubelet's journal"


@pytest.mark.long("five minutes")
def test_a_benchmark_measures_a_node_and_leaves_no_pod(
    deployed: subprocess.CompletedProcess[str], q8s: Run, kubectl: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "results"
    options = ("--quick", "--only", "memory", "--nodes", f"{NAME}-control-plane,x86-small-1", "--output", str(output))
    assert q8s("bench", *options).returncode == 0
    rows = [row for row in csv.DictReader((output / "summary.csv").open()) if row["metric"] == "stream"]
    speeds = {row["client"]: float(row["median"]) for row in rows}
    assert speeds[f"{NAME}-control-plane"] > speeds["x86-small-1"] > 0, "the worker is emulated"
    namespaces = kubectl("get", "namespaces")["items"]
    left = [one["metadata"]["name"] for one in namespaces if "deletionTimestamp" not in one["metadata"]]
    assert "q8s-bench" not in left


def test_the_kubeconfig_opens_the_api(deployed: subprocess.CompletedProcess[str], q8s: Run, tmp_path: Path) -> None:
    done = q8s("kubeconfig")
    assert done.returncode == 0
    config = yaml.safe_load(done.stdout)
    assert config["current-context"] == NAME
    (cluster,), (user,) = config["clusters"], config["users"]
    files = {}
    for key, part in (
        ("ca", "certificate-authority-data"),
        ("cert", "client-certificate-data"),
        ("key", "client-key-data"),
    ):
        files[key] = tmp_path / key
        files[key].write_bytes(base64.b64decode({**cluster["cluster"], **user["user"]}[part]))
    context = ssl.create_default_context(cafile=str(files["ca"]))
    context.load_cert_chain(files["cert"], files["key"])
    with urllib.request.urlopen(f"{cluster['cluster']['server']}/api/v1/nodes", context=context, timeout=30) as answer:
        assert {node["metadata"]["name"] for node in json.load(answer)["items"]} == set(NODES)


@pytest.mark.long("ten minutes")
def test_replace_makes_one_worker_anew_and_touches_no_other(
    deployed: subprocess.CompletedProcess[str],
    q8s: Run,
    kubectl: Callable[..., Any],
    cloud: openstack.connection.Connection,
) -> None:
    before, nodes = servers_by_name(cloud), node_boots(kubectl)
    assert q8s("replace", "x86-small-1", "--yes").returncode == 0
    after, boots = servers_by_name(cloud), node_boots(kubectl)
    changed = f"{NAME}-x86-small-1"
    assert set(after) == set(before) and after[changed] != before[changed]
    assert {n: i for n, i in after.items() if n != changed} == {n: i for n, i in before.items() if n != changed}
    assert set(boots) == set(nodes) and boots["x86-small-1"] != nodes["x86-small-1"]
    assert boots["arm-mid-1"] == nodes["arm-mid-1"]
    assert q8s("verify").returncode == 0, "its pods reach the others, and are reached"


def test_a_worker_less_is_drained_and_removed_when_that_is_agreed_to(
    deployed: subprocess.CompletedProcess[str],
    q8s: Run,
    kubectl: Callable[..., Any],
    cloud: openstack.connection.Connection,
    cluster_file: Path,
) -> None:
    before, boots = servers_by_name(cloud), node_boots(kubectl)
    going = f"{NAME}-arm-mid-1"
    whole = cluster_file.read_text()
    cluster_file.write_text(re.sub(r"(?m)^(\s+arm-mid: )1\b", r"\g<1>0", whole))
    assert cluster_file.read_text() != whole
    kept = q8s("deploy")
    assert kept.returncode == 0 and changes(kept.stderr + kept.stdout) == 0
    assert f"The file no longer asks for the server {going}; it stays" in " ".join(kept.stderr.split())
    assert servers_by_name(cloud) == before and node_boots(kubectl) == boots
    assert q8s("deploy", "--yes").returncode == 0
    assert servers_by_name(cloud) == {name: number for name, number in before.items() if name != going}
    assert node_boots(kubectl) == {name: boot for name, boot in boots.items() if name != "arm-mid-1"}


def test_destroy_leaves_nothing(
    deployed: subprocess.CompletedProcess[str], q8s: Run, cloud: openstack.connection.Connection
) -> None:
    ours = {server.id for server in cloud.compute.servers() if server.name.startswith(NAME)}
    assert len(ours) == len(NODES) - 1, "one was removed before"
    assert q8s("destroy", "--yes").returncode == 0
    assert [s.name for s in cloud.compute.servers() if s.name.startswith(NAME)] == []
    assert [k.name for k in cloud.compute.keypairs() if NAME in k.name] == []
    assert [g.name for g in cloud.network.security_groups() if NAME in (g.description or "")] == []
    assert [p.id for p in cloud.network.ports() if p.device_id in ours] == []
    again = q8s("destroy", "--yes")
    assert again.returncode == 0
    assert changes(again.stderr + again.stdout) == 0
