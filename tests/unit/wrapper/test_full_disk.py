"""Results on a file system that really is full: a tmpfs of some KiB, in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _bench_plan

from q8s_wrapper.config import REPOSITORY
from q8s_wrapper.experiment import timeline_record
from tests.unit.wrapper.local_cloud import recorded
from tests.unit.wrapper.recorded_deploy import EXAMPLE, deploy

PROGRAMS = Path(sys.executable).parent
NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
# As large as an earlier result and the beginning of the next one.
SIZE = "size=48k"


def on_a_small_disk(disk: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script on a tmpfs, after which it lists what is there."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel does not let this user have a mount namespace")
    disk.mkdir()
    whole = (
        f'mount -t tmpfs -o {SIZE} q8s {disk} && cd {disk} || exit 9\n{script}\necho "rc $?"; find . -mindepth 1 | sort'
    )
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", **variables}
    command = [*NAMESPACE, "sh", "-c", whole]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_a_timeline_that_does_not_fit_leaves_nothing_and_the_message_names_the_folder(tmp_path: Path) -> None:
    record = deploy()
    since = {name: 180.0 + number for number, name in enumerate(timeline_record.MILESTONES)}
    record["guests"] = [{"node": "x86-small-1", "host": "cli-x86-small-1", "times": since}]
    timeline_record.write(recorded(tmp_path / "state"), record)
    script = f"q8s-run timeline {EXAMPLE} --output out >/dev/null"
    done = on_a_small_disk(tmp_path / "disk", script, Q8S_STATE=str(tmp_path / "state"))
    assert done.stdout == "rc 1\n"
    # Without a cloud, a warning comes before it.
    assert done.stderr.splitlines()[-1] == f"error: Failed to run: {tmp_path / 'disk/out'}: No space left on device"


def test_a_benchmark_that_does_not_fit_leaves_the_earlier_results(tmp_path: Path) -> None:
    node = _bench_plan.Node("arm-1", "arm", "aarch64", True, "demo-arm-1", "10.0.0.7", 2, 1 << 31, 0)
    measured = [asdict(one) for one in _bench_plan.measurements([node], ["memory"], _bench_plan.QUICK)]
    plan = {"quick": True, "groups": ["memory"], "effort": asdict(_bench_plan.QUICK), "nodes": [asdict(node)]}

    def arguments(name: str, output: str) -> str:
        times = {"start": "2026-11-27 11:00:57.5", "end": "2026-11-27 11:01:02.5", "stderr": "", "rc": 0}
        task: dict[str, Any] = {
            "output": str(tmp_path / "disk/bench"),
            "force": True,
            "cluster": "demo",
            "plan": {**plan, "measurements": measured},
            "runs": [{"item": one, "stdout": output, **times} for one in measured],
        }
        (tmp_path / name).write_text(json.dumps(task))
        return f"ansible localhost -m q8s.emu.bench_report -a {shlex.quote(json.dumps(task))}"

    small, large = arguments("small", "Killed"), arguments("large", "Killed " + "x" * 60_000)
    script = f"{small} >/dev/null || exit 8\nsha256sum bench/* > {tmp_path}/before\n{large}"
    script += f" > {tmp_path}/said; sha256sum --quiet --check {tmp_path}/before"
    collections = str(REPOSITORY / "collections")
    done = on_a_small_disk(tmp_path / "disk", script, ANSIBLE_COLLECTIONS_PATH=collections)
    message = f"Failed to write the results: {tmp_path / 'disk/bench'}: No space left on device"
    assert message in (tmp_path / "said").read_text()
    code, *names = done.stdout.splitlines()
    assert code == "rc 0", "the earlier results are as they were"
    assert "./bench/results.json" in names
    assert {name.split("/")[1] for name in names} == {"bench"}, "and nothing else is there"


def test_a_cluster_file_that_does_not_fit_is_not_left_there(tmp_path: Path) -> None:
    """The next ``init`` would refuse it."""
    program = (
        "from q8s_wrapper import cli, init; from q8s_wrapper.commands import start; "
        "start._query_offer = lambda: None; init.cluster_file = lambda *_: 'x' * 9999; cli.main(['init', 'new.yaml'])"
    )
    script = f"head -c 1M /dev/zero > fill 2>/dev/null; python -c {shlex.quote(program)}"
    done = on_a_small_disk(tmp_path / "disk", script, PYTHONPATH=str(REPOSITORY))
    assert "error: Failed to write new.yaml: No space left on device" in done.stderr
    assert done.stdout.splitlines()[-1] == "./fill"
