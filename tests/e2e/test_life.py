"""A week of a cluster in fast motion: edits, more workers, reboots, a lost host, an upgrade, fewer workers, destroy.

An edit is announced, done only after a yes, node by node, and nothing else is touched. The tests build on each other,
in the order of the file. They take half an hour, so ``make test-long`` runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openstack
import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils._spec import KUBERNETES_VERSIONS

from benchmarks.servers import cpu_seconds
from q8s_lab import settings
from tests.e2e.clusters import DEMO, Q8S_RUN, changes, connection, is_ready

pytestmark = [
    pytest.mark.lab,
    pytest.mark.e2e,
    pytest.mark.long("half an hour"),
]
NAME = "life"
NEWEST, PREVIOUS = KUBERNETES_VERSIONS[:2]
EDITED, OTHER = "x86-edit-1", "x86-keep-1"
# The figures are those of a machine with nothing else to do. They may be missed by this factor, so that one that is
# three times slower passes; each is printed beside what was wanted. Q8S_TEST_SLOWNESS=1 demands the figures themselves.
SLOWNESS = float(os.environ.get("Q8S_TEST_SLOWNESS", "4"))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo of the previous version of Kubernetes, with two types of one architecture; the tests edit one."""
    path = tmp_path_factory.mktemp("life") / "cluster.yaml"
    data = yaml.safe_load(DEMO.read_text().replace("demo", NAME))
    data["remote_ip_prefix"] = str(settings.load().subnet)
    data["kubernetes_version"] = PREVIOUS
    machine = data["vm_types"]["types"]["x86-small"]
    data["vm_types"]["types"] = {"x86-edit": dict(machine), "x86-keep": dict(machine)}
    data["cluster_definition"]["worker"] = {"x86-edit": 1, "x86-keep": 1}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def edit(file: Path, machine: Mapping[str, Any] | None = None, **fields: Any) -> None:
    data = {**yaml.safe_load(file.read_text()), **fields}
    data["vm_types"]["types"]["x86-edit"].update(machine or {})
    file.write_text(yaml.safe_dump(data, sort_keys=False))


@pytest.fixture(scope="module")
def q8s(lab: Mapping[str, str], file: Path) -> Iterator[Run]:
    """``q8s-run VERB FILE ...`` without a terminal; the cluster is gone afterwards."""
    environment = {**os.environ, **lab, "XDG_STATE_HOME": str(file.parent / "state")}

    def run(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [Q8S_RUN, verb, file, *arguments]
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2700,
            check=False,
        )
        print(*command, done.stdout, done.stderr, f"exit code {done.returncode}", sep="\n")
        return done

    yield run
    run("destroy", "--yes")


@pytest.fixture(scope="module")
def cloud(lab: Mapping[str, str]) -> Iterator[openstack.connection.Connection]:
    with connection(lab) as found:
        yield found


def servers(cloud: openstack.connection.Connection) -> dict[str, str]:
    return {server.name: server.id for server in cloud.compute.servers() if server.name.startswith(f"{NAME}-")}


@pytest.fixture(scope="module")
def nodes(q8s: Run) -> Callable[[], dict[str, Any]]:
    """The nodes by name, as the API server has them."""

    def read() -> dict[str, Any]:
        done = q8s("ssh", f"{NAME}-control-plane", "--", "sudo", "kubectl", "get", "nodes", "--output=json")
        assert done.returncode == 0, done.stderr
        return {node["metadata"]["name"]: node for node in json.loads(done.stdout)["items"]}

    return read


def figure(what: str, seconds: float, wanted: float, why: str) -> None:
    """Print a duration, and check it against the one that is wanted."""
    load = os.getloadavg()[0]
    print(f"figure: {what}: {seconds:.0f} s, wanted: {wanted:.0f} s ({why}); load {load:.1f}", flush=True)
    assert seconds <= SLOWNESS * wanted


