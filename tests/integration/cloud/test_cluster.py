"""The life of a cluster in the cloud, from a check of an empty project to the last port. Tests build on each other."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _ssh

from q8s_lab import settings
from q8s_lab.machine import wait
from q8s_wrapper.config import REPOSITORY

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab
FLAVOR = "c1.small"  # with a machine behind it, to log in to


def tasks(cluster: Cluster, prefix: str = "", **keywords: Any) -> dict[str, dict[str, Any]]:
    """Key pair, group and servers, as playbooks/site.yml makes them."""
    mapping = "{{ q8s_cluster }}"
    return {
        f"{prefix}key": {"q8s.emu.keypair": {"cluster": mapping, "public_key": cluster.public_key}, **keywords},
        f"{prefix}group": {"q8s.emu.security_group": {"cluster": mapping}, **keywords},
        f"{prefix}servers": {"q8s.emu.servers": {"cluster": mapping, "public_key": cluster.public_key}, **keywords},
    }


CHECK = {"check_mode": True, "diff": True}


def group_task(**keywords: Any) -> dict[str, Any]:
    return {"q8s.emu.security_group": {"cluster": "{{ q8s_cluster }}"}, "diff": True, **keywords}


def group_of(cloud: Any, cluster: Cluster) -> Any:
    """The cluster's group, or None."""
    found = [group for group in cloud.network.security_groups() if group.description == f"Q8S cluster {cluster.name}"]
    assert len(found) < 2
    return found[0] if found else None


def rules_of(cloud: Any, group: Any) -> dict[tuple[Any, ...], str]:
    """Ids of ingress rules by what they let in."""
    listed = cloud.network.security_group_rules(security_group_id=group.id, direction="ingress")
    return {
        (
            rule.protocol,
            rule.port_range_min,
            rule.port_range_max,
            rule.remote_ip_prefix or rule.remote_group_id,
        ): rule.id
        for rule in listed
    }


def servers_of(cloud: Any, cluster: Cluster) -> dict[str, Any]:
    return {server.name: server for server in cloud.compute.servers() if server.name.startswith(cluster.name)}


def in_cloud(cloud: Any, cluster: Cluster) -> dict[str, Any]:
    """All that the cloud has of a cluster, for comparison."""
    group = group_of(cloud, cluster)
    key = cloud.compute.find_keypair(f"q8s-{cluster.name}", ignore_missing=True)
    return {
        "key": key and key.public_key,
        "rules": group and sorted(map(str, rules_of(cloud, group))),
        "servers": {name: (server.id, server.status) for name, server in servers_of(cloud, cluster).items()},
    }


NOTHING = {"key": None, "rules": None, "servers": {}}


@pytest.fixture(scope="module")
def strangers_group(cloud: Any, cluster: Cluster) -> Iterator[Any]:
    """Somebody else's group of the same name, which must be left as it is; it is there before ours."""
    group = cloud.network.create_security_group(name="q8s-cluster", description=f"somebody else's, not {cluster.name}")
    cloud.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol="tcp",
        port_range_min=99, port_range_max=99,
    )  # fmt: skip
    yield group
    cloud.network.delete_security_group(group, ignore_missing=True)


@pytest.fixture(scope="module")
def empty(cloud: Any, cluster: Cluster, strangers_group: Any) -> Mapping[str, Any]:
    """The inventory and check mode of a cluster that is nowhere yet, and what the cloud has after them."""
    inventory = cluster.inventory()
    results = cluster.play(tasks(cluster, **CHECK))
    return {**results, "inventory": inventory, "cloud": in_cloud(cloud, cluster)}


@pytest.fixture(scope="module")
def applied(cloud: Any, cluster: Cluster, empty: Mapping[str, Any]) -> Mapping[str, Any]:
    """The cluster is made, and asked for once more."""
    results = cluster.play({**tasks(cluster, diff=True), **tasks(cluster, "again ", diff=True)})
    return {**results, "inventory": cluster.inventory(), "cloud": in_cloud(cloud, cluster)}


def test_check_mode_changes_nothing(empty: Mapping[str, Any], cluster: Cluster) -> None:
    assert [empty[name]["changed"] for name in ("key", "group", "servers")] == [True, True, True]
    assert [c["name"] for c in empty["servers"]["changes"]] == [cluster.initial, cluster.worker]
    assert empty["cloud"] == NOTHING


