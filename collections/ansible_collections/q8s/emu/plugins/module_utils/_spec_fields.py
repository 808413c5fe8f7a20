# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every field of a cluster file, declared once: the checker, ``docs/reference/cluster-file.md`` and the JSON Schema are made from it.

``make docs`` writes the latter two.
"""

from __future__ import annotations

from ansible_collections.q8s.emu.plugins.module_utils._spec_edit import (
    LIVE,
    NEW,
    NONE,
    RECREATE,
    RESTART,
    Edit,
    Effect,
    refused,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_kinds import (
    Anything,
    Choice,
    Field,
    Group,
    Items,
    Line,
    Names,
    Network,
    Number,
    Text,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_links import NETWORK
from ansible_collections.q8s.emu.plugins.module_utils._spec_model import Access
from ansible_collections.q8s.emu.plugins.module_utils._spec_qemu import HOST_SYSTEMS
from ansible_collections.q8s.emu.plugins.module_utils._spec_scenario import SCENARIO

MAX_SERVERS = 4096
REQUIRED_SECURITY_GROUP = "q8s-cluster"
# What q8s_bundle/node/minors.py delivers, the newest first; a test compares the two.
KUBERNETES_VERSIONS = ("1.36.3", "1.35.4", "1.34.4")
# What q8s_bundle/addons.py builds; a test compares the two.
ADDONS = ("metrics_server",)
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
ZONE_LABEL = "topology.kubernetes.io/zone"


def _one_of(*words: str) -> Choice:
    return Choice({word: word for word in words})


_USER = Text("a user's name: a-z, 0-9, _ and -, at most 32, no digit or - first", r"[a-z_][a-z0-9_-]{0,31}")
_HOST_NAME = Text("a host name: a-z, 0-9 and -, at most 63, no - at either end", r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_FLAVOR = Text(hint="openstack flavor list shows them")
_URL = Text(
    "http://HOST:PORT, without a user or password, which logs would show",
    r"https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?/?",
    secret=True,
)
_PRIVATE_KEY = Text("the path of a private key, from / or ~/", r"~?/(.*\S)?(?<!\.pub)")
_KEY_PAIR = Text(f"{_PRIVATE_KEY.rule}; the public key lies beside it with .pub", _PRIVATE_KEY.pattern)
_PORTS = Items(Number(1, 65535), "a list of ports, such as [22, 6443]")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
_LABEL_RULE = "at most 63 of A-Z, a-z, 0-9, -, _ and ., a letter or digit at either end"

REPLACE_SERVER = Edit(Effect.REPLACE)
ACCEL = Edit(Effect.RESTART, "`auto` is resolved on the host. Changing to it restarts nothing.")
COUNT = Edit(Effect.LIVE, "Fewer: the surplus nodes are drained and their servers removed, after a yes.")
FLOATING = Edit(Effect.NEW, "An existing floating IP stays, and is named.")
GROUPS = Edit(
    Effect.NEW,
    "`openstack server add security group SERVER GROUP` adds one to an existing server. A group that is taken out of "
    "the list stays on existing servers, and they are not named: it may have been added by hand.",
)
PROXY_EDIT = Edit(
    Effect.RESTART,
    "It takes effect on hosts and control planes at once, and for image pulls of a guest after its restart.",
)
URL_EDIT = Edit(Effect.NONE, "The checksum identifies the image.")
CLUSTER_NAME = refused(
    "another name is another cluster; the resources of the old name stay", "destroy the cluster of the old name first"
)
REMOTE_PREFIX = refused("every guest's address, and the rules on every host, follow from it")
IMAGE = Edit(
    Effect.NEW,
    "`q8s-run replace FILE NODE` creates a worker's server from the new image. Another image under the same name is no "
    "edit. Servers that an earlier release created do not record the name: they are named in both cases.",
)
INITIAL = refused("a second control plane with a CA of its own would be created, which no node of this cluster trusts")
NODE_PORTS = refused("the API server keeps the range that it was created with")
GUEST_PREFIX = refused("every guest has an address of it, which the rules on its host and its route rely on")
CIDR = refused("every node and every Service has an address of it")
VERSION = Edit(
    Effect.UPGRADE,
    "An older version, and one that skips a minor version, are refused: Kubernetes supports neither.",
)
KEY = refused(
    "the servers trust the key that they were created with", "deploy with that key, or destroy and deploy again"
)
ADDONS_EDIT = Edit(Effect.LIVE, "An add-on that is taken out of the list is removed from the cluster.")
SOURCE = Edit(Effect.NEW, "Nodes that exist keep the bundle that they were created with, and are not named.")

VM_TYPE = Group(
    (
        Field(
            "architecture",
            Choice(
                {"x86_64": "x86_64", "amd64": "x86_64", "arm_64": "aarch64", "arm64": "aarch64", "aarch64": "aarch64"},
                fold=True,
            ),
            "Architecture of the machine. Upper and lower case are equal.",
            example="arm_64",
            edit=RECREATE,
        ),
        Field("num_cpus", Number(1, 128), "Number of CPUs of the machine.", example="2", edit=RESTART),
        Field(
            "cpu_model",
            Text(
                "the name of a CPU model of QEMU",
                r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
                hint="qemu-system-x86_64 -cpu help (or qemu-system-aarch64) lists them",
            ),
            "CPU model, by QEMU's name. One of another architecture, or one that the QEMU of `host_os` does not have, is an "
            "error; one that Q8S does not know is a warning. Q8S asks the host's QEMU before it creates anything there.",
            example="cortex-a57",
            edit=RESTART,
        ),
        Field(
            "machine_model",
            Text(hint="virt is the architecture's normal machine"),
            "Machine model, by QEMU's name. `virt` is the architecture's normal machine: q35 for x86_64, where QEMU has no virt.",
            example="virt",
            edit=RESTART,
        ),
        Field("ram", Number(512, 1 << 22, "MB"), "Memory.", attribute="ram_mb", example="2048", edit=RESTART),
        Field(
            "storage",
            Number(4, 1 << 16, "GB"),
            "Size of the root disk, which holds all that the node stores: system, pods' volumes and logs, images and containers.",
            attribute="storage_gb",
            example="10",
            edit=RECREATE,
        ),
        Field(
            "openstack_flavor",
            _FLAVOR,
            "Flavor of the host that runs the machine. It needs more memory than the machine, and a disk: "
            "see [Cloud requirements](cloud-requirements.md#flavors).",
            example="c1.medium",
            edit=REPLACE_SERVER,
        ),
        Field(
            "qemu_args",
            Line("qemu-args"),
            "Further arguments for QEMU, in one line, separated by spaces. The prototype's placeholder `qemu-args` is ignored.",
            "",
            spelling="qemu-args",
            edit=RESTART,
        ),
        Field(
            "labels",
            Names(
                Text(f"[domain/]name, the name {_LABEL_RULE}", f"({_DOMAIN}/)?{_LABEL}"),
                Text(f"empty or {_LABEL_RULE}", f"({_LABEL})?"),
                "a mapping from names to values",
            ),
            "Labels of this type's nodes. The file may not set labels of q8s.io, kubernetes.io and k8s.io, except those of "
            "node.kubernetes.io and kubelet.kubernetes.io. A deploy changes those of nodes that have joined, and keeps "
            "those that others have set.",
            {},
            edit=LIVE,
        ),
        Field(
            "taints",
            Items(
                Text(
                    f"key=value:Effect or key:Effect, the effect one of {', '.join(EFFECTS)}",
                    f"({_DOMAIN}/)?{_LABEL}(=({_LABEL})?)?:({'|'.join(EFFECTS)})",
                ),
                "a list, such as [dedicated=arm:NoSchedule]",
            ),
            "Taints of this type's nodes, in Kubernetes' form `key=value:Effect`. A deploy changes those of nodes that have joined, "
            "and keeps those that others have set.",
            [],
            edit=LIVE,
        ),
        Field(
            "zone",
            Text(_LABEL_RULE, _LABEL),
            f"Value of the label {ZONE_LABEL} of nodes of this type.",
            default=None,
            edit=LIVE,
        ),
        Field(
            "accel",
            _one_of("tcg", "kvm", "auto"),
            "`tcg` emulates every instruction. `kvm` runs them on the host's processor, which needs the same architecture and "
            "/dev/kvm on the host. `auto` uses kvm where that is possible.",
            "tcg",
            edit=ACCEL,
        ),
        Field(
            "tb_cache",
            Number(8, 2048, "MiB"),
            "Size limit of QEMU's cache of translated code. A small cache saves memory on the host and slows the machine down, "
            "with 64 considerably. By default QEMU decides.",
            default=None,
            attribute="tb_cache_mb",
            edit=RESTART,
        ),
    ),
    "a mapping that describes a machine",
    "!VmType",
)

DEFINITION = Group(
    (
        Field("master_node_flavor", _FLAVOR, "Flavor of the control planes.", example="c1.small", edit=NEW),
        Field(
            "number_additional_master_nodes",
            Number(0, 100),
            "Control planes besides the initial instance.",
            example="0",
            edit=COUNT,
        ),
        Field(
            "worker",
            Names(Text("a type of vm_types.types", ".*"), Number(0, MAX_SERVERS), "a mapping from types to counts"),
            "Number of workers of each type of `vm_types.types`.",
            attribute="workers",
            example="{arm-mid: 2}",
            edit=COUNT,
        ),
    ),
    "a mapping",
    "!ClusterDefinition",
)

TYPES = Group(
    (
        Field(
            "types",
            Names(
                Text("usable in host names: a-z, 0-9 and -, at most 63, no - at either end", _HOST_NAME.pattern),
                VM_TYPE,
                "a mapping from names to machines",
            ),
            "Types of workers, by name.",
            example="{arm-mid: {architecture: arm_64, ...}}",
        ),
    ),
    "a mapping with types",
    "!VmTypes",
)

ACCESS = Group(
    (
        Field(
            "type",
            _one_of("direct", "floating_ip", "bastion"),
            "`direct`: by their addresses in the private network. `floating_ip`: the initial instance gets a floating IP, the "
            "others are reached through it. `bastion`: through another host's ssh.",
            Access.type,
            edit=LIVE,
        ),
        Field(
            "floating_network",
            Text(hint="openstack network list --external shows them"),
            "For floating_ip: the external network of the floating IP, by name or id.",
            default=None,
            edit=FLOATING,
        ),
        Field(
            "allowed_prefixes",
            Items(Network(0, 32, any_address=True), "a list of IPv4 networks, such as [198.51.100.0/24]"),
            f"For floating_ip: networks that may connect to SSH and to the Kubernetes API; {Access.allowed_prefixes[0]} if not "
            "given. This machine must be in one of them.",
            default=None,
            edit=LIVE,
        ),
        Field(
            "host",
            Text("a host name or an IPv4 address", r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"),
            "For bastion: its host name or address.",
            default=None,
            edit=LIVE,
        ),
        Field("user", _USER, "For bastion: its user. By default ssh decides.", default=None, edit=LIVE),
        Field(
            "port",
            Number(1, 65535),
            f"For bastion: its SSH port; {Access.port} if not given.",
            default=None,
            edit=LIVE,
        ),
    ),
    "a mapping with type",
)

PROXY = Group(
    (
        Field("http_proxy", _URL, "Proxy for http.", default=None, edit=PROXY_EDIT),
        Field("https_proxy", _URL, "Proxy for https.", default=None, edit=PROXY_EDIT),
        Field(
            "no_proxy",
            Text(),
            "Hosts that are reached without a proxy, separated by commas.",
            default=None,
            edit=PROXY_EDIT,
        ),
    ),
    "a mapping with http_proxy, https_proxy, no_proxy",
    secret=True,
)

GUEST_IMAGE = Group(
    (
        Field(
            "url",
            Text(
                "https://HOST/PATH without a user or password, which logs would show, or the path of a file, from /",
                r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/\S+|(file://)?/[^/\s](.*\S)?",
                secret=True,
            ),
            "Location of the image: a URL, or a file on the machine that runs Q8S. Q8S fetches it once.",
            example="https://cloud.example.org/debian-13-genericcloud-arm64.qcow2",
            edit=URL_EDIT,
        ),
        Field(
            "checksum",
            Text(
                "sha256: or sha512:, and the checksum in lower-case hexadecimal",
                "sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}",
                hint="it is published beside the image, in a file SHA512SUMS or SHA256SUMS",
            ),
            "Checksum of the image.",
            example="sha512:HEX",
            edit=RECREATE,
        ),
    ),
    "a mapping with url and checksum",
)

GUEST_IMAGES = Group(
    (
        Field("x86_64", GUEST_IMAGE, "Image of the guests of x86_64.", default=None, spelling="amd64"),
        Field("aarch64", GUEST_IMAGE, "Image of the guests of aarch64.", default=None, spelling="arm_64"),
    ),
    "a mapping from architectures to images",
)

CLUSTER = Group(
    (
        Field(
            "cluster_name",
            _HOST_NAME,
            "Name of the cluster. It is in the name or a tag of everything that Q8S creates in the cloud, so each cluster of a project needs its own.",
            "q8s",
            edit=CLUSTER_NAME,
        ),
        Field(
            "private_network_id",
            Text(hint="openstack network list shows them"),
            "Network of the servers: a network's id, its name if no other has it, or a subnet's id.",
            example="private",
            edit=NEW,
        ),
        Field(
            "remote_ip_prefix",
            Network(),
            "The prefix of that network's subnet. Servers are reached at their address in it, and their ports are open to it.",
            example="10.254.1.0/24",
            edit=REMOTE_PREFIX,
        ),
        Field(
            "default_image_name",
            Text(hint="openstack image list shows them"),
            "Image of all servers: Debian 12 or 13, or Ubuntu, for x86_64, with cloud-init.",
            example="debian-13",
            edit=IMAGE,
        ),
        Field(
            "host_os",
            _one_of("auto", *HOST_SYSTEMS),
            "Operating system of that image. It determines the hosts' QEMU version, and so the available CPU and machine models. "
            "`auto` takes it from the image: from its properties `os_distro` and `os_version`, else from its name.",
            "auto",
            edit=NONE,
        ),
        Field(
            "name_of_initial_instance",
            _HOST_NAME,
            "Name of the first control plane. If a server of this name exists, Q8S uses it and never deletes it; otherwise Q8S creates it.",
            example="demo-control-plane",
            edit=INITIAL,
        ),
        Field(
            "initial_instance_user",
            _USER,
            "User with sudo rights on an initial instance that existed already.",
            "q8s",
            edit=LIVE,
        ),
        Field(
            "initial_instance_private_key",
            _PRIVATE_KEY,
            "Private key for an initial instance that existed already. By default, the key of all other servers.",
            default=None,
            edit=LIVE,
        ),
        Field(
            "security_groups",
            Items(
                Text(hint="openstack security group list shows them"),
                f"a list that has {REQUIRED_SECURITY_GROUP}",
                REQUIRED_SECURITY_GROUP,
                "the group that Q8S creates",
            ),
            f"Security groups of all servers. {REQUIRED_SECURITY_GROUP} must be one of them: Q8S creates it from the ports below.",
            example="[q8s-cluster]",
            edit=GROUPS,
        ),
        Field(
            "required_tcp_ports",
            _PORTS,
            "TCP ports that the whole of `remote_ip_prefix` may reach. etcd's, 2379 and 2380, are open to the cluster's own "
            "servers only.",
            example="[22, 80, 443, 2222, 2379, 2380, 6443, 10250]",
            edit=LIVE,
        ),
        Field(
            "required_udp_ports",
            _PORTS,
            "UDP ports that the whole of `remote_ip_prefix` may reach. Flannel's VXLAN, 8472, is open to the cluster's own servers "
            "only.",
            example="[8472]",
            edit=LIVE,
        ),
        Field(
            "inside",
            _one_of("all", "listed"),
            "What the members of the security group, which are the cluster's servers, may reach of one another. `all`: every port "
            "and protocol. `listed`: only the ports of this file, as in the paper.",
            "all",
            edit=LIVE,
        ),
        Field(
            "worker_port_range_min",
            Number(1, 65535),
            "First port for Services of type NodePort; the default of Kubernetes is 30000.",
            example="30000",
            edit=NODE_PORTS,
        ),
        Field(
            "worker_port_range_max",
            Number(1, 65535),
            "Last such port; the default of Kubernetes is 32767.",
            example="32767",
            edit=NODE_PORTS,
        ),
        Field(
            "cluster_definition",
            DEFINITION,
            "Number of nodes of each kind.",
            example="{master_node_flavor: c1.small, ...}",
        ),
        Field("vm_types", TYPES, "Definitions of the workers' machines.", example="{types: {arm-mid: ...}}"),
        Field(
            "guest_ip_prefix",
            Network(),
            "The guests' own addresses. Each host's guest has a subnet of it, which follows from the host's address. "
            "The default is the paper's; it is public address space, so a private network is better.",
            "192.11.0.0/16",
            edit=GUEST_PREFIX,
        ),
        Field(
            "pod_cidr",
            Network(8, 24, "each node takes a /24 of it, and Kubernetes allows prefix lengths"),
            "The pods' addresses, a /24 for each node.",
            "10.244.0.0/16",
            edit=CIDR,
        ),
        Field(
            "service_cidr",
            Network(12, 27, "Kubernetes allows prefix lengths"),
            "The Services' addresses.",
            "10.96.0.0/12",
            edit=CIDR,
        ),
        Field(
            "kubernetes_version",
            Choice(
                {spelling: version for version in KUBERNETES_VERSIONS for spelling in (version, f"v{version}")},
                hint="these are what this Q8S builds",
            ),
            "Version of Kubernetes. A Q8S release has one patch release of each of three minor versions. The older ones are built when a "
            "file asks for them. A file that names none gets the newest, also after an update of Q8S: then `deploy` "
            "asks for `q8s-run upgrade`.",
            KUBERNETES_VERSIONS[0],
            edit=VERSION,
        ),
        Field(
            "guest_user",
            Text("a user's name, and not root, who may log in anyway", r"(?!root$)" + _USER.pattern),
            "User of the guests with sudo rights, besides root.",
            "q8s",
            edit=RECREATE,
        ),
        Field(
            "ssh_private_key",
            _KEY_PAIR,
            "Your own key for servers and guests. By default Q8S creates one. A key with a passphrase has to be in an SSH agent.",
            default=None,
            edit=KEY,
        ),
        Field("access", ACCESS, "How this machine reaches the servers.", {}),
        Field(
            "proxy",
            PROXY,
            "Proxies for packages that servers install, and for images that nodes pull. Traffic between nodes uses no proxy.",
            {},
        ),
        Field(
            "server_group",
            _one_of("none", "soft-anti-affinity"),
            "`soft-anti-affinity` asks Nova to put the servers on different machines where it can.",
            "none",
            edit=NEW,
        ),
        Field(
            "bundle_source",
            _one_of("auto", "upstream", "source"),
            "Origin of the nodes' programs. `upstream`: releases with pinned checksums. `source`: built from Go "
            "modules. `auto`: what is cached, else upstream where it can be reached, else source.",
            "auto",
            edit=SOURCE,
        ),
        Field(
            "guest_images",
            GUEST_IMAGES,
            "Cloud images of Debian or Ubuntu, qcow2 or raw, that guest images are built from, by architecture. Guest images of an "
            "architecture without one are built from Debian's packages.",
            {},
        ),
        Field(
            "addons",
            Items(_one_of(*ADDONS), "a list, such as [metrics_server]"),
            "Programs that run in the cluster, on a control plane. `metrics_server` is what `kubectl top` and the HorizontalPodAutoscaler need.",
            [],
            edit=ADDONS_EDIT,
        ),
        Field("network", NETWORK, "Links between nodes: delay, rate, loss. The guests shape them.", {}),
        Field(
            "scenario",
            SCENARIO,
            "Faults of links and nodes by a schedule. `q8s-run scenario run` performs them; a deploy does not.",
            {},
        ),
        Field(
            "git_url",
            Anything(),
            "A field of the prototype. It is ignored, and never written anywhere.",
            default=None,
            edit=NONE,
        ),
    ),
    "a mapping, as in examples/demo.yaml",
    "!ClusterData",
)
