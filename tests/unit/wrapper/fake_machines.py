"""The machines of a cluster file for tests without a cloud: a program in place of ssh.

It writes down each command and the machine that it is for. Guests keep the files that they are sent, and tell which
links they have, as if tc did what they say.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from q8s_wrapper import inventory
from q8s_wrapper.commands import load

_SSH: Final = """\
#!/bin/sh
# ssh OPTIONS -p PORT USER@NAME COMMAND
for word; do name=${last:-}; last=$word; done
name=${name#*@} guest=@/guests/${name#*@}
case "$last" in
  *suspend*) [ ! -e @/fails ] || { echo "no such domain" >&2; exit 1; } ;;
  *schedinfo*) [ ! -e @/old-groups ] || { echo "no CPU controller" >&2; exit 1; } ;;
esac
[ ! -e @/away-$name ] || { echo "no route to host" >&2; exit 255; }
case "$*" in
  *"-O exit"*) rm -f "@/stale-${last#*@}"; exit ;; # without a command
esac
[ ! -e @/stale-$name ] || { echo "broken pipe" >&2; exit 255; }
echo "$(date +%s.%N) $name $(echo "$last" | tr '\\n' ' ')" >> @/log
case "$last" in
  *"get nodes"*) printf 'cloud-1   True\\nedge-1   True\\nedge-1   False\\n'; cat >/dev/null ;;
  *"exec ping"*)
    while sleep 0.1; do echo "64 bytes from 10.254.1.2: icmp_seq=1 ttl=62 time=85.2 ms" || exit; done ;;
  *sha256sum*)
    for file in etc run; do base64 --wrap=0 $guest/$file/q8s/links.json 2>/dev/null; echo; done
    cat $guest/usr/local/sbin/q8s-links $guest/etc/systemd/system/q8s-links.service 2>/dev/null | sha256sum
    grep -o '"delay"' $guest/run/q8s/links.json 2>/dev/null | wc -l ;;
  *"q8s-links stop"*) rm -rf $guest ;;
  *tar*)
    mkdir -p $guest/run/q8s
    archive=${last#*echo } && echo "${archive%% |*}" | base64 -d | tar -xzf - -C $guest
    case "$last" in *"q8s-links start"*) cp $guest/etc/q8s/links.json $guest/run/q8s/links.json ;; esac
    [ ! -e $guest/run/q8s/next.json ] || mv $guest/run/q8s/next.json $guest/run/q8s/links.json ;;
esac
"""


@dataclass(frozen=True)
class FakeMachines:
    """A folder with the program, for PATH, and the inventory's hosts."""

    tools: Path
    hosts: inventory.Hosts

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the commands find these machines, and reach them by the program."""
        monkeypatch.setenv("PATH", f"{self.tools}:{os.environ['PATH']}")
        monkeypatch.setattr(inventory, "read", lambda _cluster: self.hosts)

    def lines(self) -> list[str]:
        """Return a line for each command: time, machine, command."""
        return (self.tools / "log").read_text().splitlines()

    def links(self, guest: str) -> dict[str, dict[str, Any]]:
        """Return what a guest does to the packets that it sends, by the address that they go to."""
        file = self.tools / "guests" / guest / "run/q8s/links.json"
        if not file.exists():
            return {}
        shaped = json.loads(file.read_text())["outgoing"]
        return {to: {k: v for k, v in link.items() if v and k != "distribution"} for to, link in shaped.items()}

    def rebooted(self, machine: str, socket: Path) -> None:
        """Let a machine answer no more through the connection that is open."""
        socket.touch()
        (self.tools / f"stale-{machine}").touch()

    def away(self, machine: str) -> None:
        """Let a machine answer no more."""
        (self.tools / f"away-{machine}").touch()


def make(tools: Path, file: str) -> FakeMachines:
    """Write the program to a new folder, and return the machines of a cluster file."""
    tools.mkdir()
    (tools / "log").touch()
    (tools / "ssh").write_text(_SSH.replace("@/", f"{tools}/"))
    (tools / "ssh").chmod(0o755)
    (tools / "key").touch()
    login = {"ansible_ssh_private_key_file": str(tools / "key"), "ansible_user": "q8s"}
    hosts: inventory.Hosts = {}
    for number, server in enumerate(load(file, warn=False).servers(), start=1):
        own = {**login, "q8s_node_name": server.node}
        hosts[server.name] = {**own, "ansible_host": server.name, "q8s_private_ip": f"10.254.1.{number}"}
        hosts[server.name]["q8s_server_id"] = f"id-{server.name}"
        if server.vm_type:
            vm = {"q8s_vm": {"guest_ip": f"172.29.{number}.3"}}
            hosts[server.name] |= vm
            hosts[server.node] = {**own, **vm, "ansible_host": server.node, "q8s_host": server.name}
    return FakeMachines(tools, hosts)
