"""The stages of a benchmark: what is measured and written, what is refused, and that the pods are removed in any case.

Ansible runs the real stages on this machine, with programs in the place of kubectl and systemd. The one for kubectl
returns what the measuring tools printed on a real machine. tests/e2e/test_benchmark.py measures a real cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.inventory import openstack
from ansible_collections.q8s.emu.plugins.module_utils import _spec

from q8s_wrapper.config import REPOSITORY

OUTPUT = REPOSITORY / "tests/unit/plugins/bench_output"
KUBECTL = """\
#!{python}
import json, pathlib, sys
words = [word for word in sys.argv[1:] if not word.startswith(("--kubeconfig", "--namespace"))]
root = pathlib.Path("{root}")
state = json.loads((root / "state.json").read_text())
with (root / "calls").open("a") as calls:
    print(" ".join(words), file=calls)
if words[:2] == ["get", "nodes,pods"]:
    print(json.dumps({{"items": state["nodes"]}}))
elif words[:2] == ["get", "pods,services"]:
    print(json.dumps({{"items": state["pods"]}}))
elif words[0] == "exec":
    tool, text = words[3], " ".join(words)
    if words[1] in state["dead"]:
        sys.exit("error: unable to upgrade connection: container not found")
    names = {{"7za": "7za.txt", "fio": "fio.json", "ping": "ping.txt", "stress-ng": "stress-int64.txt",
        "openssl": "openssl-aes.txt", "sockperf": "sockperf-udp.txt",
        "iperf3": "iperf3-udp.json" if "--udp" in text else "iperf3-tcp.json"}}
    if tool in names:
        print((pathlib.Path("{output}") / names[tool]).read_text())
elif words[0] == "logs":
    memory = "MemTotal: 2048 kB MemAvailable: 1024 kB"
    for second in range(20):
        print(1795777250 + second, "cpu", 20 * second, "0 0", 180 * second, "0 0 0 0 0 0", memory)
elif words[0] == "apply" and state["full"]:
    sys.exit("error: etcdserver: mvcc: database space exceeded")
