"""The stages that restart and recreate nodes: in which order, what a failure stops, and what needs consent.

Ansible runs the real stages and roles on this machine, with programs in the place of libvirt, qemu-img and kubectl that
keep what they were told. tests/e2e/test_life.py does the same to a real cluster.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections

NODES = ("x86-1", "x86-2", "arm-1")
VIRSH = """\
#!{python}
import json, pathlib, re, sys
words = [w for w in sys.argv[1:] if w not in ("--quiet", "--connect", "qemu:///system")]
names = [w for w in words[1:] if not w.startswith("-") and w != "/dev/stdin"]
root = pathlib.Path("{root}")
definition = sys.stdin.read() if words[0] == "define" else ""
name = names[0] if names else re.search("<name>(.*?)</name>", definition)[1]
path = root / f"{{name}}.machine"
machine = json.loads(path.read_text())
if words[0] == "domstate":
    print(machine["state"])
elif words[0] == "dumpxml":
    print(machine["inactive" if "--inactive" in words or machine["state"] != "running" else "active"])
elif words[0] in ("start", "destroy", "shutdown", "define"):
    with (root / "calls").open("a") as calls:
        print(words[0], name, file=calls)
    if (root / f"{{name}}.lost-at-{{words[0]}}").exists():
        (root / f"{{name}}.lost").touch()
    if words[0] == "start" and (root / f"{{name}}.fails").exists():
        sys.exit("error: no memory")
    if words[0] == "start":
        machine.update(state="running", active=machine["inactive"])
    elif words[0] == "define":
        machine["inactive"] = definition
    else:
        machine["state"] = "shut off"
    path.write_text(json.dumps(machine))
"""
# In the place of ssh: runs what it is told on this machine, until the host is lost.
SSH = """\
#!{python}
import os, pathlib, sys
if (pathlib.Path("{root}") / f"{{sys.argv[-2]}}.lost").exists():
    sys.exit(255)
os.execv("/bin/sh", ["sh", "-c", sys.argv[-1]])
"""
QEMU_IMG = """\
#!/bin/sh
for file; do :; done
size=$(cat "$file")
echo "virtual size: $size GiB ($((size << 30)) bytes)"
"""
KUBECTL = """\
#!{python}
import datetime, json, pathlib, sys
text = " ".join(sys.argv[1:]).partition(" ")[2]
root = pathlib.Path("{root}")
drained = root / "drained"
marked = drained.read_text().split() if drained.exists() else []
def keep(line):
    with (root / "calls").open("a") as calls:
        print(line, file=calls)
if text.startswith("get node ") and text.endswith("-o name"):
    print("node/it")
elif "annotations.q8s" in text:
    print("\\n".join(marked))
elif text.startswith("annotate --overwrite"):
    drained.write_text(" ".join([*marked, text.split()[3]]))
elif text.startswith("annotate"):
    drained.write_text(" ".join(name for name in marked if name != text.split()[2]))
elif text.split()[0] in ("drain", "delete", "uncordon"):
    keep(text.partition(" --")[0])
    if (root / "{{}}.lost-at-{{}}".format(*reversed(text.split()[:2]))).exists():
        (root / f"{{text.split()[1]}}.lost").touch()
    print("done")
