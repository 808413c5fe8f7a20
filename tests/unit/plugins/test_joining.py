"""Bootstrap tokens: which nodes need one, and when it is revoked."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.filter.joining_nodes import FilterModule as JoiningNodes
from ansible_collections.q8s.emu.plugins.filter.unready_nodes import FilterModule as UnreadyNodes
from ansible_collections.q8s.emu.plugins.module_utils import _joining, _spec

ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane"
CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
SERVERS = [spec.name for spec in CLUSTER.servers()]
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
GUEST = {"state": "running"}
HOSTS = {
    "demo-control-plane": {},
    "demo-x86-small-1": {"emulated_worker_found": GUEST},
    "demo-arm-mid-1": {"emulated_worker_found": GUEST},
}


def node(name: str, ready: str = "True", reported: str = "2026-11-27T11:58:00Z") -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": reported}
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": [condition]}}


def answer(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"rc": 0, "stdout": json.dumps({"items": list(nodes)}), "stderr": ""}


CONTROL_PLANE, SMALL, ARM = node("demo-control-plane"), node("x86-small-1"), node("arm-mid-1")
ALL = answer(CONTROL_PLANE, SMALL, ARM)


def joining(
    result: dict[str, Any] = ALL, servers: list[str] | None = None, **hosts: dict[str, Any] | None
) -> list[str]:
    known = {**HOSTS, **{name.replace("_", "-"): value for name, value in hosts.items()}}
    present = {name: value for name, value in known.items() if value is not None}
    return _joining.joining_nodes(CLUSTER, present, result, SERVERS if servers is None else servers, NOW)


def test_nobody_needs_a_token_where_all_have_joined() -> None:
    assert joining() == []
    # switched off, or not Ready for another reason: its kubelet has a certificate
    assert joining(answer(CONTROL_PLANE, SMALL, node("arm-mid-1", "Unknown", "2026-11-20T00:00:00Z"))) == []


@pytest.mark.parametrize(
    "result",
    [{"rc": 1, "stdout": "", "stderr": "connection refused"}, {"rc": 0, "stdout": ""}],
    ids=["the API server does not answer", "no cluster yet"],
)
def test_every_worker_may_need_one_where_nothing_is_known(result: dict[str, Any]) -> None:
    assert joining(result) == ["x86-small-1", "arm-mid-1"]


def test_a_node_that_is_not_there_needs_one() -> None:
    assert joining(answer(CONTROL_PLANE, ARM)) == ["x86-small-1"]
    assert joining(answer(CONTROL_PLANE, ARM), ["demo-control-plane", "demo-arm-mid-1"]) == [], "outside the limit"


@pytest.mark.parametrize("ready", ["True", "Unknown"])
def test_a_node_that_was_off_for_a_month_may_have_missed_its_renewal(ready: str) -> None:
    """Where the whole cluster was off, Kubernetes still calls the node Ready."""
    assert joining(answer(CONTROL_PLANE, SMALL, node("arm-mid-1", ready, "2026-10-28T12:00:00Z"))) == ["arm-mid-1"]
    assert joining(answer(CONTROL_PLANE, SMALL, node("arm-mid-1", ready, "2026-10-28T12:00:01Z"))) == []


@pytest.mark.parametrize(
    "host",
    [None, {}, {"emulated_worker_found": {"state": "none"}}, {"emulated_worker_found": {**GUEST, "storage": 5}}],
    ids=["new server", "host was not asked", "new guest", "guest is recreated"],
)
def test_a_new_guest_needs_one_although_its_node_is_there(host: dict[str, Any] | None) -> None:
    assert joining(demo_arm_mid_1=host) == ["arm-mid-1"]


def test_a_guest_that_is_restarted_needs_none() -> None:
    assert joining(demo_arm_mid_1={"emulated_worker_found": {**GUEST, "ram": 512}}) == []


def test_the_filters_take_what_playbooks_have() -> None:
    found = JoiningNodes().filters()["joining_nodes"](
        HOSTS, CLUSTER.to_mapping(), answer(CONTROL_PLANE, SMALL), SERVERS
    )
    assert "arm-mid-1" in found
    unready = UnreadyNodes().filters()["unready_nodes"]
    assert unready(ALL, ["x86-small-1", "arm-mid-1"]) == []
    assert unready(answer(SMALL, node("arm-mid-1", "False")), ["x86-small-1", "arm-mid-1", "gone"]) == [
        "arm-mid-1",
        "gone",
    ]
    assert unready({"rc": 1, "stdout": ""}, ["arm-mid-1"]) == ["arm-mid-1"]


def identity(folder: Path, needs_token: bool, check: bool = False) -> dict[str, Any]:
    script = (ROLE / "files/identity.sh").read_text().replace("/etc/kubernetes", f"{folder}/kubernetes")
    environment = {**os.environ, "CHECK": str(check), "TOKEN": str(needs_token)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def revoke(folder: Path, check: bool = False) -> tuple[str, str]:
    """Run the task that revokes the token. Return what it printed, and kubectl's arguments."""
    (task,) = yaml.safe_load((ROLE / "tasks/revoke_token.yml").read_text())
    kubectl = folder / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$*" >> {folder}/calls\n')
    kubectl.chmod(0o755)
    script = task["ansible.builtin.shell"].replace("/var/lib/q8s/bin/kubectl", str(kubectl))
    script = script.replace("=/etc/kubernetes/q8s", f"={folder}/kubernetes/q8s")
    environment = {**os.environ, "CHECK": str(check)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    calls = folder / "calls"
    return done.stdout.strip(), calls.read_text().strip() if calls.exists() else ""


def test_a_token_lives_until_all_have_joined(tmp_path: Path) -> None:
    first = identity(tmp_path, needs_token=False)["token"]
    assert len(first) == 23, "a cluster that is created now has one in any case"
    own = tmp_path / "kubernetes/q8s"
    (own / "initialised").touch()
    again = identity(tmp_path, needs_token=True)
    assert (again["token"], again["changed"]) == (first, False), "guests that have not joined yet hold it"
    assert revoke(tmp_path, check=True) == ("revoked", "")
    printed, call = revoke(tmp_path)
    assert printed == "revoked" and f"delete secret bootstrap-token-{first[:6]} --ignore-not-found" in call
    assert first[7:] not in call
    assert revoke(tmp_path)[0] == "", "the second deploy changes nothing"
    idle = identity(tmp_path, needs_token=False)
    assert (idle["token"], idle["changed"]) == ("", False)
    assert identity(tmp_path, needs_token=True, check=True)["token"] == ""
    rotated = identity(tmp_path, needs_token=True)
    assert rotated["changed"] and len(rotated["token"]) == 23 and rotated["token"] != first


@pytest.mark.parametrize(
    ("expires", "registered"),
    [("", True), ("2026-11-27T00:00:00Z", True), ("2099-01-01T00:00:00Z", False)],
    ids=["not there", "expired", "valid"],
)
def test_a_token_is_registered_unless_it_is_valid(tmp_path: Path, expires: str, registered: bool) -> None:
    (block,) = yaml.safe_load((ROLE / "tasks/token.yml").read_text())
    (task,) = [task for task in block["block"] if task["name"] == "Register the bootstrap token"]
    kubectl = tmp_path / "kubectl"
    encoded = base64.b64encode(expires.encode()).decode()
    kubectl.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n'
        f"case $* in *get*) printf %s '{encoded}' ;; *apply*) cat > {tmp_path}/applied; echo created ;; esac\n"
    )
    kubectl.chmod(0o755)
    script = task["ansible.builtin.shell"].replace("/var/lib/q8s/bin/kubectl", str(kubectl))
    environment = {**os.environ, "TOKEN_ID": "abcdef", "DRY_RUN": ""}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, input="the Secret", capture_output=True, text=True, check=True
    )
    assert ("created" in done.stdout) == registered
    assert (tmp_path / "applied").exists() == registered
    if registered:
        assert (tmp_path / "applied").read_text() == "the Secret"
    assert "bootstrap-token-abcdef" in (tmp_path / "calls").read_text()
