# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find what drops all packets that a host receives or forwards: pure functions on what ``nft`` and ``iptables`` print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.q8s.emu.plugins.module_utils._survey import Survey

# Statements of nftables that every packet passes.
_NEUTRAL = ("counter", "log")
_DROPS = ("drop", "reject")
# What a rule names that lets a guest in to its host's proxy: the bridge, or the API's port.
_PROXY = ("virbr0", 6443)
_Rules = Mapping[tuple[str, str, str], Sequence[Sequence[Any]]]


class Drop(NamedTuple):
    """A chain, policy or rule that drops each packet which no earlier rule has accepted."""

    hook: str  # input or forward
    place: str
    remedy: str  # the command that removes it


def nftables_drops(ruleset: str, proxied: bool = False) -> Iterator[Drop]:
    """Yield the base chains for IPv4 that drop everything, except those of ``iptables``, whose rules iptables_drops judges.

    The verdict of such a chain is final: no rule of another table accepts what it drops.

    :param ruleset: what ``nft --json list ruleset`` printed, empty without nft. Unlike its text, it names the matches of iptables' extensions.
    :param proxied: spare what drops incoming packets if a rule of its table accepts those of a guest to its host's proxy
    """
    objects = json.loads(ruleset)["nftables"] if ruleset else []
    rules: dict[tuple[str, str, str], list[Sequence[Any]]] = {}
    for rule in (item["rule"] for item in objects if "rule" in item):
        rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    for chain in (item["chain"] for item in objects if "chain" in item):
        family, table, name = key = (chain["family"], chain["table"], chain["name"])
        if chain.get("hook") not in ("input", "forward") or family not in ("ip", "inet"):
            continue
        if (family, table) == ("ip", "filter") and name in ("INPUT", "FORWARD"):
            continue
        if proxied and chain["hook"] == "input" and _admits_guest(key, rules):
            continue
        if (_verdict(key, rules) or chain.get("policy")) in _DROPS:
            yield Drop(
                chain["hook"],
                f"the chain {name} of nftables table {family} {table}",
                f"sudo nft delete table {family} {table}",
            )


def _verdict(chain: tuple[str, str, str], rules: _Rules) -> str:
    """Return how a chain treats a packet that no condition matches: accept, drop, reject, or empty if it leaves it to its caller."""
    for statements in rules.get(chain, ()):
        if not statements or not all(_is_neutral(statement) for statement in statements[:-1]):
            continue
        kind, value = _parts(statements[-1])
        if kind in ("accept", *_DROPS):
            return str(kind)
        if kind == "return":
            break
        if kind in ("jump", "goto"):
            found = _verdict((*chain[:2], value["target"]), rules)
            if found or kind == "goto":
                return found
    return ""


def _admits_guest(chain: tuple[str, str, str], rules: _Rules) -> bool:
    return any(
        _parts(statements[-1])[0] == "accept" and any(_names(statements, word) for word in _PROXY)
        for (family, table, _name), chain_rules in rules.items()
        if (family, table) == chain[:2]
        for statements in chain_rules
        if statements
    )


def _names(value: Any, word: object) -> bool:
    """Return whether a statement has a word anywhere in it, as in a set of ports."""
    if isinstance(value, Mapping):
        return any(_names(one, word) for one in value.values())
    if isinstance(value, list):
        return any(_names(one, word) for one in value)
    return bool(value == word)


def _parts(statement: Any) -> tuple[str, Any]:
    """Return a statement's kind and its value. Before version 1.0.6, nft prints some statements as text."""
    if isinstance(statement, Mapping) and len(statement) == 1:
        ((kind, value),) = statement.items()
        return str(kind), value
    return (statement if isinstance(statement, str) else ""), None


def _is_neutral(statement: Any) -> bool:
    kind, value = _parts(statement)
    return kind in _NEUTRAL or (kind == "xt" and value == {"type": "match", "name": "comment"})


def iptables_drops(
    lines: Iterable[str], program: str = "iptables", policies: Sequence[str] = ("INPUT",)
) -> Iterator[Drop]:
    """Yield what drops everything in the chains INPUT and FORWARD.

    :param lines: what ``iptables --list-rules`` printed of each chain
    :param program: the name of the program that printed them
    :param policies: the chains whose policy counts. Rules of Kubernetes and Flannel accept what a policy of FORWARD would drop.
    """
    policy: dict[str, str] = {}
    last: dict[str, tuple[str, str]] = {}
    for line in lines:
        words = shlex.split(line)
        if words[0] == "-P":
            policy[words[1]] = words[2]
            continue
        chain, target = words[1], _unconditional_target(words[2:])
        if words[0] == "-A" and target in ("ACCEPT", "DROP", "REJECT"):
            last.setdefault(chain, (target, line))
    for chain in ("INPUT", "FORWARD"):
        target, rule = last.get(chain, ("", ""))
        if chain in policies and policy.get(chain) == "DROP" and target != "ACCEPT":
            yield Drop(
                chain.lower(),
                f"the policy DROP of the chain {chain} of {program}",
                f"sudo {program} -P {chain} ACCEPT",
            )
        if target in ("DROP", "REJECT"):
            yield Drop(chain.lower(), f"the rule {rule} of {program}", f"sudo {program} {rule.replace('-A', '-D', 1)}")


def _unconditional_target(words: Sequence[str]) -> str:
    """Return where a rule sends every packet, empty if it has a condition."""
    if list(words[:3]) == ["-m", "comment", "--comment"]:
        words = words[4:]
    return words[1] if words[:1] == ["-j"] else ""


def forward_drops(lines: Iterable[str], proxied: bool = False) -> list[str]:
    """Return what drops the packets between a guest and others, each in a clause. The rules of Q8S cannot accept what these drop.

    :param lines: what ``probe.sh`` of the role qemu_host printed on the host
    :param proxied: whether the guest reaches the API through a proxy on the host, where its packets come in
    """
    survey = Survey(lines)
    result = ["firewalld runs or starts at boot"] if "firewalld" in survey.all("unit") else []
    traffic = {"forward": "what is forwarded"}
    if proxied:
        traffic["input"] = "what comes in, also the guest's connections to the API"
    drops = [
        *nftables_drops(survey.get("nftables"), proxied),
        *iptables_drops(survey.all("iptables-legacy"), "iptables-legacy", [hook.upper() for hook in traffic]),
    ]
    return result + [f"{drop.place} drops {traffic[drop.hook]}" for drop in drops if drop.hook in traffic]
