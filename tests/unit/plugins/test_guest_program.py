"""Waiting for a guest and watching it: one that hangs, one without its sshd, one whose QEMU ended."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/emulated_worker/files/guest.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("guest", SCRIPT)
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


@pytest.mark.parametrize(("greeting", "lacks"), [(b"x", False), (None, True)])
def test_a_guest_that_refuses_the_kubelets_port_has_no_kubelet(
    script: Any, serve: Callable[[bytes | None], None], greeting: bytes | None, lacks: bool
) -> None:
    serve(greeting)
    assert script.lacks_kubelet("192.0.2.1") == lacks


def test_nobody_answers_for_a_guest_that_hangs(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(script.socket, "create_connection", unreachable)
    assert script.answer("192.0.2.1") == "nobody"


class Machine:
    """A running machine whose QEMU never uses the CPU. Records what virsh was asked to do."""

    def __init__(self, script: Any, monkeypatch: pytest.MonkeyPatch, who: list[str]) -> None:
        self.calls: list[str] = []
        self.state = "running"
        self.silent = (0.0, 0.0)  # from when to when libvirt does not answer
        self.now = 0.0
        self.end = float("inf")
        answers = iter(who)
        last = who[-1]
        monkeypatch.setattr(script, "answer", lambda *_: next(answers, last))
        monkeypatch.setattr(script, "has_space", lambda _: self.now >= 600)
        monkeypatch.setattr(script, "busy_seconds", lambda _: 0.0)
        self.printed_until = 0.0
        monkeypatch.setattr(script, "console", lambda _: b"." * int(min(self.now, self.printed_until)))
        monkeypatch.setattr(script, "log_tail", lambda _: "")
        monkeypatch.setattr(script, "virsh", self.virsh)
        monkeypatch.setattr(script, "domstate", self.domstate)
        monkeypatch.setattr(script.time, "sleep", self.sleep)
        monkeypatch.setattr(script.time, "monotonic", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.end:
            raise TimeoutError

    def virsh(self, *arguments: str) -> str:
        if arguments[0] != "domstate":
            self.calls.append(arguments[0])
        return self.state

    def domstate(self, *_: str) -> str:
        return "" if self.silent[0] <= self.now < self.silent[1] else self.state


def test_an_idle_guest_that_nobody_answers_for_is_reset(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["nobody"] * 40 + ["sshd"])
    assert script.wait("guest", "192.0.2.1", 600) == {"resets": 1, "ended": []}
    assert machine.calls == ["reset"]


def test_an_idle_guest_whose_kernel_answers_is_left_alone(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["kernel"])
    with pytest.raises(SystemExit, match="no ssh after 601 s, but its kernel answers"):
        script.wait("guest", "192.0.2.1", 600)
    assert machine.calls == []


@pytest.mark.parametrize(("printed_until", "ends"), [(0, 601), (1000, 1803), (1e9, 3601)])
def test_a_guest_that_prints_is_waited_for(
    script: Any, monkeypatch: pytest.MonkeyPatch, printed_until: float, ends: float
) -> None:
    machine = Machine(script, monkeypatch, ["kernel"])
    machine.printed_until = printed_until
    with pytest.raises(SystemExit, match=f"no ssh after {ends} s"):
        script.wait("guest", "192.0.2.1", 600)


@pytest.mark.parametrize(("panics", "ends"), [(2, 3601), (3, 601)])
def test_a_guest_that_panics_again_and_again_is_not_waited_for(
    script: Any, monkeypatch: pytest.MonkeyPatch, panics: int, ends: float
) -> None:
    """It prints all the time, since it boots again each time."""
    machine = Machine(script, monkeypatch, ["kernel"])
    early = script.PANIC * 9  # of an earlier boot
    printed = script.PANIC * panics
    monkeypatch.setattr(
        script, "console", lambda _: early if machine.now == 0 else early + printed + b"." * int(machine.now)
    )
    with pytest.raises(SystemExit, match=f"no ssh after {ends} s"):
        script.wait("guest", "192.0.2.1", 600)


def test_a_restart_of_libvirt_does_not_end_the_wait(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["kernel"] * 100 + ["sshd"])
    machine.silent = (20, 75)
    assert script.wait("guest", "192.0.2.1", 600) == {"resets": 0, "ended": []}


def test_a_libvirt_that_does_not_answer_ends_the_wait(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["kernel"])
    machine.silent = (20, 1e9)
    machine.printed_until = 1e9
    with pytest.raises(SystemExit, match="guest: libvirt has not told its machine's state for 60 s"):
        script.wait("guest", "192.0.2.1", 600)
    assert machine.now == pytest.approx(81, abs=2)


@pytest.mark.parametrize(
    ("program", "state"),
    [
        ("echo 'running (booted)'", "running (booted)"),
        ("echo 'error: failed to connect to the hypervisor' >&2; exit 1", ""),
    ],
)
def test_what_virsh_says_of_its_failure_is_no_state(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, state: str
) -> None:
    (tmp_path / "virsh").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "virsh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert script.domstate("guest", "--reason") == state


def watched(script: Any, machine: Machine, seconds: float) -> list[str]:
    """Return what virsh was told while the machine was watched for some time."""
    machine.end = machine.now + seconds
    with pytest.raises(TimeoutError):
        script.watch("guest", "192.0.2.1")
    return machine.calls


@pytest.fixture
def silent(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest's kernel does not answer ARP."""
    monkeypatch.setattr(script, "answers_arp", lambda _: False)


