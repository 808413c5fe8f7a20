# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster file: read, checked and completed in this one place.

Modules, the inventory plugin and the wrapper import it. Nothing here talks to a cloud, and nothing imports Ansible.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Optional, Union

import yaml

REQUIRED_SECURITY_GROUP = "q8s-cluster"
ARTIFACT_PORT = 8099
GUEST_SSH_PORT = 2222
MAX_FILE_BYTES = 1 << 20
MAX_SERVERS = 4096
# What bundle/node/versions.py delivers; a test compares the two.
KUBERNETES_VERSIONS = ("1.36.3",)

ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "arm_64": "aarch64",
    "arm64": "aarch64",
    "aarch64": "aarch64",
}
# QEMU's named models (qemu-system-ARCH -cpu help). A model of another architecture is an error, one in no list only a
# warning, for QEMU gains models with every release.
_CPU_MODELS = {
    "x86_64": frozenset(
        """max qemu64 qemu32 kvm64 kvm32 base 486 pentium pentium2 pentium3 athlon phenom core2duo coreduo n270 Conroe Penryn
        Nehalem Westmere SandyBridge IvyBridge Haswell Broadwell Denverton Snowridge Skylake-Client Skylake-Server
        Cascadelake-Server Cooperlake Icelake-Server SapphireRapids GraniteRapids SierraForest KnightsMill Opteron_G1
        Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5 EPYC EPYC-Rome EPYC-Milan EPYC-Genoa EPYC-IBPB Dhyana
        YongFeng""".split()
    ),
    "aarch64": frozenset(
        """max cortex-a35 cortex-a53 cortex-a55 cortex-a57 cortex-a72 cortex-a76 cortex-a710 a64fx neoverse-n1
        neoverse-n2 neoverse-v1""".split()
    ),
}
_MACHINES = {
    "x86_64": (re.compile(r"q35|pc|pc-q35-[0-9.]+|pc-i440fx-[0-9.]+"), "virt, q35, pc or a version of them"),
    "aarch64": (re.compile(r"virt|virt-[0-9.]+"), "virt or a version of it"),
}
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_CPU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PLACEHOLDER = "qemu-args"
# Kubernetes' rules of labels and taints
ZONE_LABEL = "topology.kubernetes.io/zone"
_LABEL_NAME = re.compile(
    r"([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE_RULE = "at most 63 of A-Z, a-z, 0-9, -, _ and ., a letter or digit at either end"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TAINT = re.compile(r"(?P<key>[^=:]+)(=(?P<value>[^=:]*))?:(" + "|".join(_EFFECTS) + ")")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PROXY = re.compile(r"https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/?")


def _reserved(domain: str) -> bool:
    """Whether labels of that domain are Q8S's own, or ones that a kubelet may not set on itself."""
    if domain == "q8s.io" or domain.endswith(".q8s.io"):
        return True
    if any(domain == name or domain.endswith(f".{name}") for name in ("kubelet.kubernetes.io", "node.kubernetes.io")):
        return False
    return any(domain == name or domain.endswith(f".{name}") for name in ("kubernetes.io", "k8s.io"))


@dataclass(frozen=True)
class Problem:
    """One mistake in a cluster file. ``line`` and ``column`` count from 1; both are 0 where there is no text."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class SpecError(Exception):
    """A cluster file has mistakes: all of them, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.line, p.column, p.path)))
        super().__init__(self.text())

    def text(self) -> str:
        """Every problem on a line of its own, each hint below it."""
        lines = []
        for problem in self.problems:
            lines.append(str(problem))
            if problem.hint:
                lines.append(f"  hint: {problem.hint}")
        return "\n".join(lines)


@dataclass(frozen=True)
class VmType:
    """What an emulated worker is: one entry of ``vm_types.types``."""

    name: str
    architecture: str  # as the kernel says it: x86_64, aarch64
    num_cpus: int
    cpu_model: str
    machine_model: str  # QEMU's name: q35 where the file says virt for x86_64
    ram_mb: int
    storage_gb: int
    openstack_flavor: str
    qemu_args: str
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[str, ...] = ()  # in Kubernetes' form: key=value:Effect or key:Effect
    zone: str = ""  # the node's label topology.kubernetes.io/zone, if any
    accel: str = "tcg"  # tcg, kvm, or auto: kvm where the host has it and the architectures are the same
    tb_cache_mb: Optional[int] = None  # of translated code; None leaves it to QEMU


@dataclass(frozen=True)
class Access:
    """How the machine that runs Q8S reaches the servers.

    ``floating_network`` is set for floating_ip, ``host`` for bastion; an empty ``user`` leaves it to ssh.
    """

    type: str = "direct"  # direct, floating_ip or bastion
    floating_network: str = ""
    host: str = ""
    user: str = ""
    port: int = 22


