# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Host keys and user-data of new servers: who a server is, is settled before it first boots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _plan
from ansible_collections.q8s.emu.plugins.module_utils._spec import ServerSpec

USER = "q8s"
GUEST_KEY_FILE = "/etc/q8s/guest_ssh_host_ed25519_key"


@dataclass(frozen=True)
class HostKey:
    """An ed25519 key pair in OpenSSH's form. The private part is never printed."""

    public: str
    private: str

    def __repr__(self) -> str:
        return f"HostKey({self.public})"


def new_key() -> HostKey:
    """A new key pair."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return HostKey(public.decode(), private.decode())


def first_boot(spec: ServerSpec, cluster_name: str, public_key: str) -> tuple[str, Mapping[str, str]]:
    """User-data (secret: it holds private host keys) and metadata (public) of a new server."""
    host = new_key()
    metadata = {
        _plan.META_CLUSTER: cluster_name,
        _plan.META_ROLE: spec.role,
        _plan.META_NODE: spec.node,
        _plan.META_TYPE: spec.vm_type.name if spec.vm_type else "",
        _plan.META_HOST_KEY: host.public,
    }
    config: dict[str, Any] = {
        "users": [
            {
                "name": USER,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [public_key.strip()],
            }
        ],
        "ssh_pwauth": False,
        # No other key than this one: what the image may hold is known to everyone who has the image.
        "ssh_deletekeys": True,
        "ssh_genkeytypes": ["ed25519"],
        "ssh_keys": {"ed25519_private": host.private, "ed25519_public": host.public},
        "package_update": False,
    }
    if spec.role == "worker_host":
        guest = new_key()
        metadata[_plan.META_GUEST_KEY] = guest.public
        config["write_files"] = [
            {"path": GUEST_KEY_FILE, "owner": "root:root", "permissions": "0600", "content": guest.private},
            {
                "path": f"{GUEST_KEY_FILE}.pub",
                "owner": "root:root",
                "permissions": "0600",
                "content": f"{guest.public}\n",
            },
        ]
    # JSON is YAML, and cloud-init reads it as such.
    return f"#cloud-config\n{json.dumps(config, indent=1)}\n", metadata
