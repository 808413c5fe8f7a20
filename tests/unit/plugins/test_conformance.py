"""Conformance tests: which are chosen, how they are divided, and what is read from the reports of a real run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.q8s.emu.plugins.action import conformance_report
from ansible_collections.q8s.emu.plugins.filter.conformance_nodes import conformance_nodes
from ansible_collections.q8s.emu.plugins.filter.conformance_plan import conformance_plan
from ansible_collections.q8s.emu.plugins.module_utils import _conformance, _results_folder, _spec

from tests.unit.plugins.local_action import run_action

RECORDED = Path(__file__).parent / "conformance_output"
LISTING = (RECORDED / "list-tests.txt").read_text()
DNS = "[sig-network] DNS should provide DNS for the cluster [Conformance]"
AGGREGATOR = (
    "[sig-api-machinery] Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator "
    "[LinuxOnly] [Conformance]"
)
DEMO = Path(__file__).parents[3] / "examples/demo.yaml"


def names(listing: str = LISTING, **options: Any) -> list[str]:
    return [spec["name"] for spec in conformance_plan(listing, **options)["specs"]]


def test_conformance_tests_of_five_groups_run_in_their_order_and_serial_ones_last() -> None:
    chosen = names()
    assert chosen[0].startswith("[sig-network]") and "[Serial]" in chosen[-1]
    assert all("[Conformance]" in name for name in chosen)
    assert not any(name.startswith(("[sig-cli]", "[sig-scheduling]")) for name in chosen)
    together = [name for name in chosen if "[Serial]" not in name]
    groups = list(dict.fromkeys(_conformance.sig(name) for name in together))
    assert groups == [group for group in _conformance.SIGS if group in groups]


def test_focus_chooses_from_all_groups_and_skip_leaves_out() -> None:
    assert names(focus="^.sig-cli") == [
        name for name in _conformance.read_specs(LISTING) if name.startswith("[sig-cli]")
    ]
    assert names(focus="DNS", skip="for the cluster") and DNS not in names(focus="DNS", skip="for the cluster")
    with pytest.raises(AnsibleFilterError, match="no conformance test has such a name\nhint: --list"):
        conformance_plan(LISTING, focus="no such test")
    with pytest.raises(AnsibleFilterError, match="is not a regular expression"):
        conformance_plan(LISTING, focus="(")


def test_a_test_whose_image_is_missing_is_listed_and_not_run() -> None:
    plan = conformance_plan(LISTING)
    [spec] = [spec for spec in plan["specs"] if spec["name"] == AGGREGATOR]
    assert spec["image"] == "sample-apiserver"
    assert AGGREGATOR not in plan["left"]
    results = _conformance.document(plan, {}, None, about=about(), session={"started": "now"})
    [row] = [row for row in results["specs"] if row["name"] == AGGREGATOR]
    assert (row["status"], row["reason"]) == ("not run", "image sample-apiserver")
    assert not _conformance.is_open(row)


def test_every_test_is_in_one_process_and_serial_ones_run_alone() -> None:
    plan = conformance_plan(LISTING, parallel=3)
    ran = [name for batch in plan["batches"] for process in batch["processes"] for name in process]
    assert sorted(ran) == sorted(plan["left"])
    for batch in plan["batches"]:
        if any("[Serial]" in name for process in batch["processes"] for name in process):
            assert len(batch["processes"]) == 1


def test_an_expression_matches_its_tests_and_no_others() -> None:
    plan = conformance_plan(LISTING, parallel=2)
    batch = plan["batches"][0]
    for process, focus in zip(batch["processes"], batch["focuses"], strict=True):
        # What Go's regexp and Python's understand alike. Ginkgo puts the suite's name first.
        matched = [
            name for name in _conformance.read_specs(LISTING) if re.search(focus, f"Kubernetes e2e suite {name}")
        ]
        assert sorted(matched) == sorted(process)
        assert "\\ " not in focus  # Go refuses it


def test_resume_runs_what_has_no_result_with_the_earlier_choice() -> None:
    first = conformance_plan(LISTING, focus="DNS")
    done = {first["left"][0]: "failed"}
    plan = conformance_plan(LISTING, earlier={"done": done, "focus": "DNS", "skip": ""})
    assert plan["specs"] == first["specs"] and plan["left"] == first["left"][1:]


def nodes(**status: str) -> list[dict[str, Any]]:
    return [
        {
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": value, "message": "no CNI"}]},
        }
        for name, value in status.items()
    ]


def test_a_node_that_is_not_ready_is_named() -> None:
    cluster = _spec.load_file(str(DEMO)).to_mapping()
    found = nodes(**{"demo-control-plane": "True", "x86-small-1": "False"})
    with pytest.raises(AnsibleFilterError) as raised:
        conformance_nodes(found, cluster)
    assert "node x86-small-1 is not Ready: no CNI" in str(raised.value)
    assert "node arm-mid-1 is not Ready: it has not joined the cluster" in str(raised.value)


def test_results_of_another_cluster_are_not_resumed(folder: Path) -> None:
    cluster = _spec.load_file(str(DEMO)).to_mapping()
    ready = nodes(**{"demo-control-plane": "True", "x86-small-1": "True", "arm-mid-1": "True"})
    now = {**about(), "nodes": conformance_nodes(ready, cluster)}
    plan = conformance_plan(LISTING, focus="DNS")
    write(folder, plan, [process(DNS, report="", log="killed")], resume=False)
    document = json.loads((folder / "results.json").read_text())
    earlier = conformance_report.earlier(folder, {**document, **now})
    assert conformance_nodes(ready, cluster, earlier) == now["nodes"]
    others = [{"name": "x86-small-1", "kind": "x86-small", "architecture": "aarch64"}, {"name": "gone-1"}]
    another = conformance_report.earlier(
        folder, {**document, "cluster": "lab", "kubernetes": "v1.35.0", "nodes": others}
    )
    with pytest.raises(AnsibleFilterError) as raised:
        conformance_nodes(ready, cluster, another)
    assert str(raised.value).splitlines()[1:] == [
        "the cluster was lab, and is demo",
        "Kubernetes was v1.35.0, and is v1.36.3",
        "node gone-1 is no longer in the cluster",
        "node demo-control-plane was not in the cluster",
        "node arm-mid-1 was not in the cluster",
        "node x86-small-1 had architecture aarch64, and has x86_64",
        "hint: such results cannot be mixed; --force measures everything again",
    ]


def test_pods_need_a_worker_without_taints() -> None:
    cluster = _spec.load_file(str(DEMO)).to_mapping()
    types = cluster["vm_types"]["types"]
    ready = nodes(**{"demo-control-plane": "True", "x86-small-1": "True", "arm-mid-1": "True"})
    types["arm-mid"]["taints"] = ["dedicated=arm:NoSchedule", "slow:NoExecute", "small:PreferNoSchedule"]
    types["x86-small"]["taints"] = ["small:PreferNoSchedule"]
    taints = {node["name"]: node["taints"] for node in conformance_nodes(ready, cluster)}
    assert taints == {
        "demo-control-plane": ["node-role.kubernetes.io/control-plane"],
        "x86-small-1": [],
        "arm-mid-1": ["dedicated", "slow"],
    }
    types["x86-small"]["taints"] = ["dedicated=x86:NoSchedule"]
    with pytest.raises(AnsibleFilterError) as raised:
        conformance_nodes(ready, cluster)
    assert "x86-small-1 has dedicated, arm-mid-1 has dedicated and slow\nhint: remove the taints" in str(raised.value)


def test_the_tests_do_not_wait_for_nodes_with_the_file_s_taints(tmp_path: Path) -> None:
    runner = DEMO.parents[1] / "collections/ansible_collections/q8s/emu/playbooks/conformance_stages/files/run.sh"
    part = tmp_path / "part"
    part.mkdir()
    (part / "asked").touch()
    (part / "1.focus").write_text("DNS")
    program = tmp_path / "e2e.test"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    subprocess.run(["sh", runner, part, "node-role.kubernetes.io/control-plane,dedicated"], check=True, timeout=20)
    assert "--non-blocking-taints=node-role.kubernetes.io/control-plane,dedicated" in (
        (part / "1.log").read_text().splitlines()
    )


def about() -> dict[str, Any]:
    return {"cluster": "demo", "kubernetes": "v1.36.3", "nodes": [], "focus": "", "skip": ""}


def process(*specs: str, report: str = "junit.xml", log: str = "") -> dict[str, Any]:
    xml = (RECORDED / report).read_text() if report else ""
    return {"specs": list(specs), "xml": xml, "log": log}


def outcomes(processes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return _conformance.outcomes(*([one[name] for one in processes] for name in ("specs", "xml", "log")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


def write(folder: Path, plan: dict[str, Any], processes: list[dict[str, Any]], *, resume: bool) -> dict[str, Any]:
    """Write results as the action does, and return the document."""
    before = _results_folder.read(folder, _conformance.KIND) if resume else None
    new = outcomes(processes)
    given = {**about(), "plan": plan, "session": {"started": f"at {resume}", "parallel": 2}}
    document = conformance_report.results(given, new, before)
    files = conformance_report.files(document, new, conformance_report.logs(folder) if before else {})
    _results_folder.write(folder, files)
    return document


SERVICE = (
    "[sig-network] EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service [Conformance]"
)
HOSTNAME = "[sig-network] DNS should provide DNS for pods for Hostname [Conformance]"


def test_a_real_report_has_passed_failed_and_interrupted_tests() -> None:
    found = outcomes([process(HOSTNAME, SERVICE, DNS)])
    assert (found[HOSTNAME]["status"], found[HOSTNAME]["seconds"]) == ("passed", 202.2)
    assert found[SERVICE]["status"] == "failed"
    assert found[SERVICE]["reason"] == (
        "timed out waiting for Pods to have IPs assigned: client rate limiter Wait returned an error: "
        "rate: Wait(n=1) would exceed context deadline"
    )
    assert "STEP: Creating a kubernetes client" in found[SERVICE]["log"]
    # It was interrupted: no result, so that --resume runs it.
    assert found[DNS]["status"] == "not run"


def test_a_process_that_died_is_no_result_and_its_last_words_are_the_reason() -> None:
    found = outcomes([process(DNS, report="", log="I1128 starting\nfatal: no kubeconfig\n")])
    assert found[DNS]["status"] == "not run"
    assert found[DNS]["reason"] == "the tests ended without a result: fatal: no kubeconfig"


def test_results_are_added_and_a_resumed_run_completes_them(folder: Path) -> None:
    plan = conformance_plan(LISTING, focus="DNS should provide DNS for the cluster|ImageVolume")
    first = write(folder, plan, [process(DNS, report="", log="killed")], resume=False)
    assert not first["complete"] and _conformance.done(first) == {}
    passed = (RECORDED / "junit.xml").read_text().replace('status="interrupted"', 'status="passed"')
    second = write(folder, plan, [{"specs": [DNS], "xml": passed, "log": ""}], resume=True)
    assert second["complete"] and _conformance.done(second) == {DNS: "passed"}
    assert [one["started"] for one in second["sessions"]] == ["at False", "at True"]
    assert _conformance.summary(second)[0] == "1 passed, 0 failed, 1 not run"
    with pytest.raises(_results_folder.OutputError, match="nothing is left to test"):
        conformance_report.earlier(folder, second)


def test_the_folder_has_a_table_and_the_logs_of_failed_tests(folder: Path) -> None:
    plan = conformance_plan(LISTING, focus="DNS should provide DNS for the cluster")
    plan["specs"].append({"name": SERVICE, "sig": "network", "image": ""})
    write(folder, plan, [process(SERVICE)], resume=False)
    document = write(folder, plan, [process(DNS)], resume=True)
    [log] = (folder / "logs").iterdir()
    assert log.name.startswith("sig-network-EndpointSlice-should-create") and "timed out waiting" in log.read_text()
    table = (folder / "tables.md").read_text()
    assert f"| {SERVICE} | failed | 251.4 | timed out waiting for Pods" in table
    assert json.loads((folder / "results.json").read_text()) == document
    with pytest.raises(_results_folder.OutputError, match="has results"):
        _results_folder.check(folder, force=False, hint="")


def test_resumed_tests_leave_the_users_files_in_the_folder(folder: Path) -> None:
    plan = conformance_plan(LISTING, focus="DNS should provide DNS for the cluster|ImageVolume")
    write(folder, plan, [process(SERVICE)], resume=False)
    for name in ("notes.md", "logs/journal.txt"):
        (folder / name).write_text("the node was warm")
    one = process(DNS, report="", log="killed")
    given = {**about(), "plan": plan, "session": {"started": "now", "parallel": 2}}
    reports: dict[str, Any] = {"processes": [one["specs"]], "reports": [one["xml"]], "logs": [one["log"]]}
    for unknown in ("focus", "skip"):
        del given[unknown]
    result = run_action(conformance_report.ActionModule, output=str(folder), resume=True, **given, **reports)
    assert result["changed"], result
    assert [(folder / name).read_text() for name in ("notes.md", "logs/journal.txt")] == ["the node was warm"] * 2
    assert len(list((folder / "logs").iterdir())) == 2
