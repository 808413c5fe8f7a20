"""A deploy that is interrupted or killed while it makes a server: nothing goes on behind the user's back, and the next
one finds what there is. No deploy here goes further than to the cloud's part.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from q8s_lab.machine import start_time, wait
from q8s_wrapper.config import REPOSITORY

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab

Q8S_RUN = Path(sys.executable).with_name("q8s-run")
AFTER_THE_CLOUD = "Wait for SSH"
Start = Callable[[], subprocess.Popen[str]]


def working_on(cluster: Cluster) -> list[str]:
    """Command lines of all processes that know of the cluster's file."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_text().replace("\0", " ")
        except OSError:
            continue  # it has just ended
        if str(cluster.file(0)) in words:
            found.append(words)
    return found


def servers(cloud: Any, cluster: Cluster) -> list[str]:
    return [server.id for server in cloud.compute.servers() if server.name == cluster.initial]


def deploy(cluster: Cluster) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Q8S_RUN, "deploy", cluster.file(0)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **cluster.environment},
    )


def past_the_cloud(run: subprocess.Popen[str]) -> None:
    """Reads what the run says until it has gone on to the hosts; ends it there, as a closed terminal does."""
    assert run.stderr is not None
    said = []
    for line in run.stderr:
        said.append(line)
        if AFTER_THE_CLOUD in line:
            break
    else:
        pytest.fail("".join(said))
    run.send_signal(signal.SIGHUP)
    run.communicate(timeout=60)
    assert run.returncode == 130


@pytest.fixture
def deploying(cloud: Any, cluster: Cluster) -> Iterator[Start]:
    """Starts the deploy of a cluster of one server, and comes back when the cloud has begun to make it."""
    started = []

    def start() -> subprocess.Popen[str]:
        assert cluster.run(["q8s-run", "destroy", cluster.file(0), "--yes"]).returncode == 0
        assert servers(cloud, cluster) == []
        run = deploy(cluster)
        started.append(run)
        assert wait(lambda: run.poll() is not None or bool(servers(cloud, cluster)), 300)
        assert run.poll() is None, run.communicate()[1]
        return run

    yield start
    for run in started:
        run.kill()
        run.wait()
    assert wait(lambda: working_on(cluster) == [], 30), "Ansible ends with it"


def finished(cloud: Any, cluster: Cluster) -> None:
    """A deploy ends what an earlier one left: with the server that this one had begun, and no other."""
    before = servers(cloud, cluster)
    past_the_cloud(deploy(cluster))
    assert servers(cloud, cluster) == before and len(before) == 1
    assert cloud.compute.get_server(before[0]).status == "ACTIVE"


def test_ctrl_c_stops_and_says_what_there_is(deploying: Start, cloud: Any, cluster: Cluster) -> None:
    run = deploying()
    run.send_signal(signal.SIGINT)
    err = " ".join(run.communicate(timeout=60)[1].split())  # lines are broken at the width of the terminal
    assert run.returncode == 130
    assert f"the cloud has 1 server of this cluster: {cluster.initial}" in err
    assert f"`{Q8S_RUN} deploy {cluster.file(0)}` continues where it stopped" in err
    assert f"`{Q8S_RUN} destroy {cluster.file(0)}` removes the whole cluster" in err
    assert working_on(cluster) == []
    finished(cloud, cluster)


def test_ctrl_c_twice_ends_at_once(deploying: Start, cluster: Cluster) -> None:
    run = deploying()
    run.send_signal(signal.SIGINT)
    time.sleep(0.2)
    begin = time.monotonic()
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130 and time.monotonic() - begin < 2
    assert wait(lambda: working_on(cluster) == [], 10), "Ansible ends with it"
    left = list(cluster.state.glob("runs/*/artifacts"))
    assert left == [], "what tasks returned is not kept"


def test_a_killed_run_leaves_nobody_at_work(deploying: Start, cloud: Any, cluster: Cluster) -> None:
    run = deploying()
    run.kill()
    run.wait()
    assert wait(lambda: working_on(cluster) == [], 10)
    finished(cloud, cluster)


def test_a_killed_run_takes_along_what_ansible_leaves(cluster: Cluster, tmp_path: Path) -> None:
    """A worker of Ansible's is in a session of its own: it outlives Ansible, and would hold the cluster's lock."""
    lock, pids = tmp_path / "lock", tmp_path / "pids"
    lock.touch()
    ansible = f"setsid sleep 333 & echo $! >> {pids}; echo $$ >> {pids}; exec sleep 333"
    command = [sys.executable, str(REPOSITORY / "q8s_wrapper" / "child.py"), str(lock), str(tmp_path / "pid")]
    q8s_run = f"import os, subprocess; subprocess.run({command!r} + [str(os.getpid()), 'sh', '-c', {ansible!r}])"
    with subprocess.Popen([sys.executable, "-c", q8s_run]) as run:
        assert wait(lambda: pids.exists() and len(pids.read_text().split()) == 2, 10)
        run.kill()
    assert wait(lambda: not any(start_time(int(pid)) for pid in pids.read_text().split()), 10)


def test_a_second_run_is_refused(deploying: Start, cluster: Cluster) -> None:
    run = deploying()
    second = cluster.run(["q8s-run", "destroy", cluster.file(0), "--yes"])
    assert second.returncode == 1
    assert f"q8s-run deploy (process {run.pid}, since " in second.stderr and "kill -INT" in second.stderr
    past_the_cloud(run)  # the first is not disturbed


def test_what_a_killed_run_started_holds_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """Its Ansible ends by itself; until it has, it is in the way of the next run and not beside it."""
    parent = subprocess.Popen(["sleep", "60"])
    lock = cluster.state / "lock"
    lock.write_text(f"{parent.pid}\nq8s-run deploy (process {parent.pid}, since 12:00:00)\n")
    child = [sys.executable, REPOSITORY / "q8s_wrapper" / "child.py", lock, tmp_path / "pid", str(os.getpid())]
    with subprocess.Popen([*child, "sleep", "60"]) as held:
        assert wait((tmp_path / "pid").exists, 10)
        parent.kill()
        parent.wait()
        refused = cluster.run(["q8s-run", "destroy", cluster.file(0), "--yes"])
        assert refused.returncode == 1 and "was killed, and its processes" in refused.stderr
        held.kill()
    assert cluster.run(["q8s-run", "destroy", cluster.file(0), "--yes"]).returncode == 0
