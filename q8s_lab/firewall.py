"""Enforce Neutron's security groups and floating IPs on this machine with iptables, and follow later changes.

This runs as a process of the lab (``python -m q8s_lab.firewall``). It reads Neutron with the credentials of Neutron's
service user, and writes its own iptables chains. A port for which the cloud has no rule is therefore closed here, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from q8s_lab.machine import read
from q8s_lab.settings import Settings, load

_SECONDS_BETWEEN: Final = 0.2
_SECONDS_TO_SETTLE: Final = 2
_SECONDS_UNASKED: Final = 30  # read Neutron at least this often, also without a notification of a change
_HOOKS: Final = (
    ("filter", "FORWARD", ""),
    ("filter", "OUTPUT", ""),
    ("nat", "PREROUTING", ""),
    ("nat", "OUTPUT", ""),
    ("nat", "POSTROUTING", "-out"),
)


def chain_of(bridge: str) -> str:
    """Return the name of a lab's chain, the prefix of its ports' chains. iptables allows 28 characters.

    :param bridge: the lab's bridge
    """
    return f"Q8S-{bridge}"


def link_of(identifier: str) -> str:
    """Return the name of the link on the bridge of a port or a server. Linux allows 15 characters.

    :param identifier: UUID of the port or the server
    """
    return f"vb-q8sl{identifier[:8]}"


@dataclass(frozen=True)
class Port:
    """A port of a server: its link on the bridge, its address, and its security groups."""

    link: str
    address: str
    groups: tuple[str, ...]


def port_chain(port: Port, bridge: str) -> str:
    """Return the name of the chain for packets to a port."""
    return f"{chain_of(bridge)}-{port.link.removeprefix('vb-q8sl')}"


def rules(
    ports: Sequence[Port],
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    bridge: str,
    *,
    members: Sequence[Port] = (),
    unfiltered: Sequence[str] = (),
) -> str:
    """Return the filter table as input for ``iptables-restore --noflush``.

    A packet is dropped unless a rule of the port's security groups allows it. A packet to an address without a known
    port is dropped, too, unless the address is unfiltered.

    :param ports: the ports to filter
    :param groups: the rules of each security group, by its id
    :param bridge: the lab's bridge
    :param members: all ports of servers, which are the members of the groups; default: ``ports``
    :param unfiltered: addresses of ports without port security
    """
    addresses: dict[str, list[str]] = {}
    for port in members or ports:
        for group in port.groups:
            addresses.setdefault(group, []).append(port.address)
    lab = chain_of(bridge)
    lines = ["*filter", f":{lab} - [0:0]"]
    # This machine forwards between servers. Its ICMP redirects would show them a route that bypasses the rules.
    bodies = [f"-A {lab} -o {bridge} -p icmp -m icmp --icmp-type redirect -j DROP"]
    for port in ports:
        chain = port_chain(port, bridge)
        lines.append(f":{chain} - [0:0]")
        # Packets from other servers cross the bridge; all others are sent by this machine.
        bodies.append(f"-A {lab} -m physdev --physdev-is-bridged --physdev-out {port.link} -g {chain}")
        bodies.append(f"-A {lab} -o {bridge} -d {port.address} -g {chain}")
        bodies.append(f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN")
        bodies += sorted(
            {line for group in port.groups for rule in groups.get(group, ()) for line in _rule(chain, rule, addresses)}
        )
        bodies.append(f"-A {chain} -j DROP")
    bodies += [f"-A {lab} -o {bridge} -d {address} -j RETURN" for address in unfiltered]
    bodies.append(f"-A {lab} -o {bridge} -j DROP")
    return "\n".join([*lines, *bodies, "COMMIT", ""])


def translations(floating: Mapping[str, str], bridge: str, subnet: str) -> str:
    """Return the nat table as input for ``iptables-restore --noflush``.

    :param floating: the server's address for each floating IP
    :param bridge: the lab's bridge
    :param subnet: the servers' subnet
    """
    lab = chain_of(bridge)
    lines = ["*nat", f":{lab} - [0:0]", f":{lab}-out - [0:0]"]
    lines += [f"-A {lab} -d {address} -j DNAT --to-destination {fixed}" for address, fixed in sorted(floating.items())]
    if floating:
        # Otherwise a server in the same subnet would reply directly, from an address that the client did not call.
        lines.append(f"-A {lab}-out -s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE")
    return "\n".join([*lines, "COMMIT", ""])


def _rule(chain: str, rule: Mapping[str, Any], members: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the iptables rules for a rule of a security group; none for egress and IPv6.

    :param members: the addresses of each security group, by its id
    """
    if rule["direction"] != "ingress" or rule["ethertype"] != "IPv4":
        return []
    match = ""
    if rule.get("protocol"):
        match += f" -p {rule['protocol']}"
        low, high = rule.get("port_range_min"), rule.get("port_range_max")
        if low is not None and rule["protocol"] in ("tcp", "udp", "6", "17"):
            match += f" -m {rule['protocol']} --dport {low}" + (f":{high}" if high not in (None, low) else "")
    if rule.get("remote_group_id"):
        return [f"-A {chain} -s {address}/32{match} -j RETURN" for address in members.get(rule["remote_group_id"], ())]
    source = rule.get("remote_ip_prefix")
    return [f"-A {chain}{f' -s {source}' if source else ''}{match} -j RETURN"]


