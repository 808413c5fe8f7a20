"""Nothing that a run leaves, says or shows in the process list holds a secret."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from q8s_wrapper.config import INVENTORY

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab

TOKEN = "ghp-planted-0123456789"


class Processes(threading.Thread):
    """Command lines of all processes, sampled until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:  # it has ended
                    continue


@pytest.fixture(scope="module")
def left(cluster: Cluster) -> Iterator[Mapping[str, Any]]:
    """A cluster made and planned anew at the highest verbosity with diffs, and all that this left."""
    home = cluster.folder / "home"
    (home / "tmp").mkdir(parents=True)
    file = cluster.folder / "secret.yaml"
    address = f"https://somebody:{TOKEN}@git.example.org/q8s.git"
    file.write_text(yaml.safe_dump(cluster.mapping(1, git_url=address)))
    mapping = "{{ q8s_cluster }}"
    tasks: list[dict[str, Any]] = [
        {f"q8s.emu.{name}": {"cluster": mapping, **({"public_key": cluster.public_key} if key else {})}}
        for name, key in (("cloud_preflight", True), ("keypair", True), ("security_group", False), ("servers", True))
    ]
    tasks.append({"ansible.builtin.set_fact": {"kept": "{{ hostvars }}", "cacheable": True}})
    playbook = cluster.folder / "secrets.yml"
    playbook.write_text(json.dumps([{"hosts": "localhost", "connection": "local", "tasks": tasks}]))
    more = {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "ANSIBLE_KEEP_REMOTE_FILES": "1",
        "ANSIBLE_REMOTE_TMP": str(home / "remote"),
        "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
        "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(home / "facts"),
        "ANSIBLE_LOG_PATH": str(home / "ansible.log"),
    }
    given = ["-i", INVENTORY, playbook, "-e", f"q8s_cluster_file={file}"]
    processes = Processes()
    processes.start()
    made = cluster.run(["ansible-playbook", "-vvvv", "--diff", *given], **more)
    planned = cluster.run(["q8s-run", "plan", file, "-vvv"], **more)
    processes.done.set()
    processes.join()
    assert made.returncode == 0 == planned.returncode, made.stdout + made.stderr + planned.stderr
    yield {
        "said": made.stdout + made.stderr + planned.stdout + planned.stderr,
        "processes": processes.seen,
        "homes": {file, cluster.state / "id_ed25519"},
    }


@pytest.fixture(scope="module")
def secrets(left: Mapping[str, Any], cluster: Cluster, admin: Any) -> dict[str, str]:
    """What must be nowhere else, by name: of private keys, a line from their middle."""

    def middle(key: str) -> str:
        return key.strip().splitlines()[3]

    clouds = yaml.safe_load(Path(cluster.environment["OS_CLIENT_CONFIG_FILE"]).read_text())["clouds"]
    auth = clouds[cluster.environment["OS_CLOUD"]]["auth"]
    found = {
        "token of git_url": TOKEN,
        "application credential": auth["application_credential_secret"],
        "ssh key": middle((cluster.state / "id_ed25519").read_text()),
    }
    for server in admin.compute.servers(all_projects=True, details=True):
        if server.name.startswith(cluster.name):
            config = base64.b64decode(server.user_data).decode()
            keys = re.findall(r"-----BEGIN OPENSSH PRIVATE KEY-----.*?-----END", config)
            for number, key in enumerate(keys):
                found[f"CA {number} of {server.name}"] = middle(key.replace("\\n", "\n"))
    assert len(found) == 3 + 2, "each call's CA of host keys"
    return found


def test_no_secret_is_said(left: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    assert "TASK [q8s.emu.servers]" in left["said"] and "ESTABLISH LOCAL CONNECTION" in left["said"], "at full length"
    assert [name for name, secret in secrets.items() if secret in left["said"]] == []


def test_no_secret_is_in_the_process_list(left: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    assert any(b"AnsiballZ_servers" in line for line in left["processes"]), "the module was seen"
    assert [
        name for name, secret in secrets.items() if any(secret.encode() in line for line in left["processes"])
    ] == []


def test_no_secret_is_left_in_a_file(left: Mapping[str, Any], secrets: Mapping[str, str], cluster: Cluster) -> None:
    files = {path for path in cluster.folder.rglob("*") if path.is_file()}
    for kind in ("ansible.log", "facts/", "AnsiballZ_servers", "/runs/"):
        assert any(kind in str(path) for path in files), f"nothing to search: {kind}"
    found = {
        (str(path), name)
        for path in files - left["homes"]
        for name, secret in secrets.items()
        if secret.encode() in path.read_bytes()
    }
    assert found == set()
    key = cluster.state / "id_ed25519"
    assert key.stat().st_mode & 0o077 == 0
    private = Path(cluster.environment["OS_CLIENT_CONFIG_FILE"])
    assert private.stat().st_mode & 0o077 == 0 and os.access(private, os.R_OK)


def test_the_search_finds_what_is_there(left: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    assert {name for name, secret in secrets.items() for path in left["homes"] if secret in path.read_text()} == {
        "token of git_url",
        "ssh key",
    }
