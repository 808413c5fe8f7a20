"""``q8s.emu.nodes_ready``: returns as soon as all nodes are Ready, or reports which are not, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.modules import nodes_ready
from ansible_collections.q8s.emu.plugins.modules.nodes_ready import ask, node_problem, wait, waiting

START = "2026-11-27T01:02:03Z"
NODES = [{"name": "cp", "started_at": ""}, {"name": "arm-1", "started_at": START}]


def node(name: str, status: str = "True", reported: str = START, message: str = "") -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "lastHeartbeatTime": reported, "message": message}
    return {"kind": "Node", "metadata": {"name": name}, "status": {"conditions": [{"type": "Other"}, ready]}}


def deployment(status: str, message: str = "") -> dict[str, Any]:
    metadata = {"name": "coredns", "namespace": "kube-system"}
    condition = {"type": "Available", "status": status, "message": message}
    return {"kind": "Deployment", "metadata": metadata, "status": {"conditions": [condition]}}


def test_all_is_ready() -> None:
    items = [node("cp", reported="2026-11-26T00:00:00Z"), node("arm-1"), deployment("True")]
    assert waiting(items, NODES, ["kube-system/coredns"]) == []


def test_what_is_not_ready_is_named_with_its_reason() -> None:
    items = [node("cp", "False", message="cni plugin not initialized"), deployment("False", "no minimum availability")]
    assert waiting(items, NODES, ["kube-system/coredns"]) == [
        "node cp is NotReady: cni plugin not initialized",
        "node arm-1 has not joined the cluster",
        "deployment kube-system/coredns is not Available: no minimum availability",
    ]
    assert waiting([], [], ["kube-system/coredns"]) == ["deployment kube-system/coredns does not exist"]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (node("a", "Unknown", message="Kubelet stopped posting"), "is in an unknown state: Kubelet stopped posting"),
        ({"status": {}}, "is in an unknown state"),
        (node("a", reported="2026-11-27T01:02:02Z"), f"has not reported since its machine was started at {START}"),
        (node("a", reported="2026-11-27T01:02:04Z"), ""),
    ],
)
def test_a_node_that_was_started_must_have_reported_since(found: dict[str, Any], problem: str) -> None:
    assert node_problem(found, START) == problem


def test_one_question_for_nodes_and_deployments() -> None:
    asked = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        asked.append(argv)
        return 0, json.dumps({"items": [node("cp")]}), ""

    assert ask(run, ["kubectl", "-v0"], ["kube-system"]) == ([node("cp")], "")
    assert ask(run, ["kubectl"], []) == ([node("cp")], "")
    assert [argv[:-2] for argv in asked] == [
        ["kubectl", "-v0", "get", "nodes,deployments.apps", "--namespace=kube-system"],
        ["kubectl", "get", "nodes"],
    ]


def test_an_api_server_that_does_not_answer_gives_its_reason() -> None:
    refused = "E1127 memcache.go\nThe connection to the server was refused\n"
    assert ask(lambda argv: (1, "", refused), ["kubectl"], []) == (
        [],
        "the API server does not answer: The connection to the server was refused",
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the time by seconds that pass only while the module sleeps."""
    now = [0.0]
    monkeypatch.setattr(nodes_ready.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(nodes_ready.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def looks(*answers: list[str]) -> Callable[[], list[str]]:
    """Return each answer once, then the last one for ever."""
    given: Iterator[list[str]] = iter(answers)
    return lambda: next(given, answers[-1])


def test_the_wait_ends_when_all_is_ready(clock: list[float]) -> None:
    assert wait(looks(["a", "b"], ["b"], []), 600) == []
    assert clock[0] == 2 * nodes_ready.INTERVAL


def test_the_time_limit_starts_again_with_every_node(clock: list[float]) -> None:
    quiet = [["a", "b"]] * 4 + [["b"]]
    assert wait(looks(*quiet), 10) == ["b"]
    assert clock[0] == 4 * nodes_ready.INTERVAL + 10


def test_an_answer_that_comes_and_goes_is_no_progress(clock: list[float]) -> None:
    flapping = [["a"], ["a", "b"]] * 50
    assert wait(looks(*flapping), 10)
    assert clock[0] == 10


def test_without_time_it_looks_once(clock: list[float]) -> None:
    assert wait(looks(["a"], []), 0) == ["a"]
