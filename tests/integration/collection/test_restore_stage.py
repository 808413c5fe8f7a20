"""With the initial control plane deleted and no majority of etcd left, a restore goes on with one of the others.

Ansible runs the real stage, with a program of the test as kubectl and another one in the place of the restore.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import add_program, copy_collections, play, said

SECOND, THIRD = "demo-control-plane-2", "demo-control-plane-3"
RESTORE = 'import sys\nopen("{root}/restored", "a").write(" ".join(sys.argv[1:]) + "\\n")\nprint("restored")\n'
# The API server answers once etcd was restored.
KUBECTL = "#!/bin/sh\n[ -e {root}/restored ] && echo node/demo-control-plane-2\n"


def restore(
    root: Path, *, wanted: bool, joined: bool = True, initial: bool = False, third: str = "SHUTOFF"
) -> tuple[int, str]:
    """Run the stage on two control planes, of which the third does not answer. Return the exit code and the output."""
    paths = {"/etc/kubernetes": f"{root}/kubernetes", "/var/lib/q8s": f"{root}/q8s", "delay: 5": "delay: 0"}
    copy = copy_collections(root, paths, ["q8s/emu/playbooks/**/*.yml"])
    (copy / "q8s/emu/roles/control_plane/files/majority.py").write_text(RESTORE.format(root=root))
    add_program(root / "q8s/bin/kubectl", KUBECTL.format(root=root))
    (root / "kubernetes/q8s").mkdir(parents=True)
    if joined:
        (root / "kubernetes/q8s/initialised").touch()
    cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
    of_hosts = {
        SECOND: {"ansible_connection": "local", "q8s_status": "ACTIVE", "q8s_private_ip": "10.0.0.2"},
        THIRD: {"ansible_host": "127.0.0.1", "ansible_port": 1, "q8s_status": third, "q8s_private_ip": "10.0.0.3"},
    }
    variables: dict[str, Any] = {
        **_inventory.cluster_variables(cluster, None),
        "ansible_ssh_retries": 0,
        "ansible_become": False,
    }
    variables["ansible_python_interpreter"] = sys.executable
    groups = {
        "control_plane": {"hosts": dict.fromkeys(of_hosts)},
        "control_plane_initial": {"hosts": {SECOND: None} if initial else {}},
    }
    local = {"localhost": {"ansible_connection": "local"}}
    inventory = {"all": {"hosts": {**of_hosts, **local}, "vars": variables, "children": groups}}
    (root / "inventory.yml").write_text(json.dumps(inventory))
    show = {"ansible.builtin.debug": {"msg": "initial: {{ groups.control_plane_initial | default([]) | join(' ') }}."}}
    stage = copy / "q8s/emu/playbooks/stages/restore.yml"
    plays = [{"import_playbook": str(stage)}, {"hosts": "localhost", "gather_facts": False, "tasks": [show]}]
    (root / "play.yml").write_text(json.dumps(plays))
    done = play(root, root / "play.yml", "-e", json.dumps({"q8s_restore_etcd": wanted}))
    return done.returncode, said(done)


def test_one_that_is_reached_takes_the_place_of_the_initial_one(tmp_path: Path) -> None:
    code, output = restore(tmp_path, wanted=True)
    assert (tmp_path / "restored").exists(), output
    assert (tmp_path / "restored").read_text() == "30 --restore\n"
    assert f"initial: {SECOND}." in output and code == 0, output


@pytest.mark.parametrize(
    ("joined", "initial", "wanted"), [(True, False, False), (False, False, True), (True, True, True)]
)
def test_nothing_is_restored_without_a_yes_or_data_or_while_the_initial_one_is_there(
    tmp_path: Path, joined: bool, initial: bool, wanted: bool
) -> None:
    code, output = restore(tmp_path, joined=joined, initial=initial, wanted=wanted)
    assert not (tmp_path / "restored").exists() and code == 0, output


def test_nothing_is_restored_while_another_one_runs_that_nobody_reaches(tmp_path: Path) -> None:
    """It may be cut off with a majority, and would go on beside the restored one."""
    code, output = restore(tmp_path, wanted=True, third="ACTIVE")
    assert not (tmp_path / "restored").exists() and code != 0, output
    assert f"{THIRD}: ACTIVE in the cloud, but not reached by ssh" in output
    assert f"openstack server delete {THIRD}" in output
