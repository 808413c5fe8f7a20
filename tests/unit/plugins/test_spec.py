"""Loading of valid cluster files. Errors are tested in test_cluster_files.py."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _spec
from hypothesis import given
from hypothesis import strategies as st

from q8s_bundle.node import minors, versions

EXAMPLES = Path(__file__).parents[3] / "examples"
DEMO = (EXAMPLES / "demo.yaml").read_text()


@pytest.mark.parametrize(
    ("additional", "message"),
    [
        (0, ""),
        (1, "gives 2 control planes: etcd with 2 members stops when either of them is lost"),
        (2, ""),
        (3, "gives 4 control planes: etcd with 4 members survives the loss of 1, as 3 would"),
    ],
)
def test_an_even_number_of_etcd_members_is_warned_of(additional: int, message: str) -> None:
    text = DEMO.replace("number_additional_master_nodes: 0", f"number_additional_master_nodes: {additional}")
    assert f"number_additional_master_nodes: {additional}" in text
    found = [w for w in _spec.load_text(text, "demo").warnings if w.path.endswith(".number_additional_master_nodes")]
    assert [warning.message for warning in found] == ([message] if message else [])
    assert all(f"{additional + 1} gives {additional + 2} control planes" in warning.hint for warning in found)


def test_prototype_loads_with_tags_and_both_spellings() -> None:
    cluster = _spec.load_file(str(EXAMPLES / "prototype.yaml"))
    assert [server.name for server in cluster.servers()] == [
        "q8s-master",
        "q8s-control-plane-2",
        "q8s-x86-small-1",
        "q8s-arm-mid-1",
    ]
    assert [server.node for server in cluster.servers()][2:] == ["x86-small-1", "arm-mid-1"]
    assert cluster.vm_type("x86-small").machine_model == "q35"
    assert cluster.vm_type("x86-small").qemu_args == ""
    assert cluster.vm_type("arm-mid").architecture == "aarch64"
    assert [(warning.line, warning.path) for warning in cluster.warnings] == [
        (17, "cluster_definition.number_additional_master_nodes"),
        (31, "vm_types.types.x86-small.qemu_args"),
    ]


def test_paper_loads_without_tags() -> None:
    cluster = _spec.load_file(str(EXAMPLES / "paper50.yaml"))
    assert len(cluster.servers()) == 53
    assert cluster.warnings == ()


def test_demo_has_no_warning() -> None:
    assert _spec.load_text(DEMO, "demo").warnings == ()


@pytest.mark.parametrize("name", ["prototype", "paper50", "demo"])
def test_mapping_gives_the_same_cluster(name: str) -> None:
    cluster = _spec.load_file(str(EXAMPLES / f"{name}.yaml"))
    assert _spec.load_mapping(json.loads(json.dumps(cluster.to_mapping())), "mapping") == cluster


def test_a_python_without_pyyaml_takes_a_mapping_and_says_what_a_file_needs() -> None:
    code = """import json, sys
from ansible_collections.q8s.emu.plugins.module_utils import _spec
print(_spec.load_mapping(json.load(sys.stdin), "mapping").cluster_name)
try:
    _spec.load_text("cluster_name: demo", "c.yaml")
except _spec.SpecError as error:
    print(error)
"""
    cluster = _spec.load_text(DEMO, "demo")
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],  # -S: without what is installed beside Python
        input=json.dumps(cluster.to_mapping()),
        env={"PYTHONPATH": str(EXAMPLES.parent / "collections")},
        capture_output=True,
        text=True,
        check=True,
    )
    name, message, hint = done.stdout.splitlines()
    assert name == cluster.cluster_name
    assert message.startswith("c.yaml: cannot be read: the Python package PyYAML is missing in ")
    assert hint == "  hint: install it there, or run make setup"


def test_what_was_added_to_the_prototypes_fields() -> None:
    text = DEMO.replace(
        "    arm-mid:\n",
        """    arm-mid:
      labels: {disk: ssd, example.org/rank: "1"}
      taints: [dedicated=arm:NoSchedule, slow:PreferNoSchedule]
      zone: edge-1
      accel: auto
      tb_cache: 64
""",
    )
    text += """
