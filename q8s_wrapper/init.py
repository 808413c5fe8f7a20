"""Compose a cluster file from the networks, images and flavors of a cloud. Pure functions: no cloud is called here."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.report import join_names

_SERVERS: Final = 3  # servers of the new cluster: a control plane and two workers
_CONTROL_PLANE_MB: Final = 2048
_CONTROL_PLANE_GB: Final = 5  # operating system, control plane bundle, guest images and worker bundles
_QEMU_MB: Final = 512  # memory of a host in addition to its guest's
_GUESTS_MB: Final = (2048, 1024)  # guest memory in MB, in order of preference
_GUEST_GB: Final = 10
_CPUS: Final = 2
_PRIVATE: Final = tuple(ipaddress.IPv4Network(t) for t in ("172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16"))
_PODS: Final = ipaddress.IPv4Network("10.244.0.0/16")
_SERVICES: Final = ipaddress.IPv4Network("10.96.0.0/12")

# Operating systems that hosts may have, with their release dates as fractional years.
_CODENAMES: Final = {"trixie": "debian 13", "bookworm": "debian 12", "noble": "ubuntu 24.04", "jammy": "ubuntu 22.04"}
_RELEASES: Final = {"debian 13": 2025.6, "debian 12": 2023.5, "ubuntu 22.04": 2022.3}
_OTHER_ARCHITECTURES: Final = re.compile(r"arm|aarch|ppc|s390|riscv|i[36]86", re.IGNORECASE)


@dataclass(frozen=True)
class Subnet:
    """A subnet of a network, IPv4 or IPv6."""

    id: str
    cidr: str


@dataclass(frozen=True)
class Network:
    """A network that is visible to the project.

    :param external: the network provides floating IPs
    :param shared: the network belongs to another project
    """

    id: str
    name: str
    subnets: tuple[Subnet, ...]
    external: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Image:
    """An active image.

    :param architecture: Glance's property; empty if it is not set
    :param min_ram: MB
    :param min_disk: GB
    """

    id: str
    name: str
    architecture: str = ""
    min_ram: int = 0
    min_disk: int = 0
    created_at: str = ""


@dataclass(frozen=True)
class Flavor:
    """A flavor.

    :param ram: MB
    :param disk: GB; 0 if servers of this flavor boot from a volume
    """

    name: str
    vcpus: int
    ram: int
    disk: int


@dataclass(frozen=True)
class Offer:
    """The networks, images and flavors that a project may use."""

    networks: tuple[Network, ...]
    images: tuple[Image, ...]
    flavors: tuple[Flavor, ...]


def cluster_file(offer: Offer, name: str) -> str:
    """Return the text of a cluster file for a small cluster of two architectures. The text is valid: it is loaded.

    :param name: name of the cluster
    :raises WrapperError: the cloud lacks what a cluster needs (the message lists all of it), or the name is not a valid
        host name
    """
    add_collections_to_path()
    from ansible_collections.q8s.emu.plugins.module_utils import _spec

    missing: list[str] = []
    network = _choose_network(offer.networks)
    if network is None:
        missing.append(
            f"a network with an IPv4 subnet of at least {_SERVERS + 3} addresses "
            f"(found: {_join_names(n.name + ' ' + ', '.join(s.cidr for s in n.subnets) for n in offer.networks)})"
        )
    image = _choose_image(offer.images)
    if image is None:
        missing.append(
            "an image of Debian 12 or 13, or Ubuntu from 22.04 on, for x86_64 "
            f"(found: {_join_names(i.name for i in offer.images)})"
        )
    least_ram, least_disk = (image.min_ram, image.min_disk) if image else (0, 0)
    control_plane = _choose_flavor(offer.flavors, max(_CONTROL_PLANE_MB, least_ram), max(_CONTROL_PLANE_GB, least_disk))
    guest_mb, host = 0, None
    for guest_mb in _GUESTS_MB:
        host = _choose_flavor(offer.flavors, max(guest_mb + _QEMU_MB, least_ram), max(_GUEST_GB + 4, least_disk))
        if host is not None:
            break
    if control_plane is None or host is None:
        missing.append(
            f"a flavor with {_CPUS} vCPUs, {_CONTROL_PLANE_MB} MB of memory and a disk of {_GUEST_GB + 4} GB "
            f"(found: {_join_names(f'{f.name} {f.vcpus}/{f.ram}/{f.disk}' for f in offer.flavors)})"
        )
    if network is None or image is None or control_plane is None or host is None:
        raise WrapperError(
            "Failed to write a cluster file: the cloud does not offer\n- " + "\n- ".join(missing),
            "ask the administrators of the cloud for it, or write the file by hand",
        )
    text = _format_file(
        name,
        _choose_addresses(network, offer.networks),
        _image_name(image, offer.images),
        (control_plane, host),
        guest_mb,
    )
    try:
        _spec.load_text(text, "the new file")
    except _spec.SpecError as error:
        raise WrapperError(f"Failed to write a cluster file:\n{error.text()}", code=ExitCode.WRONG_INPUT) from None
    return text


def _join_names(names: Iterable[str]) -> str:
    """Join at most ten names, sorted, and count the rest."""
    return join_names(sorted(names), 10) or "none"


def _ipv4_subnets(network: Network) -> list[tuple[Subnet, ipaddress.IPv4Network]]:
    """Return the IPv4 subnets with enough addresses for the servers."""
    found = [(subnet, ipaddress.ip_network(subnet.cidr)) for subnet in network.subnets]
    return [
        (s, cidr) for s, cidr in found if isinstance(cidr, ipaddress.IPv4Network) and cidr.num_addresses >= _SERVERS + 3
    ]


def _choose_network(networks: Sequence[Network]) -> Network | None:
    """Choose the network: the project's own before shared ones, then the largest. External networks are excluded."""
    usable = [network for network in networks if _ipv4_subnets(network) and not network.external]
    return min(usable, key=lambda n: (n.shared, _ipv4_subnets(n)[0][1].prefixlen, n.name, n.id), default=None)