def test_the_inventory_of_nothing(empty: Mapping[str, Any]) -> None:
    assert empty["inventory"]["_meta"]["hostvars"] == {}
    assert not [group for group, content in empty["inventory"].items() if group != "all" and "hosts" in content]


def test_apply_does_what_check_mode_said(empty: Mapping[str, Any], applied: Mapping[str, Any]) -> None:
    for name in ("key", "group", "servers"):
        for key in ("changed", "diff", "changes"):
            assert applied[name][key] == empty[name][key], f"{name}: {key}"


def test_diff_shows_what_comes(applied: Mapping[str, Any], cluster: Cluster) -> None:
    key = " ".join(cluster.public_key.split()[:2])
    assert applied["key"]["diff"] == {"before": "", "after": f"key pair q8s-{cluster.name} {key}\n"}
    assert applied["servers"]["diff"] == {
        "before": "",
        "after": f"server {cluster.initial} ACTIVE\nserver {cluster.worker} ACTIVE\n",
    }
    assert "tcp 30000-32767 from " in applied["group"]["diff"]["after"]


def test_a_second_apply_changes_nothing(applied: Mapping[str, Any]) -> None:
    for name in ("again key", "again group", "again servers"):
        assert not applied[name]["changed"]
        assert applied[name]["diff"]["before"] == applied[name]["diff"]["after"] != ""
    assert applied["again servers"]["servers"] == applied["servers"]["servers"]


