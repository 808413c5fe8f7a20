"""Roles check their arguments. They accept what the stages' ``group_vars`` render with the inventory's variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec, _state
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server

from q8s_wrapper.config import PLAYBOOKS, REPOSITORY

ARTIFACTS = [
    f"{kind}-{machine}" for kind in ("root", "kernel", "initrd", "bundle") for machine in ("x86_64", "aarch64")
]
BUILT = {
    "artifacts": {key: {"name": f"{key}.img", "sha256": "5f2c"} for key in ("control-plane-x86_64", *ARTIFACTS)},
    "files": [{"name": "root-x86_64.img", "path": "/cache/root-x86_64.img"}],
    "bundle": {
        "artifacts": {"root-x86_64": {"name": "root-x86_64.img", "sha256": "5f2c", "size": 1}},
        "cmdlines": {"x86_64": "root=x", "aarch64": "root=a"},
        "pod_images": {"flannel": "flannel:1"},
    },
}
ROLES = {
    "control_plane_initial": ["artifact_server", "k8s_common", "control_plane"],
    "control_plane:!control_plane_initial": [
        "k8s_common",
        "k8s_common stage",
        "control_plane join",
        "control_plane upgrade",
    ],
    "worker_hosts": ["qemu_host", "emulated_worker"],
}


def tasks(entries: list[str]) -> list[dict[str, Any]]:
    """Return the tasks that check a group's variables against the roles' specifications."""
    found = []
    for role, entry in ((*text.split(), "main")[:2] for text in entries):
        spec = f"lookup('file', '{PLAYBOOKS.parent}/roles/{role}/meta/argument_specs.yml') | from_yaml"
        options = f"({spec}).argument_specs.{entry}.options"
        given = f"dict({options} | select('in', vars) | zip({options} | select('in', vars) | map('extract', vars)))"
        found.append(
            {
                "name": f"Check {role} {entry}",
                "ansible.builtin.validate_argument_spec": {
                    "argument_spec": f"{{{{ {options} }}}}",
                    "provided_arguments": f"{{{{ {given} }}}}",
                },
            }
        )
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Check the arguments on an inventory of the demo's cluster with a second control plane."""
    folder = tmp_path_factory.mktemp("arguments")
    text = (REPOSITORY / "examples" / "demo.yaml").read_text()
    (folder / "demo.yaml").write_text(text.replace("additional_master_nodes: 0", "additional_master_nodes: 1"))
    cluster = _spec.load_file(str(folder / "demo.yaml"))
    local = _inventory.LocalState("/state/demo", _state.Project("https://cloud.example.org:5000", "p1", "one", "abc"))
    mark = {"q8s_cluster": "demo"}
    servers = [
        Server(f"id-{spec.name}", spec.name, "ACTIVE", (f"10.254.1.{number}",), mark)
        for number, spec in enumerate(cluster.servers(), 4)
    ]
    hosts = _inventory.hosts(cluster, servers, "/state/demo")
    groups: dict[str, Any] = {name: {"hosts": []} for host in hosts for name in host.groups}
    for host in hosts:
        for name in host.groups:
            groups[name]["hosts"].append(host.name)
    variables: dict[str, Any] = {host.name: {**host.variables, "ansible_connection": "local"} for host in hosts}
    variables["localhost"] = {"q8s_built": BUILT, "q8s_public_key": "ssh-ed25519 AAAA", "ansible_connection": "local"}
    secrets = {"control_plane_ca_certificate": "PEM", "control_plane_bootstrap_token": "abcdef.0123456789abcdef"}
    variables["demo-control-plane"] |= {**secrets, "q8s_joining": ["arm-mid-1"]}
    inventory = {
        **groups,
        "all": {"hosts": ["localhost"], "vars": _inventory.cluster_variables(cluster, local)},
        "_meta": {"hostvars": variables},
    }
    script = folder / "inventory"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(inventory)}\nEND\n")
    script.chmod(0o755)
    (folder / "group_vars").symlink_to(PLAYBOOKS / "stages" / "group_vars")
    plays = [{"hosts": group, "gather_facts": False, "tasks": tasks(names)} for group, names in ROLES.items()]
    (folder / "play.yml").write_text(json.dumps(plays))
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", script, folder / "play.yml"],
        cwd=folder,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": f"{REPOSITORY}/collections", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_role_accepts_its_arguments(output: str) -> None:
    for role in (text for names in ROLES.values() for text in names):
        assert f"TASK [Check {role}" in output
    recap = output.partition("PLAY RECAP")[2]
    for host, checks in (("control-plane", 3), ("control-plane-2", 4), ("x86-small-1", 2), ("arm-mid-1", 2)):
        assert f"demo-{host} " in recap and any(
            line.split()[0] == f"demo-{host}" and f"ok={checks} " in line for line in recap.splitlines() if line.strip()
        ), recap


@pytest.mark.parametrize(
    ("role", "missing"),
    [
        ("k8s_common", ["api_address", "api_name", "archive", "archive_sha256"]),
        ("control_plane", ["api_name", "flannel_image", "kubernetes_version"]),
        ("qemu_host", ["architecture", "guest_address", "guest_gateway"]),
        ("emulated_worker", ["address", "api_address", "architecture", "bootstrap_token", "ca_certificate", "name"]),
    ],
)
def test_a_role_without_its_arguments_does_nothing(tmp_path: Path, role: str, missing: list[str]) -> None:
    include = {"ansible.builtin.include_role": {"name": f"q8s.emu.{role}"}, "tags": ["always"]}
    ens3 = {
        "device": "ens3",
        "mtu": 1500,
        "ipv4": {"address": "10.0.0.2", "network": "10.0.0.0", "netmask": "255.255.255.0"},
    }
    # As on a host whose subnet has no gateway.
    facts = {
        "default_ipv4": {},
        "all_ipv4_addresses": ["10.0.0.2"],
        "hostname": "one",
        "interfaces": ["ens3"],
        "ens3": ens3,
    }
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [include], "vars": {"ansible_facts": facts}}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    program = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        # the tag leaves nothing of the role but the check
        [program, "--inventory=localhost,", "--connection=local", "--tags=always", tmp_path / "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": f"{REPOSITORY}/collections", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "missing required arguments: " in done.stdout, done.stdout + done.stderr
    named = done.stdout.partition("missing required arguments: ")[2].partition('"')[0].splitlines()[0]
    assert {f"{role}_{name}" for name in missing} <= set(named.rstrip(".").split(", ")), named