def guest_times(q8s: Run) -> dict[str, dict[str, float]]:
    """Return the milestones of the guests that the last deploy started, by node, in seconds since it began."""
    guests = json.loads(q8s("timeline", "--json").stdout)["guests"]
    return {guest["node"]: guest["times"] for guest in guests}


def boots(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: node["status"]["nodeInfo"]["bootID"] for name, node in found.items()}


@pytest.fixture(scope="module")
def before(q8s: Run, nodes: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The nodes of a cluster that was deployed, before the first edit."""
    assert q8s("deploy", "--yes").returncode == 0
    return nodes()


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What was said, on one line and without the times of plain progress."""
    return " ".join(re.sub(r"(?m)^\[ *[\d.]+s\]", "", done.stdout + done.stderr).split())


def test_an_edit_is_announced_by_plan_and_check_mode(before: Any, q8s: Run, file: Path) -> None:
    edit(file, {"ram": 1536, "num_cpus": 1})
    for done in (q8s("plan"), q8s("deploy", "--check")):
        assert done.returncode == 0
        assert "existing nodes:" in done.stdout + done.stderr
        said = words(done)
        assert f"restart {EDITED}" in said and "ram 2048 MB -> 1536 MB" in said and "num_cpus 2 -> 1" in said
        assert OTHER not in said.partition("existing nodes:")[2].partition("num_cpus 2 -> 1")[0]


def test_without_a_yes_nothing_changes(before: Any, q8s: Run, nodes: Callable[[], Any]) -> None:
    done = q8s("deploy")
    assert done.returncode == 2
    assert f"{EDITED}: would be drained and restarted or recreated. This needs --yes." in words(done)
    assert boots(nodes()) == boots(before)
    xml = q8s("ssh", f"{NAME}-{EDITED}", "--", "sudo", "virsh", "dumpxml", "--inactive", EDITED).stdout
    assert "<memory unit='KiB'>2097152</memory>" in xml, "nothing waits for the next reboot"


def test_a_restart_gives_the_node_the_new_values_and_touches_no_other(
    before: Any, q8s: Run, nodes: Callable[[], Any]
) -> None:
    assert q8s("deploy", "--yes").returncode == 0
    after = nodes()
    assert is_ready(after[EDITED])
    capacity = after[EDITED]["status"]["capacity"]
    assert capacity["cpu"] == "1"
    assert 0.85 * 1536 * 1024 < int(capacity["memory"].removesuffix("Ki")) <= 1536 * 1024
    assert after[EDITED]["metadata"]["uid"] == before[EDITED]["metadata"]["uid"], "it is the same node"
    assert boots(after)[EDITED] != boots(before)[EDITED]
    assert boots(after)[OTHER] == boots(before)[OTHER]


def test_a_larger_disk_recreates_the_node_and_touches_no_other(
    before: Any, q8s: Run, nodes: Callable[[], Any], file: Path
) -> None:
    edit(file, {"storage": 12})
    assert q8s("deploy", "--yes").returncode == 0
    after = nodes()
    assert is_ready(after[EDITED])
    assert after[EDITED]["metadata"]["uid"] != before[EDITED]["metadata"]["uid"]
    disk = int(after[EDITED]["status"]["capacity"]["ephemeral-storage"].removesuffix("Ki"))
    assert 11 * 1024**2 < disk <= 12 * 1024**2
    assert boots(after)[OTHER] == boots(before)[OTHER]


def test_a_refused_edit_names_both_values_and_changes_nothing(
    before: Any, q8s: Run, nodes: Callable[[], Any], file: Path
) -> None:
    text = file.read_text()
    edit(file, guest_ip_prefix="172.30.0.0/16", name_of_initial_instance="another-control-plane")
    for verb in (("plan",), ("deploy", "--check"), ("deploy", "--yes")):
        done = q8s(*verb)
        assert done.returncode == 2
        said = words(done)
        assert "guest_ip_prefix is 172.30.0.0/16 in the cluster file, but the cluster has 172.29.0.0/16." in said
        assert f"another-control-plane in the cluster file, but the cluster has {NAME}-control-plane." in said
    file.write_text(text)
    assert boots(nodes())[OTHER] == boots(before)[OTHER]


def test_a_deploy_after_all_edits_changes_nothing(before: Any, q8s: Run) -> None:
    done = q8s("deploy")
    assert done.returncode == 0
    assert changes(done.stderr + done.stdout) == 0


def workers(file: Path, **numbers: int) -> None:
    data = yaml.safe_load(file.read_text())
    data["cluster_definition"]["worker"] = {name.replace("_", "-"): number for name, number in numbers.items()}
    file.write_text(yaml.safe_dump(data, sort_keys=False))


def test_another_worker_joins_and_no_other_is_touched(
    before: Any, q8s: Run, nodes: Callable[[], Any], file: Path, cloud: openstack.connection.Connection
) -> None:
    was, hosts = nodes(), servers(cloud)
    workers(file, x86_edit=1, x86_keep=2)
    assert q8s("deploy", "--yes").returncode == 0
    now = nodes()
    assert set(now) == {*was, "x86-keep-2"} and all(is_ready(node) for node in now.values())
    assert {name: boot for name, boot in boots(now).items() if name in was} == boots(was)
    assert {name: number for name, number in servers(cloud).items() if name in hosts} == hosts
    times = guest_times(q8s)["x86-keep-2"]
    boot = times["ready"] - times["power_on"]
    figure("a node more is Ready", times["ready"], boot + 60, f"one guest boot of {boot:.0f} s + 60 s")


def test_a_host_that_is_reset_is_back_unaided(
    before: Any, q8s: Run, nodes: Callable[[], Any], cloud: openstack.connection.Connection
) -> None:
    was, begin = nodes(), time.monotonic()
    boot = guest_times(q8s)["x86-keep-2"]
    cloud.compute.reboot_server(servers(cloud)[f"{NAME}-x86-keep-2"], "HARD")
    while not (is_ready((now := nodes())["x86-keep-2"]) and boots(now)["x86-keep-2"] != boots(was)["x86-keep-2"]):
        assert time.monotonic() - begin < 600, "the node is not back"
        time.sleep(2)
    took, seconds = time.monotonic() - begin, boot["ready"] - boot["power_on"]
    figure("a node after its host's reset", took, seconds + 30, f"its boot of {seconds:.0f} s + 30 s")
    assert {name: number for name, number in boots(now).items() if name != "x86-keep-2"} == {
        name: number for name, number in boots(was).items() if name != "x86-keep-2"
    }


def wait_for_guests_to_settle() -> None:
    """Guests that have booted a moment ago start their pods. Here they take the processors that a deploy needs."""
    for _ in range(18):
        used, begin = cpu_seconds(), time.monotonic()
        time.sleep(10)
        busy = (cpu_seconds() - used) / (time.monotonic() - begin) / (os.cpu_count() or 1)
        if busy < 0.75:
            break
    print(f"the processors are busy for {busy:.0%} of the time", flush=True)


def test_what_changes_nothing_is_quick(before: Any, q8s: Run) -> None:
    """The cluster has four nodes by now."""
    wait_for_guests_to_settle()
    for verb, wanted in (("deploy", 30), ("status", 5)):
        begin = time.monotonic()
        done = q8s(verb)
        assert done.returncode == 0
        figure(f"{verb} of four nodes", time.monotonic() - begin, wanted, "nothing is wrong")
        if verb == "deploy":
            assert changes(done.stderr + done.stdout) == 0


def test_all_servers_are_rebooted_and_every_node_is_ready_again_unaided(
    before: Any, q8s: Run, nodes: Callable[[], Any], cloud: openstack.connection.Connection
) -> None:
    was, begin = nodes(), time.monotonic()
    for server in servers(cloud).values():
        cloud.compute.reboot_server(server, "SOFT")
    waited = ("ssh", f"{NAME}-control-plane", "--", "sudo", "kubectl", "get", "nodes", "--output=json")
    while True:
        done = q8s(*waited)
        now = (
            {node["metadata"]["name"]: node for node in json.loads(done.stdout)["items"]} if not done.returncode else {}
        )
        guests = set(now) - {f"{NAME}-control-plane"}
        back = guests and all(is_ready(node) for node in now.values())
        if back and all(boots(now)[name] != boots(was)[name] for name in guests):
            break
        assert time.monotonic() - begin < 600, "the nodes are not back"
        time.sleep(2)
    # all guests at once, so that each boots slower than one alone: the figure is of one host
    print(f"figure: all nodes Ready {time.monotonic() - begin:.0f} s after the reboot of all servers", flush=True)
    assert set(now) == set(was)
    done = q8s("deploy")
    assert done.returncode == 0 and changes(done.stderr + done.stdout) == 0


def test_a_lost_host_is_named_and_the_next_deploy_creates_it_again(
    before: Any, q8s: Run, nodes: Callable[[], Any], cloud: openstack.connection.Connection
) -> None:
    was, hosts = nodes(), servers(cloud)
    lost = f"{NAME}-{OTHER}"
    cloud.compute.delete_server(hosts[lost])
    cloud.compute.wait_for_delete(cloud.compute.get_server(hosts[lost]), wait=120)
    status = q8s("status")
    assert status.returncode == 1 and OTHER in words(status)
    assert q8s("deploy", "--yes").returncode == 0
    now = nodes()
    assert set(now) == set(was) and all(is_ready(node) for node in now.values())
    assert {name: boot for name, boot in boots(now).items() if name != OTHER} == {
        name: boot for name, boot in boots(was).items() if name != OTHER
    }
    assert {name: number for name, number in servers(cloud).items() if name != lost} == {
        name: number for name, number in hosts.items() if name != lost
    }


def test_an_upgrade_keeps_every_node(
    before: Any, q8s: Run, nodes: Callable[[], Any], file: Path, cloud: openstack.connection.Connection
) -> None:
    was, hosts = nodes(), servers(cloud)
    file.write_text(file.read_text().replace(PREVIOUS, NEWEST))
    assert q8s("upgrade", "--yes", "--parallel", "2").returncode == 0
    now = nodes()
    assert set(now) == set(was) and all(is_ready(node) for node in now.values())
    assert {node["status"]["nodeInfo"]["kubeletVersion"] for node in now.values()} == {f"v{NEWEST}"}
    assert servers(cloud) == hosts


def test_fewer_workers(
    before: Any, q8s: Run, nodes: Callable[[], Any], file: Path, cloud: openstack.connection.Connection
) -> None:
    was = nodes()
    workers(file, x86_edit=1, x86_keep=1)
    begin = time.monotonic()
    assert q8s("deploy", "--yes").returncode == 0
    figure("a node less", time.monotonic() - begin, 60, "drained, and its server deleted")
    now = nodes()
    assert boots(now) == {name: boot for name, boot in boots(was).items() if name != "x86-keep-2"}
    assert set(servers(cloud)) == {f"{NAME}-control-plane", f"{NAME}-{EDITED}", f"{NAME}-{OTHER}"}


def test_destroy_leaves_nothing_in_the_cloud(before: Any, q8s: Run, cloud: openstack.connection.Connection) -> None:
    ours = set(servers(cloud).values())
    assert q8s("destroy", "--yes").returncode == 0
    assert servers(cloud) == {}
    assert [port.id for port in cloud.network.ports() if port.device_id in ours] == []
    assert [key.name for key in cloud.compute.keypairs() if f"q8s-{NAME}" in key.name] == []
    assert [group.name for group in cloud.network.security_groups() if NAME in (group.description or "")] == []
