"""Conformance tests run in parts for hours: a node or ssh that fails meanwhile does not cost them.

Ansible runs the real stage on this machine, through a program in the place of ssh. kubectl, systemd and e2e.test are
programs of the test, too.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.conformance_nodes import conformance_nodes
from ansible_collections.q8s.emu.plugins.filter.conformance_plan import conformance_plan
from ansible_collections.q8s.emu.plugins.module_utils import _conformance, _inventory, _spec

from q8s_wrapper.config import REPOSITORY
from tests.integration.collection.plays import add_program, copy_collections, play, replace_text, said, through_ssh

INITIAL = "demo-control-plane"
NODES = (INITIAL, "x86-small-1", "arm-mid-1")
TESTS = [f"[sig-network] DNS number {number} [Conformance]" for number in range(1, 10)]
LISTING = "".join(f"    a.go:1: {test}\n" for test in TESTS)
# "off-later" becomes the file of the connections that fail while the tests run.
SYSTEMCTL = """\
#!/bin/sh
echo systemctl "$@" >> {root}/calls
[ "$1" != is-active ] || {{ mv {root}/off-later {root}/off 2>/dev/null && echo active || echo inactive; }}
"""
SYSTEMD_RUN = """\
#!/bin/sh
while case "$1" in -*) true;; *) false;; esac do shift; done
exec "$@"
"""
KUBECTL = """\
#!/bin/sh
echo kubectl "$@" >> {root}/calls
case "$*" in *" get nodes "*) cat {root}/nodes.json;; esac
"""
# Fails as e2e.test does before the first test, if there is a file "broken".
E2E = """\
#!{python}
import json, pathlib, re, sys
root, options = pathlib.Path("{root}"), dict(part.lstrip("-").partition("=")[::2] for part in sys.argv[1:])
folder = pathlib.Path(options["report-dir"])
folder.mkdir()
case = '<testcase name="{{}}" status="{{}}" time="1.5">{{}}</testcase>'.format
if (root / "broken").exists():
    cases = [case("[SynchronizedBeforeSuite]", "failed", "<failure>no node is schedulable</failure>")]
else:
    chosen = re.compile(options["ginkgo.focus"]).search
    tests = json.loads((root / "tests.json").read_text())
    cases = [case("[It] " + test, "passed", "") for test in tests if chosen("suite " + test)]
    nodes = (root / "nodes.json").read_text()
    (root / "nodes.json").write_text(nodes.replace('"True"', '"Unknown"') if (root / "node-fails").exists() else nodes)
(folder / "junit_01.xml").write_text("<testsuites>" + "".join(cases) + "</testsuites>")
"""


LIST_WHAT_IS_LEFT = {"q8s_conformance_list": True, "q8s_conformance_resume": True, "q8s_listing": LISTING}
SHOW = {
    "hosts": "localhost",
    "gather_facts": False,
    "vars": {"q8s_plan": "{{ q8s_listing | q8s.emu.conformance_plan(earlier=q8s_conformance_checked.earlier) }}"},
    "tasks": [{"ansible.builtin.debug": {"msg": "left: {{ q8s_plan.left }}"}}],
}


class Stage:
    """The stage that runs the tests, in a folder with everything that it touches."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root = root
        replacements = {"/var/lib/q8s": f"{root}/q8s", "delay: 5": "delay: 0"}
        copy = copy_collections(root, replacements, ["q8s/emu/playbooks/**/*.yml"])
        self.run_file = copy / "q8s/emu/playbooks/conformance_stages/run.yml"
        programs = {
            "bin/systemctl": SYSTEMCTL,
            "bin/systemd-run": SYSTEMD_RUN,
            "q8s/bin/kubectl": KUBECTL,
            "q8s/conformance/e2e.test": E2E,
        }
        for name, text in programs.items():
            add_program(root / name, text.format(root=root, python=sys.executable))
        (root / "tests.json").write_text(json.dumps(TESTS))
        nodes = [
            {
                "metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": "True", "message": "the kubelet is silent"}]},
            }
            for name in NODES
        ]
        (root / "nodes.json").write_text(json.dumps({"items": nodes}))
        cluster = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
        here: dict[str, Any] = {
            **_inventory.cluster_variables(cluster, None),
            **through_ssh(root),
            "q8s_environment": {"PATH": f"{root}/bin:{os.environ['PATH']}"},
        }
        facts = {
            "ansible_connection": "local",
            "q8s_conformance": conformance_plan(LISTING),
            "q8s_conformance_nodes": conformance_nodes(nodes, cluster.to_mapping()),
            "q8s_conformance_checked": {"earlier": {}},
            "q8s_conformance_folder": f"{root}/results",
            "q8s_conformance_session": {"started": "2026-11-29T12:00:00Z", "parallel": 2},
        }
        facts |= {"q8s_cluster_file": str(REPOSITORY / "examples" / "demo.yaml"), **more}
        groups = {name: {"hosts": {INITIAL: {}}} for name in ("control_plane", "control_plane_initial")}
        inventory = {"all": {"hosts": {"localhost": facts}, "vars": here, "children": groups}}
        (root / "inventory.yml").write_text(json.dumps(inventory))

    def run(self, stage: str = "run") -> tuple[int, str]:
        """Return Ansible's exit code and output."""
        done = play(self.root, self.run_file.with_name(f"{stage}.yml"))
        return done.returncode, said(done)

    def statuses(self) -> list[str]:
        """Return the status of each test in the results."""
        document = json.loads((self.root / "results/results.json").read_text())
        return [spec["status"] for spec in document["specs"]]

    def cleaned(self) -> bool:
        """Return whether the tests were stopped, and their namespaces removed, at the end."""
        calls = (self.root / "calls").read_text().splitlines()[-2:]
        return calls[0].startswith("systemctl stop") and "delete namespaces" in calls[1]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.long("a minute")
