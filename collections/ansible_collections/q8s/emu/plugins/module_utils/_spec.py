# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster file: read, checked and completed in this one place.

Modules, the inventory plugin and the wrapper import it. Nothing here talks to a cloud, and nothing imports Ansible.

``_spec_yaml`` reads the text, ``_spec_fields`` declares the fields by the kinds of ``_spec_kinds``, ``_spec_check`` checks
what has to fit together, and ``_spec_model`` is what comes out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Union

from ansible_collections.q8s.emu.plugins.module_utils import _spec_check, _spec_fields
from ansible_collections.q8s.emu.plugins.module_utils._spec_check import ETCD_PORTS, GUEST_SSH_PORT, VXLAN_PORT
from ansible_collections.q8s.emu.plugins.module_utils._spec_fields import (
    KUBERNETES_VERSIONS,
    MAX_SERVERS,
    REQUIRED_SECURITY_GROUP,
    ZONE_LABEL,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_model import (
    Access,
    Cluster,
    GuestImage,
    GuestNetwork,
    Proxy,
    ServerSpec,
    VmType,
    guest_mac,
    guest_network,
    guest_subnet_length,
    is_additional_control_plane,
    worker_node,
)
from ansible_collections.q8s.emu.plugins.module_utils._spec_yaml import Problem, Report, SpecError, from_data, read

__all__ = [
    "ARTIFACT_PORT",
    "ETCD_PORTS",
    "FIELDS",
    "GUEST_SSH_PORT",
    "KUBERNETES_VERSIONS",
    "MAX_FILE_BYTES",
    "MAX_SERVERS",
    "REQUIRED_SECURITY_GROUP",
    "VXLAN_PORT",
    "ZONE_LABEL",
    "Access",
    "Cluster",
    "GuestImage",
    "GuestNetwork",
    "Problem",
    "Proxy",
    "ServerSpec",
    "SpecError",
    "VmType",
    "guest_mac",
    "guest_network",
    "guest_subnet_length",
    "is_additional_control_plane",
    "load_file",
    "load_mapping",
    "load_text",
    "worker_node",
]

ARTIFACT_PORT = 8099
MAX_FILE_BYTES = 1 << 17
FIELDS = frozenset(field.name for field in _spec_fields.CLUSTER.fields)


def load_file(path: str) -> Cluster:
    """Read and check a cluster file.

    :raises OSError: it cannot be read
    :raises SpecError: it has mistakes
    """
    with open(path, "rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise SpecError([Problem(path, 1, 1, "", f"larger than {MAX_FILE_BYTES} bytes: this is not a cluster file")])
    report = Report(path, os.path.dirname(path) or ".")
    return _spec_check.cluster(read(data, report), report)


def load_text(text: Union[str, bytes], origin: str) -> Cluster:
    """Check the text of a cluster file; ``origin`` is its name in messages.

    :raises SpecError: it has mistakes
    """
    report = Report(origin)
    return _spec_check.cluster(read(text, report), report)


def load_mapping(data: Mapping[str, Any], origin: str) -> Cluster:
    """Check a cluster that something else has read already, such as ``ansible-playbook -e @cluster.yaml``.

    :raises SpecError: it has mistakes; they have no line
    """
    return _spec_check.cluster(from_data(data), Report(origin))
