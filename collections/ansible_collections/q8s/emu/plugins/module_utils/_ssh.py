# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options by which ssh reaches servers and guests, whatever ssh configuration and agent the user has.

Servers and guests are reached with ``-F none``: no configuration file counts. Only the way to a bastion reads the
user's configuration, for its host key and the key to log in there are the user's own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress

from ansible_collections.q8s.emu.plugins.module_utils import _jump

PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{60,80}={0,2}")
# What has the address of a server that is gone would hold a connection for a quarter of an hour; an emulated guest may
# be silent for a minute.
_ALIVE = ("ServerAliveInterval=20", "ServerAliveCountMax=6")
# Ansible waits 10 s for jump host and host together. If it gave up first, nobody would know which of them is silent.
_JUMP_TIMEOUT = "ConnectTimeout=8"
# No questions: nobody is there to answer, or fifty would be asked at once.
_OURS = ("BatchMode=yes", "PreferredAuthentications=publickey", "IdentitiesOnly=yes", *_ALIVE)
# The hop to a bastion reads the user's configuration, where these may be set for all hosts. A first value counts, and
# that of the command line comes first. Older versions of ssh do not know the last three.
_BASTION = (
    "BatchMode=yes",
    "RemoteCommand=none",
    "RequestTTY=no",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "LogLevel=INFO",
    _JUMP_TIMEOUT,
    *_ALIVE,
    "IgnoreUnknown=ForkAfterAuthentication,StdinNull,SessionType",
    "ForkAfterAuthentication=no",
    "StdinNull=no",
    "SessionType=default",
)
# A socket's path has at most 103 bytes (macOS; 107 on Linux). ssh adds a dot and 16 characters while it creates one.
_LONGEST_FOLDER = 103 - len("/0123456789abcdef") - len(".0123456789abcdef")


def options(*values: str) -> str:
    """Return options of ssh as a part of a command line."""
    return " ".join(f"-o {shlex.quote(value)}" for value in values)


def path_option(name: str, path: str) -> str:
    """Return an option whose value is one path: ssh splits at spaces, and replaces words after %."""
    escaped = path.replace("%", "%%")
    return f'{name}="{escaped}"'


def own_options(own_key: bool) -> str:
    """Return the options for every connection to a server or a guest.

    :param own_key: whether the key is Q8S's own: then no agent is asked. A key of the user's may be encrypted, and open
        in an agent; of all keys there, only that one is offered.
    """
    return "-F none " + options(*_OURS, *(["IdentityAgent=none"] if own_key else []))


def known_host(authority: str, purpose: str) -> str:
    """Return how ssh checks a host that Q8S created: its key is signed, for this purpose, by its server's CA.

    :param authority: from the server's metadata; anything but a public key is not passed to a command line
    """
    checks = [
        "UserKnownHostsFile=/dev/null",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "HostKeyAlgorithms=ssh-ed25519-cert-v01@openssh.com",
        f"HostKeyAlias={purpose}",
    ]
    if PUBLIC_KEY.fullmatch(authority):
        checks.append(f"KnownHostsCommand=/bin/echo @cert-authority {purpose} {authority}")
    return options(*checks)


def foreign_host(state: str) -> str:
    """Return how ssh checks a server that Q8S did not create: against the key that it showed first."""
    return options(
        path_option("UserKnownHostsFile", os.path.join(state, "known_hosts")), "StrictHostKeyChecking=accept-new"
    )


def through_server(arguments: str, key: str, destination: str, socket: str) -> str:
    """Return the option that leads through a server of the cluster.

    :param arguments: :func:`own_options` and how the server is checked
    :param socket: of the connection that all hosts share, see :func:`socket_name`
    """
    ssh = [*shlex.split(arguments), "-o", _JUMP_TIMEOUT, "-i", key.replace("%", "%%"), destination]
    return _proxy_command(socket, ssh)


def through_bastion(host: str, user: str, port: int, socket: str) -> str:
    """Return the option that leads through a bastion, which the user's ssh configuration describes."""
    ssh = [word for value in _BASTION for word in ("-o", value)]
    return _proxy_command(socket, [*ssh, "-p", str(port), f"{user}@{host}" if user else host])


def _proxy_command(socket: str, ssh: Sequence[str]) -> str:
    words = [sys.executable, "-I", "-S", os.path.abspath(_jump.__file__), socket]
    # ssh replaces %-words in a ProxyCommand before the program there sees its own
    command = [word.replace("%", "%%") for word in words] + ["%h", "%p"] + [word.replace("%", "%%") for word in ssh]
    return options("ProxyCommand=" + shlex.join(command))


def socket_folder(state: str) -> str:
    """Return the folder for sockets of shared connections, or nothing where there is none.

    It is in the cluster's state, or where that path is too long, in a folder of this user below /tmp.
    """
    folder = os.path.join(state, "cp")
    if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
        return folder
    folder = "/tmp/q8s-%d" % os.geteuid()
    with suppress(OSError):
        os.mkdir(folder, 0o700)
    try:
        found = os.lstat(folder)
    except OSError:
        return ""
    # Somebody else may have been there first.
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return folder if private else ""


def socket_name(state: str, *identity: str) -> str:
    """Return the file name of a shared connection's socket.

    Ansible names sockets by address, port and user. Two clusters may have the same in different networks, and so may a
    new cluster and the one before it; each gets its own by the server's id and CA.
    """
    return hashlib.sha256("\0".join([state, *identity]).encode()).hexdigest()[:16]
