"""The cluster file that ``init`` writes: the choice of network, image and flavors, and errors if one is missing."""

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _spec
from hypothesis import given, settings
from hypothesis import strategies as st

from q8s_wrapper.errors import WrapperError
from q8s_wrapper.init import Flavor, Image, Network, Offer, Subnet, cluster_file

LAB = Offer(
    networks=(
        Network("n1", "private", (Subnet("s1", "10.254.1.0/24"),)),
        Network("n2", "public", (Subnet("s2", "192.0.2.0/24"),), external=True),
    ),
    images=(Image("i1", "debian-13", "x86_64"), Image("i2", "debian-12", "x86_64")),
    flavors=(
        Flavor("c1.tiny", 1, 512, 5),
        Flavor("c1.small", 2, 2048, 20),
        Flavor("c1.medium", 2, 4096, 40),
        Flavor("c1.large", 4, 8192, 80),
    ),
)


def made(offer: Offer, name: str = "first") -> _spec.Cluster:
    cluster = _spec.load_text(cluster_file(offer, name), "new.yaml")
    assert cluster.warnings == ()
    return cluster


def with_networks(*networks: Network) -> Offer:
    return Offer(networks, LAB.images, LAB.flavors)


def with_images(*names: str) -> Offer:
    return Offer(LAB.networks, tuple(Image(f"id-{n}", name) for n, name in enumerate(names)), LAB.flavors)


def test_the_lab() -> None:
    cluster = made(LAB)
    assert (cluster.private_network_id, cluster.remote_ip_prefix) == ("private", "10.254.1.0/24")
    assert cluster.default_image_name == "debian-13"
    assert cluster.master_node_flavor == "c1.small"
    assert {(t.openstack_flavor, t.ram_mb) for t in cluster.types} == {("c1.medium", 2048)}
    assert [server.name for server in cluster.servers()] == [
        "first-control-plane",
        "first-x86-small-1",
        "first-arm-mid-1",
    ]
    guests = ipaddress.IPv4Network(cluster.guest_ip_prefix)
    assert guests.is_private and guests.prefixlen == 16


def test_comments_line_up_and_fit_80_columns_but_for_lists() -> None:
    lines = cluster_file(LAB, "first").splitlines()
    assert {line.index("# ") for line in lines if "  # " in line} == {48}
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["Ubuntu 22.04.4 Server x86_64 (ssd)", "Debian 12"], "Debian 12"),
        (["Ubuntu 24.04 LTS", "debian-12-genericcloud-amd64"], "Ubuntu 24.04 LTS"),
        (["noble-server-cloudimg-amd64", "jammy-server-cloudimg-amd64"], None),
        (["Ubuntu 24.04.1 LTS (Noble Numbat) server, cloud image, x86_64, of 2026-11-01"], None),
        (["ubuntu-noble-24.04", "ubuntu-jammy"], "ubuntu-noble-24.04"),
        (["debian-13-arm64", "debian-12"], "debian-12"),
        (["Debian 13 (trixie)", "Ubuntu 24.04"], "Debian 13 (trixie)"),
        (["debian_12", "Rocky 9", "cirros-0.6.2"], "debian_12"),
    ],
)
def test_the_newest_release(names: list[str], chosen: str | None) -> None:
    expected = chosen or names[0]
    assert made(with_images(*names)).default_image_name == expected


def test_an_image_by_its_id_where_two_have_the_name() -> None:
    images = (Image("i1", "debian-13", created_at="2026-01-01"), Image("i2", "debian-13", created_at="2026-02-01"))
    assert made(Offer(LAB.networks, images, LAB.flavors)).default_image_name == "i2"


def access(*networks: Network) -> _spec.Cluster:
    """The cluster of the new file, after its field access is no longer a comment."""
    text = cluster_file(with_networks(LAB.networks[0], *networks), "first")
    start = text.index("# access:")
    field = text[start : text.index("\n\n", start)]
    cluster = _spec.load_text(text.replace(field, field.replace("# ", "")), "new.yaml")
    assert cluster.warnings == () and made(with_networks(LAB.networks[0], *networks)).access.type == "direct"
    return cluster


def test_the_file_has_the_field_access_as_a_comment() -> None:
    assert access(LAB.networks[1]).access == _spec.Access("floating_ip", floating_network="public")
    assert "10.254.1.0/24. If this machine has no route there" in cluster_file(LAB, "first")
    assert access().access.type == "bastion", "no network provides floating IPs"


def test_of_several_networks_that_provide_floating_ips_all_are_named() -> None:
    outside = [Network(f"id-{n}", name, (), external=True) for n, name in enumerate(("no", "campus", "two", "two"))]
    assert access(*outside).access.floating_network == "campus"
    text = cluster_file(with_networks(LAB.networks[0], *outside), "first")
    assert '# Networks that provide floating IPs: campus, id-2, id-3, "no"\n' in text
    assert access(outside[0]).access.floating_network == "no"
    assert [line for line in text.splitlines() if len(line) > 100] == []