def _choose_image(images: Sequence[Image]) -> Image | None:
    """Choose the image: the newest operating system release, then the newest image."""
    usable = [(release, image) for image in images if (release := _release_date(image)) is not None]
    return max(usable, key=lambda pair: (pair[0], pair[1].created_at, pair[1].name), default=(0.0, None))[1]


def _release_date(image: Image) -> float | None:
    """Return the release date of an image's operating system as a fractional year; None if hosts cannot use it."""
    if image.architecture not in ("", "x86_64", "amd64") or _OTHER_ARCHITECTURES.search(image.name):
        return None
    name = re.sub(r"[-_ ]+", " ", image.name.lower())
    for codename, release in _CODENAMES.items():
        if re.search(rf"\b{codename}\b", name):
            name = release
    found = re.search(r"\b(debian|ubuntu)\b ?(?:\w* )??([0-9]+(?:\.[0-9]+)?)", name)
    if not found:
        return None
    version = found[2].partition(".")[0] if found[1] == "debian" else found[2]
    if f"{found[1]} {version}" in _RELEASES:
        return _RELEASES[f"{found[1]} {version}"]
    year, _, month = version.partition(".")
    if found[1] == "ubuntu" and month and int(year) >= 22:
        return 2000 + int(year) + int(month[:2]) / 13
    return None


def _choose_flavor(flavors: Sequence[Flavor], ram: int, disk: int) -> Flavor | None:
    """Choose the smallest flavor that is large enough. Flavors with disk 0 are excluded: Q8S creates no volumes.

    :param ram: MB
    :param disk: GB
    """
    usable = [f for f in flavors if f.vcpus >= _CPUS and f.ram >= ram and f.disk >= max(disk, 1)]
    return min(usable, key=lambda f: (f.ram, f.vcpus, f.disk, f.name), default=None)


