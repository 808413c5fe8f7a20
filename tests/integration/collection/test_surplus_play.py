"""Nodes that the file no longer asks for leave the cluster, also a control plane that is off.

Ansible runs the real stage, with a kubectl that keeps what it was told.
tests/e2e/test_control_planes.py does it for real.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections, play

INITIAL, LEAVING = "demo-control-plane", "demo-control-plane-2"
PREFLIGHT = "collections/ansible_collections/q8s/emu/playbooks/stages/preflight.yml"
FORGET = """\
import os, sys
open("{calls}", "a").write("forget " + sys.argv[1] + "\\n")
if os.path.exists("{calls}.keeps"):
    sys.exit("etcd removes no member now: etcdserver: unhealthy cluster")
"""
KUBECTL = """\
#!/bin/sh
shift
echo kubectl "$1" "$2" "$3" >> {calls}
if [ "$1 $2" = "drain held" ]; then
    echo "error: Cannot evict pod as it would violate a disruption budget" >&2; exit 1
fi
[ "$1" != get ] || echo "node/$3"
[ "$2 $3" != "get nodes" ] || cat {calls}.nodes
"""
# What a control plane that leaves is told; crictl knows one container.
TOLD = """\
#!/bin/sh
name=${{0##*/}}
[ "$name $5" != "crictl ps" ] || echo 4711
[ "$name" != crictl ] || shift 4
echo "$name $*" >> {calls}
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[int, str, list[str]]]:
    """Run the stage; return Ansible's exit code, what it said, and what was called."""
    calls = tmp_path / "calls"
    copy = copy_collections(
        tmp_path,
        {"/var/lib/q8s": f"{tmp_path}/q8s", "/etc/kubernetes": f"{tmp_path}/kubernetes", "delay: 3": "delay: 0"},
    )
    Path(f"{calls}.nodes").write_text(f"{INITIAL} True\n{LEAVING} True\n")
    (copy / "q8s/emu/roles/control_plane/files/forget.py").write_text(FORGET.format(calls=calls))
    for name in ("kubernetes/q8s/initialised", "kubernetes/admin.conf", "q8s/bin/kubectl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "q8s/bin/kubectl").write_text(KUBECTL.format(calls=calls).replace("admin.conf", ""))
    for name in ("systemctl", "crictl"):
        (tmp_path / "q8s/bin" / name).write_text(TOLD.format(calls=calls))
    for program in (tmp_path / "q8s/bin").iterdir():
        program.chmod(0o755)

    def go(*workers: str, answers: bool = False, **initial: Any) -> tuple[int, str, list[str]]:
        others = {f"demo-{name}": {"q8s_surplus": {"name": name, "control_plane_host": ""}} for name in workers}
        surplus = {"name": LEAVING, "control_plane_host": LEAVING, "address": "127.0.0.1"}
        here: dict[str, Any] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
        }
        # Nobody answers there.
        off = {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": 1,
            "ansible_become": False,
        }
        inventory = {
            "all": {
                "hosts": {
                    "localhost": {**here, "q8s_surplus_goes": True},
                    INITIAL: {**here, **initial},
                    LEAVING: {**(here if answers else off), "q8s_surplus": surplus},
                    **others,
                },
                "vars": {"q8s_environment": {}, "q8s_cluster": {"cluster_name": "demo"}},
                "children": {
                    "control_plane_initial": {"hosts": {INITIAL: {}}},
                    "control_plane": {"hosts": {INITIAL: {}, LEAVING: {}}},
                    "surplus": {"hosts": {name: {} for name in others or [LEAVING]}},
                },
            }
        }
        (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
        went_on = {
            "vars": {
                "q8s_goes": "{{ hostvars.localhost.q8s_surplus_goes }}",
                "q8s_kept": "{{ hostvars.localhost.q8s_kept_servers | default([]) | join(' ') }}",
            },
            "ansible.builtin.debug": {
                "msg": "it went on, and surplus servers are {{ q8s_goes | ternary('deleted', 'kept') }} {{ q8s_kept }}"
            },
        }
        after = [{"hosts": INITIAL, "gather_facts": False, "tasks": [went_on]}]
        stage = copy / "q8s/emu/playbooks/stages/surplus.yml"
        (tmp_path / "play.yml").write_text(
            json.dumps(
                [{"import_playbook": str(stage)}, *after, {"import_playbook": str(stage.with_name("failures.yml"))}]
            )
        )
        done = play(tmp_path, tmp_path / "play.yml")
        said = " ".join((done.stdout + done.stderr).split())
        return done.returncode, said, calls.read_text().splitlines() if calls.exists() else []

    return go


def test_one_that_is_off_leaves_and_the_run_goes_on(run: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, said, calls = run()
    assert code == 0 and "it went on, and surplus servers are deleted" in said, said
    assert calls == [
        "kubectl --request-timeout=10s get nodes",
        f"kubectl get node {LEAVING}",
        f"kubectl get node {LEAVING}",
        # Should the run end here, and the file ask for the node again, the next deploy uncordons it.
        "kubectl annotate --overwrite node",
        f"kubectl drain {LEAVING} --ignore-daemonsets",
        f"forget {LEAVING}",
        f"kubectl delete node {LEAVING}",
    ]


def test_nodes_stay_while_the_initial_control_plane_is_off(run: Callable[..., tuple[int, str, list[str]]]) -> None:
    """The stage after this one starts it, and the next deploy removes them."""
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    code, said, calls = run(q8s_status="SHUTOFF", **away)
    assert code == 2 and calls == [], said
    assert "it went on, and surplus servers are kept" in said, said
    assert (
        f"These nodes are not removed yet: {LEAVING}. {INITIAL}, which drains them, was SHUTOFF. Deploy again" in said
    )
    code, said, calls = run(q8s_status="ACTIVE")
    assert code == 0 and "surplus servers are deleted" in said and f"kubectl delete node {LEAVING}" in calls, said


def test_dead_members_of_etcd_go_before_one_that_leaves(
    run: Callable[..., tuple[int, str, list[str]]], tmp_path: Path
) -> None:
    """With the server of another one gone, etcd would keep the one that leaves."""
    gone = "demo-control-plane-3"
    (tmp_path / "calls.nodes").write_text(f"{INITIAL} True\n{LEAVING} True\n{gone} Unknown\n")
    code, said, calls = run()
    assert code == 0 and [call for call in calls if call.startswith("forget")] == [
        f"forget {gone}",
        f"forget {LEAVING}",
    ], said


def test_one_that_etcd_keeps_stays_as_it_is(run: Callable[..., tuple[int, str, list[str]]], tmp_path: Path) -> None:
    """Its copy of the cluster's data is one of those that make the majority."""
    (tmp_path / "calls.keeps").touch()
    code, said, calls = run(answers=True)
    assert calls.index("crictl stop --timeout=20 4711") < calls.index(f"forget {LEAVING}"), "it fails without etcd"
    assert calls[-1] == "systemctl start kubelet.service", "which starts its API server again"
    assert code == 2 and f"it went on, and surplus servers are deleted {LEAVING}" in said, "that one's server is kept"
    assert f"kubectl delete node {LEAVING}" not in calls
    assert "TASK [Record that control planes leave]" not in said and "TASK [Reset control planes" not in said
    assert f"{LEAVING} was not removed, and its server stays." in said
    assert "etcd removes no member now: etcdserver: unhealthy cluster. etcd keeps a control plane while its" in said
    assert "Deploy again when all others are Ready" in said and "control_plane_drain_timeout" not in said


def test_one_that_cannot_be_drained_stays_and_the_others_go(run: Callable[..., tuple[int, str, list[str]]]) -> None:
    code, said, calls = run("held", "free")
    assert code == 2 and "it went on, and surplus servers are deleted demo-held" in said, said
    assert "kubectl delete node free" in " ".join(calls) and "kubectl delete node held" not in " ".join(calls)
    assert "held was not removed, and its server stays. Drain the node: error: Cannot evict pod" in said
    assert "control_plane_drain_timeout=SECONDS" in said


@pytest.mark.parametrize(
    ("arguments", "goes"),
    [
        ([], True),
        (["--tags", "cloud"], False),
        (["--skip-tags", "surplus"], False),
        (["--tags", "cloud,surplus"], True),
    ],
)
def test_servers_go_only_where_their_nodes_are_drained(tmp_path: Path, arguments: list[str], goes: bool) -> None:
    (stage,) = yaml.safe_load((REPOSITORY / PREFLIGHT).read_text())
    (task,) = [task for task in stage["tasks"] if task["name"] == "Decide whether surplus servers are removed"]
    show = {"ansible.builtin.debug": {"msg": "surplus goes: {{ q8s_surplus_goes }}"}}
    stage |= {"tasks": [task, show], "vars": {"q8s_confirmed": True}}
    (tmp_path / "play.yml").write_text(json.dumps([stage]))
    (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": {"localhost": {}}}}))
    copy_collections(tmp_path)
    done = play(tmp_path, tmp_path / "play.yml", *arguments)
    assert f"surplus goes: {goes}" in done.stdout, done.stdout + done.stderr
