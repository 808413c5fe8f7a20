# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks across the fields of a cluster file, and the cluster that a good one gives."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Optional

from ansible_collections.q8s.emu.plugins.module_utils import _spec_fields as fields
from ansible_collections.q8s.emu.plugins.module_utils import _spec_qemu as qemu
from ansible_collections.q8s.emu.plugins.module_utils._links import Endpoint
from ansible_collections.q8s.emu.plugins.module_utils._scenario import LinkEvent
from ansible_collections.q8s.emu.plugins.module_utils._spec_links import Links, known_profiles, read_links
from ansible_collections.q8s.emu.plugins.module_utils._spec_model import (
    Access,
    Cluster,
    GuestImage,
    Proxy,
    VmType,
    guest_subnet_length,
    server_names,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_scenario import read_scenario
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import Report, SpecError, Value, found, join

GUEST_SSH_PORT = 2222
ETCD_PORTS = (2379, 2380)
VXLAN_PORT = 8472
# What Q8S and Kubernetes use between servers: ssh of hosts and guests, API server, kubelet, Flannel; etcd between control planes.
_TCP, _UDP, _ETCD = (22, GUEST_SSH_PORT, 6443, 10250), (VXLAN_PORT,), ETCD_PORTS
_OUTSIDE = (22, GUEST_SSH_PORT, 6443)
_LINKED_PREFIX = 16

_TYPICAL = {"x86_64": "EPYC-Rome, Skylake-Server, max", "aarch64": "cortex-a57, neoverse-n1, max"}
# They run no 64-bit kernel, which is what guests have.
_32_BIT = re.compile(
    r"486|base|(pentium[23]?|athlon|coreduo|n270|qemu32|kvm32)(-v[0-9]+)?"
    r"|arm[0-9].*|cortex-(a[789]|a15|[mr][0-9]+f?)|pxa2.*|sa11.*|ti925t"
)
_VARIANTS = re.compile(r"(-(v[0-9]+|noTSX|IBRS|SSBD|IBPB))+$")  # x86 models come in them, such as Haswell-noTSX-v4
_MACHINES = {
    "x86_64": (re.compile(r"q35|pc|pc-q35-[0-9.]+|pc-i440fx-[0-9.]+"), "virt, q35, pc or a version of them"),
    "aarch64": (re.compile(r"virt|virt-[0-9.]+"), "virt or a version of it"),
}


def cluster(root: Value, report: Report) -> Cluster:
    """Return the cluster that the values describe.

    :raises SpecError: with every problem of the report and of the checks
    """
    values = fields.CLUSTER.read(root, "", report)
    if values is None:
        raise SpecError(report.problems)
    definition = values.pop("cluster_definition") or {}
    types = (values.pop("vm_types") or {}).get("types")
    values.pop("git_url")
    network, scenario_fields = values.pop("network"), values.pop("scenario")
    for name, one in (types or {}).items():
        if one is not None:
            _vm_type(name, one, root, report)
            _host_system(name, one, values, root, report)
    _workers(definition, types, root, report)
    _guest_images(values, definition, types, root, report)
    _networks(values, root, report)
    _addresses(values, definition, root, report)
    _etcd_members(definition, root, report)
    _ports(values, definition, root, report)
    _access(values, root, report)
    _proxy(values, root, report)
    _names(values, definition, root, report)
    endpoints = _endpoints(values, definition, types)
    links = read_links(network, endpoints, root, report)
    profiles = known_profiles(network)
    scenario = read_scenario(scenario_fields, root, report, profiles=profiles, links=links, endpoints=endpoints)
    prefix = values["remote_ip_prefix"]
    shaped = replace(links, profiles={}) != Links()  # profiles alone shape nothing
    linked = shaped or any(isinstance(event, LinkEvent) for event in scenario.events)
    if linked and prefix is not None and prefix.prefixlen < _LINKED_PREFIX:
        where = "network" if shaped else "scenario"
        report.fail(
            root.at(where),
            where,
            f"needs a remote_ip_prefix of /{_LINKED_PREFIX} or longer; it is {prefix}",
            "links are told apart by the last 16 bits of the nodes' addresses",
        )
    if report.problems:
        raise SpecError(report.problems)
    networks = ("remote_ip_prefix", "guest_ip_prefix", "pod_cidr", "service_cidr")
    return Cluster(
        **{
            **values,
            **definition,
            **{key: str(values[key]) for key in networks},
            "workers": tuple(definition["workers"].items()),
            "types": tuple(_typed(name, one) for name, one in (types or {}).items()),
            "links": links,
            "scenario": scenario,
            "access": _access_of(values["access"]),
            "proxy": Proxy(**_without_none(values["proxy"])),
            "ssh_private_key": values["ssh_private_key"] or "",
            "initial_instance_private_key": values["initial_instance_private_key"] or "",
            "guest_images": tuple(
                GuestImage(architecture, **image)
                for architecture, image in _without_none(values["guest_images"]).items()
            ),
        },
        warnings=tuple(sorted(report.warnings, key=lambda warning: (warning.line, warning.column))),
    )


def _endpoints(
    values: Mapping[str, Any], definition: Mapping[str, Any], types: Optional[Mapping[str, Any]]
) -> list[Endpoint]:
    """Return the cluster's nodes as the links' selectors see them, as far as the file is right."""
    workers = {name: count or 0 for name, count in (definition.get("workers") or {}).items()}
    names = server_names(
        values["cluster_name"] or "",
        values["name_of_initial_instance"] or "",
        definition.get("number_additional_master_nodes") or 0,
        workers,
    )
    known = types or {}
    return [
        Endpoint(node, kind, (known.get(kind) or {}).get("zone") or "", control_plane=not kind)
        for _server, node, kind in names
    ]


def _typed(name: str, one: Mapping[str, Any]) -> VmType:
    return VmType(
        name,
        **{**one, "labels": tuple(one["labels"].items()), "zone": one["zone"] or ""},
    )


def _access_of(values: Mapping[str, Any]) -> Access:
    given = _without_none(values)
    if "allowed_prefixes" in given:
        given["allowed_prefixes"] = tuple(map(str, given["allowed_prefixes"]))
    return Access(**given)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _vm_type(name: str, one: dict[str, Any], root: Value, report: Report) -> None:
    """Check what has to fit within a type. Set QEMU's name of the machine."""
    value, path = root.at("vm_types", "types", name), join("vm_types.types", name)
    architecture = one["architecture"]
    if architecture is not None and one["cpu_model"] is not None:
        _cpu_model(value.at("cpu_model"), f"{path}.cpu_model", one["cpu_model"], architecture, report)
    if architecture is not None and one["machine_model"] is not None:
        # What users of the prototype wrote: that architecture's normal machine; QEMU has no virt for x86_64.
        if one["machine_model"] == "virt" and architecture == "x86_64":
            one["machine_model"] = "q35"
        pattern, allowed = _MACHINES[architecture]
        if not pattern.fullmatch(one["machine_model"]):
            message = f"is {found(one['machine_model'])}; allowed for {architecture}: {allowed}"
            report.fail(value.at("machine_model"), f"{path}.machine_model", message)
    if one["accel"] == "kvm" and architecture not in (None, "x86_64"):
        message = f"is 'kvm', but the architecture is {architecture} and the hosts are x86_64"
        report.fail(value.at("accel"), f"{path}.accel", message, "take tcg or auto")
    if one["accel"] == "kvm" and one["tb_cache_mb"] is not None:
        report.fail(value.at("tb_cache"), f"{path}.tb_cache", "has no effect with accel kvm", "leave it out")
    labels = value.at("labels")
    for label in one["labels"] or ():
        domain = label.rpartition("/")[0]
        if _reserved(domain):
            hint = "the field zone sets this one" if label == fields.ZONE_LABEL else "use your own domain, or none"
            message = f"the file may not set labels of {domain}"
            report.fail(labels.key(label), join(f"{path}.labels", label), message, hint)


def _reserved(domain: str) -> bool:
    """Return whether labels of that domain are Q8S's own, or ones that a kubelet may not set on itself."""

    def within(*names: str) -> bool:
        return any(domain == name or domain.endswith(f".{name}") for name in names)

    return within("q8s.io", "kubernetes.io", "k8s.io") and not within("node.kubernetes.io", "kubelet.kubernetes.io")


def _cpu_model(place: Value, path: str, model: str, architecture: str, report: Report) -> None:
    known = qemu.CPU_MODELS[architecture]
    others = [other for other, models in qemu.CPU_MODELS.items() if model in models and other != architecture]
    base = _VARIANTS.sub("", model) if architecture == "x86_64" else model
    close = difflib.get_close_matches(model, sorted(name for name in known if not _VARIANTS.search(name)), 3, 0.5)
    hint = "close to it: " + ", ".join(close) if close else f"such as {_TYPICAL[architecture]}"
    if model == "host":
        report.fail(place, path, "is 'host'; an emulated machine has a model of its own", hint)
    elif model in known:
        return
    elif base in known:
        variants = ", ".join(name for name in known if _VARIANTS.sub("", name) == base)
        report.warn(
            place,
            path,
            f"{found(model)} is no version of {base} that Q8S knows; QEMU may know it",
            f"known: {variants}",
        )
    elif others:
        message = f"is {found(model)}, a model of {others[0]}; the architecture is {architecture}"
        report.fail(place, path, message, hint)
    elif _32_BIT.fullmatch(model):
        report.fail(place, path, f"is {found(model)}, a model without 64-bit mode; guests are 64-bit", hint)
    else:
        report.warn(place, path, f"{found(model)} is no {architecture} model that Q8S knows; QEMU may know it", hint)


def _host_system(name: str, one: Mapping[str, Any], values: Mapping[str, Any], root: Value, report: Report) -> None:
    """Check that the hosts' QEMU has the models. It fails where the file says which system hosts run, else it warns."""
    architecture, said = one["architecture"], values["host_os"]
    guessed = qemu.find_host_system(values["default_image_name"] or "")
    for what in ("cpu_model", "machine_model"):
        model = one[what]
        if architecture is None or model is None or said is None:
            continue
        place, path = root.at("vm_types", "types", name, what), join(f"{join('vm_types.types', name)}", what)
        lacking = qemu.lacking_systems(what, model, architecture)
        if said != "auto":
            problem = qemu.model_problem(said, what, model, architecture)
            if problem:
                report.fail(place, path, problem, f"host_os is {said}: choose another model, or another image")
        elif guessed:
            problem = qemu.model_problem(guessed, what, model, architecture)
            if problem:
                report.warn(place, path, problem, "default_image_name names that system; host_os says which it is")
        elif lacking:
            message = f"{found(model)} is not in the QEMU of {lacking}"
            report.warn(place, path, message, "host_os says which system default_image_name has")


def _workers(definition: Mapping[str, Any], types: Optional[Mapping[str, Any]], root: Value, report: Report) -> None:
    """Check that each type that is used is defined. Warn of one that is not used."""
    workers = definition.get("workers")
    if workers is None or types is None:
        return
    value = root.at("cluster_definition", "worker")
    for name in workers:
        if name not in types:
            close = report.close(name, list(types))
            hint = f"did you mean {close}?" if close else "defined: " + (", ".join(list(types)[:10]) or "none")
            message = "this type is not defined in vm_types.types"
            report.fail(value.key(name), join("cluster_definition.worker", name), message, hint)
    for name in types:
        if name not in workers:
            place, path = root.at("vm_types", "types").key(name), join("vm_types.types", name)
            report.warn(place, path, "no worker is of this type", f"cluster_definition.worker may have {name}: 1")


def _guest_images(
    values: Mapping[str, Any],
    definition: Mapping[str, Any],
    types: Optional[Mapping[str, Any]],
    root: Value,
    report: Report,
) -> None:
    """Warn of an image that no worker is created from."""
    workers, place = definition.get("workers"), root.at("guest_images")
    if values["guest_images"] is None or workers is None or types is None or "guest_images" not in root.data:
        return
    used = {types[name]["architecture"] for name in workers if types.get(name) is not None}
    for field in fields.GUEST_IMAGES.fields:
        for name in (field.name, field.spelling):
            if name in place.data and field.name not in used:
                report.warn(
                    place.key(name), join("guest_images", name), f"no worker is of {field.name}", "leave it out"
                )


def _networks(values: Mapping[str, Any], root: Value, report: Report) -> None:
    checked: list[tuple[str, ipaddress.IPv4Network]] = []
    for key in ("remote_ip_prefix", "guest_ip_prefix", "pod_cidr", "service_cidr"):
        network = values[key]
        if network is None:
            continue
        for other_key, other in checked:
            if network.overlaps(other):
                default = "" if key in root.data else " (the default)"
                message = f"{network}{default} overlaps {other_key}, which is {other}"
                report.fail(root.at(key), key, message, f"give {key} another network")
        checked.append((key, network))
    remote, guests = values["remote_ip_prefix"], values["guest_ip_prefix"]
    if remote is not None and guests is not None and guest_subnet_length(remote, guests) > 29:
        length = 29 - (32 - remote.prefixlen)
        message = f"{guests} is too small to give every address of {remote} a network of its own"
        hint = f"take a prefix length of {length} or less" if length >= 1 else "make remote_ip_prefix smaller"
        report.fail(root.at("guest_ip_prefix"), "guest_ip_prefix", message, hint)


def _total(definition: Mapping[str, Any]) -> int:
    workers = definition.get("workers") or {}
    return 1 + (definition.get("number_additional_master_nodes") or 0) + sum(count or 0 for count in workers.values())


def _addresses(values: Mapping[str, Any], definition: Mapping[str, Any], root: Value, report: Report) -> None:
    place, path, total = root.at("cluster_definition"), "cluster_definition", _total(definition)
    if total > fields.MAX_SERVERS:
        report.fail(place, path, f"asks for {total} servers; at most {fields.MAX_SERVERS} are possible")
    remote, pods = values["remote_ip_prefix"], values["pod_cidr"]
    # network, broadcast and the gateway are nobody's
    if remote is not None and total > remote.num_addresses - 3:
        message = f"asks for {total} servers, but {remote} has {remote.num_addresses - 3} addresses for them"
        report.fail(place, path, message, "ask for fewer, or use a larger remote_ip_prefix")
    if pods is not None and total > 1 << (24 - pods.prefixlen):
        default = "" if "pod_cidr" in root.data else " (the default)"
        message = (
            f"{pods}{default} has room for {1 << (24 - pods.prefixlen)} nodes (a /24 each); the file asks for {total}"
        )
        report.fail(root.at("pod_cidr"), "pod_cidr", message, "give pod_cidr a shorter prefix length")


def _etcd_members(definition: Mapping[str, Any], root: Value, report: Report) -> None:
    """Warn of an even number of etcd's members: it works while more than half of them do, so one less survives as many losses."""
    members = 1 + (definition.get("number_additional_master_nodes") or 0)
    if members % 2:
        return
    survives = members // 2 - 1
    bears = (
        f"survives the loss of {survives}, as {members - 1} would" if survives else "stops when either of them is lost"
    )
    report.warn(
        root.at("cluster_definition").key("number_additional_master_nodes"),
        "cluster_definition.number_additional_master_nodes",
        f"gives {members} control planes: etcd with {members} members {bears}",
        f"{members} gives {members + 1} control planes, of which {survives + 1} may be lost; {members - 2} gives {members - 1}",
    )


def _ports(values: Mapping[str, Any], definition: Mapping[str, Any], root: Value, report: Report) -> None:
    low, high = values["worker_port_range_min"], values["worker_port_range_max"]
    if low is not None and high is not None and low > high:
        message = f"is {low}, more than worker_port_range_max, which is {high}"
        report.fail(root.at("worker_port_range_min"), "worker_port_range_min", message)
    elif low is not None and high is not None:
        # The API server gives NodePorts from this range.
        used = [str(port) for port in sorted({*_TCP, *_ETCD, *_UDP}) if low <= port <= high]
        if used:
            message = f"the ports {low} to {high} include {', '.join(used)}, which nodes use themselves"
            hint = "a Service that gets one of them takes it from the node; Kubernetes' own range is 30000 to 32767"
            report.warn(root.at("worker_port_range_min"), "worker_port_range_min", message, hint)
    tcp: tuple[int, ...] = (*_TCP, *_ETCD) if definition.get("number_additional_master_nodes") else _TCP
    udp: tuple[int, ...] = _UDP
    if values["inside"] == "all":  # members need no list: only what the machine that runs Q8S may have to reach
        tcp, udp = _OUTSIDE, ()
    for key, needed in (("required_tcp_ports", tcp), ("required_udp_ports", udp)):
        missing = [str(port) for port in needed if values[key] is not None and port not in values[key]]
        if missing:
            message = f"has no {', '.join(missing)}, which Q8S and Kubernetes need"
            report.warn(root.at(key), key, message, "add " + ", ".join(missing))


_BELONGS = {"direct": (), "floating_ip": ("floating_network", "allowed_prefixes"), "bastion": ("host", "user", "port")}


def _access(values: Mapping[str, Any], root: Value, report: Report) -> None:
    access = values["access"]
    if access is None or access["type"] is None:
        return
    value = root.at("access")
    for other, keys in _BELONGS.items():
        for key in keys:
            if other != access["type"] and "access" in root.data and key in value.data:
                message = f"belongs to type {other}; the type is {access['type']}"
                report.fail(value.key(key), f"access.{key}", message, "remove it, or change access.type")
    needed = {"floating_ip": "floating_network", "bastion": "host"}.get(access["type"])
    if needed and needed not in value.data:
        hint = "openstack network list --external shows them" if needed == "floating_network" else ""
        report.fail(value, f"access.{needed}", f"is missing; the type is {access['type']}", hint)
    if access["type"] == "floating_ip" and value.at("allowed_prefixes").data == []:
        message = "is empty: no address could connect, not even this machine"
        report.fail(
            value.at("allowed_prefixes"), "access.allowed_prefixes", message, "name the networks that may connect"
        )
    if access["type"] == "floating_ip" and "allowed_prefixes" not in value.data:
        message = "is missing: SSH and the Kubernetes API are open to every address"
        hint = "name the networks that may connect; [0.0.0.0/0] means all of them"
        report.warn(value, "access.allowed_prefixes", message, hint)


def _proxy(values: Mapping[str, Any], root: Value, report: Report) -> None:
    proxy = values["proxy"]
    if proxy is None or "proxy" not in root.data:
        return
    if proxy["no_proxy"] and not (proxy["http_proxy"] or proxy["https_proxy"]):
        message, hint = "has no effect without http_proxy or https_proxy", "add one of them, or leave it out"
        report.warn(root.at("proxy").key("no_proxy"), "proxy.no_proxy", message, hint)
    for name, other, direct in (
        ("http_proxy", "https_proxy", "image registries, and package mirrors with https URIs, are asked"),
        ("https_proxy", "http_proxy", "package mirrors with http URIs are asked"),
    ):
        if proxy[name] and other not in root.at("proxy").data:
            message = f"is {proxy[name]}, and {other} is missing: {direct} without a proxy"
            hint = f"add {other}: {proxy[name]}, unless servers and guests reach them directly"
            report.warn(root.at("proxy").key(name), f"proxy.{name}", message, hint)


def _names(values: Mapping[str, Any], definition: Mapping[str, Any], root: Value, report: Report) -> None:
    """Check that names of servers and nodes are short enough for a host name, and unique."""
    name, initial, additional = (
        values["cluster_name"],
        values["name_of_initial_instance"],
        definition.get("number_additional_master_nodes"),
    )
    workers = {kind: count for kind, count in (definition.get("workers") or {}).items() if count}
    if name is None or initial is None or additional is None or _total(definition) > fields.MAX_SERVERS:
        return
    if initial == f"{name}-api":
        message = f"is {found(initial)}, the name of the cluster's API"
        report.fail(root.at("name_of_initial_instance"), "name_of_initial_instance", message, "choose another name")
    names = list(server_names(name, initial, additional, workers))
    for kind in dict.fromkeys(kind for server, node, kind in names):
        server = max((server for server, node, other in names if other == kind), key=len)
        if len(server) <= 63:
            continue
        message = f"results in the server name {_long(server)} of {len(server)} characters; at most 63 are possible"
        place, path = root.at("cluster_name"), "cluster_name"
        if kind:
            place, path = root.at("cluster_definition", "worker").key(kind), join("cluster_definition.worker", kind)
        report.fail(place, path, message, "use a shorter cluster_name or type")
    for index, what in enumerate(("servers", "nodes")):
        for twice in [one for one, count in Counter(row[index] for row in names).items() if count > 1]:
            report.fail(
                root.at("cluster_definition"),
                "cluster_definition",
                f"two {what} would be called {twice}",
                "rename a type, or the initial instance",
            )


def _long(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:18]}...{name[-18:]}"