@dataclass(frozen=True)
class Proxy:
    """Proxies for the installation of packages on hosts; empty: none."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


@dataclass(frozen=True)
class ServerSpec:
    """A server that a cluster file asks for."""

    name: str
    node: str  # name of the Kubernetes node: the guest's where there is one
    role: str  # control_plane or worker_host
    flavor: str
    initial: bool = False
    vm_type: Optional[VmType] = None


@dataclass(frozen=True)
class GuestNetwork:
    """The network behind one host."""

    address: str
    gateway: str
    prefixlen: int


@dataclass(frozen=True)
class Cluster:
    """A checked and completed cluster file. The access token that ``git_url`` may hold is never kept."""

    private_network_id: str
    remote_ip_prefix: str
    default_image_name: str
    name_of_initial_instance: str
    security_groups: tuple[str, ...]
    required_tcp_ports: tuple[int, ...]
    required_udp_ports: tuple[int, ...]
    worker_port_range_min: int
    worker_port_range_max: int
    master_node_flavor: str
    number_additional_master_nodes: int
    workers: tuple[tuple[str, int], ...]
    types: tuple[VmType, ...]
    cluster_name: str
    guest_ip_prefix: str
    pod_cidr: str
    service_cidr: str
    initial_instance_user: str
    guest_user: str = "q8s"
    ssh_private_key: str = ""  # path, the public key beside it with .pub; empty: Q8S makes one
    access: Access = Access()
    proxy: Proxy = Proxy()
    server_group: str = "none"  # none or soft-anti-affinity
    kubernetes_version: str = KUBERNETES_VERSIONS[0]
    warnings: tuple[Problem, ...] = field(default=(), compare=False, repr=False)

    def to_mapping(self) -> dict[str, Any]:
        """The completed cluster in the file's own form, fit for JSON; reading it gives an equal cluster."""
        return {
            "cluster_name": self.cluster_name,
            "private_network_id": self.private_network_id,
            "remote_ip_prefix": self.remote_ip_prefix,
            "default_image_name": self.default_image_name,
            "name_of_initial_instance": self.name_of_initial_instance,
            "initial_instance_user": self.initial_instance_user,
            "security_groups": list(self.security_groups),
            "required_tcp_ports": list(self.required_tcp_ports),
            "required_udp_ports": list(self.required_udp_ports),
            "worker_port_range_min": self.worker_port_range_min,
            "worker_port_range_max": self.worker_port_range_max,
            "guest_ip_prefix": self.guest_ip_prefix,
            "pod_cidr": self.pod_cidr,
            "service_cidr": self.service_cidr,
            "guest_user": self.guest_user,
            **({"ssh_private_key": self.ssh_private_key} if self.ssh_private_key else {}),
            "access": {"type": self.access.type, **_given(self.access)},
            "proxy": _given(self.proxy),
            "server_group": self.server_group,
            "kubernetes_version": self.kubernetes_version,
            "cluster_definition": {
                "master_node_flavor": self.master_node_flavor,
                "number_additional_master_nodes": self.number_additional_master_nodes,
                "worker": dict(self.workers),
            },
            "vm_types": {
                "types": {
                    t.name: {
                        "architecture": t.architecture,
                        "num_cpus": t.num_cpus,
                        "cpu_model": t.cpu_model,
                        "machine_model": t.machine_model,
                        "ram": t.ram_mb,
                        "storage": t.storage_gb,
                        "openstack_flavor": t.openstack_flavor,
                        "qemu_args": t.qemu_args,
                        "labels": dict(t.labels),
                        "taints": list(t.taints),
                        **({"zone": t.zone} if t.zone else {}),
                        "accel": t.accel,
                        **({"tb_cache": t.tb_cache_mb} if t.tb_cache_mb else {}),
                    }
                    for t in self.types
                }
            },
        }

    def vm_type(self, name: str) -> VmType:
        """The type of that name.

        :raises KeyError: there is none
        """
        return {t.name: t for t in self.types}[name]

    def servers(self) -> tuple[ServerSpec, ...]:
        """Every server that the file asks for: the initial instance, further control planes, hosts of workers."""
        initial = self.name_of_initial_instance
        result = [ServerSpec(initial, initial, "control_plane", self.master_node_flavor, initial=True)]
        for n in range(2, self.number_additional_master_nodes + 2):
            name = f"{self.cluster_name}-control-plane-{n}"
            result.append(ServerSpec(name, name, "control_plane", self.master_node_flavor))
        for type_name, count in self.workers:
            vm_type = self.vm_type(type_name)
            for n in range(1, count + 1):
                node = f"{type_name}-{n}"
                result.append(
                    ServerSpec(
                        f"{self.cluster_name}-{node}", node, "worker_host", vm_type.openstack_flavor, False, vm_type
                    )
                )
        return tuple(result)

    def guest_network(self, host_address: str) -> GuestNetwork:
        """Where the guest of the host with that address is.

        :raises ValueError: the address is not one of ``remote_ip_prefix``
        """
        return guest_network(host_address, self.remote_ip_prefix, self.guest_ip_prefix)


def _given(group: Union[Access, Proxy]) -> dict[str, Any]:
    """The fields that are not at their default."""
    return {f.name: getattr(group, f.name) for f in fields(group) if getattr(group, f.name) != f.default}


def guest_network(host_address: str, remote_ip_prefix: str, guest_ip_prefix: str) -> GuestNetwork:
    """The network behind a host, from the host's address alone, so that no two hosts share one.

    The host's part of its address chooses the subnet of ``guest_ip_prefix`` and the guest's place in it:
    10.254.1.3/24 with 192.11.0.0/16 gives 192.11.3.3/24 behind the gateway 192.11.3.1.

    :raises ValueError: the address is not in ``remote_ip_prefix``, or the subnets would be smaller than a /29
    """
    remote = ipaddress.IPv4Network(remote_ip_prefix)
    guests = ipaddress.IPv4Network(guest_ip_prefix)
    host = ipaddress.IPv4Address(host_address)
    if host not in remote:
        raise ValueError(f"{host} is not in {remote}")
    length = guest_subnet_length(remote, guests)
    if length > 29:
        raise ValueError(f"{guests} cannot be divided among the hosts of {remote}")
    part = int(host) - int(remote.network_address)
    size = 1 << (32 - length)
    subnet = int(guests.network_address) + part * size
    offset = part % size
    if offset in (0, 1, size - 1):
        offset = 2
    return GuestNetwork(str(ipaddress.IPv4Address(subnet + offset)), str(ipaddress.IPv4Address(subnet + 1)), length)


