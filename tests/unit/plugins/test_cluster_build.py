"""The action plugin that builds bundles on a server: its commands, run in a local shell with stub programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.q8s.emu.plugins.action import cluster_build
from ansible_collections.q8s.emu.plugins.action.cluster_build import Order

# A systemd of a kind: a unit runs in the background, and is active while its process lives.
SYSTEMD_RUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do case $1 in --setenv=*) export "${1#--setenv=}";; esac; shift; done
trap '' HUP  # the terminal goes, and the unit stays
"$@" & echo $! >"$UNIT_PID"
"""
SYSTEMCTL = """#!/bin/sh
case "$*" in
*reset-failed*) exit 0;;
*show*) echo oom-kill; exit 0;;
esac
if [ -s "$UNIT_PID" ] && kill -0 "$(cat "$UNIT_PID")" 2>/dev/null; then [ "$1" = --quiet ] || echo active; exit 0; fi
[ "$1" = --quiet ] || echo inactive; exit 3
"""
PYTHON = """#!/bin/sh
echo '{"event": "step", "text": "build it"}' >&2
echo run >>"$RUNS"
{script}
"""


class Here(cluster_build.ActionModule):
    """The plugin, on this machine."""

    def __init__(self, environment: dict[str, str], breaks: int = 0) -> None:
        self._environment = environment
        self._connection = SimpleNamespace(reset=lambda: None)
        self.breaks = breaks

    def _low_level_execute_command(self, cmd: str, **_: object) -> dict[str, Any]:
        if self.breaks:
            self.breaks -= 1
            raise AnsibleConnectionFailure("lost")
        # On a terminal, as Ansible's ssh asks for one when it has nothing to send.
        command = ["script", "--quiet", "--return", "--command", cmd, "/dev/null"]
        done = subprocess.run(
            command, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    events: list[object] = []
    monkeypatch.setattr(cluster_build, "show", events.append)
    monkeypatch.setattr(cluster_build, "_PAUSE", 0.05)
    return events


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Programs of the test's own ahead of the machine's; a build is what ``python3`` does."""
    for name, text in (("systemd-run", SYSTEMD_RUN), ("systemctl", SYSTEMCTL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    unit, runs = str(tmp_path / "pid"), str(tmp_path / "runs")
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "UNIT_PID": unit, "RUNS": runs}


@pytest.fixture
def order(tmp_path: Path) -> Order:
    return Order(["ensure", "--arch=x86_64"], str(tmp_path), str(tmp_path), {"GOPROXY": "a b", "https_proxy": ""})


def build(tmp_path: Path, script: str) -> None:
    (tmp_path / "python3").write_text(PYTHON.replace("{script}", script))
    (tmp_path / "python3").chmod(0o755)


def test_progress_and_answer(tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]) -> None:
    build(tmp_path, 'sleep 0.2; echo "$GOPROXY $Q8S_CACHE $*"')
    here = Here(environment)
    here._start(order)
    assert here._follow(order)[0] == 0
    assert shown == [{"event": "step", "text": "build it"}]
    answer = (tmp_path / "answer.json").read_text()
    assert answer == f"a b {tmp_path}/cache -m q8s_bundle ensure --arch=x86_64\n"


def test_no_line_of_the_progress_is_lost(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    events = "".join(f'echo \'{{"event": "note", "text": "{number}"}}\' >&2; sleep 0.1\n' for number in range(12))
    build(tmp_path, events)
    here = Here(environment)
    here._start(order)
    assert here._follow(order) == (0, "the build exited with code 0")
    assert shown == [{"event": "step", "text": "build it"}] + [
        {"event": "note", "text": str(number)} for number in range(12)
    ]


def test_a_build_that_is_running_is_followed(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    build(tmp_path, "sleep 1")
    Here(environment)._start(order)
    again = Here(environment, breaks=2)
    again._start(order)
    assert again._follow(order)[0] == 0
    assert shown == [{"event": "step", "text": "build it"}]
    assert (tmp_path / "runs").read_text() == "run\n"


def test_another_build_ends_first(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    build(tmp_path, "sleep 0.5")
    Here(environment)._start(order)
    other = Order(["ensure", "--arch=aarch64"], order.sources, order.directory, {})
    here = Here(environment)
    here._start(other)
    assert here._follow(other)[0] == 0
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'Failed to build it: no gcc' >&2; exit 1", "Failed to build it: no gcc"),
        # Killed, with the shell that would have written the exit code.
        ("kill -9 $PPID; sleep 0.1", "the build on the server ended without a result (q8s-build.service: oom-kill)"),
    ],
)
def test_a_failure_is_explained(
    script: str, message: str, tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    build(tmp_path, script)
    here = Here(environment)
    here._start(order)
    assert here._follow(order) == (1, message)


def test_a_server_that_stays_away_is_a_failure(
    environment: dict[str, str], order: Order, shown: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_build, "_LOST_SECONDS", 0)
    with pytest.raises(AnsibleConnectionFailure, match="lost"):
        Here(environment, breaks=99)._start(order)
