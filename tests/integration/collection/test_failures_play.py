"""What one failure leaves to the other nodes, and what the run says at its end.

Ansible runs the real stages on this machine, with a program in the place of kubectl.
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
from tests.integration.collection.plays import copy_collections, replace_text

INITIAL = "demo-control-plane"
WORKERS = ("x86-small-1", "arm-mid-1")
# The node of the second worker is not Ready; and what the file "fails" names does not work.
KUBECTL = """\
#!{python}
import json, pathlib, sys
root = pathlib.Path("{root}")
text = " ".join(sys.argv[1:])
fails = (root / "fails").read_text()
with (root / "calls").open("a") as calls:
    print(text, file=calls)
if fails and fails in text:
    sys.exit("connection refused")
items = []
for name in {nodes}:
    status = "False" if name == "arm-mid-1" else "True"
    ready = {{"type": "Ready", "status": status, "lastHeartbeatTime": "2026-11-28T00:00:00Z"}}
    status = {{"conditions": [ready], "nodeInfo": {{"kubeletVersion": "v1.36.3", "architecture": "amd64"}}}}
    metadata = {{"name": name, "resourceVersion": "1"}}
    items.append({{"kind": "Node", "metadata": metadata, "spec": {{}}, "status": status}})
coredns = {{"namespace": "kube-system", "name": "coredns"}}
status = {{"conditions": [{{"type": "Available", "status": "True"}}]}}
items.append({{"kind": "Deployment", "metadata": coredns, "status": status}})
if "annotations.q8s" in text:
    print("x86-small-1=True\\narm-mid-1=False\\n" if (root / "drained").exists() else "")
elif "jsonpath" in text:
    print("".join(f"{{name}} v1.36.3\\n" for name in {nodes}[:2]) + "arm-mid-1 v1.35.7\\n")
elif "json" in text and "get" in text:
    print(json.dumps({{"items": items}}))
"""


class Run:
    """Plays on three servers; all but those of ``away`` are this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.second = ""  # another control plane
        self.off = ""  # a server
        paths = {"/var/lib/q8s/bin/kubectl": f"{root}/kubectl", "/etc/kubernetes": f"{root}/etc"}
        self.collections = copy_collections(root, paths, ["**/*.yml", "**/*.sh"])
        self.stages = self.collections / "q8s/emu/playbooks/stages"
        replace_text(self.collections / "q8s/emu/roles/control_plane/tasks/uncordon.yml", "retries: 20", "retries: 1")
        (root / "kubectl").write_text(KUBECTL.format(python=sys.executable, root=root, nodes=[INITIAL, *WORKERS]))
        (root / "kubectl").chmod(0o755)
        (root / "etc" / "q8s").mkdir(parents=True)
        (root / "etc" / "admin.conf").write_text("server: https://demo-api:6443\n")
        (root / "etc" / "q8s" / "bootstrap-token").write_text("abcdef.0123456789abcdef")

    def __call__(
        self, *stages: str, fails: str = "", away: tuple[str, ...] = (), tags: tuple[str, ...] = (), **values: Any
    ) -> tuple[int, str]:
        """Run stages; return Ansible's exit code, and what it said in one line."""
        (self.root / "fails").write_text(fails)
        cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
        hosts: dict[str, Any] = {}
        for number, spec in enumerate(cluster.servers(), 4):
            hosts[spec.name] = {
                "q8s_status": "SHUTOFF" if spec.name == self.off else "ACTIVE",
                "q8s_server_id": str(number),
                "q8s_private_ip": f"10.254.1.{number}",
                "q8s_node_name": spec.node,
                # nobody listens on this port
                **(
                    {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
                    if spec.name in away
                    else {}
                ),
            }
        servers = [name for name in hosts if name != INITIAL]
        servers = [name for name in servers if name != self.second]
        groups = {
            "control_plane": [INITIAL, *filter(None, [self.second])],
            "control_plane_initial": [INITIAL],
            "worker_hosts": servers,
        }
        groups |= {} if "ssh" in stages else {"started": list(hosts), "booted": list(hosts)}
        variables = {
            **_inventory.cluster_variables(cluster, None),
            "q8s_state_dir": str(self.root),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "control_plane_kubelets_timeout": 0,
            "q8s_ready_timeout": 0,
            **values,
        }
        children = {name: {"hosts": dict.fromkeys(members)} for name, members in groups.items()}
        (self.root / "inventory.yml").write_text(
            json.dumps({"all": {"hosts": hosts, "vars": variables, "children": children}})
        )
        first = {"q8s_servers": list(hosts)}
        facts = [{"hosts": "all", "gather_facts": True}] if "join" in stages else []
        plays: list[dict[str, Any]] = [
            *facts,
            {
                "hosts": "localhost",
                "gather_facts": False,
                "tags": ["always"],
                "tasks": [{"ansible.builtin.set_fact": first}],
            },
            *({"import_playbook": f"{self.stages}/{stage}.yml"} for stage in stages),
        ]
        (self.root / "play.yml").write_text(json.dumps(plays))
        done = subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                "-i",
                self.root / "inventory.yml",
                self.root / "play.yml",
                *tags,
            ],
            cwd=self.root,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": f"{self.root}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', '')}",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    @property
    def calls(self) -> str:
        """What kubectl was called with."""
        return (self.root / "calls").read_text()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_node_that_is_not_ready_keeps_the_others_from_nothing(run: Run) -> None:
    (run.root / "drained").touch()
    failed = {"failed_servers": {"demo-arm-mid-2": "server demo-arm-mid-2 is in ERROR: No valid host was found."}}
    code, said = run("ready", "addons", "links", "failures", q8s_servers_result=failed)
    assert code == 2, said
    assert "node arm-mid-1 is NotReady" in said
    assert "patch node x86-small-1" in run.calls, "it has its labels"
    assert "uncordon x86-small-1" in run.calls and "uncordon arm-mid-1" not in run.calls
    assert not (run.root / "etc" / "q8s" / "bootstrap-token").exists()
    assert "--selector=q8s.io/addon" in run.calls, "add-ons are installed"
    assert "server demo-arm-mid-2 is in ERROR: No valid host was found." in said
    assert f"{INITIAL}: failed at: Wait until every node is Ready, and the cluster's DNS" in said