@dataclass(frozen=True)
class _NetworkFields:
    """The network fields of the cluster file.

    :param external: names or ids of the networks that provide floating IPs
    """

    network: str
    about: str
    servers: ipaddress.IPv4Network
    guests: ipaddress.IPv4Network
    pods: ipaddress.IPv4Network
    services: ipaddress.IPv4Network
    external: tuple[str, ...]


def _choose_addresses(network: Network, networks: Sequence[Network]) -> _NetworkFields:
    """Choose the network fields: a unique network name, else an id, and address ranges that do not overlap.

    :raises WrapperError: too few private addresses are free
    """
    names = Counter(other.name for other in networks)
    subnets = _ipv4_subnets(network)
    subnet, servers = subnets[0]
    value, about = network.name, f"of the subnet {servers}"
    if len(subnets) > 1:
        value, about = subnet.id, f"a subnet of the network {network.name}"
    elif not network.name or names[network.name] > 1:
        value, about = network.id, f"called {network.name or 'nothing'}"
    # The guest prefix has a network for each server address: of 256 addresses, or fewer if there is no space.
    lengths = [length - (32 - servers.prefixlen) for length in range(24, 30)]
    guests = _find_free_network(lengths, [servers, _PODS, _SERVICES]) or _find_free_network(lengths, [servers])
    pods = services = None
    if guests:
        pods = (
            _PODS
            if _is_disjoint(_PODS, servers, guests)
            else _find_free_network([16, 20], [servers, guests, _SERVICES])
        )
    if guests and pods:
        services = (
            _SERVICES
            if _is_disjoint(_SERVICES, servers, guests, pods)
            else _find_free_network([16, 20], [servers, guests, pods])
        )
    if guests is None or pods is None or services is None:
        raise WrapperError(
            f"Failed to write a cluster file: {servers} leaves too few private addresses for guests and pods",
            "use a network with a smaller subnet",
        )
    return _NetworkFields(value, about, servers, guests, pods, services, _external_names(networks))


def _is_disjoint(network: ipaddress.IPv4Network, *others: ipaddress.IPv4Network) -> bool:
    return not any(network.overlaps(other) for other in others)


def _find_free_network(lengths: Sequence[int], taken: Sequence[ipaddress.IPv4Network]) -> ipaddress.IPv4Network | None:
    """Find a private network that does not overlap others.

    :param lengths: prefix lengths in order of preference
    :param taken: networks in use
    """
    for length in lengths:
        for pool in _PRIVATE:
            if not pool.prefixlen <= length <= 30:
                continue
            # Search from the end of the pool: its first networks are more often in use.
            size = 1 << (32 - length)
            for start in range(int(pool.broadcast_address) + 1 - size, int(pool.network_address) - 1, -size):
                network = ipaddress.IPv4Network((start, length))
                if _is_disjoint(network, *taken):
                    return network
    return None


def _external_names(networks: Sequence[Network]) -> tuple[str, ...]:
    """Return the names of the networks that provide floating IPs, sorted; the id of one whose name is not unique."""
    names = Counter(network.name for network in networks)
    return tuple(sorted(n.name if n.name and names[n.name] == 1 else n.id for n in networks if n.external))


def _image_name(image: Image, images: Sequence[Image]) -> str:
    """Return the image's name, or its id if the name is not unique."""
    return image.name if sum(other.name == image.name for other in images) == 1 else image.id


