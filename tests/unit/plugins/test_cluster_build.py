"""The action plugin that builds bundles on a server: its commands, run in a local shell with stub programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.q8s.emu.plugins.action import cluster_build
from ansible_collections.q8s.emu.plugins.action.cluster_build import Order

from q8s_bundle.node import toolchain
from q8s_lab.machine import wait
from q8s_wrapper.config import REPOSITORY

TASKS = "collections/ansible_collections/q8s/emu/playbooks/tasks"

# A systemd of a kind: a unit runs in the background, and is active while its process lives.
SYSTEMD_RUN = """#!/bin/sh
echo "$*" >>"$UNIT_PID.arguments"
while [ "${1#--}" != "$1" ]; do
    case $1 in --property=EnvironmentFile=*) set -a; . "${1#--property=EnvironmentFile=}"; set +a;; esac
    shift
done
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
case "$*" in *--check) echo noise >&2; echo "{\\"missing\\": [$MISSING]}"; exit 0;; esac
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

    def _low_level_execute_command(self, cmd: str, in_data: bytes | None = None, **_: object) -> dict[str, Any]:
        if self.breaks:
            self.breaks -= 1
            raise AnsibleConnectionFailure("lost")
        if in_data is not None:
            plain = subprocess.run(
                ["sh", "-c", cmd], env=self._environment, input=in_data, capture_output=True, check=False
            )
            return {"rc": plain.returncode, "stdout": plain.stdout.decode(), "stderr": plain.stderr.decode()}
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


