"""Waiting for a guest: a guest that hangs, and a guest that runs without its sshd."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = (
    Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/emulated_worker/files/await_guest.py"
)


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("await_guest", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, script: Any) -> Iterator[Callable[[bytes | None], None]]:
    """Let the guest's port of ssh greet with these bytes, or refuse connections (None)."""
    servers: list[socket.socket] = []
    connect = socket.create_connection

    def start(greeting: bytes | None) -> None:
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()
        servers.append(server)
        if greeting is not None:
            server.listen()

            def accept() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(greeting)

            threading.Thread(target=accept, daemon=True).start()
        monkeypatch.setattr(script.socket, "create_connection", lambda _, timeout: connect(address, timeout))

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(("greeting", "who"), [(b"SSH-2.0-x\r\n", "sshd"), (b"HTTP/1.1", "kernel"), (None, "kernel")])
def test_who_answers(script: Any, serve: Callable[[bytes | None], None], greeting: bytes | None, who: str) -> None:
    serve(greeting)
    assert script.answer("192.0.2.1") == who


def test_nobody_answers_for_a_guest_that_hangs(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(script.socket, "create_connection", unreachable)
    assert script.answer("192.0.2.1") == "nobody"


class Machine:
    """A running machine whose QEMU never uses the CPU. Records what virsh was asked to do."""

    def __init__(self, script: Any, monkeypatch: pytest.MonkeyPatch, who: list[str]) -> None:
        self.calls: list[str] = []
        self.now = 0.0
        answers = iter(who)
        last = who[-1]
        monkeypatch.setattr(script, "answer", lambda _: next(answers, last))
        monkeypatch.setattr(script, "busy_seconds", lambda _: 0.0)
        self.printed_until = 0.0
        monkeypatch.setattr(script, "console", lambda _: b"." * int(min(self.now, self.printed_until)))
        monkeypatch.setattr(script, "last_words", lambda _: "")
        monkeypatch.setattr(script, "virsh", self.virsh)
        monkeypatch.setattr(script.time, "sleep", self.sleep)
        monkeypatch.setattr(script.time, "monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def virsh(self, *arguments: str) -> str:
        if arguments[0] != "domstate":
            self.calls.append(arguments[0])
        return "running"


def test_an_idle_guest_that_nobody_answers_for_is_reset(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["nobody"] * 40 + ["sshd"])
    assert script.main("guest", "192.0.2.1", 600) == {"resets": 1, "ended": []}
    assert machine.calls == ["reset"]


def test_an_idle_guest_whose_kernel_answers_is_left_alone(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["kernel"])
    with pytest.raises(SystemExit, match="no ssh after 601 s, but its kernel answers"):
        script.main("guest", "192.0.2.1", 600)
    assert machine.calls == []


@pytest.mark.parametrize(("printed_until", "ends"), [(0, 601), (1000, 1803), (1e9, 3601)])
def test_a_guest_that_prints_is_waited_for(
    script: Any, monkeypatch: pytest.MonkeyPatch, printed_until: float, ends: float
) -> None:
    machine = Machine(script, monkeypatch, ["kernel"])
    machine.printed_until = printed_until
    with pytest.raises(SystemExit, match=f"no ssh after {ends} s"):
        script.main("guest", "192.0.2.1", 600)
