"""The play "Check the initial instance": all that is in the way on a server is reported before anything is created."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from q8s_wrapper.config import PLAYBOOKS, REPOSITORY

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDJkb4 q8s test"
PLAYBOOK = f"""\
- hosts: mine
  gather_facts: false
  tasks:
    - ansible.builtin.include_tasks: {PLAYBOOKS}/tasks/check_initial.yml
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: servers are created
"""
# A host without ssh, on which the survey prints what a test says.
SHELL = """\
#!/bin/sh
cat "$SURVEY"
"""
GOOD = """\
root yes
user ubuntu
python 3.12
init systemd
architecture x86_64
cpus 2
memory_mb 3900
disk_free_mb 17000
"""


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., str]:
    """Run the check on a server with some variables; return the output, and assert whether it went on."""
    (tmp_path / "sh").write_text(SHELL)
    (tmp_path / "sh").chmod(0o755)

    def run(passes: bool, survey: str = GOOD, playbook: str = PLAYBOOK, **variables: Any) -> str:
        (tmp_path / "site.yml").write_text(playbook)
        (tmp_path / "survey").write_text(survey)
        inventory = {
            "all": {
                "hosts": {"mine": {**variables, "q8s_private_ip": variables.get("ansible_host", "10.0.0.5")}},
                "vars": {
                    "q8s_api_name": "demo-api",
                    "q8s_artifact_port": 8099,
                    "q8s_status": "ACTIVE",
                    "q8s_public_key": KEY,
                    "q8s_cluster": {"remote_ip_prefix": "10.0.0.0/24"},
                },
            }
        }
        (tmp_path / "hosts.json").write_text(json.dumps(inventory))
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{REPOSITORY}/collections",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "SURVEY": str(tmp_path / "survey"),
            **({"ANSIBLE_EXECUTABLE": str(tmp_path / "sh")} if "ansible_connection" in variables else {}),
        }
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts.json", tmp_path / "site.yml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert ("servers are created" in output) == passes, output
        assert (done.returncode == 0) == passes, output
        return output

    return run


def test_a_server_that_fits_is_used(check: Callable[..., str]) -> None:
    assert "swap is on (/dev/zram0)" in check(True, GOOD + "swap /dev/zram0\n", ansible_connection="local")


def test_everything_in_the_way_is_reported_together(check: Callable[..., str]) -> None:
    output = check(False, GOOD.replace("root yes", "root no") + "unit docker\nunit ufw\n", ansible_connection="local")
    for words in ("mine cannot be a control plane", "needs a password for sudo", "purge docker.io", "sudo ufw disable"):
        assert words in output


def test_a_server_that_does_not_answer(check: Callable[..., str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = {"ansible_host": "127.0.0.1", "ansible_port": closed.getsockname()[1], "ansible_user": "ubuntu"}
        output = check(False, **address)
    assert "port 22 does not answer" in output, output


def test_a_server_that_is_off_is_checked_later(check: Callable[..., str]) -> None:
    assert "it is started, and checked then" in check(True, q8s_status="SHUTOFF")


def plan() -> str:
    """The play of the plan that checks the instance, and what comes after it."""
    plays = yaml.safe_load((PLAYBOOKS / "plan.yml").read_text())
    (play,) = (play for play in plays if play["name"] == "Check the initial instance")
    include = play["tasks"][0]
    include["ansible.builtin.include_tasks"] = str(PLAYBOOKS / include["ansible.builtin.include_tasks"])
    after = yaml.safe_load(PLAYBOOK)[1]
    return yaml.safe_dump([{**play, "hosts": "mine"}, after])


def test_the_plan_checks_a_server_that_has_a_key_to_log_in_with(check: Callable[..., str], tmp_path: Path) -> None:
    key = tmp_path / "own"
    refusing = tmp_path / "ssh"
    refusing.write_text("#!/bin/sh\necho 'ubuntu@10.0.0.5: Permission denied (publickey).' >&2\nexit 255\n")
    refusing.chmod(0o755)
    server = {
        "q8s_foreign": True,
        "q8s_private_key": str(tmp_path / "id_ed25519"),  # before the first deploy there is none
        "ansible_host": "10.0.0.5",
        "ansible_user": "ubuntu",
        "ansible_ssh_executable": str(refusing),
        "ansible_ssh_private_key_file": str(key),
    }
    assert "refused" not in check(True, playbook=plan(), **server)
    key.touch(0o600)
    output = " ".join(check(False, playbook=plan(), **server).split())
    assert "ssh to ubuntu@10.0.0.5 is refused with the key" in output, output
    assert f"authorized_keys there: (the output of: ssh-keygen -y -f {key})" in output, output
    key.with_suffix(".pub").write_text("ssh-ed25519 OWN\n")
    for playbook in (plan(), PLAYBOOK):
        assert "authorized_keys there: ssh-ed25519 OWN" in check(False, playbook=playbook, **server)
    assert "cannot be a control plane" not in check(True, playbook=plan(), **{**server, "q8s_foreign": False})


def test_the_plan_checks_this_machine_without_a_key(check: Callable[..., str]) -> None:
    variables = {"q8s_foreign": True, "ansible_connection": "local"}
    output = check(False, GOOD.replace("root yes", "root no"), plan(), **variables)
    assert "needs a password for sudo" in output
