"""``destroy`` checks what it is asked before it changes anything.

Ansible runs the real playbook, with modules and a reset in the place of the real ones, which keep what they were told.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec, _ssh

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections, play

MODULE = """\
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({{"cluster": {{"type": "raw"}}, "state": {{}}}}, supports_check_mode=True)
with open("{calls}", "a") as calls:
    print("{name}", module.params["state"], file=calls)
module.exit_json(changed=True)
"""
FILES = ("kubeconfig", "known_hosts", "id_ed25519", "id_ed25519.pub", "cluster.json")


@pytest.fixture
def destroy(tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
    """Destroy a cluster whose initial instance existed before; return what was called, and the output."""
    calls = tmp_path / "calls"
    calls.touch()
    copy = copy_collections(tmp_path)
    for name in ("servers", "security_group", "keypair"):
        (copy / f"q8s/emu/plugins/modules/{name}.py").write_text(MODULE.format(calls=calls, name=name))
    for name in FILES:
        (tmp_path / name).touch()
    variables = {
        **_inventory.cluster_variables(_spec.load_file(str(REPOSITORY / "examples" / "demo.yaml")), None),
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
        "q8s_environment": {},
        "q8s_foreign": True,
        "q8s_state_dir": str(tmp_path),
        "q8s_private_key": str(tmp_path / "id_ed25519"),
    }

    def run(reset: tuple[dict[str, Any], ...] = (), host: Any = None, **more: Any) -> tuple[list[str], str]:
        tasks = [*reset, {"name": "Reset", "ansible.builtin.shell": f"echo reset >> {calls}"}]
        (copy / "q8s/emu/roles/control_plane/tasks/reset.yml").write_text(json.dumps(tasks))
        hosts: dict[str, Any] = {"demo-control-plane": host or {}}
        group = {"control_plane_initial": {"hosts": dict.fromkeys(hosts)}}
        inventory = {"all": {"hosts": hosts, "vars": {**variables, **more}, "children": group}}
        (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
        done = play(tmp_path, copy / "q8s/emu/playbooks/destroy.yml")
        return calls.read_text().splitlines(), done.stdout + done.stderr

    return run


def test_the_initial_instance_is_reset_first(destroy: Callable[..., tuple[list[str], str]], tmp_path: Path) -> None:
    assert destroy()[0] == ["reset", "servers absent", "security_group absent", "keypair absent"]
    assert [name for name in FILES if (tmp_path / name).exists()] == []


def test_an_initial_instance_that_is_off_keeps_nothing_alive(
    destroy: Callable[..., tuple[list[str], str]], tmp_path: Path
) -> None:
    off = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    calls, output = destroy(**off)
    assert calls == ["servers absent", "security_group absent", "keypair absent"]
    said = " ".join(output.split())
    assert "Failed to remove Kubernetes from demo-control-plane: " in said and "Connection refused" in said
    assert "openstack server start demo-control-plane" in said
    assert all((tmp_path / name).exists() for name in FILES), "the next destroy needs the key"
    assert destroy()[0][3:] == ["reset", "servers absent", "security_group absent", "keypair absent"]
    assert [name for name in FILES if (tmp_path / name).exists()] == []


def test_a_jump_host_that_fails_says_nothing_of_the_instance(
    destroy: Callable[..., tuple[list[str], str]], tmp_path: Path
) -> None:
    """Ansible shares connections, so the jump host's message reaches it only as the reason for a disconnect."""
    route = _ssh.through_bastion("127.0.0.1", "", 1, str(tmp_path / "cp" / "socket"))
    behind = {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "ansible_ssh_common_args": f"-F none {route}"}
    calls, output = destroy(**behind)
    assert calls == ["servers absent", "security_group absent", "keypair absent"]
    said = " ".join(output.split())
    assert "q8s jump host 127.0.0.1:1: ssh: connect to host 127.0.0.1 port 1: Connection refused" in said
    assert "openstack server start" not in said and "Fix the cause and run destroy again" in said


FAILS = {"name": "Run kubeadm reset", "ansible.builtin.command": "sh -c 'echo error: no etcd >&2; exit 1'"}
AWAY = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
LOST = ({"ansible.builtin.set_fact": AWAY}, {"name": "Stop the units", "ansible.builtin.command": "true"})


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"reset": (FAILS,)}, "Run kubeadm reset: error: no etcd"),
        ({"host": {"ansible_python_interpreter": "/no/python3"}}, "/no/python3"),
        (
            {"host": {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": "/no/sudo"}},
            "/no/sudo",
        ),
        ({"reset": LOST}, "it no longer answered"),
    ],
    ids=["kubeadm", "python", "sudo", "lost"],
)
def test_an_initial_instance_that_cannot_be_reset_keeps_nothing_alive(
    destroy: Callable[..., tuple[list[str], str]], tmp_path: Path, broken: dict[str, Any], words: str
) -> None:
    calls, output = destroy(**broken)
    assert calls == ["servers absent", "security_group absent", "keypair absent"], output
    said = " ".join(output.split())
    assert "Failed to remove Kubernetes from demo-control-plane: " in said and words in said, output
    assert "Fix the cause and run destroy again; the state folder stays until then." in said
    assert all((tmp_path / name).exists() for name in FILES), "the next destroy needs the key"
    assert destroy()[0][3:] == ["reset", "servers absent", "security_group absent", "keypair absent"]
    assert [name for name in FILES if (tmp_path / name).exists()] == []


def test_what_is_kept_stays(destroy: Callable[..., tuple[list[str], str]], tmp_path: Path) -> None:
    assert destroy(q8s_keep=["keypair"])[0] == ["reset", "servers absent", "security_group absent"]
    assert [name for name in FILES if (tmp_path / name).exists()] == ["id_ed25519", "id_ed25519.pub", "cluster.json"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"q8s_keep": ["servers"]}, "q8s_keep is ['servers']; allowed is a list of keypair and security_group"),
        ({"q8s_keep": "keypair"}, "q8s_keep is keypair; allowed is a list"),
        ({"q8s_cloud_problem": "the cloud does not answer"}, "the cloud does not answer"),
    ],
)
def test_a_wrong_request_changes_nothing(
    destroy: Callable[..., tuple[list[str], str]], tmp_path: Path, variables: dict[str, Any], words: str
) -> None:
    calls, output = destroy(**variables)
    assert calls == [] and words in output, output
    assert all((tmp_path / name).exists() for name in FILES)


def test_another_users_cluster_is_deleted_with_its_key_or_with_consent_only(
    destroy: Callable[..., tuple[list[str], str]], tmp_path: Path
) -> None:
    (tmp_path / "id_ed25519").unlink()
    calls, output = destroy(q8s_other_users=["u2"])
    said = " ".join(output.split())
    assert calls == [] and "was created by another user (u2)" in said, output
    assert "pass -e q8s_destroy_other_users=true" in said
    assert "servers absent" in destroy(q8s_other_users=["u2"], q8s_destroy_other_users=True)[0]


def test_who_shares_the_key_of_another_users_cluster_deletes_it(destroy: Callable[..., tuple[list[str], str]]) -> None:
    assert "servers absent" in destroy(q8s_other_users=["u2"])[0]
