"""Removal of what a deleted control plane left in etcd and Kubernetes."""

from __future__ import annotations

import email.message
import importlib.util
import io
import json
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files/forget.py"
MEMBERS = [
    {"ID": "1", "name": "cp", "peerURLs": ["https://10.0.0.1:2380"]},
    {"ID": "2", "name": "cp-2", "peerURLs": ["https://10.0.0.2:2380"]},
    # added by an interrupted kubeadm join, and never started
    {"ID": "9", "peerURLs": ["https://10.0.0.9:2380"]},
]


@pytest.fixture
def forget() -> Any:
    spec = importlib.util.spec_from_file_location("forget", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "address", "dead"),
    [("cp", "10.0.0.7", ["1"]), ("cp-3", "10.0.0.9", ["9"]), ("cp-3", "10.0.0.2", []), ("cp-3", "10.0.0.8", [])],
)
def test_only_members_of_that_server_are_dead(forget: Any, name: str, address: str, dead: list[str]) -> None:
    assert [member["ID"] for member in forget.members_of(MEMBERS, name, address)] == dead


@pytest.mark.parametrize("check", [False, True])
def test_member_and_node_are_removed(
    forget: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], check: bool
) -> None:
    calls: list[str] = []

    def ask(method: str, **request: str) -> dict[str, Any]:
        calls.extend([f"{method} {request['ID']}"] if request else [])
        return {"members": MEMBERS}

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.extend([" ".join(command[3:5])] if command[3] == "delete" else [])
        return subprocess.CompletedProcess(command, 0, "node/cp\n")

    monkeypatch.setattr(forget, "ask", ask)
    monkeypatch.setattr(forget.subprocess, "run", run)
    monkeypatch.setattr(forget.os.path, "exists", lambda path: path == "/etc/kubernetes/q8s/initialised")
    forget.main("cp", "10.0.0.7", *(["--check"] if check else []))
    assert capsys.readouterr().out == "member 1 of etcd, cp\nnode/cp\n"
    assert calls == ([] if check else ["remove 1", "delete node/cp"])


@pytest.mark.parametrize(
    ("name", "address", "said"), [("cp-2", "10.0.0.2", ""), ("cp-2", "10.0.0.8", ""), ("cp-3", "10.0.0.3", "no\n")]
)
def test_a_server_that_etcd_no_longer_has_is_told_from_a_member(
    forget: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, address: str, said: str
) -> None:
    monkeypatch.setattr(forget, "ask", lambda method: {"members": MEMBERS})
    monkeypatch.setattr(forget.os.path, "exists", lambda path: True)
    forget.main(name, address, "--is-member")
    assert capsys.readouterr().out == said


def test_while_etcd_does_not_answer_a_server_stays_a_member(
    forget: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(method: str) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(forget, "ask", refuse)
    monkeypatch.setattr(forget.os.path, "exists", lambda path: True)
    forget.main("cp-3", "10.0.0.3", "--is-member")
    assert capsys.readouterr().out == ""


def test_without_a_cluster_there_is_nothing_to_remove(
    forget: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forget.os.path, "exists", lambda path: False)
    forget.main("cp", "10.0.0.7")
    assert capsys.readouterr().out == ""


def test_a_member_that_etcd_keeps_is_named_with_its_reason_and_its_node_stays(
    forget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(method: str, **request: str) -> dict[str, Any]:
        if method == "remove":
            answer = io.BytesIO(json.dumps({"code": 14, "message": "etcdserver: unhealthy cluster"}).encode())
            raise urllib.error.HTTPError("https://127.0.0.1", 503, "Unavailable", email.message.Message(), answer)
        return {"members": MEMBERS}

    monkeypatch.setattr(forget, "ask", ask)
    monkeypatch.setattr(forget.subprocess, "run", lambda *_, **__: pytest.fail("the node was looked for"))
    monkeypatch.setattr(forget.os.path, "exists", lambda path: True)
    with pytest.raises(SystemExit) as ended:
        forget.main("cp-2", "10.0.0.2")
    assert ended.value.code == "etcd removes no member now: etcdserver: unhealthy cluster"