def test_the_projects_own_network_before_a_shared_one() -> None:
    shared = Network("n3", "campus", (Subnet("s3", "10.1.0.0/16"),), shared=True)
    own = Network("n4", "mine", (Subnet("s6", "fd00::/64"), Subnet("s4", "192.168.7.0/26")))
    assert made(with_networks(shared, own)).private_network_id == "mine"
    assert made(with_networks(shared)).remote_ip_prefix == "10.1.0.0/16"


def test_a_network_by_what_is_unique() -> None:
    one = Network("n1", "private", (Subnet("s1", "10.254.1.0/24"),))
    two = Network("n2", "private", (Subnet("s2", "10.254.2.0/25"),))
    assert made(with_networks(one, two)).private_network_id == "n1"
    several = Network("n3", "big", (Subnet("s3", "10.3.0.0/24"), Subnet("s4", "10.4.0.0/24")))
    assert made(with_networks(several)).private_network_id == "s3"


def test_a_smaller_guest_where_flavors_are_small() -> None:
    cluster = made(Offer(LAB.networks, LAB.images, (Flavor("only", 2, 2048, 20),)))
    assert {t.ram_mb for t in cluster.types} == {1024} and cluster.master_node_flavor == "only"


def test_a_flavor_that_boots_from_a_volume_is_not_chosen() -> None:
    flavors = (Flavor("diskless", 2, 4096, 0), Flavor("large", 4, 8192, 20))
    cluster = made(Offer(LAB.networks, LAB.images, flavors))
    assert {cluster.master_node_flavor, *(t.openstack_flavor for t in cluster.types)} == {"large"}
    with pytest.raises(WrapperError, match="a flavor with 2 vCPUs"):
        cluster_file(Offer(LAB.networks, LAB.images, flavors[:1]), "first")


def test_names_that_yaml_would_misread() -> None:
    offer = Offer(
        (Network("n1", "no", (Subnet("s1", "10.254.1.0/24"),)),),
        (Image("i1", 'Debian 13: "trixie" #1'),),
        (Flavor("4", 4, 8192, 20),),
    )
    cluster = made(offer)
    assert cluster.private_network_id == "no" and cluster.default_image_name == 'Debian 13: "trixie" #1'
    assert cluster.master_node_flavor == "4"


@pytest.mark.parametrize("name", ["Debian 13 größer 😀", 'Debian 13 \\ "x"'])
def test_names_with_other_characters(name: str) -> None:
    assert made(with_images(name)).default_image_name == name


@pytest.mark.parametrize("name", ["Debian 13 a\x01b", "Debian 13\nb", "Debian 13 \x7fb", "Debian 13\u2028b"])
def test_a_name_that_is_not_printable(name: str) -> None:
    with pytest.raises(WrapperError) as caught:
        cluster_file(with_images(name), "first")
    assert f"default_image_name: is {name!r}; must be 1 to 255 printable characters" in str(caught.value)


@settings(deadline=None)  # the first call imports the checker
@given(st.integers(8, 29), st.integers(0, (1 << 32) - 1))
def test_addresses_never_meet(length: int, start: int) -> None:
    cidr = ipaddress.IPv4Network((start, length), strict=False)
    if not 1 <= start >> 24 < 224 or (start >> 24) == 127 or cidr.overlaps(ipaddress.IPv4Network("169.254.0.0/16")):
        return
    try:
        cluster = made(with_networks(Network("n", "net", (Subnet("s", str(cidr)),))))
    except WrapperError as error:
        assert length < 12 and "too few private addresses" in str(error)
    else:
        assert cluster.remote_ip_prefix == str(cidr)


def test_everything_that_is_missing_is_named() -> None:
    offer = Offer(
        (Network("n1", "tiny", (Subnet("s", "10.0.0.0/30"),)), LAB.networks[1]),
        (Image("i", "debian-13", "aarch64"), Image("j", "windows-2022")),
        (Flavor("m1.nano", 1, 128, 1),),
    )
    with pytest.raises(WrapperError) as caught:
        cluster_file(offer, "first")
    assert str(caught.value).splitlines() == [
        "Failed to write a cluster file: the cloud does not offer",
        "- a network with an IPv4 subnet of at least 6 addresses (found: public 192.0.2.0/24, tiny 10.0.0.0/30)",
        "- an image of Debian 12 or 13, or Ubuntu from 22.04 on, for x86_64 (found: debian-13, windows-2022)",
        "- a flavor with 2 vCPUs, 2048 MB of memory and a disk of 14 GB (found: m1.nano 1/128/1)",
    ]
    assert caught.value.hint


def test_nothing_at_all() -> None:
    with pytest.raises(WrapperError) as caught:
        cluster_file(Offer((), (), ()), "first")
    assert str(caught.value).count("(found: none)") == 3


def test_a_name_that_cannot_be() -> None:
    with pytest.raises(WrapperError) as caught:
        cluster_file(LAB, "My Cluster")
    assert "cluster_name: is 'My Cluster'; must be a host name" in str(caught.value)
