# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""User-data of new servers, and the CA by which their ssh host keys are known before they first boot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects
from ansible_collections.q8s.emu.plugins.module_utils._spec import ServerSpec

USER = "q8s"
GUEST_KEY_FILE = "/etc/q8s/guest_ssh_host_ed25519_key"
_HOST_KEY_FILE = "/etc/ssh/ssh_host_ed25519_key"
# What a certificate says that its key is for. ssh is told to look for this instead of an address.
HOST = "q8s-host"
GUEST = "q8s-guest"


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's form. The private part is never printed."""

    public: str
    private: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def new_key() -> KeyPair:
    """Generate a key pair."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(public.decode(), private.decode())


# Runs as root before the server's sshd first starts; bootcmd runs at every boot, and a snapshot is another instance.
# The keys that an image may hold are known to everyone who has the image.
# The certificate is named in a file of its own where sshd_config includes such files: an update of openssh-server would
# stop at a sshd_config that was changed. An sshd that runs already (an image without the usual order) reads it at once.
_SIGN = """\
set -eu
test ! -e "/etc/q8s/host-keys.$INSTANCE_ID" || exit 0
mkdir -p /etc/q8s
umask 077
cat > /etc/q8s/ca <<'END'
{ca}END
rm -f /etc/ssh/ssh_host_*
sign() {{
  rm -f "$2" "$2.pub" "$2-cert.pub"
  ssh-keygen -q -t ed25519 -N '' -C "$1" -f "$2"
  ssh-keygen -q -s /etc/q8s/ca -h -I "$1 of $INSTANCE_ID" -n "$1" "$2.pub"
}}
sign {host} {host_key}
{more}rm /etc/q8s/ca
line="HostCertificate {host_key}-cert.pub"
config=/etc/ssh/sshd_config
if grep -qE '^[[:space:]]*Include[[:space:]]+/etc/ssh/sshd_config[.]d/[*][.]conf' $config; then
  mkdir -p -m 755 /etc/ssh/sshd_config.d
  echo "$line" > /etc/ssh/sshd_config.d/00-q8s.conf
  chmod 644 /etc/ssh/sshd_config.d/00-q8s.conf
elif ! grep -qxF "$line" $config; then
  sed -i "1i $line" $config
  chmod 644 $config
fi
chmod 644 /etc/ssh/*.pub
touch "/etc/q8s/host-keys.$INSTANCE_ID"
systemctl --no-block try-reload-or-restart ssh.service sshd.service 2>/dev/null || true
"""


def first_boot(spec: ServerSpec, cluster_name: str, public_key: str) -> tuple[str, Mapping[str, str]]:
    """Return user-data (secret: it holds the private key of a CA) and metadata (public) of new servers like that one.

    Keys are made on the server and signed by the CA, which is of no use to anybody but the servers that share it. The
    certificate of a guest's key is for guests only: who has the guest cannot pose as its host.
    """
    authority = new_key()
    metadata = {
        _cloud_objects.META_CLUSTER: cluster_name,
        _cloud_objects.META_ROLE: spec.role,
        _cloud_objects.META_TYPE: spec.vm_type.name if spec.vm_type else "",
        _cloud_objects.META_HOST_CA: authority.public,
    }
    guest = f"sign {GUEST} {GUEST_KEY_FILE}\n" if spec.role == "worker_host" else ""
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
        # cloud-init leaves the keys alone that are there
        "ssh_deletekeys": False,
        "ssh_genkeytypes": ["ed25519"],
        "package_update": False,
        # a text, not a list: cloud-init runs it from a file, and no list of processes shows it
        "bootcmd": [_SIGN.format(ca=authority.private, host=HOST, host_key=_HOST_KEY_FILE, more=guest)],
    }
    # JSON is YAML, and cloud-init reads it as such.
    return f"#cloud-config\n{json.dumps(config, indent=1)}\n", metadata