def guest_subnet_length(remote: ipaddress.IPv4Network, guests: ipaddress.IPv4Network) -> int:
    """Prefix length of one guest's network, so that every address of ``remote`` has one; over 29 is too small."""
    return guests.prefixlen + 32 - remote.prefixlen


def guest_mac(host_address: str) -> str:
    """MAC address of the guest of that host: QEMU's prefix and the last three bytes of the host's address."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(host_address).packed[1:])


def load_file(path: str) -> Cluster:
    """Read and check a cluster file.

    :raises OSError: it cannot be read
    :raises SpecError: it has mistakes
    """
    with open(path, "rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise SpecError([Problem(path, 1, 1, "", f"larger than {MAX_FILE_BYTES} bytes: this is no cluster file")])
    return load_text(data, path)


def load_text(text: Union[str, bytes], origin: str) -> Cluster:
    """Check the text of a cluster file; ``origin`` is its name in messages.

    :raises SpecError: it has mistakes
    """
    reader = _Reader(origin)
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise SpecError([Problem(origin, line, column, "", f"not YAML: {what}")]) from None
    except yaml.YAMLError as error:
        raise SpecError([Problem(origin, 1, 1, "", f"not YAML: {str(error).splitlines()[0]}")]) from None
    except UnicodeDecodeError:
        raise SpecError([Problem(origin, 1, 1, "", "not YAML: the text is not UTF-8")]) from None
    except RecursionError:
        raise SpecError([Problem(origin, 1, 1, "", "nested too deeply: this is no cluster file")]) from None
    if root is None:
        hint = "examples/demo.yaml shows one"
        raise SpecError([Problem(origin, 1, 1, "", "empty; a cluster file is a mapping", hint)])
    return _Checker(origin, reader.problems).cluster(reader.convert(root))


def load_mapping(data: Mapping[str, Any], origin: str) -> Cluster:
    """Check a cluster that something else has read already, such as ``ansible-playbook -e @cluster.yaml``.

    :raises SpecError: it has mistakes; they have no line
    """
    return _Checker(origin, []).cluster(_from_data(data))


FIELDS = frozenset(
    """cluster_name private_network_id remote_ip_prefix default_image_name name_of_initial_instance
    initial_instance_user security_groups required_tcp_ports required_udp_ports worker_port_range_min worker_port_range_max
    guest_ip_prefix pod_cidr service_cidr cluster_definition vm_types git_url guest_user ssh_private_key access proxy
    server_group kubernetes_version""".split()
)


# -- From text, or from data, to values that know their place -----------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """A value and where it stands. Mappings hold _Value by key, and each key's own place."""

    data: Any
    line: int = 0
    column: int = 0
    tag: str = ""
    keys: Mapping[str, _Value] = field(default_factory=dict)


def _from_data(data: Any) -> _Value:
    if isinstance(data, Mapping):
        return _Value({str(k): _from_data(v) for k, v in data.items()}, keys={str(k): _Value(str(k)) for k in data})
    if isinstance(data, (list, tuple)):
        return _Value([_from_data(item) for item in data])
    # Ansible marks text with subclasses of str; nothing of that belongs in a cluster.
    return _Value(str(data) if isinstance(data, str) else data)


class _Reader:
    """PyYAML's nodes to values. Custom tags are kept for the checker, which knows which one belongs where."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        self._done: dict[int, _Value] = {}
        self._constructor = yaml.constructor.SafeConstructor()

    def convert(self, node: yaml.Node, path: str = "") -> _Value:
        """Each node once, however often an alias names it."""
        known = self._done.get(id(node))
        if known is not None:
            return known
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self._done[id(node)] = _Value(None, line, column)  # what an alias to a parent of itself finds
        tag = "" if node.tag.startswith("tag:yaml.org,2002:") else node.tag
        value: _Value
        if isinstance(node, yaml.MappingNode):
            data, keys = self._mapping(node, path)
            value = _Value(data, line, column, tag, keys)
        elif isinstance(node, yaml.SequenceNode):
            value = _Value([self.convert(item, f"{path}[{n}]") for n, item in enumerate(node.value)], line, column, tag)
        else:
            assert isinstance(node, yaml.ScalarNode)  # PyYAML has no fourth kind
            value = _Value(self._scalar(node), line, column, tag)
        self._done[id(node)] = value
        return value

    def _mapping(self, node: yaml.MappingNode, path: str) -> tuple[dict[str, _Value], dict[str, _Value]]:
        data: dict[str, _Value] = {}
        keys: dict[str, _Value] = {}
        merged: list[_Value] = []
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.origin, line, column, path, "a key must be a word"))
                continue
            key = str(key_node.value)
            value = self.convert(value_node, _join(path, key))
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.extend(value.data if isinstance(value.data, list) else [value])
                continue
            if key in data:
                first = keys[key]
                message = f"stands here a second time; first in line {first.line}"
                self.problems.append(
                    Problem(self.origin, line, column, _join(path, key), message, "keep one of the two")
                )
                continue
            data[key], keys[key] = value, _Value(key, line, column)
        for other in merged:
            if isinstance(other.data, dict):
                for key, value in other.data.items():
                    data.setdefault(key, value)
                    keys.setdefault(key, other.keys[key])
        return data, keys

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.rpartition(":")[2]
        try:
            if kind == "int":
                return self._constructor.construct_yaml_int(node)
            if kind == "float":
                return self._constructor.construct_yaml_float(node)
            if kind == "bool":
                return self._constructor.construct_yaml_bool(node)
        except (ValueError, KeyError, OverflowError, IndexError):
            return str(node.value)
        return None if kind == "null" else str(node.value)


# -- The checks ---------------------------------------------------------------------------------------------------


def _found(value: Any) -> str:
    """What stands in the file, in words that fit a message; never long."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a very large number"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