def _quote_yaml(text: str) -> str:
    """Format a string as YAML: plain if that is safe, else in double quotes."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9._/-]*", text) and text.lower() not in (
        "on",
        "off",
        "yes",
        "no",
        "true",
        "false",
        "null",
        "y",
        "n",
    ):
        return text
    import yaml

    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).rstrip("\n")


def _access_lines(servers: ipaddress.IPv4Network, external: Sequence[str]) -> list[str]:
    """Return the field ``access``, commented out: by a floating IP if a network provides them, else through a bastion.

    :param external: names or ids of those networks
    """
    names = [_quote_yaml(name) for name in external]
    lines = [
        f"# Q8S connects to the servers' addresses in {servers}. If this machine has no route there,",
        "# set access (docs/guides/remote-access.md).",
    ]
    if not names:
        return [*lines, "# access:", "#   type: bastion", "#   host: bastion.example.org"]
    lines[-1] += " Only allowed_prefixes reach the floating IP."
    lines += [f"# Networks that provide floating IPs: {join_names(names, 5)}"] if len(names) > 1 else []
    field = ["# access:", "#   type: floating_ip", f"#   floating_network: {names[0]}"]
    return [*lines, *field, "#   allowed_prefixes: [0.0.0.0/0]"]


def _format_file(name: str, fields: _NetworkFields, image: str, flavors: tuple[Flavor, Flavor], guest_mb: int) -> str:
    """Return the text of the cluster file.

    :param flavors: of control planes, and of hosts
    :param guest_mb: memory of a guest in MB
    """
    control_plane, host = flavors

    def line(text: str, about: str) -> str:
        return f"{text:<46}  # {about}"

    extra = [
        line(f"{key}: {network}", about)
        for key, network, default, about in (
            ("pod_cidr", fields.pods, _PODS, "the default overlaps the servers' network"),
            ("service_cidr", fields.services, _SERVICES, "the default overlaps the servers' network"),
        )
        if network != default
    ]
    machine = [
        f"      num_cpus: {_CPUS}",
        "      machine_model: virt",
        line(f"      ram: {guest_mb}", "MB"),
        line(f"      storage: {_GUEST_GB}", "GB"),
        line(f"      openstack_flavor: {_quote_yaml(host.name)}", f"of the host: {host.vcpus} vCPUs, {host.ram} MB"),
    ]
    lines = [
        "# A small cluster of two architectures, for `q8s-run deploy`.",
        "# All fields: docs/reference/cluster-file.md",
        "",
        line(f"cluster_name: {_quote_yaml(name)}", "every resource in the cloud carries this name"),
        line(f"private_network_id: {_quote_yaml(fields.network)}", fields.about),
        f"remote_ip_prefix: {fields.servers}",
        line(f"default_image_name: {_quote_yaml(image)}", "of all servers"),
        line(f"name_of_initial_instance: {_quote_yaml(name + '-control-plane')}", "the first control plane"),
        line(f"guest_ip_prefix: {fields.guests}", "the guests' own addresses, behind their hosts"),
        *extra,
        "",
        *_access_lines(fields.servers, fields.external),
        "",
        line("security_groups: [q8s-cluster]", "created from the ports below"),
        "required_tcp_ports: [22, 80, 443, 2222, 2379, 2380, 6443, 8472, 10250, 10256, 10257, 10259]",
        "required_udp_ports: [8472]",
        line("worker_port_range_min: 30000", "ports of Services of type NodePort"),
        "worker_port_range_max: 32767",
        "",
        "cluster_definition:",
        line(
            f"  master_node_flavor: {_quote_yaml(control_plane.name)}",
            f"{control_plane.vcpus} vCPUs, {control_plane.ram} MB",
        ),
        "  number_additional_master_nodes: 0",
        line("  worker:", "how many of each type below"),
        "    x86-small: 1",
        "    arm-mid: 1",
        "",
        "vm_types:",
        "  types:",
        "    x86-small:",
        "      architecture: x86_64",
        line("      cpu_model: EPYC-Rome", "a model of QEMU"),
        *machine,
        "    arm-mid:",
        "      architecture: arm_64",
        "      cpu_model: cortex-a57",
        *machine,
    ]
    return "\n".join(lines) + "\n"