def test_what_the_cloud_has(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    assert applied["cloud"]["key"].split()[:2] == cluster.public_key.split()[:2]
    subnet = str(settings.load().subnet)
    group = group_of(cloud, cluster)
    assert set(rules_of(cloud, group)) == {
        ("tcp", 22, 22, subnet),
        ("tcp", 6443, 6443, subnet),
        ("tcp", 30000, 32767, subnet),
        ("udp", 30000, 32767, subnet),
        ("icmp", None, None, subnet),
        (None, None, None, group.id),
    }
    servers = servers_of(cloud, cluster)
    assert set(servers) == {cluster.initial, cluster.worker}
    for server in servers.values():
        assert server.status == "ACTIVE" and server.metadata["q8s_cluster"] == cluster.name
        ports = list(cloud.network.ports(device_id=server.id))
        assert [port.security_group_ids for port in ports] == [[group.id]], "not the stranger's group of that name"


def test_no_private_key_is_in_metadata(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    for server in servers_of(cloud, cluster).values():
        assert server.metadata["q8s_host_ca"].startswith("ssh-ed25519 ")
        assert "PRIVATE" not in json.dumps(server.metadata)


def test_the_inventory_of_servers(applied: Mapping[str, Any], cluster: Cluster) -> None:
    inventory = applied["inventory"]
    members = {name: group["hosts"] for name, group in inventory.items() if "hosts" in group}
    workers = [cluster.worker]
    assert members == {
        "control_plane": [cluster.initial],
        "control_plane_initial": [cluster.initial],
        "worker_hosts": workers,
        "emulated_workers": ["tiny-1"],
        "type_tiny": [cluster.worker, "tiny-1"],
        "arch_aarch64": [cluster.worker, "tiny-1"],
    }
    addresses = {server["name"]: server["address"] for server in applied["servers"]["servers"]}
    hosts = inventory["_meta"]["hostvars"]
    assert {name: hosts[name]["ansible_host"] for name in addresses} == addresses
    assert hosts["tiny-1"]["ansible_host"] == addresses[cluster.worker] and hosts["tiny-1"]["ansible_port"] == 2222
    last = addresses[cluster.worker].rsplit(".", 1)[1]
    assert hosts[cluster.worker]["q8s_vm"]["guest_ip"].startswith(f"172.29.{last}.")
    assert hosts[cluster.initial]["q8s_expected_nodes"] == [cluster.initial, "tiny-1"]


def test_login_with_checked_host_keys(applied: Mapping[str, Any], cluster: Cluster) -> None:
    def login() -> Any:
        return cluster.run(["q8s-run", "ssh", cluster.file(), cluster.worker, "--", "sudo", "hostname"])

    end = time.monotonic() + 60
    while (done := login()).returncode != 0 and time.monotonic() < end:
        time.sleep(1)
    assert (done.returncode, done.stdout.strip()) == (0, cluster.worker), done.stderr
    unknown = cluster.run(["q8s-run", "ssh", cluster.file(), "nobody", "--", "true"])
    assert unknown.returncode == 2 and f"known are: {cluster.initial}, {cluster.worker}, tiny-1" in unknown.stderr


def test_no_login_where_another_ca_signed(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    worker, initial = (servers_of(cloud, cluster)[name] for name in (cluster.worker, cluster.initial))
    theirs, anothers = (server.metadata["q8s_host_ca"] for server in (worker, initial))
    cloud.compute.set_server_metadata(worker.id, q8s_host_ca=anothers)
    try:
        refused = cluster.run(["q8s-run", "ssh", cluster.file(), cluster.worker, "--", "hostname"])
    finally:
        cloud.compute.set_server_metadata(worker.id, q8s_host_ca=theirs)
    assert refused.returncode != 0 and refused.stdout == "" and "Host key verification failed" in refused.stderr


def test_login_through_a_bastion(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    """A bastion is a host of the user's, known to their ssh configuration: here a server stands for it."""
    initial = servers_of(cloud, cluster)[cluster.initial]
    address = next(s["address"] for s in applied["servers"]["servers"] if s["name"] == cluster.initial)
    file = cluster.folder / "bastion.yaml"
    file.write_text(json.dumps(cluster.mapping(access={"type": "bastion", "host": address, "user": "q8s"})))
    configuration = cluster.folder / "ssh_config.d"
    configuration.mkdir()
    (configuration / "known_hosts").write_text(f"@cert-authority q8s-host {initial.metadata['q8s_host_ca']}\n")
    key = cluster.state / "id_ed25519"
    known = (
        f"  UserKnownHostsFile {configuration / 'known_hosts'}\n  StrictHostKeyChecking yes\n  HostKeyAlias q8s-host\n"
    )
    (configuration / "bastion.conf").write_text(f"Host {address}\n  IdentityFile {key}\n{known}")
    mine = 'mount --bind "$0" /etc/ssh/ssh_config.d && exec "$@"'

    def login() -> Any:
        """Log in to the worker; nobody else on this machine sees the configuration."""
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", mine, configuration, Path(sys.executable).with_name("q8s-run"), "ssh",
             file, cluster.worker, "--", "hostname; echo $SSH_CONNECTION"],
            capture_output=True, text=True, check=False, timeout=120, cwd=REPOSITORY,
            env={**os.environ, **cluster.environment},
        )  # fmt: skip

    done = login()
    assert done.returncode == 0, done.stderr
    name, connection = done.stdout.splitlines()
    assert (name, connection.split()[0]) == (cluster.worker, address), "the worker is reached from the bastion"
    (configuration / "known_hosts").write_text("")
    # Later connections share the login that was checked.
    folder = _ssh.socket_folder(str(key.parent))
    text = json.dumps(cluster.inventory(file)["_meta"]["hostvars"])
    sockets = set(re.findall(rf"(?:%\(directory\)s|{re.escape(folder)})/([0-9a-f]{{16}})", text))
    shared = [path for path in (Path(folder, name) for name in sockets) if path.is_socket()]
    assert shared
    for path in shared:
        subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={path}", "bastion"], check=True, capture_output=True)
    refused = login()
    assert refused.returncode != 0 and refused.stdout == "" and "Host key verification failed" in refused.stderr
    assert f"q8s jump host q8s@{address}: Host key verification failed" in refused.stderr, "not the worker's"


def answers(address: str) -> bool:
    """Whether its ssh can be reached from here."""
    try:
        socket.create_connection((address, 22), timeout=1).close()
    except OSError:
        return False
    return True


def test_login_through_a_floating_ip(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    access = {"type": "floating_ip", "floating_network": "external"}
    data = cluster.mapping(access=access)
    file = cluster.folder / "outside.yaml"
    file.write_text(json.dumps(data))
    for name in ("security_group", "servers"):
        assert not cluster.module(name, data).get("failed")
    (ip,) = cloud.network.ips(description=f"Q8S cluster {cluster.name}")
    hosts = cluster.inventory(file)["_meta"]["hostvars"]
    assert hosts[cluster.initial]["ansible_host"] == ip.floating_ip_address
    for node in (cluster.initial, cluster.worker):
        command = ["q8s-run", "ssh", file, node, "--", "hostname; echo $SSH_CONNECTION"]
        end = time.monotonic() + 120
        while (done := cluster.run(command)).returncode != 0 and time.monotonic() < end:
            time.sleep(1)
        assert done.returncode == 0, done.stderr
        name, connection = done.stdout.splitlines()
        assert name == node
    assert connection.split()[0] == hosts[cluster.initial]["q8s_private_ip"], "the worker is reached from there"
    assert wait(lambda: answers(ip.floating_ip_address), 10)
    for prefix, is_open in (("198.51.100.0/24", False), (f"{settings.load().external_gateway}/32", True)):
        allowed = cluster.mapping(access={**access, "allowed_prefixes": [prefix]})
        assert cluster.module("security_group", allowed)["changed"]
        assert wait(lambda: answers(ip.floating_ip_address) == is_open, 10), prefix  # noqa: B023
    for name in ("security_group", "servers"):
        assert cluster.module(name)["changed"]
    assert in_cloud(cloud, cluster) == applied["cloud"] and not list(cloud.network.ips(description=ip.description))


def test_a_rule_made_by_hand_is_reported_and_left(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    group = group_of(cloud, cluster)
    rule = cloud.network.create_security_group_rule(
        security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol="tcp",
        port_range_min=12345, port_range_max=12345,
    )  # fmt: skip
    done = cluster.play({"group": group_task()})["group"]
    assert not done["changed"]
    assert done["notes"] == ["the rule tcp 12345 from 0.0.0.0/0 in q8s-cluster was not created by Q8S; it is kept"]
    assert "The rule tcp 12345 from 0.0.0.0/0" in str(done["warnings"])
    cloud.network.delete_security_group_rule(rule)


def test_two_controllers_are_told(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    group = group_of(cloud, cluster)
    (own,) = (tag for tag in group.tags if tag.startswith("q8s-run:"))
    assert "@" in own, "who made the group, and when"
    (etcd,) = (tag for tag in group.tags if tag != own)
    assert etcd.startswith("q8s-etcd:"), "the server that has etcd"
    cloud.network.set_tags(group, ["blue", etcd, f"q8s-run:{int(time.time()) - 120}:bob@elsewhere"])
    answer = cluster.module("cloud_preflight", public_key=cluster.public_key)
    assert "bob@elsewhere started a run on this cluster 2 min ago" in str(answer["warnings"])
    assert sorted(tag.split(":")[0] for tag in group_of(cloud, cluster).tags) == ["blue", "q8s-etcd", "q8s-run"]
    again = cluster.module("cloud_preflight", public_key=cluster.public_key)
    assert again["settled"] and "bob" not in str(again.get("warnings"))


OTHER_KEY = " ".join(["ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIATbSFIAoKCLyojckQoDUv+sRJPfwQtsZYqckaz2L3fo"])


def test_another_key_of_that_name_is_an_error(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    for check in (True, False):
        answer = cluster.module("keypair", check=check, public_key=OTHER_KEY)
        assert answer["failed"]
        first, hint = answer["msg"].splitlines()
        assert first == (
            f"Failed to upload the key pair q8s-{cluster.name}: the cloud has another key under the name "
            f"q8s-{cluster.name}, and Q8S does not replace it (this cluster was deployed with another key)"
        )
        assert hint.startswith("hint: deploy from the machine")
    assert in_cloud(cloud, cluster) == applied["cloud"]
    preflight = cluster.module("cloud_preflight", public_key=OTHER_KEY)
    assert "another key under the name" in preflight["problems"][0]


def test_a_strangers_key_pair_stays(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    name = f"q8s-{cluster.name}"
    cloud.compute.delete_keypair(name)
    cloud.compute.create_keypair(name=name, public_key=f"{OTHER_KEY} somebody")
    assert "it belongs to someone else" in cluster.module("keypair")["msg"]
    absent = cluster.module("keypair", state="absent")
    assert not absent["changed"] and "does not belong to this cluster" in absent["notes"][0]
    assert cloud.compute.find_keypair(name).public_key == f"{OTHER_KEY} somebody"
    cloud.compute.delete_keypair(name)
    assert cluster.module("keypair")["changed"]


def test_fewer_workers_leave_a_surplus(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    fewer = cluster.file(0)
    results = cluster.play({"servers": tasks(cluster)["servers"]}, fewer)
    assert not results["servers"]["changed"] and cluster.worker in results["servers"]["notes"][0]
    assert f"no longer asks for the server {cluster.worker}" in str(results["servers"]["warnings"])
    assert cluster.inventory(fewer)["surplus"]["hosts"] == [cluster.worker]
    assert in_cloud(cloud, cluster) == applied["cloud"]


def test_another_flavor_is_named(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    other = cluster.mapping()
    other["cluster_definition"]["master_node_flavor"] = "c1.medium"
    notes = [f"the server {cluster.initial} has the flavor {cluster.flavor}, not c1.medium; it stays"]
    for check in (True, False):
        answer = cluster.module("servers", other, check=check)
        assert not answer["changed"] and answer["notes"] == notes
    other["cluster_definition"]["master_node_flavor"] = cloud.compute.find_flavor(cluster.flavor).id
    assert cluster.module("servers", other)["notes"] == [], "the same flavor, by its id"
    assert in_cloud(cloud, cluster) == applied["cloud"]


@pytest.fixture(scope="module")
def stranger(applied: Mapping[str, Any], cloud: Any, cluster: Cluster) -> Any:
    """A server that Q8S did not make, in the place of the worker's host, whose name it has."""
    ours = servers_of(cloud, cluster)[cluster.worker]
    cloud.compute.delete_server(ours)
    cloud.compute.wait_for_delete(ours, interval=1, wait=60)
    image, network = cloud.image.find_image(settings.IMAGE_NAME), cloud.network.find_network("private")
    made = cloud.compute.create_server(
        name=cluster.worker,
        image_id=image.id,
        flavor_id=cloud.compute.find_flavor("c1.small").id,
        networks=[{"uuid": network.id}],
    )
    return cloud.compute.wait_for_server(made, interval=1, wait=60)


def test_a_strangers_server_is_refused(stranger: Any, cloud: Any, cluster: Cluster) -> None:
    before = in_cloud(cloud, cluster)
    task = {**tasks(cluster)["servers"], "ignore_errors": True}
    preflight = {"q8s.emu.cloud_preflight": {"cluster": "{{ q8s_cluster }}"}, "ignore_errors": True}
    results = cluster.play({"check": {**task, "check_mode": True}, "servers": task, "preflight": preflight})
    for result in (results["check"], results["servers"], results["preflight"]):
        assert result["failed"]
        assert (
            f"a server called {cluster.worker} exists and does not belong to the cluster {cluster.name}"
            in result["msg"]
        )
    assert in_cloud(cloud, cluster) == before


@pytest.fixture(scope="module")
def destroyed(stranger: Any, strangers_group: Any, cloud: Any, cluster: Cluster) -> Mapping[str, Any]:
    """``q8s-run destroy``: checked, done and done again."""
    before = in_cloud(cloud, cluster)
    ours = servers_of(cloud, cluster)[cluster.initial]
    checked = cluster.run(["q8s-run", "destroy", cluster.file(), "--check", "--json"])
    unchanged = in_cloud(cloud, cluster) == before
    done = cluster.run(["q8s-run", "destroy", cluster.file(), "--json", "--yes"])
    ports = [port.id for port in cloud.network.ports(device_id=ours.id)]
    return {"checked": checked, "unchanged": unchanged, "done": done, "ports": ports, "before": before}


def result_of(done: Any) -> dict[str, Any]:
    """The last line of ``--json``."""
    assert done.returncode == 0, done.stdout + done.stderr
    data: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return data


def test_destroy_in_check_mode(destroyed: Mapping[str, Any]) -> None:
    assert result_of(destroyed["checked"])["changed"] >= 3
    assert destroyed["unchanged"]


def test_destroy_leaves_nothing_of_the_cluster(destroyed: Mapping[str, Any], cloud: Any, cluster: Cluster) -> None:
    assert result_of(destroyed["done"])["changed"] == result_of(destroyed["checked"])["changed"]
    left = in_cloud(cloud, cluster)
    assert left["key"] is None and left["rules"] is None and set(left["servers"]) == {cluster.worker}
    assert destroyed["ports"] == []
    state = cluster.state
    assert not (state / "id_ed25519").exists() and not (state / "kubeconfig").exists()


def test_destroy_touches_nothing_else(
    destroyed: Mapping[str, Any], stranger: Any, strangers_group: Any, cloud: Any, cluster: Cluster
) -> None:
    assert servers_of(cloud, cluster)[cluster.worker].id == stranger.id
    assert cloud.compute.get_server(stranger.id).status == "ACTIVE"
    assert len(list(cloud.network.ports(device_id=stranger.id))) == 1
    assert [rule[:2] for rule in rules_of(cloud, strangers_group)] == [("tcp", 99)]


def test_destroy_again_changes_nothing(destroyed: Mapping[str, Any], cluster: Cluster) -> None:
    assert result_of(cluster.run(["q8s-run", "destroy", cluster.file(), "--json", "--yes"]))["changed"] == 0