def apply(text: str, bridge: str) -> None:
    """Load the lab's chains, each table atomically, and insert the jumps to them at position 1.

    :param text: both tables, as input for ``iptables-restore``
    :raises subprocess.CalledProcessError: iptables-restore failed
    """
    subprocess.run(["iptables-restore", "--noflush", "--wait"], input=text, text=True, check=True, capture_output=True)
    for table, hook, suffix in _HOOKS:
        if not _iptables(table, "-C", hook, "-j", chain_of(bridge) + suffix):
            _iptables(table, "-I", hook, "1", "-j", chain_of(bridge) + suffix)
    _delete("filter", [chain for chain in _chains("filter", bridge) if f":{chain} " not in text])


def remove(bridge: str) -> None:
    """Remove the lab's chains and the jumps to them. Other labs' chains are kept."""
    for table, hook, suffix in _HOOKS:
        while _iptables(table, "-D", hook, "-j", chain_of(bridge) + suffix):
            pass
    for table in ("filter", "nat"):
        _delete(table, _chains(table, bridge))


def _chains(table: str, bridge: str) -> list[str]:
    """Return the existing chains of the lab in a table: its main chains first, then those of ports."""
    command = ["iptables", "-w", "-t", table, "-S"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pattern = rf"^-N ({re.escape(chain_of(bridge))}(?:-out|-[0-9a-f]{{8}})?)$"
    return sorted(re.findall(pattern, listed, re.MULTILINE), key=len)


def _delete(table: str, chains: Sequence[str]) -> None:
    for action in ("-F", "-X"):
        for chain in chains:
            _iptables(table, action, chain)


def _iptables(table: str, *arguments: str) -> bool:
    """Run iptables. Return whether it succeeded (for ``-C``: whether the rule exists)."""
    command = ["iptables", "-w", "-t", table, *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _observe(cloud: Any, settings: Settings, links: Container[str]) -> str:
    """Return both tables for Neutron's current state. Only ports whose link exists on this machine have a chain."""
    members, unfiltered = [], []
    for port in cloud.network.ports():
        if not str(port.device_owner).startswith("compute:") or not port.fixed_ips:
            continue
        address = port.fixed_ips[0]["ip_address"]
        if not port.is_port_security_enabled:
            unfiltered.append(address)
            continue
        # A link is named after its port. Only the first of a container is named after the server.
        link = next((name for name in map(link_of, (port.id, port.device_id)) if name in links), "")
        members.append(Port(link or link_of(port.device_id), address, tuple(port.security_group_ids)))
    ports = [port for port in sorted(members, key=lambda port: port.link) if port.link in links]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    wanted = {group for port in ports for group in port.groups}
    for rule in cloud.network.security_group_rules() if wanted else ():
        if rule.security_group_id in wanted:
            found = rule.to_dict(computed=False, original_names=False)
            found["ethertype"] = rule.ether_type
            groups.setdefault(rule.security_group_id, []).append(found)
    floating = {one.floating_ip_address: one.fixed_ip_address for one in cloud.network.ips() if one.fixed_ip_address}
    return rules(ports, groups, settings.bridge, members=members, unfiltered=sorted(unfiltered)) + translations(
        floating, settings.bridge, str(settings.subnet)
    )


def _links() -> frozenset[str]:
    return frozenset(path.name for path in Path("/sys/class/net").glob("vb-q8sl*"))


def main() -> int:
    """Update iptables whenever Neutron or the machines' links change. Run until the process is killed."""
    import openstack
    import yaml

    settings = load()
    auth = yaml.safe_load((settings.folder / "etc" / "firewall.yaml").read_text())
    cloud = openstack.connect(load_yaml_config=False, load_envvars=False, **auth)
    known, asked = "", 0.0
    seen: tuple[str, frozenset[str]] | None = None
    while True:
        begin = time.monotonic()
        changed = read(settings.network_changes)
        now = (changed, _links())
        if now != seen or begin - asked > _SECONDS_UNASKED:
            asked = begin
            # Neutron notifies before its database has the change: read again until some seconds have passed.
            settled = asked - int(changed or 0) / 1e9 > _SECONDS_TO_SETTLE
            try:
                text = _observe(cloud, settings, now[1])
                if text != known:
                    apply(text, settings.bridge)
                    known = text
                seen = now if settled else None
            except Exception as error:  # the next iteration retries; the chains stay as they are
                detail = getattr(error, "stderr", None) or error
                print(f"{type(error).__name__}: {detail}", file=sys.stderr, flush=True)
        # Wait at least as long as the request took: Neutron is busy while hundreds of servers are created.
        time.sleep(max(_SECONDS_BETWEEN, time.monotonic() - begin))


if __name__ == "__main__":
    sys.exit(main())
