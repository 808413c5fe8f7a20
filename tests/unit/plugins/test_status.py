"""How each node is, and what to do about it: one row of the table for each way in which a node can be unwell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.node_status import FilterModule
from ansible_collections.q8s.emu.plugins.module_utils import _spec

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml")).to_mapping()
CONTROL_PLANE, HOST, WORKER = "demo-control-plane", "demo-arm-mid-1", "arm-mid-1"
UNREACHABLE = {"unreachable": True, "msg": "Failed to connect to the host via ssh:\nConnection timed out"}


def node(name: str, ready: str = "True", **spec: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "message": "Kubelet stopped posting node status."}
    machine = {"architecture": "arm64", "kubeletVersion": "v1.36.3"}
    status = {"conditions": [{"type": "DiskPressure", "status": "False"}, condition], "nodeInfo": machine}
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def answer(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"rc": 0, "stdout": json.dumps({"items": list(nodes)}), "stderr": ""}


def server(**more: Any) -> dict[str, Any]:
    return {"q8s_server_id": "1", "q8s_status": "ACTIVE", "q8s_private_ip": "10.254.1.3", **more}


NODES = [node(CONTROL_PLANE), node("x86-small-1"), node(WORKER)]
RUNNING = {"rc": 0, "stdout": "running\n\n"}
WELL = {
    CONTROL_PLANE: server(q8s_kubernetes=answer(*NODES)),
    "demo-x86-small-1": server(q8s_domain=RUNNING),
    "x86-small-1": {"q8s_host": "demo-x86-small-1"},
    HOST: server(q8s_domain=RUNNING),
    WORKER: {"q8s_host": HOST},
}


def table(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    rows = FilterModule().filters()["node_status"](hosts, CLUSTER)
    return {row["node"]: row for row in rows}


def test_all_is_well() -> None:
    rows = table(WELL)
    assert list(rows) == [CONTROL_PLANE, "x86-small-1", WORKER]
    assert rows[WORKER] == {
        "node": WORKER,
        "host": HOST,
        "architecture": "aarch64",
        "address": "10.254.1.3",
        "server": "ACTIVE",
        "guest": "running",
        "kubernetes": "Ready",
        "version": "v1.36.3",
        "problem": "",
        "hint": "",
    }
    assert rows[CONTROL_PLANE]["guest"] == "" and {row["problem"] for row in rows.values()} == {""}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in WELL.items() if key != name}


def with_nodes(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {**WELL, CONTROL_PLANE: server(q8s_kubernetes=answer(*nodes))}


@pytest.mark.parametrize(
    ("hosts", "columns", "problem", "hint"),
    [
        (without(HOST), ("absent", "unknown", "Ready"), "has no server demo-arm-mid-1", "makes the server"),
        (
            {**WELL, HOST: server(q8s_status="ERROR", q8s_fault="No valid host was found")},
            ("ERROR", "unknown", "Ready"),
            "is in ERROR: No valid host was found",
            "--yes",
        ),
        ({**WELL, HOST: server(q8s_status="SHUTOFF")}, ("SHUTOFF", "unknown", "Ready"), "switched off", "starts"),
        ({**WELL, HOST: server(q8s_status="PAUSED")}, ("PAUSED", "unknown", "Ready"), "is PAUSED", "to ACTIVE"),
        (
            {**WELL, HOST: server(q8s_domain=UNREACHABLE)},
            ("ACTIVE", "unknown", "Ready"),
            "does not answer ssh: Connection timed out",
            "console log",
        ),
        (
            {**WELL, HOST: server(q8s_domain={"rc": 1, "stdout": "", "stderr": "error: failed to get domain"})},
            ("ACTIVE", "absent", "Ready"),
            "has no guest",
            "makes the guest",
        ),
        (
            {**WELL, HOST: server(q8s_domain={"rc": 0, "stdout": "shut off\n"})},
            ("ACTIVE", "shut off", "Ready"),
            "the guest arm-mid-1 is shut off",
            "starts the guest",
        ),
        (with_nodes(*NODES[:2]), ("ACTIVE", "running", "absent"), "has not joined", "q8s-run logs FILE arm-mid-1"),
        (
            with_nodes(*NODES[:2], node(WORKER, "Unknown")),
            ("ACTIVE", "running", "Unknown"),
            "Kubelet stopped posting",
            "q8s-run replace",
        ),
        (with_nodes(*NODES[:2], node(WORKER, "False")), ("ACTIVE", "running", "NotReady"), "NotReady", "q8s-run logs"),
        (
            with_nodes(*NODES[:2], node(WORKER, unschedulable=True)),
            ("ACTIVE", "running", "Ready"),
            "cordoned",
            "kubectl uncordon arm-mid-1",
        ),
        (without(CONTROL_PLANE), ("ACTIVE", "running", "unknown"), "no control plane was there", ""),
        (
            {**WELL, CONTROL_PLANE: server(q8s_kubernetes=UNREACHABLE)},
            ("ACTIVE", "running", "unknown"),
            "no control plane can be reached",
            "",
        ),
        (
            {**WELL, CONTROL_PLANE: server(q8s_kubernetes={"rc": 1, "stdout": "", "stderr": "connection refused"})},
            ("ACTIVE", "running", "unknown"),
            "the API server does not answer (connection refused)",
            "",
        ),
        (
            {**WELL, CONTROL_PLANE: server(q8s_kubernetes={"rc": 127, "stdout": "", "stderr": "not found"})},
            ("ACTIVE", "running", "unknown"),
            "the control plane has no kubectl yet",
            "",
        ),
    ],
)
def test_what_is_wrong_and_what_to_do(
    hosts: Mapping[str, Any], columns: tuple[str, str, str], problem: str, hint: str
) -> None:
    row = table(hosts)[WORKER]
    assert (row["server"], row["guest"], row["kubernetes"]) == columns
    assert problem in row["problem"] and hint in row["hint"]


def test_a_control_plane_that_does_not_answer_is_told_on_its_own_row() -> None:
    row = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes=UNREACHABLE)})[CONTROL_PLANE]
    assert row["problem"].startswith("the host demo-control-plane does not answer ssh")
    row = table({**WELL, CONTROL_PLANE: server(q8s_kubernetes={"rc": 1, "stderr": "refused"})})[CONTROL_PLANE]
    assert "does not answer (refused)" in row["problem"] and "q8s-run logs" in row["hint"]


def test_any_control_plane_may_answer() -> None:
    silent = server(q8s_kubernetes=UNREACHABLE)
    rows = table({"other": silent, **WELL})
    assert rows[WORKER]["problem"] == ""


def test_what_the_file_does_not_ask_for() -> None:
    hosts = {**with_nodes(*NODES, node("gone-1")), "demo-arm-mid-2": server(q8s_status="ACTIVE")}
    rows = table(hosts)
    assert "does not ask for the server demo-arm-mid-2" in rows["demo-arm-mid-2"]["problem"]
    assert "node gone-1 that the cluster file does not ask for" in rows["gone-1"]["problem"]
    assert rows["gone-1"]["hint"] == "kubectl delete node gone-1"