@pytest.mark.usefixtures("silent")
def test_a_watched_guest_that_hangs_is_reset_until_it_answers(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["sshd"] * 5 + ["nobody"] * 10 + ["sshd"] * 1000)
    assert watched(script, machine, 3600) == ["reset"]


@pytest.mark.usefixtures("silent")
def test_a_watched_guest_is_reset_three_times_at_most(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["nobody"])
    assert watched(script, machine, 3600) == ["reset"] * 3


@pytest.mark.usefixtures("silent")
def test_a_watched_guest_that_is_busy_is_left_alone(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["nobody"])
    monkeypatch.setattr(script, "busy_seconds", lambda _: 0.5 * machine.now)
    assert watched(script, machine, 3600) == []


def test_a_watched_guest_with_a_firewall_is_left_alone(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["nobody"])
    monkeypatch.setattr(script, "answers_arp", lambda _: True)
    assert watched(script, machine, 3600) == []


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    ("state", "calls"),
    [
        ("shut off (crashed)", ["start"] * 3),
        ("shut off (destroyed)", []),
        ("shut off (shutdown)", []),
        ("paused (user)", []),
        ("paused (I/O error)", ["resume"] * 3),
        ("in shutdown (user)", []),
    ],
)
def test_a_watched_machine_is_started_only_when_its_qemu_ended_or_its_hosts_disk_was_full(
    script: Any, monkeypatch: pytest.MonkeyPatch, state: str, calls: list[str]
) -> None:
    machine = Machine(script, monkeypatch, ["nobody"])
    machine.state = state
    assert watched(script, machine, 3600) == calls


def test_space_is_that_of_the_guests_disk(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "virsh", lambda *_: f"<disk><source file='{tmp_path}/x86-1.qcow2'/></disk>")
    monkeypatch.setattr(script, "SPACE", 1)
    assert script.has_space("x86-1")
    monkeypatch.setattr(script, "SPACE", 1 << 62)
    assert not script.has_space("x86-1")


def test_a_watched_guest_is_not_asked_by_ssh(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(script, monkeypatch, ["kernel"])
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(script, "answer", lambda *given: asked.append(given) or "kernel")
    assert watched(script, machine, 100) == []
    assert {*asked} == {("192.0.2.1", script.CLOSED)}
