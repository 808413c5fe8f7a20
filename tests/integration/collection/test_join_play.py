"""An additional control plane joins: what an earlier join left is undone first, and so is what a failed one leaves.

Ansible runs the real tasks on this machine, with programs in the place of kubeadm and kubectl.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.collection.plays import add_program, copy_collections, play, said

NAME = "demo-control-plane-2"
RESET, JOIN = "kubeadm reset --force", f"kubeadm join {NAME}"
DELETE = f"kubectl delete node {NAME} --ignore-not-found"
KUBEADM = """\
#!/bin/sh
case $1 in
reset) echo "kubeadm $*" >> {root}/calls; rm -rf {root}/etc/manifests {root}/etcd/* ;;
join)
    echo "kubeadm join $(sed -n 's/^  name: //p' {root}/etc/q8s/kubeadm-join.yaml)" >> {root}/calls
    mkdir -p {root}/etc/manifests; touch {root}/etc/manifests/etcd.yaml
    [ ! -e {root}/fails ] || {{ echo "etcdserver: too many learner members in cluster" >&2; exit 1; }} ;;
esac
"""
KUBECTL = '#!/bin/sh\nshift; echo "kubectl $*" >> {root}/calls\n'


class Join:
    """The entry point ``join`` of the role, for a control plane that is this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = {
            "/var/lib/q8s/bin/kubeadm": f"{root}/kubeadm",
            "/var/lib/q8s/bin/kubectl": f"{root}/kubectl",
            "/etc/kubernetes": f"{root}/etc",
            "/var/lib/etcd": f"{root}/etcd",
            "/var/lib/kubelet": f"{root}/kubelet",
        }
        role = copy_collections(root, paths) / "q8s/emu/roles/control_plane"
        for other in ("approve", "certificates"):  # they have tests of their own
            (role / "tasks" / f"{other}.yml").write_text("[]\n")
        for name, text in (("kubeadm", KUBEADM), ("kubectl", KUBECTL)):
            add_program(root / name, text.format(root=root))
        (root / "etc").mkdir()
        (root / "etcd").mkdir()
        secrets = {
            "control_plane_bootstrap_token": "abcdef.0123456789abcdef",
            "control_plane_ca_hash": "0",
            "control_plane_certificate_key": "0",
        }
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "control_plane_initial_host": "first",
            "control_plane_node_name": NAME,
            "control_plane_address": "10.254.1.5",
            "control_plane_api_name": "demo-api",
        }
        hosts = {"first": secrets, "second": {}}
        (root / "inventory.yml").write_text(json.dumps({"all": {"hosts": hosts, "vars": variables}}))
        role_tasks = {"ansible.builtin.include_role": {"name": "q8s.emu.control_plane", "tasks_from": "join"}}
        plays = [{"hosts": "second", "gather_facts": True, "tasks": [role_tasks]}]
        (root / "play.yml").write_text(json.dumps(plays))

    def __call__(self) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run it. Return how it ended, and the programs that it called."""
        calls = self.root / "calls"
        calls.write_text("")
        return play(self.root, self.root / "play.yml"), calls.read_text().splitlines()

    @property
    def recorded(self) -> bool:
        return (self.root / "etc" / "q8s" / "initialised").exists()


@pytest.fixture
def join(tmp_path: Path) -> Join:
    return Join(tmp_path)


def test_a_control_plane_joins_once(join: Join) -> None:
    done, calls = join()
    assert (done.returncode, calls, join.recorded) == (0, [JOIN], True), said(done)
    done, calls = join()
    assert (done.returncode, calls) == (0, []), said(done)
    assert "changed=0" in done.stdout


@pytest.mark.parametrize("left", ["etcd/member", "kubelet/config.yaml"])
def test_what_an_interrupted_join_left_is_undone_first(join: Join, left: str) -> None:
    """In this order: a member of etcd leaves before its node is deleted, and both before the next attempt."""
    (join.root / left).parent.mkdir(exist_ok=True)
    (join.root / left).touch()
    done, calls = join()
    assert (done.returncode, calls, join.recorded) == (0, [RESET, DELETE, JOIN], True), said(done)


def test_a_failed_join_keeps_no_place_in_etcd_and_can_be_repeated(join: Join) -> None:
    (join.root / "fails").touch()
    done, calls = join()
    assert (done.returncode, calls, join.recorded) == (2, [JOIN, RESET], False), said(done)
    assert "second failed to join as a control plane: etcdserver: too many learner members in cluster" in said(done)
    (join.root / "fails").unlink()
    done, calls = join()
    assert (done.returncode, calls, join.recorded) == (0, [JOIN], True), said(done)
