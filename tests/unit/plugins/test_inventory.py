"""The inventory: hosts, groups and variables from a cluster and its servers."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.inventory import openstack
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cloud_objects,
    _hostkeys,
    _inventory,
    _login,
    _plan_servers,
    _spec,
    _ssh,
    _state,
)
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server

from q8s_wrapper.experiment.machines import socket_paths

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIATbSFIAoKCLyojckQoDUv+sRJPfwQtsZYqckaz2L3fo"
LOCAL = _inventory.LocalState("/state/demo", _state.Project("https://cloud.example.org:5000", "p1", "one", "abc"))


def made(name: str, address: str | None, **metadata: str) -> Server:
    addresses = (address,) if address else ()
    values = {"q8s_cluster": "demo", "q8s_host_ca": KEY, **metadata}
    return Server(f"id-{name}", name, "ACTIVE", addresses, values)


SERVERS = [
    made("demo-control-plane", "10.254.1.4"),
    made("demo-x86-small-1", "10.254.1.5"),
    made("demo-arm-mid-1", "10.254.1.6"),
    Server("id-s", "stranger", "ACTIVE", ("10.254.1.9",)),
]


def understood(command: list[str]) -> str:
    """What ssh says that this command means."""
    return subprocess.run([*command, "-G", "host"], capture_output=True, text=True, check=True).stdout


def listed(servers: list[Server]) -> dict[str, _inventory.Host]:
    return {host.name: host for host in _inventory.hosts(CLUSTER, servers, "/state/demo")}


def test_servers_and_guests() -> None:
    hosts = listed(SERVERS)
    assert {name: host.groups for name, host in hosts.items()} == {
        "demo-control-plane": ["control_plane", "control_plane_initial"],
        "demo-x86-small-1": ["worker_hosts", "type_x86_small", "arch_x86_64"],
        "x86-small-1": ["emulated_workers", "type_x86_small", "arch_x86_64"],
        "demo-arm-mid-1": ["worker_hosts", "type_arm_mid", "arch_aarch64"],
        "arm-mid-1": ["emulated_workers", "type_arm_mid", "arch_aarch64"],
    }
    host = hosts["demo-arm-mid-1"].variables
    assert host["ansible_user"] == "q8s" and host["q8s_node_name"] == "arm-mid-1"
    assert host["q8s_vm"] == {
        "name": "arm-mid-1",
        "type": "arm-mid",
        "architecture": "aarch64",
        "num_cpus": 2,
        "cpu_model": "cortex-a57",
        "machine_model": "virt",
        "ram_mb": 2048,
        "storage_gb": 10,
        "qemu_args": "",
        "accel": "tcg",
        "tb_cache_mb": 0,
        "labels": {"q8s.io/type": "arm-mid", "q8s.io/emulated": "true"},
        "taints": [],
        "guest_ip": "172.29.6.6",
        "guest_prefixlen": 24,
        "guest_gateway": "172.29.6.1",
        "mac": "52:54:00:fe:01:06",
    }
    guest = hosts["arm-mid-1"].variables
    assert (guest["ansible_host"], guest["ansible_port"], guest["ansible_user"]) == ("10.254.1.6", 2222, "root")
    assert guest["q8s_host"] == "demo-arm-mid-1"


def test_no_two_machines_share_a_connection() -> None:
    """Nor does a new server use the connection of the one before, or another user's cluster this one's."""
    again = [replace(server, id=f"{server.id}-2") for server in SERVERS]
    found = [
        (host.variables["ansible_control_path_dir"], host.variables["ansible_control_path"])
        for state, servers in (("/state/demo", SERVERS), ("/state/demo", again), ("/other/demo", SERVERS))
        for host in _inventory.hosts(CLUSTER, servers, state)
    ]
    assert len(found) == 3 * 5 == len(set(found))


def test_no_two_machines_share_a_connection_of_a_scenario() -> None:
    """Nor do clusters with the same names, whose state folders are too long for sockets."""
    one, other = (f"/home/me/.local/state/q8s/{'cloud.example.org-' * 3}{project}/demo" for project in ("p1", "p2"))
    assert len(one) > 69 and _ssh.socket_folder(one) == _ssh.socket_folder(other) == f"/tmp/q8s-{os.geteuid()}"
    again = [replace(server, id=f"{server.id}-2") for server in SERVERS]
    found: list[Path] = []
    for state, servers in ((one, SERVERS), (one, again), (other, SERVERS)):
        hosts = {host.name: host.variables for host in _inventory.hosts(CLUSTER, servers, state)}
        found += socket_paths(Path(_ssh.socket_folder(state)), Path(state), hosts).values()
        found += [Path(v["ansible_control_path_dir"], Path(v["ansible_control_path"]).name) for v in hosts.values()]
    assert len(found) == 3 * 2 * 5 == len(set(found)), "nor with Ansible"
    assert all(len(os.fsencode(f"{path}.0123456789abcdef")) <= 103 for path in found)


def test_the_control_plane_that_stands_in_for_a_deleted_one() -> None:
    cluster = replace(CLUSTER, number_additional_master_nodes=2)
    others = [made(f"demo-control-plane-{n}", f"10.254.1.{n + 10}", q8s_role="control_plane") for n in (2, 3)]

    def initial(servers: list[Server], etcd_server: str) -> list[str]:
        hosts = _inventory.hosts(cluster, servers, "/state/demo", etcd_server)
        assert [h.name for h in hosts if "control_plane" in h.groups][-2:] == [one.name for one in others]
        return [host.name for host in hosts if "control_plane_initial" in host.groups]

    assert initial([*SERVERS, *others], "id-demo-control-plane") == ["demo-control-plane"]
    assert initial(others, "id-demo-control-plane") == [], "it has to be seen first which one survived"
    for servers in (others, [*SERVERS, *others]):
        assert initial(servers, "id-demo-control-plane-3") == ["demo-control-plane-3"]
    assert initial([*SERVERS, *others], "id-of-a-deleted-server") == ["demo-control-plane"]


def test_the_types_own_labels_taints_and_key() -> None:
    data = CLUSTER.to_mapping()
    data["ssh_private_key"] = "~/keys/id"
    data["vm_types"]["types"]["arm-mid"] |= {
        "labels": {"disk": "ssd"},
        "zone": "edge",
        "taints": ["slow:NoExecute", "a=b:NoSchedule"],
        "tb_cache": 64,
        "accel": "auto",
    }
    cluster = _spec.load_mapping(data, "data")
    hosts = {host.name: host for host in _inventory.hosts(cluster, SERVERS, "/state/demo")}
    vm = hosts["demo-arm-mid-1"].variables["q8s_vm"]
    assert vm["labels"] == {
        "q8s.io/type": "arm-mid",
        "q8s.io/emulated": "true",
        "topology.kubernetes.io/zone": "edge",
        "disk": "ssd",
    }
    assert vm["taints"] == [
        {"key": "slow", "value": "", "effect": "NoExecute"},
        {"key": "a", "value": "b", "effect": "NoSchedule"},
    ]
    assert (vm["accel"], vm["tb_cache_mb"]) == ("auto", 64)
    key = str(Path("~/keys/id").expanduser())
    assert [hosts[name].variables["ansible_ssh_private_key_file"] for name in ("arm-mid-1", "demo-arm-mid-1")] == [
        key,
        key,
    ]


def test_variables_without_a_server() -> None:
    variables = _inventory.cluster_variables(CLUSTER, LOCAL)
    assert variables["q8s_state_dir"] == "/state/demo"
    assert variables["q8s_private_key"] == "/state/demo/id_ed25519"
    assert json.loads(variables["q8s_state_record"]) == {
        "auth_url": "https://cloud.example.org:5000",
        "project_id": "p1",
        "region": "one",
        "cluster_name": "demo",
        "logins": ["abc"],
    }
    assert "q8s_state_dir" not in _inventory.cluster_variables(CLUSTER, None), "the project is not known"
    assert variables["q8s_expected_nodes"] == ["demo-control-plane", "x86-small-1", "arm-mid-1"]
    assert variables["q8s_workers"][1] == {"name": "arm-mid-1", "type": "arm-mid", "architecture": "aarch64"}
    assert variables["q8s_node_labels"]["arm-mid-1"] == {
        "labels": {"q8s.io/type": "arm-mid", "q8s.io/emulated": "true"},
        "taints": [],
    }
    assert variables["q8s_api_name"] == "demo-api" and variables["q8s_artifact_port"] == 8099
    inside = "localhost,127.0.0.1,demo-api,.svc,.cluster.local,10.254.1.0/24,172.29.0.0/16,10.244.0.0/16,10.96.0.0/12"
    assert variables["q8s_environment"] == {"no_proxy": inside, "NO_PROXY": inside}
    assert _spec.load_mapping(json.loads(json.dumps(variables["q8s_cluster"])), "x") == CLUSTER
    assert listed([]) == {}


def test_of_two_servers_with_one_name_the_plan_keeps_the_one_that_the_inventory_uses() -> None:
    old, new = (replace(SERVERS[0], id=f"s{n}", addresses=(f"10.254.1.{n}",), created=f"2026-11-0{n}") for n in (2, 3))
    for record, expected in (("", "s2"), ("s3", "s3"), ("s2", "s2")):
        for twins in ([old, new], [new, old]):
            servers = [*twins, *SERVERS[1:3]]
            plan = _plan_servers.plan_servers(CLUSTER, _plan_servers.Existing(servers, etcd_server=record))
            deleted = {change.subject.id for change in plan.of("server", "delete")}
            (initial, *_) = _inventory.hosts(CLUSTER, servers, "/state/demo", record)
            assert initial.variables["q8s_server_id"] == expected
            assert deleted == {"s2", "s3"} - {expected}


def test_a_server_without_an_address_has_no_guest() -> None:
    hosts = listed([made("demo-arm-mid-1", None)])
    assert set(hosts) == {"demo-arm-mid-1"} and "ansible_host" not in hosts["demo-arm-mid-1"].variables


def test_a_foreign_initial_instance() -> None:
    host = listed([Server("id", "demo-control-plane", "ACTIVE", ("10.254.1.4",))])["demo-control-plane"]
    assert host.variables["q8s_foreign"] is True
    assert host.variables["ansible_user"] == CLUSTER.initial_instance_user
    assert "StrictHostKeyChecking=accept-new" in host.variables["ansible_ssh_common_args"]
    answer = understood(["ssh", *shlex.split(host.variables["ansible_ssh_common_args"])])
    assert "userknownhostsfile /state/demo/known_hosts\n" in answer


def test_a_foreign_initial_instance_with_a_key_of_its_own() -> None:
    cluster = replace(CLUSTER, initial_instance_user="debian", initial_instance_private_key="~/.ssh/cloud")
    foreign = Server("id", "demo-control-plane", "ACTIVE", ("10.254.1.4",), floating=("203.0.113.4",))
    key, ours = str(Path("~/.ssh/cloud").expanduser()), "/state/demo/id_ed25519"

    def keys(cluster: _spec.Cluster, servers: list[Server]) -> dict[str, str]:
        found = _inventory.hosts(cluster, servers, "/state/demo")
        return {host.name: host.variables["ansible_ssh_private_key_file"] for host in found}

    assert keys(cluster, [foreign, *SERVERS[1:]]) == {
        "demo-control-plane": key,
        **dict.fromkeys(["demo-x86-small-1", "x86-small-1", "demo-arm-mid-1", "arm-mid-1"], ours),
    }
    assert set(keys(cluster, SERVERS).values()) == {ours}, "of a server that Q8S made, Q8S's key is the right one"
    outside = replace(cluster, access=_spec.Access("floating_ip", floating_network="external"))
    hosts = {host.name: host for host in _inventory.hosts(outside, [foreign, *SERVERS[1:]], "/state/demo")}
    assert hosts["demo-control-plane"].variables["ansible_host"] == "203.0.113.4"
    arguments = hosts["demo-arm-mid-1"].variables["ansible_ssh_common_args"]
    answer = understood(["ssh", *shlex.split(arguments)])
    (command,) = [line for line in answer.splitlines() if line.startswith("proxycommand ")]
    assert f"-i {key} " in command and command.endswith("debian@203.0.113.4")


@pytest.mark.parametrize(
    ("address", "files", "here"),
    [
        ("127.0.0.1", {"instance-id": "8d0c\n"}, True),
        ("127.0.0.1", {"product_uuid": "8D0C\n"}, True),
        ("127.0.0.1", {"instance-id": "another\n", "product_uuid": "another\n"}, False),  # the same private address
        ("127.0.0.1", {}, False),  # a laptop without cloud-init
        ("192.0.2.1", {"instance-id": "8d0c\n"}, False),
    ],
)
def test_this_machine_is_known_by_more_than_its_address(
    address: str, files: Mapping[str, str], here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(_login, "_INSTANCE_IDS", (str(tmp_path / "instance-id"),))
    monkeypatch.setattr(_login, "_PRODUCT_UUID", str(tmp_path / "product_uuid"))
    assert _login.is_this_machine("8d0c", address) is here


def test_an_initial_instance_that_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inventory, "is_this_machine", lambda server_id, address: server_id == "id")
    host = listed([Server("id", "demo-control-plane", "ACTIVE", ("10.254.1.4",))])["demo-control-plane"]
    assert host.variables["ansible_connection"] == "local"
    host = listed([Server("other", "demo-control-plane", "ACTIVE", ("10.254.1.4",))])["demo-control-plane"]
    assert "ansible_connection" not in host.variables


def test_of_two_nics_the_address_in_the_prefix_counts() -> None:
    servers = [
        Server("id", "demo-control-plane", "ACTIVE", ("192.168.5.4", "10.254.1.4")),
        replace(SERVERS[2], addresses=("192.168.5.6", "10.254.1.6")),
    ]
    hosts = listed(servers)
    assert hosts["demo-control-plane"].variables["ansible_host"] == "10.254.1.4"
    assert hosts["demo-arm-mid-1"].variables["q8s_private_ip"] == "10.254.1.6"
    assert hosts["arm-mid-1"].variables["ansible_host"] == "10.254.1.6"


@pytest.mark.parametrize(
    ("remote", "host", "guests", "prefixlen"),
    [
        ("10.20.0.0/16", "10.20.3.4", "172.16.0.0/12", 28),
        ("10.20.16.0/20", "10.20.17.4", "172.29.0.0/16", 28),
        ("10.20.1.16/28", "10.20.1.20", "172.29.0.0/20", 24),
    ],
)
def test_prefix_lengths_from_16_to_28(remote: str, host: str, guests: str, prefixlen: int) -> None:
    """A guest of a host in a small or a large network has an address in a network of its own."""
    data = CLUSTER.to_mapping()
    data |= {"remote_ip_prefix": remote, "guest_ip_prefix": guests}
    cluster = _spec.load_mapping(data, "data")
    servers = [made("demo-control-plane", None), made("demo-arm-mid-1", host)]
    hosts = {one.name: one for one in _inventory.hosts(cluster, servers, "/state/demo")}
    vm = hosts["demo-arm-mid-1"].variables["q8s_vm"]
    network = ipaddress.IPv4Interface(f"{vm['guest_ip']}/{vm['guest_prefixlen']}").network
    assert vm["guest_prefixlen"] == prefixlen and network.subnet_of(ipaddress.IPv4Network(guests))
    assert ipaddress.IPv4Address(vm["guest_gateway"]) == network[1] != ipaddress.IPv4Address(vm["guest_ip"])
    assert hosts["arm-mid-1"].variables["ansible_host"] == host


def test_the_files_proxies_reach_every_host() -> None:
    proxy = _spec.Proxy("http://proxy.example.org:3128", "", "localhost,10.0.0.0/8")
    variables = _inventory.cluster_variables(replace(CLUSTER, proxy=proxy), LOCAL)
    assert variables["q8s_cluster"]["proxy"] == {
        "http_proxy": "http://proxy.example.org:3128",
        "no_proxy": "localhost,10.0.0.0/8",
    }
    assert _inventory.cluster_variables(CLUSTER, LOCAL)["q8s_cluster"]["proxy"] == {}


def test_a_server_that_is_no_longer_asked_for() -> None:
    worker = made("demo-arm-mid-2", "10.254.1.7", q8s_role="worker_host")
    further = made("demo-control-plane-2", "10.254.1.8", q8s_role="control_plane")
    hosts = listed([*SERVERS, worker, further])
    assert hosts[worker.name].groups == hosts[further.name].groups == ["surplus"]
    assert hosts[worker.name].variables["q8s_surplus"] == {"name": "arm-mid-2", "control_plane_host": ""}
    # etcd's member of a join that was interrupted has no name, but this address
    assert hosts[further.name].variables["q8s_surplus"] == {
        "name": further.name,
        "control_plane_host": further.name,
        "address": "10.254.1.8",
    }


def test_errors_and_what_is_missing_are_visible() -> None:
    broken = replace(made("demo-arm-mid-1", "10.254.1.6"), status="ERROR", fault="No valid host")
    hosts = listed([SERVERS[0], broken])
    assert hosts[broken.name].groups[-1] == "server_error"
    assert hosts[broken.name].variables["q8s_fault"] == "No valid host"
    assert "arm-mid-1" not in hosts, "there is no guest in it"
    assert _inventory.presence_variables(CLUSTER, [SERVERS[0], broken]) == {
        "q8s_missing_servers": ["demo-x86-small-1"],
        "q8s_created_servers": ["demo-control-plane", "demo-arm-mid-1"],
    }


def test_servers_of_another_user_are_seen() -> None:
    mine, theirs = (replace(SERVERS[n], user_id=user) for n, user in ((0, "me"), (1, "you")))
    stranger = replace(SERVERS[3], user_id="third")
    assert _inventory.other_users(CLUSTER, [mine, theirs, stranger, SERVERS[2]], "me") == ["you"]
    assert _inventory.other_users(CLUSTER, [mine, stranger], "me") == []
    assert _inventory.other_users(CLUSTER, [mine, theirs], "") == [], "the cloud does not say who is logged in"


def test_zones_are_groups() -> None:
    types = tuple(replace(t, zone="rack-1.a") if t.name == "arm-mid" else t for t in CLUSTER.types)
    hosts = {host.name: host for host in _inventory.hosts(replace(CLUSTER, types=types), SERVERS, "/state")}
    assert "zone_rack_1_a" in hosts["demo-arm-mid-1"].groups and "zone_rack_1_a" in hosts["arm-mid-1"].groups
    assert not [group for group in hosts["x86-small-1"].groups if group.startswith("zone_")]


def test_a_bastion_is_on_the_way_to_servers_and_guests() -> None:
    access = _spec.Access("bastion", host="203.0.113.7", user="me", port=2022)
    hosts = {host.name: host for host in _inventory.hosts(replace(CLUSTER, access=access), SERVERS, "/state")}
    for name in ("demo-control-plane", "demo-arm-mid-1", "arm-mid-1"):
        arguments = shlex.split(hosts[name].variables["ansible_ssh_common_args"])
        answer = understood(["ssh", *arguments])
        (command,) = [line for line in answer.splitlines() if line.startswith("proxycommand ")]
        words = shlex.split(command.removeprefix("proxycommand ").replace("%%", "%"))
        assert words[words.index("%h") :][:2] == ["%h", "%p"] and words[-3:] == ["-p", "2022", "me@203.0.113.7"]
        assert "-F" not in words, "the bastion is the business of the user's ssh configuration"
    assert "ProxyCommand" not in listed(SERVERS)["arm-mid-1"].variables["ansible_ssh_common_args"]


def test_a_floating_ip_of_a_survivor_leads_to_all_others() -> None:
    access = _spec.Access("floating_ip", floating_network="external")
    cluster = replace(CLUSTER, access=access, number_additional_master_nodes=1)
    second = replace(SERVERS[0], id="second", name="demo-control-plane-2", addresses=("10.254.1.9",))
    floating = [_cloud_objects.FloatingIp("f", "203.0.113.4", "10.254.1.9")]
    servers = _inventory.with_floating([second, *SERVERS[1:]], floating)
    hosts = {host.name: host.variables for host in _inventory.hosts(cluster, servers, "/state")}
    assert hosts["demo-control-plane-2"]["ansible_host"] == "203.0.113.4"
    assert "ProxyCommand" not in hosts["demo-control-plane-2"]["ansible_ssh_common_args"]
    assert hosts["arm-mid-1"]["ansible_ssh_common_args"].rstrip("'").endswith("q8s@203.0.113.4")
    # The first one is created again: it gets the floating IP last.
    hosts = {host.name: host.variables for host in _inventory.hosts(cluster, [SERVERS[0], *servers], "/state")}
    assert hosts["demo-control-plane"]["ansible_ssh_common_args"].rstrip("'").endswith("q8s@203.0.113.4")


def test_a_floating_ip_leads_to_all_others() -> None:
    access = _spec.Access("floating_ip", floating_network="external")
    floating = [_cloud_objects.FloatingIp("f", "203.0.113.4", "10.254.1.4")]
    servers = _inventory.with_floating(SERVERS, floating)
    hosts = {host.name: host for host in _inventory.hosts(replace(CLUSTER, access=access), servers, "/state")}
    initial = hosts["demo-control-plane"].variables
    assert (initial["ansible_host"], initial["q8s_private_ip"]) == ("203.0.113.4", "10.254.1.4")
    assert "ProxyCommand" not in initial["ansible_ssh_common_args"]
    for name in ("demo-arm-mid-1", "arm-mid-1"):
        assert hosts[name].variables["ansible_host"] == "10.254.1.6"
        arguments = shlex.split(hosts[name].variables["ansible_ssh_common_args"])
        answer = understood(["ssh", *arguments])
        (command,) = [line for line in answer.splitlines() if line.startswith("proxycommand ")]
        assert command.endswith(" q8s@203.0.113.4")
        words = shlex.split(command.removeprefix("proxycommand ").replace("%%", "%"))
        answer = understood(["ssh", *words[words.index("%p") + 1 : -1]])
        assert (
            f"knownhostscommand /bin/echo @cert-authority q8s-host {KEY}" in answer
            and "stricthostkeychecking true" in answer
        )


def test_servers_come_back_from_a_cache() -> None:
    kept = json.loads(json.dumps([asdict(server) for server in SERVERS]))
    assert [openstack._server_of(item) for item in kept] == SERVERS


def test_the_flavor_of_a_host_is_a_variable_and_comes_back_from_a_cache() -> None:
    seen = replace(SERVERS[1], flavor="c1.medium", ram=4096, vcpus=2, disk=20, image="i", networks=("private",))
    assert openstack._server_of(json.loads(json.dumps(asdict(seen)))) == seen
    flavor = {"name": "c1.medium", "ram": 4096, "vcpus": 2, "disk": 20}
    assert listed([seen])[seen.name].variables["q8s_flavor"] == flavor


def test_ssh_understands_its_options() -> None:
    arguments = shlex.split(_ssh.known_host(KEY, "q8s-guest"))
    answer = understood(["ssh", *arguments])
    assert (
        f"knownhostscommand /bin/echo @cert-authority q8s-guest {KEY}" in answer and "hostkeyalias q8s-guest" in answer
    )
    assert "stricthostkeychecking true" in answer and "hostkeyalgorithms ssh-ed25519-cert-v01@openssh.com" in answer


@pytest.mark.parametrize("key", ["", "ssh-rsa AAAA", f"{KEY}; reboot", f"{KEY}\n-o ProxyCommand=x", "$(reboot)"])
def test_only_a_key_reaches_the_command_line(key: str) -> None:
    arguments = _ssh.known_host(key, "q8s-host")
    assert "KnownHostsCommand" not in arguments and "StrictHostKeyChecking=yes" in arguments


def test_fields_among_extra_variables() -> None:
    extra = {"pod_cidr": "x", "required_tcp_port": [], "ansible_user": "y", "q8s_other": 1, "vm_types": {}}
    assert set(openstack.cluster_fields(extra)) == {"pod_cidr", "required_tcp_port", "vm_types"}


def user_data(spec: _spec.ServerSpec) -> tuple[dict[str, Any], Mapping[str, str]]:
    text, metadata = _hostkeys.first_boot(spec, "demo", "ssh-ed25519 AAAA me\n")
    first, _, rest = text.partition("\n")
    assert first == "#cloud-config" and len(text) < 40000
    return json.loads(rest), metadata


WORKER = next(spec for spec in CLUSTER.servers() if spec.vm_type)


def test_user_data_holds_the_private_key_and_metadata_does_not() -> None:
    config, metadata = user_data(WORKER)
    assert config["users"][0]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    assert config["users"][0]["lock_passwd"] is True and config["ssh_pwauth"] is False
    assert "PRIVATE" in config["bootcmd"][0] and "PRIVATE" not in json.dumps(dict(metadata))
    assert all(len(value) < 256 for value in metadata.values())
    assert _cloud_objects.is_ours(Server("i", "n", "ACTIVE", (), metadata), "demo")
    assert _ssh.PUBLIC_KEY.fullmatch(metadata["q8s_host_ca"])
    assert user_data(WORKER)[1]["q8s_host_ca"] != metadata["q8s_host_ca"], "each call has its own"


@pytest.mark.parametrize("includes", [False, True], ids=["without sshd_config.d", "with sshd_config.d"])
def test_a_servers_first_boot_signs_its_keys(tmp_path: Path, includes: bool) -> None:
    own = "Include /etc/ssh/sshd_config.d/*.conf\n".replace("/etc/", f"{tmp_path}/") if includes else "Match User x\n"
    (tmp_path / "ssh").mkdir()
    (tmp_path / "ssh" / "sshd_config").write_text(own)
    (tmp_path / "ssh" / "ssh_host_rsa_key").write_text("of the image")
    # never this machine's sshd
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/systemctl\n')
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    path_variable = f"{tmp_path}/bin:{os.environ['PATH']}"
    for spec, purposes in ((CLUSTER.servers()[0], ["q8s-host"]), (WORKER, ["q8s-host", "q8s-guest"])):
        config, metadata = user_data(spec)
        script = config["bootcmd"][0].replace("/etc/", f"{tmp_path}/")
        for _ in range(2):  # it runs at every boot
            environment = {**os.environ, "PATH": path_variable, "INSTANCE_ID": f"id-{spec.name}"}
            subprocess.run(["sh", "-c", script], check=True, env=environment)
        certificates = sorted(tmp_path.glob("*/*-cert.pub"), reverse=True)
        assert [path.name for path in certificates] == [
            "ssh_host_ed25519_key-cert.pub",
            "guest_ssh_host_ed25519_key-cert.pub",
        ][: len(purposes)]
        for path, purpose in zip(certificates, purposes, strict=True):
            shown = subprocess.run(["ssh-keygen", "-L", "-f", path], capture_output=True, text=True, check=True).stdout
            (tmp_path / "ca.pub").write_text(metadata["q8s_host_ca"])
            ca = subprocess.run(
                ["ssh-keygen", "-l", "-f", tmp_path / "ca.pub"], capture_output=True, text=True, check=True
            )
            assert "host certificate" in shown and f"Signing CA: ED25519 {ca.stdout.split()[1]} " in shown
            assert shown.partition("Principals:")[2].split()[0] == purpose and "Valid: forever" in shown
            assert f'"{purpose} of id-{spec.name}"' in shown
            assert path.with_name(path.name.replace("-cert.pub", "")).stat().st_mode & 0o077 == 0
    assert not (tmp_path / "q8s" / "ca").exists() and not (tmp_path / "ssh" / "ssh_host_rsa_key").exists()
    line = f"HostCertificate {tmp_path}/ssh/ssh_host_ed25519_key-cert.pub\n"
    # a file of the package's stays as it was where that is possible
    assert (tmp_path / "ssh" / "sshd_config").read_text() == (own if includes else line + own)
    if includes:
        assert (tmp_path / "ssh" / "sshd_config.d" / "00-q8s.conf").read_text() == line
    reloads = (tmp_path / "systemctl").read_text().splitlines()
    assert reloads == ["--no-block try-reload-or-restart ssh.service sshd.service"] * 2, "once for each instance"


def test_a_host_and_its_guest_are_known_for_what_they_are() -> None:
    hosts = listed(SERVERS)
    for name, purpose in (
        ("demo-control-plane", "q8s-host"),
        ("demo-arm-mid-1", "q8s-host"),
        ("arm-mid-1", "q8s-guest"),
    ):
        arguments = shlex.split(hosts[name].variables["ansible_ssh_common_args"])
        answer = understood(["ssh", *arguments])
        assert f"hostkeyalias {purpose}\n" in answer
        assert f"knownhostscommand /bin/echo @cert-authority {purpose} {KEY}\n" in answer


def test_a_key_pair_is_one(tmp_path: Path) -> None:
    key = _hostkeys.new_key()
    assert "PRIVATE" not in repr(key)
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(key.private)
    derived = subprocess.run(["ssh-keygen", "-y", "-f", str(path)], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == key.public.split()
