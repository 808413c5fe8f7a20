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
    (tmp_path / "site.yml").write_text(PLAYBOOK)
    (tmp_path / "sh").write_text(SHELL)
    (tmp_path / "sh").chmod(0o755)

    def run(passes: bool, survey: str = GOOD, **variables: Any) -> str:
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
