"""``verify`` shows what the pods of the other nodes return, whatever one node does.

Ansible runs the real playbook on this machine, with a program in the place of kubectl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import copy_collections, play

INITIAL = "demo-control-plane"
NODES = (INITIAL, "x86-small-1", "arm-mid-1")
# The node, the pod or the request that the file "fails" names does not work.
KUBECTL = """\
#!{python}
import json, pathlib, sys
root = pathlib.Path("{root}")
fails = json.loads((root / "fails").read_text())
kind, command = fails["kind"], sys.argv[3:]
with (root / "calls").open("a") as calls:
    print(*command, file=calls)
if command[:2] == ["get", "nodes"] and "jsonpath" in command[2]:
    print("\\n".join(f"{{n}}={{'Unknown' if (kind, n) == ('node', fails['name']) else 'True'}}" for n in {nodes}))
elif command[:2] == ["get", "nodes"]:
    print(json.dumps({{"items": []}}))
elif command[:2] == ["get", "pods"]:
    manifest = (root / "etc/q8s/verify.yaml").read_text().splitlines()
    for name in dict.fromkeys(line.split()[1] for line in manifest if "name: probe-" in line):
        print(f"{{name}}={{'False' if (kind, name) == ('pod', 'probe-' + fails['name']) else 'True'}}")
elif command[0] == "wait" and kind == "pod":
    sys.exit("error: timed out waiting for the condition")
elif command[0] == "logs":
    print("it is", command[1])
elif command[0] == "exec" and kind == "request" and fails["name"] in command[1]:
    sys.exit("no route to host")
elif command[0] == "exec":
    print("served by", command[-1])
"""


@pytest.fixture
def verify(tmp_path: Path) -> Callable[[str, str], tuple[int, str, str]]:
    """Verify a cluster in which something fails; return Ansible's exit code, its output, and calls of kubectl."""
    replacements = {
        "/var/lib/q8s/bin/kubectl": f"{tmp_path}/kubectl",
        "/etc/kubernetes": f"{tmp_path}/etc",
        "/var/lib/q8s": str(tmp_path),
        "delay: 2": "delay: 0",
    }
    copy = copy_collections(tmp_path, replacements, ["q8s/emu/playbooks/**/*.yml"])
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable, root=tmp_path, nodes=NODES))
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "etc" / "q8s").mkdir(parents=True)
    (tmp_path / "manifest.json").write_text(json.dumps({"pod_images": {"probe": "probe:1"}}))
    variables = {
        **_inventory.cluster_variables(_spec.load_file(str(REPOSITORY / "examples" / "demo.yaml")), None),
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_become": False,
        "q8s_environment": {},
        "q8s_expected_nodes": list(NODES),
        "q8s_measure_links": False,
    }
    hosts: dict[str, Any] = {INITIAL: {"q8s_node_name": INITIAL}}
    groups = {name: {"hosts": {INITIAL: {}}} for name in ("control_plane", "control_plane_initial")}
    (tmp_path / "inventory.yml").write_text(
        json.dumps({"all": {"hosts": hosts, "vars": variables, "children": groups}})
    )

    def run(kind: str, name: str) -> tuple[int, str, str]:
        (tmp_path / "fails").write_text(json.dumps({"kind": kind, "name": name}))
        done = play(tmp_path, copy / "q8s/emu/playbooks/verify.yml")
        return done.returncode, " ".join((done.stdout + done.stderr).split()), (tmp_path / "calls").read_text()

    return run


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("node", "arm-mid-1: no pod was run, because the node is not Ready"),
        ("pod", "arm-mid-1: its pod was not Ready within 10 minutes"),
        ("request", f"arm-mid-1 -> {INITIAL}: the request failed"),
    ],
)
def test_one_node_hides_no_other(verify: Callable[[str, str], tuple[int, str, str]], kind: str, words: str) -> None:
    code, said, calls = verify(kind, "arm-mid-1")
    assert code == 2 and words in said.partition("Failed to find what the cluster file promises:")[2], said
    for name in (INITIAL, "x86-small-1"):
        assert f"{name}: it is probe-{name}" in said
    assert f"x86-small-1 -> http://probe-{INITIAL}:8080/: served by" in said
    assert calls.splitlines()[-1].startswith("delete namespace q8s-verify"), "the pods are removed"


def test_all_pods_answer(verify: Callable[[str, str], tuple[int, str, str]]) -> None:
    _code, said, _calls = verify("", "")
    assert f"arm-mid-1 -> http://probe-{INITIAL}:8080/: served by" in said
    assert "no pod was run" not in said and "the request failed" not in said
