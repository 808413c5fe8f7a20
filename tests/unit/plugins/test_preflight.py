"""Whether a cluster fits into a cloud: image, network, flavors and quota."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import (
    _plan_access,
    _plan_servers,
    _preflight,
    _preflight_flavors,
    _preflight_quota,
    _spec,
)
from ansible_collections.q8s.emu.plugins.module_utils._cloud_findings import (
    Findings,
    Flavor,
    Image,
    Network,
    Subnet,
    Usage,
)
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server
from ansible_collections.q8s.emu.plugins.module_utils._plan import Plan

from tests.unit.plugins.test_plan import CLUSTER, KEY, NAMES, counted, having, server, told

SUBNET = Subnet("s", "n", "10.254.1.0/24", size=253, used=0)
GOOD = Findings(
    images=(Image("i"),),
    flavors={"c1.small": Flavor("c1.small", 2, 3072, 20), "c1.medium": Flavor("c1.medium", 2, 4096, 20)},
    networks=(Network("n", "private", (SUBNET,)),),
    groups={},
    quota={
        "instances": Usage(3, 0),
        "cores": Usage(6, 0),
        "ram": Usage(11264, 0),
        "ports": Usage(13, 10),
        "security_groups": Usage(10, 9),
        "security_group_rules": Usage(100, 81),
        "key_pairs": Usage(1, 0),
    },
)


def plans(servers: Sequence[Server] = ()) -> list[Plan]:
    return [
        _plan_access.plan_keypair("demo", None, KEY),
        _plan_access.plan_group(CLUSTER, None, [], []),
        _plan_servers.plan_servers(CLUSTER, having(servers)),
    ]


def check(servers: Sequence[Server] = (), **changes: Any) -> list[str]:
    quota = {**GOOD.quota, **changes.pop("quota", {})}
    return _preflight.problems(CLUSTER, replace(GOOD, quota=quota, **changes), plans(servers))


def test_a_cloud_that_just_fits() -> None:
    assert check() == []
    assert check(quota={key: Usage(-1, 99) for key in GOOD.quota}) == []
    assert _preflight.problems(CLUSTER, replace(GOOD, quota={}), plans()) == [], "a cloud that keeps it to itself"


def medium(**changes: Any) -> dict[str, Flavor]:
    return {**GOOD.flavors, "c1.medium": replace(GOOD.flavors["c1.medium"], **changes)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": ()}, "default_image_name: there is no image called 'debian-13'"),
        (
            {"images": (Image("b"), Image("a"))},
            "default_image_name: 2 images are called 'debian-13'; give the id of one: a, b",
        ),
        (
            {"images": (Image("i", min_ram=3584),)},
            "image debian-13 needs 3584 MB of memory; the flavor c1.small has 3072",
        ),
        ({"images": (Image("i", min_disk=21),)}, "image debian-13 needs a disk of 21 GB; the flavor c1.small has 20"),
        ({"networks": ()}, "private_network_id: there is no network or subnet called 'private'"),
        (
            {"networks": (Network("b", "private"), Network("a", "private"))},
            "private_network_id: 2 networks or subnets are called 'private'; give the id of one: a, b",
        ),
        (
            {"networks": (Network("n", "private", (replace(SUBNET, cidr="10.1.0.0/24"),)),)},
            "remote_ip_prefix: is 10.254.1.0/24; the network private has 10.1.0.0/24",
        ),
        ({"networks": (Network("n", "private"),)}, "has no IPv4 subnet"),
        (
            {"networks": (Network("n", "private", (replace(SUBNET, used=251),)),)},
            "addresses in the subnet 10.254.1.0/24: needs 3, 251 of 253 used",
        ),
        ({"groups": {"web": 0}}, "security_groups: there is no group called 'web'"),
        ({"groups": {"web": 2}}, "security_groups: 2 groups are called 'web'; give the id of one"),
        ({"flavors": {"c1.small": GOOD.flavors["c1.small"]}}, "no flavor called 'c1.medium'"),
        (
            {"flavors": medium(ram=2048)},
            "vm_types.types.arm-mid.openstack_flavor: c1.medium has 2048 MB; the 2048 MB of its guest, QEMU and "
            "the host's system need at least 2400 MB",
        ),
        ({"flavors": medium(vcpus=1)}, "c1.medium has 1 vCPUs, fewer than the 2 of its guest"),
        ({"flavors": medium(disk=3)}, "c1.medium has a disk of 3 GB; its server needs at least 4 GB"),
        (
            {"flavors": medium(disk=0)},
            "vm_types.types.arm-mid.openstack_flavor: c1.medium has no disk (disk 0): its servers would boot from a "
            "volume, which Q8S does not create; choose a flavor with a disk of at least 4 GB",
        ),
        ({"flavors": medium(disk=0), "images": (Image("i", min_disk=9),)}, "a disk of at least 9 GB"),
        ({"flavors": medium(disk=0), "images": (Image("i", size=11),)}, "a disk of at least 11 GB"),
        (
            {"flavors": {**GOOD.flavors, "c1.small": Flavor("c1.small", 2, 3072, 4)}},
            "cluster_definition.master_node_flavor: c1.small has a disk of 4 GB; its server needs at least 5 GB",
        ),
        (
            {"flavors": {**GOOD.flavors, "c1.small": Flavor("c1.small", 1, 3072, 20)}},
            "c1.small has 1 vCPUs and 3072 MB; kubeadm asks for 2 vCPUs and 1700 MB",
        ),
        (
            {"flavors": {**GOOD.flavors, "c1.small": Flavor("c1.small", 2, 1024, 20)}},
            "c1.small has 2 vCPUs and 1024 MB; kubeadm asks for 2 vCPUs and 1700 MB",
        ),
        ({"images": (Image("i", size=21),)}, "image debian-13 needs a disk of 21 GB; the flavor c1.small has 20"),
        ({"images": (Image("i", status="queued"),)}, "the image 'debian-13' is queued"),
        ({"images": (Image("i", architecture="aarch64"),)}, "the image 'debian-13' is for aarch64; hosts are x86_64"),
        (
            {"networks": (Network("n", "private", (SUBNET,), secured=False),)},
            "private_network_id: the network 'private' has port security off",
        ),
        ({"quota": {"instances": Usage(3, 1)}}, "quota of servers: needs 3, 1 of 3 used"),
        ({"quota": {"cores": Usage(6, 9)}}, "quota of vCPUs: needs 6, 9 of 6 used"),
        ({"quota": {"ram": Usage(11264, 1)}}, "quota of MB of memory: needs 11264, 1 of 11264 used"),
        ({"quota": {"ports": Usage(13, 11)}}, "quota of ports: needs 3, 11 of 13 used"),
        ({"quota": {"security_groups": Usage(10, 10)}}, "quota of security groups: needs 1, 10 of 10 used"),
        ({"quota": {"security_group_rules": Usage(100, 85)}}, "security group rules: needs 16, 85 of 100 used"),
        ({"quota": {"key_pairs": Usage(1, 1)}}, "quota of key pairs: needs 1, 1 of 1 used"),
    ],
)
def test_shortfalls(changes: dict[str, Any], expected: str) -> None:
    assert any(expected in problem for problem in check(**changes)), check(**changes)


def test_an_external_network_takes_no_servers() -> None:
    (problem,) = check(networks=(replace(GOOD.networks[0], closed=True),))
    assert "is external and not shared" in problem and "openstack network list --internal" in problem


def test_shortfalls_come_together() -> None:
    full = {"instances": Usage(3, 3), "cores": Usage(6, 6), "ram": Usage(11264, 11264)}
    assert len(check(images=(), networks=(), quota=full)) == 5


def test_a_replaced_server_needs_no_more_quota() -> None:
    broken = [server(name, "ERROR", vcpus=2, ram=4096) for name in NAMES]
    assert check(broken, quota={"instances": Usage(3, 3), "cores": Usage(6, 6), "ram": Usage(11264, 11264)}) == []


def notes(cluster: _spec.Cluster = CLUSTER, **changes: Any) -> list[str]:
    return _preflight.notes(cluster, replace(GOOD, **changes))


def test_nothing_is_said_of_the_demo() -> None:
    assert notes() == []


@pytest.mark.parametrize("ram", [2400, 2847])
def test_a_host_with_little_memory_is_a_note(ram: int) -> None:
    assert check(flavors=medium(ram=ram)) == []
    said = notes(flavors=medium(ram=ram))
    used = 2048 + 64 + 32 + ram // 8 + 384
    assert said[1] == (
        f"vm_types.types.arm-mid.openstack_flavor: c1.medium has {ram} MB; its guest, QEMU with a full cache of "
        f"translated code and the host's system use {used} MB: choose a larger flavor, or bound QEMU's cache with "
        "tb_cache"
    )
    assert len(said) == 2 and "x86-small" in said[0]


@pytest.mark.parametrize(
    ("changes", "ram", "least", "recommended"),
    [
        ({}, 4096, 2400, 2048 + 64 + 32 + 512 + 384),
        ({}, 16384, 2400, 2048 + 64 + 32 + 1024 + 384),
        ({"tb_cache_mb": 64}, 16384, 2400, 2048 + 64 + 32 + 64 + 384),
        ({"accel": "kvm"}, 16384, 2400, 2048 + 64 + 32 + 384),
        ({"ram_mb": 512, "num_cpus": 8}, 4096, 960, 512 + 64 + 128 + 512 + 384),
    ],
)
def test_memory_of_a_host(changes: dict[str, Any], ram: int, least: int, recommended: int) -> None:
    vm_type = replace(CLUSTER.vm_type("arm-mid"), **changes)
    assert (_preflight_flavors.least_memory(vm_type), _preflight_flavors.guest_memory(vm_type, ram)) == (
        least,
        recommended,
    )


def test_a_disk_that_a_full_guest_fills_is_a_note() -> None:
    assert check(flavors=medium(disk=13)) == [] and notes(flavors=medium(disk=14)) == []
    said = notes(flavors=medium(disk=13))
    assert "c1.medium has a disk of 13 GB; when the guest has filled its 10 GB the host needs 14 GB" in said[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dhcp": False}, "the subnet 10.254.1.0/24 has no DHCP: servers get a config drive"),
        ({"gateway": ""}, "the subnet 10.254.1.0/24 has no gateway: servers need a package mirror or a proxy"),
        ({"dns": False}, "the subnet 10.254.1.0/24 names no DNS server"),
    ],
)
def test_what_a_subnet_lacks_is_a_note(changes: dict[str, Any], expected: str) -> None:
    network = Network("n", "private", (replace(SUBNET, **changes),))
    assert check(networks=(network,)) == []
    (only,) = notes(networks=(network,))
    assert only.startswith(expected)


def test_with_a_proxy_no_gateway_is_needed() -> None:
    behind = replace(CLUSTER, proxy=_spec.Proxy("http://10.254.1.1:3128"))
    assert notes(behind, networks=(Network("n", "private", (replace(SUBNET, gateway=""),)),)) == []


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [
        (0, ""), (1400, ""), (1450, ""), (1500, ""), (8950, ""), (9000, ""),
        (1399, "pods get 50 less"), (1280, "pods get 50 less"),
        (1279, "Q8S supports 1280 to 9000"), (9001, "Q8S supports 1280 to 9000"),
    ],
)  # fmt: skip
def test_mtu(mtu: int, expected: str) -> None:
    said = notes(networks=(Network("n", "private", (SUBNET,), mtu=mtu),))
    assert [expected in note for note in said] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("prefix", "cidr", "subnets", "expected"),
    [
        ("10.254.1.0/25", "10.254.1.0/24", 1, "has 10.254.1.0/24; write remote_ip_prefix: 10.254.1.0/24"),
        ("10.254.0.0/20", "10.254.0.0/16", 1, "has 10.254.0.0/16; write remote_ip_prefix: 10.254.0.0/16"),
        ("10.254.1.0/28", "10.254.1.16/28", 1, "has 10.254.1.16/28; write remote_ip_prefix: 10.254.1.16/28"),
        ("10.254.1.0/25", "10.254.1.0/24", 2, "has 10.254.1.0/24, 10.9.0.0/24"),
    ],
)
def test_another_prefix_than_the_subnets_is_a_problem_with_the_right_value(
    prefix: str, cidr: str, subnets: int, expected: str
) -> None:
    have = (replace(SUBNET, cidr=cidr), replace(SUBNET, cidr="10.9.0.0/24"))[:subnets]
    cluster = replace(CLUSTER, remote_ip_prefix=prefix)
    problems = _preflight.problems(cluster, replace(GOOD, networks=(Network("n", "private", have),)), plans())
    assert any(problem.endswith(expected) for problem in problems), problems


@pytest.mark.parametrize("cidr", ["10.20.0.0/16", "10.20.16.0/20", "10.20.1.16/28"])
def test_subnets_from_16_to_28(cidr: str) -> None:
    cluster = replace(CLUSTER, remote_ip_prefix=cidr, guest_ip_prefix="172.16.0.0/12")
    findings = replace(GOOD, networks=(Network("n", "private", (replace(SUBNET, cidr=cidr),)),))
    assert _preflight.problems(cluster, findings, plans()) == []
    assert _preflight.notes(cluster, findings) == []


def test_a_prefix_that_is_larger_than_the_subnet_is_a_note() -> None:
    (only,) = notes(replace(CLUSTER, remote_ip_prefix="10.254.0.0/16"))
    assert only.startswith("remote_ip_prefix is 10.254.0.0/16, more than the subnet, which is 10.254.1.0/24")
    assert only.endswith("write remote_ip_prefix: 10.254.1.0/24")


GENOA = replace(
    CLUSTER,
    types=tuple(replace(t, cpu_model="EPYC-Genoa") if t.name == "x86-small" else t for t in CLUSTER.types),
)
LACKS = "vm_types.types.x86-small.cpu_model: is 'EPYC-Genoa', which QEMU 7.2 of Debian 12 does not have; "


@pytest.mark.parametrize(
    ("image", "host_os", "lacks", "note"),
    [
        (Image("i", name="our-image", distribution="debian", version="12"), "auto", True, False),
        (Image("i", name="debian-12"), "auto", True, False),
        (Image("i", name="debian-13"), "auto", False, False),
        (Image("i", name="our-image"), "auto", False, False),
        (Image("i", name="our-image"), "debian-12", True, False),
        (Image("i", name="debian-13"), "debian-12", True, True),
        (Image("i", name="debian-12"), "debian-13", False, True),
    ],
)
def test_models_that_the_images_qemu_does_not_have(image: Image, host_os: str, lacks: bool, note: bool) -> None:
    cluster = replace(GENOA, host_os=host_os)
    findings = replace(GOOD, images=(image,))
    assert [problem.startswith(LACKS) for problem in _preflight.problems(cluster, findings, plans())] == [True] * lacks
    said = _preflight.notes(cluster, findings)
    assert [text.startswith(f"host_os is {host_os}, but the image") for text in said] == [True] * note


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image("i", distribution="ubuntu", version="20.04"), ["ubuntu 20.04"]),
        (Image("i", distribution="fedora"), ["fedora"]),
        (Image("i", distribution="debian"), []),
        (Image("i", distribution="ubuntu", version="24.04 LTS"), []),
        (Image("i", name="our-image"), []),
    ],
)
def test_an_image_that_says_that_it_is_another_system_is_noted(image: Image, says: list[str]) -> None:
    said = _preflight.notes(CLUSTER, replace(GOOD, images=(image,)))
    start = f"the image '{CLUSTER.default_image_name}' says that it is"
    assert [text.partition(";")[0] for text in said if text.startswith(start)] == [f"{start} {one}" for one in says]


def test_a_model_of_a_type_without_workers_is_nobodys_business() -> None:
    cluster = replace(GENOA, workers=(("x86-small", 0), ("arm-mid", 1)))
    assert _preflight.problems(cluster, replace(GOOD, images=(Image("i", name="debian-12"),)), plans()) == []


def test_what_goes_makes_room() -> None:
    there = [server(spec.name, vcpus=2, ram=4096) for spec in counted(x86_small=2, arm_mid=1).servers()]
    plan = _plan_servers.plan_servers(
        counted(x86_small=1, arm_mid=2), having(there), _plan_servers.Options(remove_surplus=True)
    )
    assert told(plan) == ["delete server demo-x86-small-2", "create server demo-arm-mid-2"]
    assert not any(_preflight_quota.needed_quota([plan], GOOD.flavors).values())


def test_a_floating_ip_needs_one_external_network() -> None:
    outside = replace(CLUSTER, access=_spec.Access("floating_ip", floating_network="external"))
    problems = _preflight.problems(outside, replace(GOOD, floating_networks=0), [])
    assert problems == ["access.floating_network: must name one external network; there is none called 'external'"]


@pytest.mark.parametrize(
    ("access", "routed", "said"),
    [
        (_spec.Access(), True, False),
        (_spec.Access(), False, True),
        (_spec.Access("bastion", host="gate.example.org"), False, False),
        (_spec.Access("floating_ip", floating_network="external"), False, False),
    ],
)
def test_servers_that_this_machine_may_not_reach_are_noted(access: _spec.Access, routed: bool, said: bool) -> None:
    found = _preflight.notes(replace(CLUSTER, access=access), GOOD, routed=routed)
    assert [note.startswith("access is direct, so Q8S connects to") for note in found] == [True] * said
    for words in (CLUSTER.remote_ip_prefix, "`Wait for SSH`", "type floating_ip", "type bastion"):
        assert all(words in note for note in found)


def test_a_cloud_without_tags_is_noted() -> None:
    (note,) = notes(tags=False)
    assert "(Neutron's extension standard-attr-tag)" in note and "creates another CA" in note
    assert check(tags=False) == []