def test_ssh_that_fails_for_a_moment_does_not_end_the_run(stage: Stage) -> None:
    (stage.root / "off-later").write_text("4")
    code, said = stage.run()
    assert code == 0, said
    assert stage.statuses() == [_conformance.PASSED] * 9
    assert stage.cleaned()


def test_a_control_plane_that_is_gone_ends_the_run_with_what_to_do(stage: Stage) -> None:
    replace_text(stage.run_file, "ssh_retries: 10", "ssh_retries: 1")
    (stage.root / "off-later").write_text("2")
    code, said = stage.run()
    assert code != 0
    assert "Connection refused hint: `q8s-run conformance FILE --resume` runs those without a result" in said, said
    assert stage.cleaned(), "it is reachable again"


def test_a_node_that_is_no_longer_ready_ends_the_run_after_the_part(stage: Stage) -> None:
    (stage.root / "node-fails").touch()
    code, said = stage.run()
    assert code != 0
    assert "node arm-mid-1 is not Ready: the kubelet is silent" in said, said
    assert stage.statuses().count(_conformance.PASSED) == 8
    assert stage.cleaned()


def test_a_part_without_any_result_ends_the_run(stage: Stage) -> None:
    (stage.root / "broken").touch()
    code, said = stage.run()
    assert code != 0
    assert "none of 8 has a result: no node is schedulable hint: fix the cause, then `q8s-run conformance" in said, said
    assert stage.cleaned()


def test_tests_without_an_image_are_written_and_named(tmp_path: Path) -> None:
    without = "[sig-node] ImageVolume should be pulled [Conformance]"
    stage = Stage(tmp_path, q8s_conformance=conformance_plan(f"    a.go:1: {without}\n", focus="ImageVolume"))
    code, said = stage.run("report")
    assert code != 0
    assert "Failed to run conformance tests: each of 1 needs an image that the nodes do not have hint: choose" in said
    assert f"not run: {without}: image kitten, from a registry" in said, said
    assert stage.statuses() == [_conformance.NOT_RUN]


def test_a_list_of_what_is_left_reads_the_results(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    (stage.root / "node-fails").touch()
    stage.run()
    listing = Stage(tmp_path / "list", q8s_conformance_output=f"{tmp_path}/results", **LIST_WHAT_IS_LEFT)
    listing.run_file.with_name("all.yml").write_text(json.dumps([{"import_playbook": "output.yml"}, SHOW]))
    code, said = listing.run("all")
    assert code == 0 and f"left: {TESTS[8:]}" in said, said
