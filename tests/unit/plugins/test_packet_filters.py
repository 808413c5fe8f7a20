"""Packet filters that drop everything: the roles' scripts read real ones, and Q8S refuses the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.forward_drops import forward_drops
from ansible_collections.q8s.emu.plugins.filter.host_problems import host_problems

ROLES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles"
SURVEY = ROLES / "k8s_common/files/survey.sh"
PROBE = ROLES / "qemu_host/files/probe.sh"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run() -> Run:
    """Run a role's script in a network namespace, after commands; return what it printed."""
    unshare = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net"]
    if subprocess.run([*unshare, "iptables", "-w", "-S"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel does not let this user have a packet filter of its own")

    def run(file: Path, *commands: str) -> str:
        script = "\n".join(["set -e", *commands, "set +e", file.read_text()])
        environment = {**os.environ, "PACKAGES": "qemu-utils", "RESOLV_CONF": ""}
        command = [*unshare, "sh", "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    return run


def nft(table: str, *chains: str) -> str:
    lines = "\n".join([f"table {table} {{", *chains, "}"])
    return f"nft -f - <<'END'\n{lines}\nEND"


def chain(hook: str, *rules: str, policy: str = "accept") -> str:
    return "\n".join([f"chain {hook} {{", f"type filter hook {hook} priority 0", f"policy {policy}", *rules, "}"])


DROPPED_BY_NFTABLES = [
    # Debian's example of nftables.conf, with a policy
    ("inet filter", [chain("forward", "tcp dport 22 accept", policy="drop")]),
    ("inet filter", [chain("forward", "ct state established accept", "reject")]),
    ("inet filter", [chain("forward", "reject with icmpx type admin-prohibited")]),
    ("inet filter", [chain("forward", "counter drop")]),
    ("inet filter", [chain("forward", "log drop")]),
    ("inet filter", [chain("forward", 'counter log prefix "no { " level info flags all drop comment "end"')]),
    ("inet filter", [chain("forward", "log group 1 snaplen 64 counter drop")]),
    ("ip mine", ["chain refuse {\nlog\ndrop\n}", chain("forward", "jump refuse")]),
    ("ip mine", ["chain check {\ntcp dport 1 return\n}", chain("forward", "goto check", policy="drop")]),
    # beside iptables' chain FORWARD, in its table
    ("ip filter", [chain("forward", "reject")]),
]
KEPT_BY_NFTABLES = [
    ("inet f2b", [chain("forward", "ip saddr 192.0.2.1 drop")]),
    ("inet mine", [chain("forward", "limit rate 5/second log drop")]),
    ("inet mine", [chain("forward", "accept", "drop", policy="drop")]),
    ("inet mine", [chain("forward", 'iifname vmap { "eth7" : drop }')]),
    # what kube-proxy, Docker and libvirt have, each in chains of their own
    ("ip kube-proxy", ["chain other {\nreject\n}", chain("forward", "tcp dport 1 jump other")]),
    ("ip mine", ["chain check {\naccept\ndrop\n}", chain("forward", "counter jump check", policy="drop")]),
    ("ip mine", ["chain check {\nreturn\ndrop\n}", chain("forward", "jump check")]),
    ("ip6 filter", [chain("forward", policy="drop")]),
    ("bridge filter", [chain("forward", "drop")]),
]


@pytest.mark.parametrize(("table", "chains"), DROPPED_BY_NFTABLES)
def test_a_host_that_drops_what_is_forwarded_is_refused(run: Run, table: str, chains: list[str]) -> None:
    found = run(PROBE, nft(table, *chains)).splitlines()
    assert forward_drops(found) == [f"the chain forward of nftables table {table} drops what is forwarded"]
    found = run(SURVEY, nft(table, *chains)).splitlines()
    assert (
        f"the traffic of pods (the chain forward of nftables table {table}): sudo nft delete table {table},"
        in "".join(filters(found))
    )


@pytest.mark.parametrize(("table", "chains"), KEPT_BY_NFTABLES)
def test_a_filter_with_conditions_is_no_obstacle(run: Run, table: str, chains: list[str]) -> None:
    assert forward_drops(run(PROBE, nft(table, *chains)).splitlines()) == []
    assert filters(run(SURVEY, nft(table, *chains)).splitlines()) == []


def filters(lines: list[str]) -> list[str]:
    """Return the problems of a host that concern its packet filter, whatever else is on this machine."""
    lines = [line for line in lines if line.split(" ", 1)[0] in ("iptables", "nftables")]
    return [text for text in host_problems({"stdout": "\n".join(lines)}) if "packet filter" in text]


def where(problem: str) -> str:
    """Return the place that a problem names in parentheses, and its cure."""
    return problem.removeprefix("its packet filter drops ").partition(", and disable")[0]


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        (["iptables -A INPUT -p tcp --dport 22 -j ACCEPT", "iptables -A FORWARD -i virbr0 -j REJECT"], []),
        (["iptables -N KUBE", "iptables -A KUBE -j DROP", "iptables -A INPUT -j KUBE"], []),
        # whose text does not name the match: `nft list ruleset` shows a rule that rejects everything
        (["iptables -t mangle -A FORWARD -m recent --name x --set -j DROP"], []),
        (["iptables -P FORWARD DROP"], []),
        (["iptables -P INPUT DROP", "iptables -A INPUT -j ACCEPT"], []),
        (["iptables -A INPUT -j ACCEPT", "iptables -A INPUT -j DROP"], []),
        (
            ["iptables -P INPUT DROP"],
            ["incoming traffic (the policy DROP of the chain INPUT of iptables): sudo iptables -P INPUT ACCEPT"],
        ),
        # images of Oracle's cloud
        (
            ["iptables -A INPUT -i lo -j ACCEPT", "iptables -A INPUT -j REJECT", "iptables -A FORWARD -j DROP"],
            [
                "incoming traffic (the rule -A INPUT -j REJECT --reject-with icmp-port-unreachable of iptables): "
                "sudo iptables -D INPUT -j REJECT --reject-with icmp-port-unreachable",
                "the traffic of pods (the rule -A FORWARD -j DROP of iptables): sudo iptables -D FORWARD -j DROP",
            ],
        ),
        (
            ["iptables -A INPUT -j LOG", "iptables -A INPUT -m comment --comment 'the rest' -j DROP"],
            [
                'incoming traffic (the rule -A INPUT -m comment --comment "the rest" -j DROP of iptables): '
                'sudo iptables -D INPUT -m comment --comment "the rest" -j DROP'
            ],
        ),
        (
            ["iptables -t mangle -A FORWARD -m comment --comment 'the rest' -j DROP"],
            ["the traffic of pods (the chain FORWARD of nftables table ip mangle): sudo nft delete table ip mangle"],
        ),
        (
            [nft("inet filter", chain("input", "tcp dport 22 accept", policy="drop"), chain("forward", policy="drop"))],
            [
                "incoming traffic (the chain input of nftables table inet filter): sudo nft delete table inet filter",
                "the traffic of pods (the chain forward of nftables table inet filter): "
                "sudo nft delete table inet filter",
            ],
        ),
        (
            [nft("ip mine", chain("input", 'counter log prefix "no " drop'))],
            ["incoming traffic (the chain input of nftables table ip mine): sudo nft delete table ip mine"],
        ),
    ],
)
def test_a_packet_filter_of_a_control_plane_that_drops_everything_is_found(
    run: Run, commands: list[str], found: list[str]
) -> None:
    assert [where(problem) for problem in filters(run(SURVEY, *commands).splitlines())] == found


@pytest.mark.parametrize(
    "commands",
    [
        # the rules of Q8S are ahead of these
        ["iptables -P FORWARD DROP", "iptables -A FORWARD -j REJECT"],
        # its host's own services are not the guest's
        [nft("inet filter", chain("input", policy="drop"))],
    ],
)
def test_what_the_rules_of_a_worker_host_override_is_no_obstacle(run: Run, commands: list[str]) -> None:
    assert forward_drops(run(PROBE, *commands).splitlines()) == []


INPUT_DROPS = (
    "the chain input of nftables table inet filter drops what comes in, also the guest's connections to the API"
)


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        # the rules of Q8S are ahead of these
        (["iptables -P INPUT DROP", "iptables -A INPUT -j REJECT"], []),
        ([nft("inet filter", chain("input", "tcp dport 22 accept", policy="drop"))], [INPUT_DROPS]),
        ([nft("inet filter", chain("input", "ct state established,related accept", "reject"))], [INPUT_DROPS]),
        ([nft("inet filter", chain("input", 'iifname "virbr0" counter accept', policy="drop"))], []),
        ([nft("inet filter", chain("input", "tcp dport { 22, 6443 } accept", policy="drop"))], []),
        ([nft("inet filter", "chain own {\ntcp dport 6443 accept\n}", chain("input", "jump own", policy="drop"))], []),
        ([nft("inet other", "chain own {\ntcp dport 6443 accept\n}"), nft("inet filter", chain("input", "drop"))],
         [INPUT_DROPS]),
    ],
)  # fmt: skip
def test_a_host_that_keeps_its_guest_from_the_proxy_is_refused(run: Run, commands: list[str], found: list[str]) -> None:
    assert forward_drops(run(PROBE, *commands).splitlines(), proxied=True) == found


