"""The cluster file: what loads, and what each mistake says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _spec
from hypothesis import given
from hypothesis import strategies as st

from bundle.node import versions

EXAMPLES = Path(__file__).parents[3] / "examples"
DEMO = (EXAMPLES / "demo.yaml").read_text()


def problems(text: str) -> list[str]:
    with pytest.raises(_spec.SpecError) as caught:
        _spec.load_text(text, "c.yaml")
    return [str(problem) for problem in caught.value.problems]


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
        (31, "vm_types.types.x86-small.qemu_args")
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
    assert (cluster.server_group, cluster.kubernetes_version) == ("soft-anti-affinity", "1.36.3")
    assert _spec.load_mapping(json.loads(json.dumps(cluster.to_mapping())), "mapping") == cluster


def test_the_versions_are_those_of_the_bundle() -> None:
    assert _spec.KUBERNETES_VERSIONS == (versions.KUBERNETES,)


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
    ("old", "new", "expected"),
    [
        ("ram: 2048 ", "ram: '2048' ", "c.yaml:33:12: vm_types.types.x86-small.ram: is '2048'; must be a whole number"),
        ("ram: 2048 ", "ram: 2048.5 ", "is 2048.5; must be a whole number (MB) from 512"),
        ("num_cpus: 2", "num_cpus: 0", "vm_types.types.x86-small.num_cpus: is 0; must be a whole number from 1 to 128"),
        ("num_cpus: 2", "num_cpus: true", "is the truth value true; must be a whole number"),
        ("architecture: arm_64", "architecture: mips", "is 'mips'; allowed: x86_64 (or amd64), arm_64"),
        ("cpu_model: cortex-a57", "cpu_model: EPYC-Rome", "a model of x86_64; the architecture is aarch64"),
        ("cpu_model: cortex-a57", "cpu_model: host", "an emulated machine has a model of its own"),
        (
            "machine_model: virt\n      ram: 2048\n",
            "machine_model: q35\n      ram: 2048\n",
            "is 'q35'; allowed for aarch64",
        ),
        ("required_udp_ports", "requred_udp_ports", "requred_udp_ports: unknown key"),
        ("required_udp_ports", "requred_udp_ports", "c.yaml:4:1: required_udp_ports: is missing"),
        ("    x86-small: 1", "    x86-smal: 1", "worker.x86-smal: this type is not defined in vm_types.types"),
        ("cluster_name: demo ", "cluster_name: Demo_1 ", "cluster_name: is 'Demo_1'; must be a host name"),
        ("cluster_name: demo ", "cluster_name: 7 ", "cluster_name: is 7; must be text"),
        ("10.254.1.0/24", "10.254.1.5/24", "remote_ip_prefix: is '10.254.1.5/24'; must be an IPv4 network"),
        ("10.254.1.0/24", "172.29.1.0/24", "guest_ip_prefix: 172.29.0.0/16 overlaps remote_ip_prefix"),
        ("10.254.1.0/24", "10.96.0.0/16", "service_cidr: 10.96.0.0/12 (the default) overlaps remote_ip_prefix"),
        ("172.29.0.0/16", "172.29.0.0/23", "is too small to give every address of 10.254.1.0/24 a network"),
        ("172.29.0.0/16", "fd00::/64", "must be an IPv4 network"),
        ("worker_port_range_min: 30000", "worker_port_range_min: 40000", "is 40000, more than worker_port_range_max"),
        ("[8472]", "[8472, 70000]", "required_udp_ports[1]: is 70000; must be a whole number from 1 to 65535"),
        ("[8472]", "8472", "required_udp_ports: is 8472; must be a list of ports"),
        ("[q8s-cluster]", "[default]", "security_groups: has no q8s-cluster"),
        ("    x86-small: 1", "    x86-small: 300", "asks for 302 servers, but 10.254.1.0/24 has 253 addresses"),
        ("    x86-small: 1", "    x86-small: 99999999", "must be a whole number from 0 to 4096"),
        ("nodes: 0", "nodes: -1", "number_additional_master_nodes: is -1"),
        ("demo-control-plane ", "demo-arm-mid-1 ", "two servers would be called demo-arm-mid-1"),
        ("demo-control-plane ", "arm-mid-1 ", "two nodes would be called arm-mid-1"),
        ("image_name: debian-13", "image_name: ", "default_image_name: is nothing; must be text"),
        ("vm_types:\n", "vm_types: !VmType\n", "the tag is !VmType; allowed: !VmTypes or no tag"),
        ("cluster_name: demo ", "cluster_name: demo\ncluster_name: two ", "cluster_name: stands here a second time"),
    ],
)
def test_one_mistake(old: str, new: str, expected: str) -> None:
    assert DEMO.count(old) >= 1
    assert any(expected in problem for problem in problems(DEMO.replace(old, new, 1))), problems(
        DEMO.replace(old, new, 1)
    )


def test_all_mistakes_come_together_in_the_order_of_the_file() -> None:
    text = DEMO.replace("ram: 2048", "ram: lots").replace("cluster_name: demo ", "cluster_name: -x ")
    found = problems(text)
    assert [line.split(":")[1] for line in found] == ["4", "33", "41"]


def test_an_unknown_key_has_a_suggestion() -> None:
    with pytest.raises(_spec.SpecError) as caught:
        _spec.load_text(DEMO.replace("cpu_model", "cpu_modle", 1), "c.yaml")
    assert "did you mean cpu_model?" in caught.value.text()


def test_an_unknown_cpu_model_is_a_warning() -> None:
    cluster = _spec.load_text(DEMO.replace("cortex-a57", "cortex-a999"), "c.yaml")
    assert "'cortex-a999' is no aarch64 model that Q8S knows" in str(cluster.warnings[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty; a cluster file is a mapping"),
        ("- a\n", "c.yaml:1:1: is a list; must be a mapping"),
        ("a: [1\n", "c.yaml:2:1: not YAML"),
        ("a: b: c\n", "c.yaml:1:5: not YAML"),
        ("a: *nowhere\n", "not YAML"),
        ("&a\nb: *a\n", "b: unknown key"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("[" * 5000, "nested too deeply"),
        ("a: \x00\n", "has the character U+0000, which YAML does not allow"),
    ],
)
def test_no_cluster_file_at_all(text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(text))


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


@given(st.binary(max_size=64) | st.text(alphabet="ab:-[]{}!&*?|>'\"#%@, \n\t0", max_size=40))
def test_any_text_is_explained(text: str | bytes) -> None:
    with pytest.raises(_spec.SpecError):
        _spec.load_text(text, "text")