elif "json" in text and text.startswith("get"):
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)
    ready = {{"type": "Ready", "status": "True", "lastHeartbeatTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}}
    items = [{{"kind": "Node", "metadata": {{"name": name}}, "status": {{"conditions": [ready]}}}} for name in {nodes}]
    print(json.dumps({{"items": items}}))
"""


def domain(vm: dict[str, Any], ram: int) -> str:
    """What libvirt has of a guest."""
    return (
        f"<domain type='qemu'>\n  <name>{vm['name']}</name><memory unit='MiB'>{ram}</memory>"
        f"<os><type arch='{vm['architecture']}' machine='{vm['machine_model']}'>hvm</type></os>"
        f"<vcpu>{vm['num_cpus']}</vcpu><cpu><model>{vm['cpu_model']}</model></cpu></domain>"
    )


class Cluster:
    """Three guests with twice the file's memory; the one of arm has a smaller disk, too."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        data = yaml.safe_load((REPOSITORY / "examples" / "demo.yaml").read_text().replace("x86-small", "x86"))
        text = json.dumps(data).replace("arm-mid", "arm")
        data = {
            **json.loads(text),
            "cluster_definition": {**data["cluster_definition"], "worker": {"x86": 2, "arm": 1}},
        }
        (root / "cluster.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        cluster = _spec.load_file(str(root / "cluster.yaml"))
        hosts: dict[str, Any] = {}
        groups: dict[str, Any] = {name: {} for name in ("control_plane_initial", "worker_hosts", "changing")}
        for number, spec in enumerate(cluster.servers(), 4):
            host = {"q8s_status": "ACTIVE", "q8s_private_ip": f"10.254.1.{number}", "q8s_node_name": spec.node}
            host["q8s_server_id"] = str(number)
            host["q8s_flavor"] = {"name": "c1.medium", "ram": 4096, "vcpus": 2, "disk": 12}
            groups["control_plane_initial" if spec.initial else "worker_hosts"][spec.name] = {}
            hosts[spec.name] = host
            if spec.vm_type:
                vm = _inventory.vm_variables(cluster, spec, f"10.254.1.{number}")
                folder = root / spec.name
                self._guest(folder, vm)
                host |= {"q8s_vm": {**vm, "guest_ip": "127.0.0.1"}, "guest_folder": str(folder)}
        variables = {
            **_inventory.cluster_variables(cluster, None),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "emulated_worker_shutdown_timeout": 5,
        }
        children = {name: {"hosts": members} for name, members in groups.items()} | {
            "booted": {"hosts": dict.fromkeys(hosts)}
        }
        inventory = {"all": {"hosts": hosts, "vars": variables, "children": children}}
        (root / "inventory.yml").write_text(json.dumps(inventory))
        self._programs(port)
        stages = root / "ansible_collections/q8s/emu/playbooks/stages"
        first = {"q8s_servers": [spec.name for spec in cluster.servers()]}
        plays: list[dict[str, Any]] = [
            {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.set_fact": first}]},
            {"import_playbook": f"{stages}/inspect.yml"},
            {"import_playbook": f"{stages}/node_plan.yml"},
            {
                "hosts": "worker_hosts",
                "gather_facts": False,
                "tasks": [{"ansible.builtin.include_tasks": f"{stages}/../tasks/node_change.yml"}],
            },
            # a host that is lost meanwhile: nobody listens on this port
            {
                "hosts": "{{ lost | default('!all') }}",
                "gather_facts": False,
                "tasks": [
                    {
                        "ansible.builtin.set_fact": {
                            "ansible_connection": "ssh",
                            "ansible_port": 1,
                            "ansible_host": "127.0.0.1",
                        }
                    }
                ],
            },
            {"import_playbook": f"{stages}/change.yml"},
            {"import_playbook": f"{stages}/changed.yml"},
            {"import_playbook": f"{stages}/failures.yml"},
        ]
        (root / "play.yml").write_text(json.dumps(plays))

    def _guest(self, folder: Path, vm: dict[str, Any]) -> None:
        name = vm["name"]
        (folder / "next").mkdir(parents=True)
        (folder / "next" / f"{name}.xml").write_text(domain(vm, vm["ram_mb"]))
        old = domain(vm, 2 * vm["ram_mb"])
        (self.root / f"{name}.machine").write_text(json.dumps({"state": "running", "active": old, "inactive": old}))
        (folder / f"{name}.qcow2").write_text("8" if name == "arm-1" else str(vm["storage_gb"]))
        (folder / "next" / f"{name}.qcow2").write_text(str(vm["storage_gb"]))

    def _programs(self, port: int) -> None:
        """Write the programs, and a copy of the collection that finds them."""
        for program, text in (("virsh", VIRSH), ("qemu-img", QEMU_IMG), ("kubectl", KUBECTL), ("a-shell", SSH)):
            path = self.root / "bin" / program
            path.parent.mkdir(exist_ok=True)
            shown = text if program == "qemu-img" else text.format(python=sys.executable, root=self.root, nodes=NODES)
            path.write_text(shown)
            path.chmod(0o755)
        (self.root / "admin.conf").touch()
        replacements = {
            "/var/lib/q8s/bin/kubectl": f"{self.root}/bin/kubectl",
            "/etc/kubernetes/admin.conf": f"{self.root}/admin.conf",
            "port=22": f"port={port}",
            "emulated_worker_directory: /var/lib/q8s-guest": 'emulated_worker_directory: "{{ guest_folder }}"',
        }
        copy_collections(self.root, replacements, ["**/*.yml", "**/guest.py"])

    def lose(self, node: str, call: str) -> None:
        """Lose the host of a node as soon as a program is called with this."""
        (self.root / f"{node}.lost-at-{call}").touch()
        path = self.root / "inventory.yml"
        inventory = json.loads(path.read_text())
        inventory["all"]["hosts"][f"demo-{node}"] |= {
            "ansible_connection": "ssh",
            "ansible_host": node,
            "ansible_ssh_executable": str(self.root / "bin/a-shell"),
            "ansible_ssh_transfer_method": "piped",
        }
        path.write_text(json.dumps(inventory))

    def run(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": f"{self.root}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', '')}",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        }
        program = Path(sys.executable).parent / "ansible-playbook"
        extra = ["-e", json.dumps(variables)] if variables else []
        return subprocess.run(
            [program, "-i", self.root / "inventory.yml", self.root / "play.yml", *arguments, *extra],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """What the programs were told to change, in order."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The cluster; its guests answer as sshd does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _address = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"SSH-2.0-test\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield Cluster(tmp_path, server.getsockname()[1])


RESTART = ("drain", "shutdown", "define", "start", "uncordon")


def of(cluster: Cluster, node: str) -> list[str]:
    return [call.split()[0] for call in cluster.calls if call.split()[-1] == node]


def test_nodes_change_one_after_another(cluster: Cluster) -> None:
    done = cluster.run()
    assert done.returncode == 0, done.stdout + done.stderr
    for node in ("x86-1", "x86-2"):
        assert of(cluster, node) == list(RESTART), cluster.calls
    assert of(cluster, "arm-1")[:4] == ["drain", "destroy", "drain", "delete"]
    assert of(cluster, "arm-1")[4:6] == ["define", "start"]
    # a node is complete before the next one begins
    order = [call.split()[-1] for call in cluster.calls]
    assert len(re.findall(r"(\S+)(?: \1)*", " ".join(order))) == len(NODES), cluster.calls


def test_a_failure_ends_the_changes_of_its_type_only(cluster: Cluster) -> None:
    (cluster.root / "x86-1.fails").touch()
    done = cluster.run()
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "The change of the type x86 stopped at a node that failed." in said
    assert "These nodes do not have their new values yet: x86-1, x86-2." in said
    assert of(cluster, "x86-2") == []
    assert "start" in of(cluster, "arm-1"), "another type goes on"
    assert (cluster.root / "drained").read_text() == "x86-1", "the next deploy uncordons it"


def test_a_host_that_is_lost_keeps_no_other_node_from_its_change(cluster: Cluster) -> None:
    done = cluster.run(lost="demo-x86-1")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "These nodes do not have their new values yet: x86-1. The next deploy" in said
    assert of(cluster, "x86-1") == []
    assert of(cluster, "x86-2") == list(RESTART), cluster.calls
    assert "start" in of(cluster, "arm-1")


@pytest.mark.parametrize(
    ("node", "call"), [("x86-1", "start"), pytest.param("arm-1", "drain", marks=pytest.mark.long("a minute"))]
)
def test_a_host_that_is_lost_during_its_change_fails_alone(cluster: Cluster, node: str, call: str) -> None:
    cluster.lose(node, call)
    done = cluster.run()
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    assert f"{node}: its host demo-{node} was lost while the node was being re" in said
    assert f"These nodes do not have their new values yet: {node}. The next deploy continues" in said
    assert of(cluster, node)[-1] == call, cluster.calls
    for other in {"x86-1", "x86-2"} - {node}:
        assert of(cluster, other) == list(RESTART), cluster.calls
    if node != "arm-1":
        assert "start" in of(cluster, "arm-1")


def test_without_consent_nothing_changes(cluster: Cluster) -> None:
    done = cluster.run(q8s_confirmed=False)
    assert done.returncode != 0
    assert "x86-1, x86-2, arm-1: would be drained and restarted or recreated." in " ".join(done.stdout.split())
    assert cluster.calls == []


def test_check_mode_names_the_nodes_and_changes_nothing(cluster: Cluster) -> None:
    done = cluster.run("--check", q8s_confirmed=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for node in ("x86-1", "x86-2"):
        assert f"{node}: would be restarted" in done.stdout
    assert "arm-1: would be recreated" in done.stdout
    assert cluster.calls == []
    said = " ".join(done.stdout.split())
    assert "vm_types.types.arm.storage: the flavor c1.medium of demo-arm-1 has a disk of 12 GB" in said
    assert "vm_types.types.x86.storage" not in said, "only memory changes there"