def test_labels_that_cannot_be_set_keep_nobody_from_the_rest(run: Run) -> None:
    code, said = run("ready", "failures", fails="patch node x86-small-1")
    assert code == 2 and "Failed to change the node x86-small-1: connection refused" in said
    assert "patch node arm-mid-1" in run.calls
    assert not (run.root / "etc" / "q8s" / "bootstrap-token").exists()
    assert f"{INITIAL}: failed at: Set the nodes' labels and taints" in said


def test_the_table_says_that_no_api_server_answers(run: Run) -> None:
    code, said = run("ready", "failures", fails="get nodes")
    assert code == 2
    assert "the API server does not answer (connection refused)" in said.partition("TASK [Show the nodes]")[2]


@pytest.mark.parametrize(
    ("away", "second", "stops"), [(INITIAL, "", True), (INITIAL, "demo-arm-mid-1", True), ("demo-arm-mid-1", "", False)]
)
def test_nobody_goes_on_without_the_initial_control_plane(run: Run, away: str, second: str, stops: bool) -> None:
    run.second = second
    code, said = run("ssh", "reached", "failures", away=(away,), q8s_ssh_timeout=1)
    assert code == 2, "one host failed"
    assert (f"{away} did not answer by ssh, and the other nodes need it" in said) == stops
    way_out = f"delete it (openstack server delete {away}): the next deploy joins a new one to {second}"
    assert (way_out in said) == bool(second)
    assert ("PLAY [Report what failed]" in said) != stops


def test_a_run_that_starts_no_server_does_not_wait_for_one_that_is_off(run: Run) -> None:
    run.off = "demo-arm-mid-1"
    code, said = run("ssh", "reached", "failures", away=(run.off,), tags=("--tags", "nodes"), q8s_ssh_timeout=1)
    assert code == 2 and "demo-arm-mid-1 is SHUTOFF, and the tags leave out the stage cloud" in said, said
    assert "timed out" not in said and "ok: [demo-x86-small-1]" in said


@pytest.mark.parametrize(("failing", "stops"), [(INITIAL, True), ("demo-arm-mid-1", False)])
def test_nobody_goes_on_where_the_initial_control_plane_keeps_its_certificates(
    run: Run, failing: str, stops: bool
) -> None:
    run.second = "demo-arm-mid-1"
    fail = {"ansible.builtin.fail": {"msg": "no space left"}, "when": f"inventory_hostname == '{failing}'"}
    (run.collections / "q8s/emu/roles/control_plane/tasks/renew_ended.yml").write_text(json.dumps([fail]))
    code, said = run("ssh", "reached", "renewal", "certified", "failures")
    assert code == 2 and "no space left" in said, "one host failed"
    assert (f"{failing} failed at the check of the certificates" in said) == stops
    assert ("PLAY [Report what failed]" in said) != stops


def test_a_control_plane_that_does_not_join_keeps_the_others_from_nothing(run: Run) -> None:
    """Nobody waits for its node, which is not Ready: the run ends as soon as the others are."""
    run.second = "demo-arm-mid-1"
    fail = {"ansible.builtin.fail": {"msg": "etcd is not healthy"}}
    (run.collections / "q8s/emu/roles/control_plane/tasks/join.yml").write_text(json.dumps([fail]))
    code, said = run("join", "ready", "failures")
    assert code == 2 and "etcd is not healthy" in said
    assert "patch node x86-small-1" in run.calls
    assert not (run.root / "etc" / "q8s" / "bootstrap-token").exists()
    assert "failed at: Wait until every node is Ready" not in said


def test_an_upgrade_does_not_end_before_all_nodes_have_the_version(run: Run) -> None:
    (run.root / "etc" / "q8s" / "upgrading").touch()
    code, said = run("upgraded")
    assert code == 2 and "arm-mid-1: not upgraded to v1.36.3 yet." in said
    assert "Record the version in the cloud" not in said
    assert (run.root / "etc" / "q8s" / "upgrading").exists()