"""


class Cluster:
    """A control plane and two workers, as the demo has them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
        self.nodes = [spec.node for spec in cluster.servers()]
        hosts: dict[str, Any] = {}
        groups: dict[str, Any] = {"control_plane_initial": {}, "worker_hosts": {}}
        for number, spec in enumerate(cluster.servers(), 4):
            address = f"10.254.1.{number}"
            hosts[spec.name] = {"q8s_private_ip": address, "q8s_node_name": spec.node}
            groups["control_plane_initial" if spec.initial else "worker_hosts"][spec.name] = {}
            if spec.vm_type:
                hosts[spec.name]["q8s_vm"] = openstack.vm_variables(cluster, spec, address)
        images = {name: f"q8s.local/bench:{name}" for name in ("x86_64", "aarch64")}
        variables = {
            **openstack.cluster_variables(cluster, None),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "q8s_state_dir": str(root),
            "q8s_bench_output": str(root / "results"),
            "q8s_bench_quick": True,
        }
        children = {name: {"hosts": members} for name, members in groups.items()}
        inventory = {"all": {"hosts": hosts, "vars": variables, "children": children}}
        (root / "inventory.yml").write_text(json.dumps(inventory))
        built = {"bundle": {"bench_images": images, "kubernetes_version": "v1"}}
        stages = root / "ansible_collections/q8s/emu/playbooks/bench_stages"
        plays: list[dict[str, Any]] = [
            {"import_playbook": f"{stages}/output.yml"},
            {"import_playbook": f"{stages}/plan.yml"},
            # In the place of the stages image and load, which need a mirror of Debian and containerd.
            {
                "hosts": "localhost",
                "gather_facts": False,
                "tasks": [{"ansible.builtin.set_fact": {"q8s_bench_built": built}, "tags": ["image"]}],
            },
            {"import_playbook": f"{stages}/sample.yml"},
            {"import_playbook": f"{stages}/measure.yml"},
            {"import_playbook": f"{stages}/stop.yml", "tags": ["bench_remove"]},
            {"import_playbook": f"{stages}/report.yml"},
        ]
        (root / "play.yml").write_text(json.dumps(plays))
        self._programs()
        self.set_state()

    def _programs(self) -> None:
        """Write the programs, and a copy of the collection that finds them."""
        (self.root / "bin").mkdir()
        programs = {"kubectl": KUBECTL.format(python=sys.executable, root=self.root, output=OUTPUT)}
        for name in ("systemctl", "systemd-run"):
            programs[name] = f'#!/bin/sh\necho {name} "$@" >> {self.root}/calls\n'
        programs["systemctl"] += "exit 5\n"  # there is no such unit
        for name, text in programs.items():
            (self.root / "bin" / name).write_text(text)
            (self.root / "bin" / name).chmod(0o755)
        copy = self.root / "ansible_collections"
        shutil.copytree(REPOSITORY / "collections" / "ansible_collections", copy)
        for file in [*copy.rglob("*.yml"), *copy.rglob("_bench_plan.py")]:
            old = file.read_text()
            new = old.replace("/var/lib/q8s/bin/kubectl", f"{self.root}/bin/kubectl")
            new = new.replace("          delay: 2\n", "          delay: 0\n")
            new = new.replace("/etc/kubernetes", str(self.root)).replace("/run/q8s-bench", f"{self.root}/run")
            new = new.replace("settle_seconds=10, idle_seconds=5", "settle_seconds=0, idle_seconds=1")
            if new != old:
                file.write_text(new)
        (self.root / "q8s").mkdir()

    def set_state(
        self, *, broken: str = "", memory: str = "1900Mi", dead: tuple[str, ...] = (), full: bool = False
    ) -> None:
        """Set what the stand-in for kubectl reports."""
        nodes = []
        for name in self.nodes:
            ready = {"type": "Ready", "status": "False" if name == broken else "True", "message": "no network"}
            allocatable = {"cpu": "2", "memory": memory}
            addresses = [{"type": "InternalIP", "address": "10.254.1.4"}]
            status = {"conditions": [ready], "allocatable": allocatable, "addresses": addresses}
            nodes.append({"kind": "Node", "metadata": {"name": name}, "status": status})
        pods = [
            {"kind": "Pod", "metadata": {"name": f"{kind}-{name}"}, "status": {"podIP": "10.1.1.1"}}
            for name in self.nodes
            for kind in ("pod", "peer", "node")
        ]
        services = [
            {
                "kind": "Service",
                "metadata": {"name": f"service-{name}"},
                "spec": {"clusterIP": "10.2.2.2"},
                "status": {},
            }
            for name in self.nodes
        ]
        state = {"nodes": nodes, "pods": [*pods, *services], "dead": dead, "full": full}
        (self.root / "state.json").write_text(json.dumps(state))

    def run(self, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.root}/bin:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": f"{self.root}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH', '')}",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        }
        program = Path(sys.executable).parent / "ansible-playbook"
        command = [program, "-i", self.root / "inventory.yml", self.root / "play.yml", *arguments]
        command += ["-e", json.dumps(variables)] if variables else []
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    @property
    def calls(self) -> list[str]:
        """What the programs were told, in order."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


REMOVAL = "delete namespace q8s-bench --ignore-not-found"


def test_a_benchmark_writes_its_results_and_removes_its_pods(cluster: Cluster) -> None:
    done = cluster.run(q8s_bench_only=["network", "memory"], q8s_bench_nodes=["demo-control-plane", "arm-mid-1"])
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((cluster.root / "results/results.json").read_text())
    assert document["complete"] and [node["name"] for node in document["nodes"]] == ["demo-control-plane", "arm-mid-1"]
    assert document["groups"] == ["network", "memory"]
    assert (cluster.root / "results/index.html").exists()
    first, last = (
        cluster.calls.index(f"{REMOVAL} --wait=true --timeout=180s"),
        cluster.calls.index(f"{REMOVAL} --wait=false"),
    )
    execs = [number for number, call in enumerate(cluster.calls) if call.startswith("exec ")]
    assert first < execs[0] and execs[-1] < last
    [timer] = [call for call in cluster.calls if "--unit=q8s-bench-removal" in call]
    assert "--on-active=1200" in timer and timer.endswith(REMOVAL)
    again = cluster.run()
    assert again.returncode != 0 and "has results" in again.stdout


def test_a_node_that_dies_makes_the_results_partial(cluster: Cluster) -> None:
    cluster.set_state(dead=("pod-arm-mid-1",))
    done = cluster.run(q8s_bench_only=["memory"])
    assert done.returncode != 0
    assert "are partial" in done.stdout and "memory/stream/arm-mid-1/1" in done.stdout
    document = json.loads((cluster.root / "results/results.json").read_text())
    assert not document["complete"]
    assert {one["client"] for one in document["measurements"] if one["error"]} == {"arm-mid-1"}


def test_a_cluster_that_cannot_be_measured_is_refused(cluster: Cluster) -> None:
    cluster.set_state(broken="arm-mid-1")
    done = cluster.run()
    assert done.returncode != 0 and "node arm-mid-1 is not Ready: no network" in done.stdout
    assert "q8s-run status FILE" in done.stdout
    assert not any(call.startswith(("apply", "exec")) for call in cluster.calls)


def test_the_pods_are_removed_after_a_failure_and_by_the_tag(cluster: Cluster) -> None:
    cluster.set_state(full=True)
    done = cluster.run()
    assert done.returncode != 0 and "database space exceeded" in done.stdout
    assert cluster.calls.count(f"{REMOVAL} --wait=false") == 1
    assert not (cluster.root / "results").exists()
    (cluster.root / "calls").unlink()
    done = cluster.run("--tags", "bench_remove")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.calls[0] == f"{REMOVAL} --wait=true --timeout=180s"
    assert not any(call.startswith(("apply", "exec", "systemd-run")) for call in cluster.calls)
