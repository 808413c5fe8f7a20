"""A benchmark goes on after ssh has failed for a moment, and tells what to do when it cannot.

Ansible runs the real stage on this machine, through a program in the place of ssh, with programs of the test as kubectl
and systemd.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.bench_plan import bench_plan
from ansible_collections.q8s.emu.plugins.module_utils import _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import add_program, copy_collections, play, replace_text, said, through_ssh

INITIAL = "demo-control-plane"
PING = REPOSITORY / "tests/unit/plugins/bench_output/ping.txt"
SYSTEMD = '#!/bin/sh\necho "$0 $*" >> {root}/calls\n'
KUBECTL = """\
#!/bin/sh
echo kubectl "$@" >> {root}/calls
case "$*" in
*" get "*) [ ! -e {root}/no-api ] || {{ echo "The connection was refused" >&2; exit 1; }}; cat {root}/pods.json;;
*" wait "*) [ ! -e {root}/unready ] || {{ echo "timed out waiting for the condition on pods/pod" >&2; exit 1; }};;
*"/ping "*) cat {ping}; mv {root}/off-later {root}/off 2>/dev/null;;
esac
exit 0
"""


class Stage:
    """The stage that measures, in a folder with everything that it touches."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = {"/var/lib/q8s": f"{root}/q8s", "/etc/kubernetes": str(root)}
        copy = copy_collections(root, paths, ["q8s/emu/playbooks/**/*.yml"])
        self.file = copy / "q8s/emu/playbooks/bench_stages/measure.yml"
        for name, text in (
            ("bin/systemctl", SYSTEMD),
            ("bin/systemd-run", SYSTEMD),
            ("bin/sleep", SYSTEMD),
            ("q8s/bin/kubectl", KUBECTL),
        ):
            add_program(root / name, text.format(root=root, ping=PING))
        cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
        ready = {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.7"}],
            "allocatable": {"cpu": "2", "memory": "1900Mi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        nodes = [{"kind": "Node", "metadata": {"name": server.node}, "status": ready} for server in cluster.servers()]
        self.plan = bench_plan(nodes, cluster.to_mapping(), [INITIAL, "arm-mid-1"], ["network"], quick=True)
        pods = [
            {
                "kind": "Pod",
                "metadata": {"name": f"{kind}-{node['name']}"},
                "status": {"podIP": "10.1.0.1"},
                "spec": {"clusterIP": ""},
            }
            for kind in ("pod", "peer", "node", "service")
            for node in self.plan["nodes"]
        ]
        (root / "pods.json").write_text(json.dumps({"items": pods}))
        self.variables: dict[str, Any] = {
            **_inventory.cluster_variables(cluster, None),
            **through_ssh(root),
            "q8s_environment": {"PATH": f"{root}/bin:{os.environ['PATH']}"},
            "q8s_state_dir": str(root),
        }

    def run(self, stage: str = "measure") -> tuple[int, str]:
        """Run a stage. Return Ansible's exit code and output."""
        facts = {
            "ansible_connection": "local",
            "q8s_bench": self.plan,
            "q8s_bench_built": {"bundle": {"bench_images": {"x86_64": "bench:1", "aarch64": "bench:1"}}},
            "q8s_bench_checked": {"earlier": {}},
            "q8s_bench_folder": f"{self.root}/results",
            "q8s_bench_session": "2026-11-29T12:00:00Z",
            "q8s_bench_versions": {"kubernetes": "v1.36.3"},
        }
        groups = {"control_plane_initial": {"hosts": {INITIAL: {}}}}
        hosts = {"localhost": facts, "demo-arm-mid-1": {}}
        inventory = {"all": {"hosts": hosts, "vars": self.variables, "children": groups}}
        (self.root / "inventory.yml").write_text(json.dumps(inventory))
        done = play(self.root, self.file.with_name(f"{stage}.yml"))
        return done.returncode, said(done)

    def measured(self) -> list[str]:
        """Return the programs that returned figures, in the results."""
        document = json.loads((self.root / "results/results.json").read_text())
        return [one["tool"] for one in document["measurements"] if not one["error"]]

    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().splitlines()

    def cleaned(self) -> bool:
        """Return whether the pods were removed at the end."""
        return "delete namespace q8s-bench" in self.calls()[-2] and "q8s-bench-removal.timer" in self.calls()[-1]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_ssh_that_fails_for_a_moment_does_not_end_the_benchmark(stage: Stage) -> None:
    (stage.root / "off-later").write_text("3")
    code, output = stage.run()
    assert code == 0, output
    assert stage.measured().count("ping") == 4
    assert f"0 of {len(stage.plan['measurements'])} measurements, about 1 min left" in output, output
    assert stage.cleaned()
    pinged = next(call for call in stage.calls() if "/ping " in call)
    assert f"-- busybox timeout -k 5 {stage.plan['timeout']} /usr/bin/ping" in pinged, "kubectl cannot stop it"
    [removal] = [call for call in stage.calls() if "systemd-run" in call]
    assert f"--on-active={stage.plan['limit_seconds']} " in removal
    assert "--wait=false" in removal, "it would be in the way of the next run's"
    forced = [call for call in stage.calls() if "delete pods --all --force --grace-period=0" in call]
    assert len(forced) == 2, "before and after: those of a lost node stay otherwise, and the namespace with them"


@pytest.mark.long("a minute")
def test_pods_that_do_not_become_ready_do_not_end_the_benchmark(stage: Stage) -> None:
    (stage.root / "unready").touch()
    code, output = stage.run()
    assert code == 0, output
    assert stage.measured().count("ping") == 4


@pytest.mark.long("a minute")
def test_a_control_plane_that_is_gone_ends_the_benchmark_with_what_to_do(stage: Stage) -> None:
    replace_text(stage.file, "ssh_retries: 10", "ssh_retries: 1")
    (stage.root / "off-later").write_text("2")
    code, output = stage.run()
    assert code != 0
    assert "Connection refused hint: `q8s-run bench FILE --resume` measures what is missing" in output, output
    assert sum("/ping " in call for call in stage.calls()) == 1, "nothing else is waited for"
    assert stage.cleaned(), "it is reachable again"


def test_without_an_answer_of_the_api_server_it_is_said_what_shows_why(stage: Stage) -> None:
    (stage.root / "no-api").touch()
    code, output = stage.run("plan")
    assert code != 0
    reason = "Failed to plan the benchmark: The connection was refused hint: `q8s-run status FILE` shows why"
    assert reason in output, output


def test_when_the_time_is_up_the_benchmark_says_so(stage: Stage) -> None:
    stage.plan["limit_seconds"] = 0
    code, output = stage.run()
    assert code != 0
    assert "Failed to measure everything within 0 min: the pods are removed hint: `q8s-run bench FILE" in output, output
    assert stage.cleaned()
    stopped = [call for call in stage.calls() if "stop q8s-bench-samples.service" in call]
    assert len(stopped) == 1, "no sampler is left on the hosts"
