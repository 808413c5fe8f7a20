# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ssh's messages say: which of them is the reason, and whether it is the jump host's. Pure functions."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

from ansible_collections.q8s.emu.plugins.module_utils._jump import MARK, SEPARATOR

_MARKED = re.compile(rf"{MARK} (\S+): (.*)")
# What ssh says at the end, whatever the reason was.
_CLOSED = re.compile(
    r"(^|: )(Connection (closed|reset) by \S+ port \d+|Disconnected from \S+ port \d+|Connection to \S+ port \d+ timed out"
    r"|kex_exchange_identification: Connection closed by remote host|stdio forwarding failed)$"
)
_PROXIED = "UNKNOWN port 65535"  # how ssh names the other end of a ProxyCommand
_NOT_VERIFIED = "Host key verification failed."


class JumpFailure(NamedTuple):
    """Why a jump host does not lead to the hosts behind it. ``hint`` is for a bastion, the user's own host."""

    destination: str
    reason: str
    hint: str


def is_refused(message: str) -> bool:
    """Return whether the other side does not accept the key."""
    return "Permission denied" in message or "Too many authentication failures" in message


def is_other_host(message: str) -> bool:
    """Return whether the other side does not have the host key that is known, or has one that is not known."""
    return "IDENTIFICATION HAS CHANGED" in message or "Host key verification failed" in message


def failure_reason(message: str) -> str:
    """Return the line of ssh's messages that says why it failed, empty if there is none."""
    reason = _telling_line(message)
    return "no connection to it from the jump host" if _CLOSED.search(reason) and _PROXIED in message else reason


def _telling_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not _CLOSED.search(line)]
    if telling[1:] and telling[-1] == _NOT_VERIFIED and "host key" in telling[-2].lower():
        return " ".join(telling[-2:])
    return (telling or lines or [""])[-1]


def jump_failure(message: str) -> Optional[JumpFailure]:
    """Return what is wrong with the jump host, None if ssh's messages are about the host behind it, or there is none."""
    found = _MARKED.findall(message)
    if not found:
        return None
    destination = found[-1][0]
    text = "\n".join(line for _destination, said in found for line in said.split(SEPARATOR))
    return JumpFailure(destination, _telling_line(text), _bastion_hint(destination, text))


def describe(message: str) -> str:
    """Return why ssh failed, and for which jump host, if it is one."""
    jump = jump_failure(message)
    return f"the way through {jump.destination} fails: {jump.reason}" if jump else failure_reason(message)


def _bastion_hint(destination: str, message: str) -> str:
    login, _colon, port = destination.partition(":")
    host = login.rpartition("@")[2]
    option = f"-p {port} " if port else ""
    attempt = f"ssh {option}{login} true"
    if is_refused(message):
        return f"add your key for it to the agent (ssh-add), until this works without a question: {attempt}"
    if "has changed" in message or "HAS CHANGED" in message:
        known = f"'[{host}]:{port}'" if port else host
        return f"check its new host key; if it is right: ssh-keygen -R {known}, then {attempt}"
    if is_other_host(message):
        return f"check its host key, and accept it: {attempt}"
    return f"check that it runs, and that this machine reaches it: {attempt}"