def test_a_command_that_is_repeated_starts_one_build(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    """The connection was lost after the server had started the build, before it answered."""
    build(tmp_path, "sleep 1")
    here = Here(environment)
    here._start(order)
    here._shell("start the build", order.start)
    assert here._follow(order)[0] == 0
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
    waits = [event["text"] for event in shown if isinstance(event, dict) and event["event"] == "line"]
    assert len(waits) == 1, "it is said once"
    assert waits[0].startswith(f"waiting for another build on the server to end: {order.name} ")
    assert "systemctl stop q8s-build.service" in waits[0]


def test_a_build_with_another_environment_is_another_build(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    """After a corrected proxy, the build with the wrong one is not followed."""
    build(tmp_path, 'sleep 0.5; echo "$GOPROXY"')
    Here(environment)._start(order)
    corrected = Order(order.arguments, order.sources, order.directory, {"GOPROXY": "https://proxy.example.org"})
    here = Here(environment)
    here._start(corrected)
    assert here._follow(corrected)[0] == 0
    assert (tmp_path / "answer.json").read_text() == "https://proxy.example.org\n"


def test_what_go_left_is_removed_after_a_good_build(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    old, recent, left = tmp_path / "sources-old", tmp_path / "sources-recent", tmp_path / ".cache/go-build"
    for folder in (old, recent, left):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    mine = Order(order.arguments, str(tmp_path / "sources-mine"), order.directory, {})
    Path(mine.sources).mkdir()
    os.utime(mine.sources, (0, 0))
    script = (
        'mkdir -p "$GOMODCACHE/m" "$GOCACHE"; touch "$GOTMPDIR/x" "$GOMODCACHE/m/f"; chmod a-w "$GOMODCACHE/m"; exit '
    )
    for code, kept in ((1, True), (0, False)):
        build(tmp_path, script + str(code))
        here = Here(environment)
        here._start(mine)
        assert here._follow(mine)[0] == code
        assert wait(lambda here=here: not here._running(mine), 10)
        assert {folder.exists() for folder in (tmp_path / "go", left, old)} == {kept}
        assert recent.exists() and Path(mine.sources).exists()


@pytest.mark.parametrize(
    ("missing", "source", "free", "said"),
    [
        ([], "auto", 0, None),
        (["bundle-aarch64", "control-plane-x86_64", "image-aarch64"], "auto", 12e9, None),
        (["bundle-aarch64", "control-plane-x86_64", "image-aarch64"], "auto", 5e9, "warning"),
        (["bundle-aarch64", "control-plane-x86_64", "image-aarch64"], "upstream", 5e9, None),
        (["bundle-aarch64", "control-plane-x86_64", "image-aarch64"], "auto", 4e9, "error"),
        (["bundle-aarch64", "control-plane-x86_64", "image-aarch64"], "source", 11e9, "error"),
        (["bundle-x86_64", "control-plane-x86_64"], "source", 7.1e9, None),
    ],
)
def test_the_free_space_is_checked_before_a_build(
    missing: list[str],
    source: str,
    free: float,
    said: str | None,
    tmp_path: Path,
    environment: dict[str, str],
    shown: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A disk of a size that the machine of the test does not have.
    (tmp_path / "df").write_text(f"#!/bin/sh\necho Avail; echo {free:.0f}\n")
    (tmp_path / "df").chmod(0o755)
    warnings: list[str] = []
    monkeypatch.setattr(cluster_build.Display, "warning", lambda _self, text: warnings.append(text))
    build(tmp_path, "exit 0")
    order = Order(["ensure", f"--source={source}"], str(tmp_path), str(tmp_path), {})
    here = Here({**environment, "MISSING": ", ".join(f'"{name}"' for name in missing)})
    if said == "error":
        with pytest.raises(AnsibleActionFail, match=r"Failed to build on the server: .* GB of free space .*\nhint: "):
            here._start(order)
        assert not (tmp_path / "runs").exists()
    else:
        here._start(order)
        assert here._follow(order)[0] == 0
    assert bool(warnings) is (said == "warning")
    if warnings:
        assert f"{tmp_path} has 5.0 GB of free space on the server" in warnings[0]
        assert "needs about 11.5 GB, or 4.5 GB if upstream's releases can be downloaded" in warnings[0]


def test_what_go_has_downloaded_counts_as_free(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    here = Here(environment)
    before = sum(map(int, here._shell("look", order.space).split()))
    (tmp_path / "go").mkdir()
    (tmp_path / "go/module").write_bytes(b"x" * (64 << 20))
    free, kept = map(int, here._shell("look", order.space).split())
    assert kept >= 64 << 20 and abs(free + kept - before) < 4e9


def test_passwords_of_the_environment_are_in_no_argument(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    secret = "https://ada:s3cr\"e$t`\\'x@proxy.example.org"
    build(tmp_path, f'stat --format=%a {tmp_path}/environment 2>&1; printf "%s" "$GOPROXY"')
    private = Order(order.arguments, order.sources, order.directory, {"GOPROXY": secret})
    here = Here(environment)
    here._shell("write", private.keep_environment, private.environment_file.encode())
    assert (tmp_path / "environment").stat().st_mode & 0o777 == 0o600
    here._start(private)
    assert here._follow(private)[0] == 0
    said, _, value = (tmp_path / "answer.json").read_text().partition("\n")
    assert "No such file" in said, "the file is removed when the build has read it"
    assert value == secret
    assert "s3cr" not in (tmp_path / "pid.arguments").read_text() + private.start + private.name


@pytest.mark.parametrize(
    ("proxy", "installed"),
    [
        ("", True),
        ("direct", True),
        ("off", True),
        ("http://proxy.example.org", True),
        ("file:///srv/proxy,direct", True),
        ("https://ada:secret@proxy.example.org/go", True),
        ("https://proxy.example.org", False),
        ("http://proxy.example.org|https://proxy.example.org:8443/go,direct", False),
        ("https://ada:secret@proxy.example.org, https://proxy.example.org/@go", False),
    ],
)
def test_go_is_installed_unless_the_build_can_fetch_it(
    proxy: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", proxy)
    monkeypatch.setattr(toolchain, "_installed", lambda: iter(()))
    tasks = yaml.safe_load((REPOSITORY / TASKS / "build_on_cluster.yml").read_text())
    packages = next(task["vars"]["q8s_go_packages"] for task in tasks if task["name"] == "Install what a build needs")
    expression = packages.replace("lookup('ansible.builtin.env', 'GOPROXY')", "proxy")
    assert expression != packages
    templar = Templar(DataLoader(), variables={"proxy": proxy})
    assert templar.template(trust_as_template(expression)) == (["golang-go"] if installed else [])
    fetched = [url for url in toolchain._proxies() if url.startswith("https:")]
    assert bool(fetched) is not installed, "as the build decides"


def test_a_command_that_fails_is_no_lost_connection(
    tmp_path: Path, environment: dict[str, str], order: Order, shown: list[object]
) -> None:
    build(tmp_path, "exit 0")
    (tmp_path / "systemd-run").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n")
    with pytest.raises(AnsibleActionFail, match=r"^Failed to start the build on the server: Failed to connect to bus$"):
        Here(environment)._start(order)
    assert not (tmp_path / "environment").exists()


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