guest_user: ada
ssh_private_key: ~/.ssh/id_ed25519
access: {type: bastion, host: gate.example.org, user: ada}
proxy: {http_proxy: "http://proxy.example.org:3128", no_proxy: "localhost,10.0.0.0/8"}
inside: listed
server_group: soft-anti-affinity
kubernetes_version: v1.36.3
"""
    cluster = _spec.load_text(text, "c.yaml")
    arm = cluster.vm_type("arm-mid")
    assert (arm.labels, arm.taints) == (
        (("disk", "ssd"), ("example.org/rank", "1")),
        ("dedicated=arm:NoSchedule", "slow:PreferNoSchedule"),
    )
    assert (arm.zone, arm.accel, arm.tb_cache_mb) == ("edge-1", "auto", 64)
    assert (cluster.guest_user, cluster.ssh_private_key) == ("ada", "~/.ssh/id_ed25519")
    assert cluster.access == _spec.Access("bastion", host="gate.example.org", user="ada")
    assert cluster.proxy == _spec.Proxy("http://proxy.example.org:3128", "", "localhost,10.0.0.0/8")
    assert (cluster.inside, _spec.load_text(DEMO, "demo").inside) == ("listed", "all")
    assert (cluster.server_group, cluster.kubernetes_version) == ("soft-anti-affinity", "1.36.3")
    assert _spec.load_mapping(json.loads(json.dumps(cluster.to_mapping())), "mapping") == cluster


def test_guest_images_are_of_architectures_however_those_are_spelled() -> None:
    image = {"url": "https://cloud.example.org/trixie/a.qcow2", "checksum": "sha512:" + "0a" * 64}
    local = {"url": "/srv/my images/b.raw", "checksum": "sha256:" + "0b" * 32}
    cluster = _spec.load_text(DEMO + yaml.safe_dump({"guest_images": {"arm_64": image, "x86_64": local}}), "c.yaml")
    assert cluster.guest_images == (_spec.GuestImage("x86_64", **local), _spec.GuestImage("aarch64", **image))
    assert cluster.to_mapping()["guest_images"] == {"x86_64": local, "aarch64": image}
    assert _spec.load_mapping(json.loads(json.dumps(cluster.to_mapping())), "mapping") == cluster
    assert cluster.warnings == ()
    assert _spec.load_text(DEMO, "demo").guest_images == ()


def test_the_versions_are_those_of_the_bundle() -> None:
    assert tuple(minors.MINORS) == _spec.KUBERNETES_VERSIONS
    assert _spec.KUBERNETES_VERSIONS[0] == versions.KUBERNETES


def test_the_token_of_git_url_is_not_kept() -> None:
    cluster = _spec.load_text(DEMO + "git_url: https://user:s3cret@git.example.org/q8s.git\n", "demo")
    assert "s3cret" not in repr(cluster) + json.dumps(cluster.to_mapping())


def test_data_from_ansible_has_no_line() -> None:
    data = yaml.safe_load(DEMO)
    data["vm_types"]["types"]["arm-mid"]["ram"] = "2048"
    with pytest.raises(_spec.SpecError) as caught:
        _spec.load_mapping(data, "the extra variables")
    assert str(caught.value.problems[0]).startswith("the extra variables: vm_types.types.arm-mid.ram: is '2048'")


@pytest.mark.parametrize(
    ("host", "remote", "guests", "address", "gateway", "prefixlen"),
    [
        ("10.254.1.3", "10.254.1.0/24", "192.11.0.0/16", "192.11.3.3", "192.11.3.1", 24),
        ("10.254.1.255", "10.254.1.0/24", "192.11.0.0/16", "192.11.255.2", "192.11.255.1", 24),
        ("10.254.1.1", "10.254.1.0/24", "192.11.0.0/16", "192.11.1.2", "192.11.1.1", 24),
        ("10.0.3.7", "10.0.0.0/22", "172.16.0.0/12", "172.28.31.7", "172.28.28.1", 22),
        ("10.0.0.9", "10.0.0.0/28", "172.16.0.0/25", "172.16.0.74", "172.16.0.73", 29),
    ],
)
def test_guest_network(host: str, remote: str, guests: str, address: str, gateway: str, prefixlen: int) -> None:
    assert _spec.guest_network(host, remote, guests) == _spec.GuestNetwork(address, gateway, prefixlen)


@given(st.integers(1, 29), st.integers(1, 29))
def test_guests_of_different_hosts_never_meet(remote_length: int, guest_length: int) -> None:
    import ipaddress

    remote, guests = f"10.0.0.0/{max(remote_length, 8)}", f"172.0.0.0/{max(guest_length, 8)}"
    hosts = ipaddress.IPv4Network(remote)
    if _spec.guest_subnet_length(hosts, ipaddress.IPv4Network(guests)) > 29:
        return
    seen: set[str] = set()
    for offset in {1, 2, 3, hosts.num_addresses // 2, hosts.num_addresses - 2}:
        network = _spec.guest_network(str(hosts[offset]), remote, guests)
        subnet = ipaddress.IPv4Interface(f"{network.address}/{network.prefixlen}").network
        assert subnet.subnet_of(ipaddress.IPv4Network(guests))
        assert ipaddress.IPv4Address(network.gateway) == subnet[1]
        assert network.address not in {str(subnet[0]), network.gateway, str(subnet[-1])}
        seen.add(str(subnet))
    assert len(seen) == len({1, 2, 3, hosts.num_addresses // 2, hosts.num_addresses - 2})


def test_guest_mac() -> None:
    assert _spec.guest_mac("10.254.1.171") == "52:54:00:fe:01:ab"


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    *[(key,) for key in yaml.safe_load(DEMO)],
    ("cluster_definition", "worker"),
    ("cluster_definition", "worker", "arm-mid"),
    ("cluster_definition", "master_node_flavor"),
    ("vm_types", "types"),
    ("vm_types", "types", "arm-mid"),
    *[("vm_types", "types", "arm-mid", key) for key in yaml.safe_load(DEMO)["vm_types"]["types"]["arm-mid"]],
    ("vm_types", "types", "arm-mid", "qemu-args"),
]


@given(st.sampled_from(PATHS), VALUES)
def test_any_value_anywhere_loads_or_is_explained(path: tuple[str, ...], value: Any) -> None:
    data = copy.deepcopy(yaml.safe_load(DEMO))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    for load in (
        lambda: _spec.load_mapping(data, "data"),
        lambda: _spec.load_text(yaml.dump(data, allow_unicode=True), "text"),
    ):
        try:
            cluster = load()
        except _spec.SpecError as error:
            assert error.problems and str(error)
        else:
            assert _spec.load_mapping(cluster.to_mapping(), "again") == cluster
