"""``replace`` deletes nothing before it is known that a new node can be made, and no guest stops before it is drained.

Ansible runs the real playbook, with modules in the place of those that ask the cloud, and with a kubectl, which keep
what they were told. tests/e2e/test_life.py replaces a node of a real cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections

MODULE = """\
import json
from ansible.module_utils.basic import AnsibleModule
names = ("cluster", "replace_nodes", "limit", "nodes", "state")
module = AnsibleModule({{name: {{"type": "raw"}} for name in names}}, supports_check_mode=True)
with open("{calls}", "a") as calls:
    print("{name}", module.params["state"] or "", file=calls)
module.exit_json(changed=False)
"""
KUBECTL = """\
#!/bin/sh
shift
echo kubectl "$@" >> {calls}
[ "$1" = delete ] || {{ echo The connection to the server was refused >&2; exit 1; }}
"""


class Cluster:
    """A cluster whose initial control plane is this machine."""

    def __init__(self, root: Path) -> None:
        self.root, self._calls = root, root / "calls"
        self._calls.touch()
        cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
        self.version = cluster.kubernetes_version
        variables = {
            **_inventory.cluster_variables(cluster, None),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "q8s_environment": {},
            "q8s_replace": "arm-mid-1",
            "q8s_state_dir": str(root),
        }
        hosts: dict[str, Any] = {"demo-control-plane": {}}
        children = {name: {"hosts": hosts} for name in ("control_plane", "control_plane_initial")}
        inventory = {"all": {"hosts": hosts, "vars": variables, "children": children}}
        (root / "inventory.yml").write_text(json.dumps(inventory))
        replacements = {
            "/var/lib/q8s": f"{root}/q8s",
            "/etc/kubernetes": f"{root}/kubernetes",
            "'q8s.emu.program', 'q8s-run'": "'q8s.emu.program', 'a-build'",
        }
        copy = copy_collections(root, replacements)
        for name in ("cloud_preflight", "servers"):
            module = copy / "q8s/emu/plugins/modules" / f"{name}.py"
            module.write_text(MODULE.format(calls=self._calls, name=name))
        self._write("q8s/bin/kubectl", KUBECTL.format(calls=self._calls)).chmod(0o755)
        self._write("q8s/manifest.json", f'{{\n  "kubernetes_version": "{self.version}"\n}}\n')
        for name in ("kubernetes/q8s/initialised", "kubernetes/admin.conf"):
            self._write(name, "")

    def _write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def upgrading(self) -> None:
        """Leave an upgrade that has not ended."""
        self._write("kubernetes/q8s/upgrading", self.version)
        self._write("q8s/manifest.json", '{\n  "kubernetes_version": "1.0.0"\n}\n')

    def lose_control_plane(self) -> None:
        """Leave a cloud without the initial control plane."""
        path = self.root / "inventory.yml"
        inventory = json.loads(path.read_text())
        del inventory["all"]["children"]["control_plane_initial"]
        path.write_text(json.dumps(inventory))

    def run(self, build: str, playbook: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the playbook ``replace`` or another one, with a program that builds."""
        self._write("bin/a-build", f"#!/bin/sh\n{build}\n").chmod(0o755)
        environment: dict[str, Any] = {
            **os.environ,
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": f"{self.root}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', '')}",
            "ANSIBLE_NOCOLOR": "1",
        }
        program = Path(sys.executable).parent / "ansible-playbook"
        playbook = playbook or self.root / "ansible_collections/q8s/emu/playbooks/replace.yml"
        command: list[str | Path] = [program, "-i", self.root / "inventory.yml", playbook]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        """What the cloud and Kubernetes were told, in order."""
        return [line.strip() for line in self._calls.read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


ARTIFACTS = json.dumps({"changed": False, "artifacts": {}, "missing": [], "obstacles": []})
OBSTACLES = json.dumps({**json.loads(ARTIFACTS), "missing": ["bundle"], "obstacles": [{"reason": "it has no KVM"}]})
CHECKED = ["cloud_preflight", "cloud_preflight"]


def test_what_cannot_be_built_keeps_the_node(cluster: Cluster) -> None:
    done = cluster.run("echo error: no space left >&2; exit 1")
    assert done.returncode != 0 and "no space left" in done.stdout + done.stderr
    assert cluster.calls == CHECKED


def test_what_the_cluster_cannot_build_keeps_the_node(cluster: Cluster) -> None:
    """The initial control plane shall build. The program that packs the sources fails."""
    done = cluster.run(f"[ \"$2\" != pack ] || {{ echo error: no sources >&2; exit 1; }}\necho '{OBSTACLES}'")
    assert done.returncode != 0 and "Pack the build's sources" in done.stdout and "no sources" in done.stdout
    assert cluster.calls == CHECKED


def test_a_cluster_without_control_plane_keeps_the_node(cluster: Cluster) -> None:
    """Nobody could drain it."""
    cluster.lose_control_plane()
    done = cluster.run(f"echo '{ARTIFACTS}'")
    assert done.returncode != 0 and "no initial control plane" in done.stdout
    assert cluster.calls == []


def test_an_upgrade_that_has_not_ended_keeps_the_node(cluster: Cluster) -> None:
    cluster.upgrading()
    done = cluster.run(f"echo '{ARTIFACTS}'")
    assert done.returncode != 0 and "upgrade" in done.stdout
    assert cluster.calls == CHECKED


def test_a_node_that_cannot_be_drained_keeps_its_server(cluster: Cluster) -> None:
    """The API server does not answer at first."""
    done = cluster.run(f"echo '{ARTIFACTS}'")
    assert done.returncode != 0 and "The connection to the server was refused" in done.stdout
    assert cluster.calls == [*CHECKED, "kubectl get node arm-mid-1 --ignore-not-found -o name"]


def test_a_guest_whose_node_cannot_be_drained_is_not_stopped(cluster: Cluster) -> None:
    """A kubectl that fails prints as little as one that finds no node. The restart of a guest follows this task."""
    role = {"name": "q8s.emu.control_plane", "tasks_from": "drain"}
    task = {"ansible.builtin.include_role": role, "vars": {"control_plane_node": "arm-mid-1"}}
    play = cluster.root / "drain.yml"
    play.write_text(json.dumps([{"hosts": "control_plane_initial", "gather_facts": False, "tasks": [task]}]))
    done = cluster.run("", play)
    assert done.returncode != 0 and "The connection to the server was refused" in done.stdout
