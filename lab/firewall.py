"""Neutron's security groups, enforced on each server's port: stateful, following later changes.

Runs as a process of the lab (``python -m lab.firewall``) that reads Neutron as its own service user would, and writes
chains of its own into this machine's iptables. A rule that is missing in the cloud is so missing here, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lab.settings import Settings, load

_SECONDS_BETWEEN: Final = 1.5
_HOOKS: Final = ("FORWARD", "OUTPUT")


def chain_of(bridge: str) -> str:
    """The chain of the lab with this bridge; those of its ports begin with it (iptables takes 28 characters)."""
    return f"Q8S-{bridge}"


@dataclass(frozen=True)
class Port:
    """A server's port: its link on the bridge, its address, its groups."""

    link: str
    address: str
    groups: tuple[str, ...]


def port_chain(port: Port, bridge: str) -> str:
    """The chain that a packet to this port passes."""
    return f"{chain_of(bridge)}-{port.link.removeprefix('vb-q8sl')}"


def rules(ports: Sequence[Port], groups: Mapping[str, Sequence[Mapping[str, Any]]], bridge: str) -> str:
    """The text for ``iptables-restore --noflush``. A packet that no rule of the port's groups lets in is dropped."""
    members: dict[str, list[str]] = {}
    for port in ports:
        for group in port.groups:
            members.setdefault(group, []).append(port.address)
    lab = chain_of(bridge)
    lines = ["*filter", f":{lab} - [0:0]"]
    bodies = []
    for port in ports:
        chain = port_chain(port, bridge)
        lines.append(f":{chain} - [0:0]")
        # from other servers: across the bridge; from outside: from this machine
        bodies.append(f"-A {lab} -m physdev --physdev-is-bridged --physdev-out {port.link} -j {chain}")
        bodies.append(f"-A {lab} -o {bridge} -d {port.address} -j {chain}")
        bodies.append(f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN")
        bodies += sorted(
            {line for group in port.groups for rule in groups.get(group, ()) for line in _rule(chain, rule, members)}
        )
        bodies.append(f"-A {chain} -j DROP")
    return "\n".join([*lines, *bodies, "COMMIT", ""])


def _rule(chain: str, rule: Mapping[str, Any], members: Mapping[str, Iterable[str]]) -> list[str]:
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
    """Load the lab's chains in one step and jump to them first."""
    subprocess.run(["iptables-restore", "--noflush", "--wait"], input=text, text=True, check=True, capture_output=True)
    for hook in _HOOKS:
        if not _iptables("-C", hook, "-j", chain_of(bridge)):
            _iptables("-I", hook, "1", "-j", chain_of(bridge))
    _delete([chain for chain in _chains(bridge) if f":{chain} " not in text])


def remove(bridge: str) -> None:
    """Take the lab's chains away, and no other lab's."""
    for hook in _HOOKS:
        while _iptables("-D", hook, "-j", chain_of(bridge)):
            pass
    _delete(_chains(bridge))


def _chains(bridge: str) -> list[str]:
    """The lab's chains that there are, its own first."""
    listed = subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=False).stdout
    pattern = rf"^-N ({re.escape(chain_of(bridge))}(?:-[0-9a-f]{{8}})?)$"
    return sorted(re.findall(pattern, listed, re.MULTILINE), key=len)


def _delete(chains: Sequence[str]) -> None:
    for action in ("-F", "-X"):
        for chain in chains:
            _iptables(action, chain)


def _iptables(*arguments: str) -> bool:
    """Whether iptables did it, or found it."""
    return subprocess.run(["iptables", "-w", *arguments], capture_output=True, check=False).returncode == 0


def _observe(cloud: Any, settings: Settings) -> str:
    ports = []
    for port in cloud.network.ports():
        if str(port.device_owner).startswith("compute:") and port.fixed_ips and port.is_port_security_enabled:
            link = f"vb-q8sl{port.device_id[:8]}"
            ports.append(Port(link, port.fixed_ips[0]["ip_address"], tuple(port.security_group_ids)))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    wanted = {group for port in ports for group in port.groups}
    for rule in cloud.network.security_group_rules():
        if rule.security_group_id in wanted:
            found = rule.to_dict(computed=False, original_names=False)
            found["ethertype"] = rule.ether_type
            groups.setdefault(rule.security_group_id, []).append(found)
    return rules(sorted(ports, key=lambda port: port.link), groups, settings.bridge)


def main() -> int:
    """Follow Neutron until the process is ended."""
    import openstack
    import yaml

    settings = load()
    auth = yaml.safe_load((settings.folder / "etc" / "firewall.yaml").read_text())
    cloud = openstack.connect(load_yaml_config=False, load_envvars=False, **auth)
    known = ""
    while True:
        try:
            text = _observe(cloud, settings)
            if text != known:
                apply(text, settings.bridge)
                known = text
        except Exception as error:  # whatever it was, the next round tries again; the chains stay as they are
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        time.sleep(_SECONDS_BETWEEN)


if __name__ == "__main__":
    sys.exit(main())