_Network = ipaddress.IPv4Network


class _Checker:
    """Collects every problem; each method gives a usable value or None."""

    def __init__(self, origin: str, problems: list[Problem]) -> None:
        self.origin = origin
        self.problems = problems
        self.warnings: list[Problem] = []

    def fail(self, place: _Value, path: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.origin, place.line, place.column, path, message, hint))

    def warn(self, place: _Value, path: str, message: str, hint: str = "") -> None:
        self.warnings.append(Problem(self.origin, place.line, place.column, path, message, hint))

    def mapping(self, value: _Value, path: str, what: str, tag: str) -> Optional[dict[str, _Value]]:
        if value.tag and value.tag != tag:
            allowed = f"{tag} or no tag" if tag else "no tag"
            self.fail(value, path, f"the tag is {value.tag}; allowed: {allowed}")
        if not isinstance(value.data, dict):
            self.fail(value, path, f"is {_found(value.data)}; must be {what}")
            return None
        return value.data

    def unknown(self, value: _Value, path: str, known: Sequence[str]) -> None:
        for key in value.data:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1, 0.6)
                hint = f"did you mean {close[0]}?" if close else "known here: " + ", ".join(sorted(known))
                self.fail(value.keys.get(key, value), _join(path, key), "unknown key", hint)

    def take(self, parent: _Value, path: str, key: str) -> Optional[_Value]:
        value: Optional[_Value] = parent.data.get(key)
        if value is None:
            self.fail(parent, _join(path, key), "is missing", "examples/demo.yaml shows every field")
        return value

    def text(self, parent: _Value, path: str, key: str, default: Optional[str] = None) -> Optional[str]:
        if default is not None and key not in parent.data:
            return default
        value = self.take(parent, path, key)
        if value is None:
            return None
        path = _join(path, key)
        if not isinstance(value.data, str):
            hint = "put it in quotes" if isinstance(value.data, (int, float)) else ""
            self.fail(value, path, f"is {_found(value.data)}; must be text", hint)
            return None
        text = value.data.strip()
        if not text or len(text) > 255 or not text.isprintable():
            self.fail(value, path, f"is {_found(value.data)}; must be 1 to 255 printable characters")
            return None
        return text

    def label(self, parent: _Value, path: str, key: str, default: Optional[str] = None) -> Optional[str]:
        text = self.text(parent, path, key, default)
        if text is not None and not _LABEL.fullmatch(text):
            message = f"is {_found(text)}; must be a host name: a-z, 0-9 and -, at most 63, no - at either end"
            self.fail(parent.data.get(key, parent), _join(path, key), message)
            return None
        return text

    def number(self, value: _Value, path: str, low: int, high: int, unit: str = "") -> Optional[int]:
        if isinstance(value.data, bool) or not isinstance(value.data, int) or not low <= value.data <= high:
            number = isinstance(value.data, str) and re.fullmatch(r"[0-9]{1,9}", value.data)
            hint = "remove the quotes" if number else ""
            self.fail(value, path, f"is {_found(value.data)}; must be a whole number{unit} from {low} to {high}", hint)
            return None
        return int(value.data)

    def key_number(self, parent: _Value, path: str, key: str, low: int, high: int, *, unit: str = "") -> Optional[int]:
        value = self.take(parent, path, key)
        return None if value is None else self.number(value, _join(path, key), low, high, unit)

    def ports(self, parent: _Value, key: str) -> Optional[tuple[int, ...]]:
        value = self.take(parent, "", key)
        if value is None:
            return None
        if not isinstance(value.data, list):
            self.fail(value, key, f"is {_found(value.data)}; must be a list of ports, such as [22, 6443]")
            return None
        ports: list[int] = []
        for index, item in enumerate(value.data):
            port = self.number(item, f"{key}[{index}]", 1, 65535)
            if port is not None and port in ports:
                self.warn(item, f"{key}[{index}]", f"port {port} is in the list twice")
            elif port is not None:
                ports.append(port)
        return tuple(ports)

    def network(self, parent: _Value, key: str, default: Optional[str] = None) -> Optional[_Network]:
        text = self.text(parent, "", key, default)
        if text is None:
            return None
        place = parent.data.get(key, parent)
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError:
            hint = ""
            with contextlib.suppress(ValueError):
                hint = f"the network of that address is {ipaddress.IPv4Network(text, strict=False)}"
            self.fail(place, key, f"is {_found(text)}; must be an IPv4 network, such as 10.254.1.0/24", hint)
            return None
        if not 1 <= network.prefixlen <= 30:
            self.fail(place, key, f"is {network}; the prefix length must be from 1 to 30")
            return None
        return network

    def groups(self, root: _Value) -> Optional[tuple[str, ...]]:
        value = self.take(root, "", "security_groups")
        if value is None:
            return None
        if not isinstance(value.data, list):
            self.fail(
                value, "security_groups", f"is {_found(value.data)}; must be a list that has {REQUIRED_SECURITY_GROUP}"
            )
            return None
        names: list[str] = []
        for index, item in enumerate(value.data):
            if not isinstance(item.data, str) or not item.data.strip() or len(item.data) > 255:
                self.fail(item, f"security_groups[{index}]", f"is {_found(item.data)}; must be a group's name or id")
            elif item.data.strip() not in names:
                names.append(item.data.strip())
        if REQUIRED_SECURITY_GROUP not in names:
            hint = f"add - {REQUIRED_SECURITY_GROUP}"
            self.fail(value, "security_groups", f"has no {REQUIRED_SECURITY_GROUP}, the group that Q8S makes", hint)
        return tuple(names)

    def vm_type(self, name: str, value: _Value, path: str) -> Optional[VmType]:
        before = len(self.problems)
        if self.mapping(value, path, "a mapping that describes a machine", "!VmType") is None:
            return None
        known = ["architecture", "num_cpus", "cpu_model", "machine_model", "ram", "storage", "openstack_flavor"]
        self.unknown(value, path, [*known, "qemu_args", "qemu-args", "labels", "taints", "zone", "accel", "tb_cache"])
        architecture = None
        text = self.text(value, path, "architecture")
        if text is not None:
            architecture = ARCHITECTURES.get(text.lower())
            if architecture is None:
                message = f"is {_found(text)}; allowed: x86_64 (or amd64), arm_64 (or arm64, aarch64)"
                self.fail(value.data["architecture"], f"{path}.architecture", message)
        num_cpus = self.key_number(value, path, "num_cpus", 1, 128)
        ram = self.key_number(value, path, "ram", 512, 1 << 22, unit=" (MB)")
        storage = self.key_number(value, path, "storage", 4, 1 << 16, unit=" (GB)")
        flavor = self.text(value, path, "openstack_flavor")
        cpu_model = self.cpu_model(value, path, architecture)
        machine = self.machine(value, path, architecture)
        qemu_args = self.qemu_args(value, path)
        labels, taints = self.labels(value, path), self.taints(value, path)
        zone = self.text(value, path, "zone", "") or ""
        if zone and not _LABEL_VALUE.fullmatch(zone):
            self.fail(value.data["zone"], f"{path}.zone", f"is {_found(zone)}; must be {_LABEL_VALUE_RULE}")
        accel = self.choice(value, path, "accel", ("tcg", "kvm", "auto"))
        tb_cache = (
            self.key_number(value, path, "tb_cache", 8, 2048, unit=" (MiB)") if "tb_cache" in value.data else None
        )
        if accel == "kvm" and architecture not in (None, "x86_64"):
            message = f"is 'kvm', but the architecture is {architecture} and the hosts are x86_64"
            self.fail(value.data["accel"], f"{path}.accel", message, "take tcg or auto")
        if accel == "kvm" and tb_cache is not None:
            self.fail(value.data["tb_cache"], f"{path}.tb_cache", "means nothing with accel kvm", "leave it out")
        if len(self.problems) > before:
            return None
        assert architecture and num_cpus and ram and storage and flavor and cpu_model and machine  # nothing failed
        return VmType(
            name,
            architecture,
            num_cpus,
            cpu_model,
            machine,
            ram,
            storage,
            flavor,
            qemu_args,
            labels,
            taints,
            zone,
            accel,
            tb_cache,
        )

    def cpu_model(self, parent: _Value, path: str, architecture: Optional[str]) -> Optional[str]:
        model = self.text(parent, path, "cpu_model")
        if model is None or architecture is None:
            return model
        place, path = parent.data["cpu_model"], f"{path}.cpu_model"
        known = _CPU_MODELS[architecture]
        others = [other for other, models in _CPU_MODELS.items() if model in models and other != architecture]
        # x86 models come in versions and variants, such as Haswell-noTSX-v4
        base = (
            model if architecture != "x86_64" else re.sub(r"(-(v[0-9]+|noTSX|IBRS|SSBD|IBPB|noTSX-IBRS))+$", "", model)
        )
        close = difflib.get_close_matches(model, sorted(known), 3, 0.5)
        hint = "close to it: " + ", ".join(close) if close else "such as " + ", ".join(sorted(known)[-3:])
        if model == "host":
            self.fail(place, path, "is 'host'; an emulated machine has a model of its own", hint)
        elif not _CPU_NAME.fullmatch(model):
            self.fail(place, path, f"is {_found(model)}; must be the name of a CPU model of QEMU", hint)
        elif model not in known and base not in known and others:
            self.fail(
                place, path, f"is {_found(model)}, a model of {others[0]}; the architecture is {architecture}", hint
            )
        elif model not in known and base not in known:
            self.warn(place, path, f"{_found(model)} is no {architecture} model that Q8S knows; QEMU may know it", hint)
        return model

    def machine(self, parent: _Value, path: str, architecture: Optional[str]) -> Optional[str]:
        machine = self.text(parent, path, "machine_model")
        if machine is None or architecture is None:
            return machine
        # What users of the prototype wrote: that architecture's normal machine; QEMU has no virt for x86_64.
        if machine == "virt" and architecture == "x86_64":
            machine = "q35"
        pattern, allowed = _MACHINES[architecture]
        if not pattern.fullmatch(machine):
            message = f"is {_found(machine)}; allowed for {architecture}: {allowed}"
            self.fail(parent.data["machine_model"], f"{path}.machine_model", message)
        return machine

    def qemu_args(self, parent: _Value, path: str) -> str:
        result = ""
        present = [key for key in ("qemu_args", "qemu-args") if key in parent.data]
        if len(present) == 2:
            self.fail(parent.keys["qemu-args"], f"{path}.qemu-args", "qemu_args is given too", "keep one of the two")
        for key in present:
            value = parent.data[key]
            if value.data is None:
                continue
            if not isinstance(value.data, str) or not (value.data.isprintable() and len(value.data) <= 4096):
                self.fail(value, f"{path}.{key}", f"is {_found(value.data)}; must be one line of text")
            elif value.data.strip() == _PLACEHOLDER:
                self.warn(value, f"{path}.{key}", f"the placeholder {_PLACEHOLDER!r} means nothing and is left out")
            else:
                result = value.data.strip()
        return result

    def choice(self, parent: _Value, path: str, key: str, allowed: tuple[str, ...]) -> str:
        """One of some words; the first is the default."""
        text = self.text(parent, path, key, allowed[0])
        if text is not None and text not in allowed:
            close = difflib.get_close_matches(text, allowed, 1, 0.6)
            hint = f"did you mean {close[0]}?" if close else ""
            self.fail(parent.data[key], _join(path, key), f"is {_found(text)}; allowed: {', '.join(allowed)}", hint)
        return text or allowed[0]

    def labels(self, parent: _Value, path: str) -> tuple[tuple[str, str], ...]:
        value, path = parent.data.get("labels"), f"{path}.labels"
        if value is None or self.mapping(value, path, "a mapping from names to values", "") is None:
            return ()
        result = []
        for name, item in value.data.items():
            prefix = name.rpartition("/")[0]
            if not _LABEL_NAME.fullmatch(name):
                message = f"the name {_found(name)} must be [domain/]name of at most 63 of A-Z, a-z, 0-9, -, _ and ."
                self.fail(value.keys[name], _join(path, name), message)
            elif _reserved(prefix):
                hint = "zone sets this one" if name == ZONE_LABEL else "take a domain of your own, or none"
                self.fail(
                    value.keys[name], _join(path, name), f"the labels of {prefix} are not the file's to set", hint
                )
            elif not isinstance(item.data, str) or (item.data and not _LABEL_VALUE.fullmatch(item.data)):
                hint = "put it in quotes" if isinstance(item.data, (int, float)) else ""
                message = f"is {_found(item.data)}; must be empty or {_LABEL_VALUE_RULE}"
                self.fail(item, _join(path, name), message, hint)
            else:
                result.append((name, item.data))
        return tuple(result)

    def taints(self, parent: _Value, path: str) -> tuple[str, ...]:
        value, path = parent.data.get("taints"), f"{path}.taints"
        if value is None:
            return ()
        if not isinstance(value.data, list):
            self.fail(value, path, f"is {_found(value.data)}; must be a list, such as [dedicated=arm:NoSchedule]")
            return ()
        result: list[str] = []
        for index, item in enumerate(value.data):
            match = _TAINT.fullmatch(item.data) if isinstance(item.data, str) else None
            good = match and _LABEL_NAME.fullmatch(match["key"])
            if not match or not good or (match["value"] and not _LABEL_VALUE.fullmatch(match["value"])):
                message = (
                    f"is {_found(item.data)}; must be key=value:Effect or key:Effect with one of {', '.join(_EFFECTS)}"
                )
                self.fail(item, f"{path}[{index}]", message)
            elif item.data not in result:
                result.append(item.data)
        return tuple(result)

    def access(self, root: _Value) -> Access:
        value = root.data.get("access")
        if value is None or self.mapping(value, "access", "a mapping with type", "") is None:
            return Access()
        kind = self.choice(value, "access", "type", ("direct", "floating_ip", "bastion"))
        belongs = {"direct": [], "floating_ip": ["floating_network"], "bastion": ["host", "user", "port"]}
        self.unknown(value, "access", ["type", "floating_network", "host", "user", "port"])
        for other, keys in belongs.items():
            for key in keys:
                if other != kind and key in value.data:
                    self.fail(value.keys[key], f"access.{key}", f"belongs to type {other}; the type is {kind}")
        if kind == "floating_ip":
            return Access(kind, floating_network=self.text(value, "access", "floating_network") or "")
        if kind == "direct":
            return Access()
        host = self.text(value, "access", "host") or ""
        if host and not _HOST.fullmatch(host):
            self.fail(value.data["host"], "access.host", f"is {_found(host)}; must be a host name or an IPv4 address")
        user = self.text(value, "access", "user") if "user" in value.data else ""
        if user and not _USER.fullmatch(user):
            self.fail(value.data["user"], "access.user", f"is {_found(user)}; must be a user's name")
        port = self.key_number(value, "access", "port", 1, 65535) if "port" in value.data else 22
        return Access(kind, host=host, user=user or "", port=port or 22)

    def proxy(self, root: _Value) -> Proxy:
        value = root.data.get("proxy")
        if (
            value is None
            or self.mapping(value, "proxy", "a mapping with http_proxy, https_proxy, no_proxy", "") is None
        ):
            return Proxy()
        names = [item.name for item in fields(Proxy)]
        self.unknown(value, "proxy", names)
        found = {name: self.text(value, "proxy", name, "") or "" for name in names}
        for name in ("http_proxy", "https_proxy"):
            match = _PROXY.fullmatch(found[name])
            if found[name] and match is None:
                message = "must be http://HOST:PORT, without a user or password: it is written down on every host"
                self.fail(value.data[name], f"proxy.{name}", message)
        return Proxy(**found)

    def key_file(self, root: _Value) -> str:
        path = self.text(root, "", "ssh_private_key", "") or ""
        if path and not path.startswith(("/", "~/")):
            message = f"is {_found(path)}; must be the path of a private key, from / or ~/"
            self.fail(root.data["ssh_private_key"], "ssh_private_key", message)
        elif path.endswith(".pub"):
            hint = f"write {path[:-4]}; the public key lies beside it"
            self.fail(root.data["ssh_private_key"], "ssh_private_key", f"is {_found(path)}, a public key", hint)
        return path

    def kubernetes_version(self, root: _Value) -> str:
        text = self.text(root, "", "kubernetes_version", KUBERNETES_VERSIONS[0])
        version = text.removeprefix("v") if text else KUBERNETES_VERSIONS[0]
        if version not in KUBERNETES_VERSIONS:
            message = f"is {_found(text)}; the node bundle of this Q8S has {', '.join(KUBERNETES_VERSIONS)}"
            self.fail(root.data["kubernetes_version"], "kubernetes_version", message)
        return version

    def types(self, root: _Value) -> tuple[VmType, ...]:
        outer = self.take(root, "", "vm_types")
        if outer is None or self.mapping(outer, "vm_types", "a mapping with types", "!VmTypes") is None:
            return ()
        self.unknown(outer, "vm_types", ["types"])
        value = self.take(outer, "vm_types", "types")
        if value is None or self.mapping(value, "vm_types.types", "a mapping from names to machines", "") is None:
            return ()
        result = []
        for name, item in value.data.items():
            if not _LABEL.fullmatch(name):
                message = f"the name {_found(name)} must be usable in host names: a-z, 0-9 and -, no - at either end"
                self.fail(value.keys[name], f"vm_types.types.{name}", message)
            vm_type = self.vm_type(name, item, f"vm_types.types.{name}")
            if vm_type is not None:
                result.append(vm_type)
        return tuple(result)

    def workers(self, definition: _Value, root: _Value) -> tuple[tuple[str, int], ...]:
        path = "cluster_definition.worker"
        value = self.take(definition, "cluster_definition", "worker")
        if value is None or self.mapping(value, path, "a mapping from types to counts", "") is None:
            return ()
        outer = root.data.get("vm_types")
        types = outer.data.get("types") if outer is not None and isinstance(outer.data, dict) else None
        defined = list(types.data) if types is not None and isinstance(types.data, dict) else None
        result = []
        for name, item in value.data.items():
            count = self.number(item, f"{path}.{name}", 0, MAX_SERVERS)
            if defined is not None and name not in defined:
                close = difflib.get_close_matches(name, defined, 1, 0.6)
                hint = f"did you mean {close[0]}?" if close else "defined: " + (", ".join(defined) or "none")
                self.fail(value.keys[name], f"{path}.{name}", "this type is not defined in vm_types.types", hint)
            elif count is not None:
                result.append((name, count))
        return tuple(result)

    def additions(self, root: _Value) -> dict[str, Any]:
        """The fields that the prototype did not have, by the names of Cluster."""
        guest_user = self.text(root, "", "guest_user", "q8s")
        if guest_user is not None and (guest_user == "root" or not _USER.fullmatch(guest_user)):
            message = f"is {_found(guest_user)}; must be a user's name, and not root, who may log in anyway"
            self.fail(root.data["guest_user"], "guest_user", message)
        return {
            "guest_user": guest_user,
            "ssh_private_key": self.key_file(root),
            "access": self.access(root),
            "proxy": self.proxy(root),
            "server_group": self.choice(root, "", "server_group", ("none", "soft-anti-affinity")),
            "kubernetes_version": self.kubernetes_version(root),
        }

    def cluster(self, root: _Value) -> Cluster:
        """The checked cluster.

        :raises SpecError: with every problem
        """
        if self.mapping(root, "", "a mapping, as in examples/demo.yaml", "!ClusterData") is None:
            raise SpecError(self.problems)
        self.unknown(root, "", sorted(FIELDS))
        cluster_name = self.label(root, "", "cluster_name", "q8s")
        network_id = self.text(root, "", "private_network_id")
        image = self.text(root, "", "default_image_name")
        initial = self.label(root, "", "name_of_initial_instance")
        user = self.text(root, "", "initial_instance_user", "q8s")
        if user is not None and not _USER.fullmatch(user):
            self.fail(
                root.data["initial_instance_user"], "initial_instance_user", f"is {_found(user)}; must be a user's name"
            )
        groups = self.groups(root)
        tcp, udp = self.ports(root, "required_tcp_ports"), self.ports(root, "required_udp_ports")
        low = self.key_number(root, "", "worker_port_range_min", 1, 65535)
        high = self.key_number(root, "", "worker_port_range_max", 1, 65535)
        if low is not None and high is not None and low > high:
            message = f"is {low}, more than worker_port_range_max, which is {high}"
            self.fail(root.data["worker_port_range_min"], "worker_port_range_min", message)
        remote = self.network(root, "remote_ip_prefix")
        guests = self.network(root, "guest_ip_prefix", "192.11.0.0/16")
        pods = self.network(root, "pod_cidr", "10.244.0.0/16")
        services = self.network(root, "service_cidr", "10.96.0.0/12")
        types, additions = self.types(root), self.additions(root)
        flavor: Optional[str] = None
        additional: Optional[int] = None
        workers: tuple[tuple[str, int], ...] = ()
        definition = self.take(root, "", "cluster_definition")
        if definition is not None:
            if self.mapping(definition, "cluster_definition", "a mapping", "!ClusterDefinition") is None:
                definition = None
            else:
                fields = ["master_node_flavor", "number_additional_master_nodes", "worker"]
                self.unknown(definition, "cluster_definition", fields)
                flavor = self.text(definition, "cluster_definition", "master_node_flavor")
                additional = self.key_number(definition, "cluster_definition", fields[1], 0, 100)
                workers = self.workers(definition, root)
        self._networks(root, remote, guests, pods, services)
        total = 1 + (additional or 0) + sum(count for _, count in workers)
        self._addresses(root, definition, total, remote, pods)
        if not self.problems and total <= MAX_SERVERS:
            self._ports(root, tcp or (), udp or ())
        if self.problems:
            raise SpecError(self.problems)
        # Nothing failed, so nothing is missing; said once for the type checker.
        assert cluster_name and network_id and image and initial and user and groups and flavor
        assert tcp is not None and udp is not None and low and high and additional is not None
        assert remote and guests and pods and services
        cluster = Cluster(
            private_network_id=network_id,
            remote_ip_prefix=str(remote),
            default_image_name=image,
            name_of_initial_instance=initial,
            security_groups=groups,
            required_tcp_ports=tcp,
            required_udp_ports=udp,
            worker_port_range_min=low,
            worker_port_range_max=high,
            master_node_flavor=flavor,
            number_additional_master_nodes=additional,
            workers=workers,
            types=types,
            cluster_name=cluster_name,
            guest_ip_prefix=str(guests),
            pod_cidr=str(pods),
            service_cidr=str(services),
            initial_instance_user=user,
            warnings=tuple(self.warnings),
            **additions,
        )
        self._names(root, cluster)
        if self.problems:
            raise SpecError(self.problems)
        return cluster

    def _networks(
        self,
        root: _Value,
        remote: Optional[_Network],
        guests: Optional[_Network],
        pods: Optional[_Network],
        services: Optional[_Network],
    ) -> None:
        named = {"remote_ip_prefix": remote, "guest_ip_prefix": guests, "pod_cidr": pods, "service_cidr": services}
        checked = [(key, network) for key, network in named.items() if network is not None]
        for index, (key, network) in enumerate(checked):
            for other_key, other in checked[:index]:
                if network.overlaps(other):
                    place, hint = root.data.get(key, root), f"give {key} another network"
                    default = "" if key in root.data else " (the default)"
                    self.fail(place, key, f"{network}{default} overlaps {other_key}, which is {other}", hint)
        if remote is not None and guests is not None and guest_subnet_length(remote, guests) > 29:
            length = 29 - (32 - remote.prefixlen)
            message = f"{guests} is too small to give every address of {remote} a network of its own"
            hint = f"take a prefix length of {length} or less" if length >= 1 else "make remote_ip_prefix smaller"
            self.fail(root.data.get("guest_ip_prefix", root), "guest_ip_prefix", message, hint)
        if services is not None and not 12 <= services.prefixlen <= 27:
            message = f"{services}: Kubernetes takes prefix lengths from 12 to 27"
            self.fail(root.data.get("service_cidr", root), "service_cidr", message)

    def _addresses(
        self,
        root: _Value,
        definition: Optional[_Value],
        total: int,
        remote: Optional[_Network],
        pods: Optional[_Network],
    ) -> None:
        if definition is None:
            return
        if total > MAX_SERVERS:
            self.fail(definition, "cluster_definition", f"asks for {total} servers; at most {MAX_SERVERS} are possible")
        # network, broadcast and the gateway are nobody's
        if remote is not None and total > remote.num_addresses - 3:
            message = f"asks for {total} servers, but {remote} has {remote.num_addresses - 3} addresses for them"
            self.fail(definition, "cluster_definition", message, "ask for fewer, or use a larger remote_ip_prefix")
        if pods is not None:
            room = 1 << (24 - pods.prefixlen) if pods.prefixlen <= 24 else 0
            if total > room:
                message = f"{pods} has room for {room} nodes (a /24 each); the file asks for {total}"
                self.fail(root.data.get("pod_cidr", root), "pod_cidr", message)

    def _ports(self, root: _Value, tcp: Sequence[int], udp: Sequence[int]) -> None:
        needed = (("required_tcp_ports", tcp, (22, GUEST_SSH_PORT, 6443, 10250)), ("required_udp_ports", udp, (8472,)))
        for key, ports, wanted in needed:
            missing = [str(port) for port in wanted if port not in ports]
            if missing:
                self.warn(root.data[key], key, f"has no {', '.join(missing)}; Q8S and Kubernetes need it")

    def _names(self, root: _Value, cluster: Cluster) -> None:
        servers = cluster.servers()
        longest = max((server.name for server in servers), key=len)
        if len(longest) > 63:
            place = root.data.get("cluster_name", root)
            self.fail(place, "cluster_name", f"gives the server name {longest}, longer than 63", "use shorter names")
        for attribute in ("name", "node"):
            seen: set[str] = set()
            for server in servers:
                name = getattr(server, attribute)
                if name in seen:
                    message = f"two {'servers' if attribute == 'name' else 'nodes'} would be called {name}"
                    self.fail(root.data["cluster_definition"], "cluster_definition", message, "rename a type")
                seen.add(name)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