def test_iptables_legacy_keeps_a_guest_from_the_proxy() -> None:
    lines = [f"iptables-legacy {line}" for line in ("-P INPUT DROP", "-A INPUT -i lo -j ACCEPT", "-P FORWARD ACCEPT")]
    assert forward_drops(lines) == []
    assert forward_drops(lines, proxied=True) == [
        "the policy DROP of the chain INPUT of iptables-legacy drops what comes in, "
        "also the guest's connections to the API"
    ]


def test_statements_that_an_older_nft_prints_as_text_are_conditions() -> None:
    base: dict[str, Any] = {"family": "ip", "table": "mine", "name": "ahead", "hook": "forward", "policy": "accept"}

    def found(*statements: object) -> list[str]:
        rule = {"family": "ip", "table": "mine", "chain": "ahead", "expr": list(statements)}
        return forward_drops([f"nftables {json.dumps({'nftables': [{'chain': base}, {'rule': rule}]})}"])

    assert found("flow add @f", {"drop": None}) == found("notrack") == []
    assert found({"counter": None}, "drop") == ["the chain ahead of nftables table ip mine drops what is forwarded"]


@pytest.mark.skipif(not shutil.which("iptables-legacy"), reason="iptables-legacy is not installed")
@pytest.mark.parametrize(
    ("commands", "place"),
    [
        ("iptables-legacy -P FORWARD DROP", "the policy DROP of the chain FORWARD of iptables-legacy"),
        ("iptables-legacy -A FORWARD -j DROP", "the rule -A FORWARD -j DROP of iptables-legacy"),
        ("iptables-legacy -A FORWARD -i eth7 -j DROP", ""),
    ],
)
def test_iptables_legacy_is_read_too(run: Run, commands: str, place: str) -> None:
    try:
        output = run(PROBE, commands)
    except subprocess.CalledProcessError:
        pytest.skip("this kernel has no iptables-legacy")
    assert forward_drops(output.splitlines()) == ([f"{place} drops what is forwarded"] if place else [])


def test_firewalld_is_named() -> None:
    assert forward_drops(["packages", "unit firewalld"]) == ["firewalld runs or starts at boot"]


def test_a_host_without_nft_has_no_such_filter() -> None:
    assert forward_drops(["packages", "api-server 10.0.0.4"]) == []
    assert forward_drops(["nftables"]) == []


def test_matches_that_an_older_nft_does_not_name_are_conditions() -> None:
    base: dict[str, Any] = {"family": "ip", "table": "raw", "name": "ahead", "hook": "forward", "policy": "accept"}
    rule = {"family": "ip", "table": "raw", "chain": "ahead", "expr": [{"xt": None}, {"counter": None}, {"drop": None}]}
    ruleset = json.dumps({"nftables": [{"metainfo": {"version": "1.0.2"}}, {"chain": base}, {"rule": rule}]})
    assert forward_drops([f"nftables {ruleset}"]) == []
