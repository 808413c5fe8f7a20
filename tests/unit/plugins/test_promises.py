"""What verify says of a worker that is as the cluster file says, and of one that is not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.node_promises import node_promises
from ansible_collections.q8s.emu.plugins.module_utils import (
    _cpu_ids,
    _inventory,
    _links_promises,
    _promises,
    _spec,
    _spec_qemu,
)

from q8s_wrapper.config import REPOSITORY

# As the demo's guests print it, on Debian 13's QEMU.
ARM = """aarch64
2
2015044
20971520
processor	: 0
BogoMIPS	: 125.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd07
CPU revision	: 0
"""
X86 = """x86_64\r
2\r
2021548\r
20971520\r
processor	: 0\r
vendor_id	: AuthenticAMD\r
cpu family	: 23\r
model		: 49\r
model name	: AMD EPYC-Rome Processor\r
"""
CLUSTER = _spec.load_file(str(REPOSITORY / "examples" / "demo.yaml"))
WANTED = _inventory.cluster_variables(CLUSTER, None)["q8s_node_labels"]


def kubernetes_node(name: str, **changes: Any) -> dict[str, Any]:
    status = {"capacity": {"ephemeral-storage": changes.get("storage", "10241884Ki")}}
    labels = {**WANTED[name]["labels"], "kubernetes.io/os": "linux"}
    return {"metadata": {"name": name, "labels": changes.get("labels", labels)}, "spec": {}, "status": status}


def table(**changes: Any) -> list[dict[str, Any]]:
    nodes = [kubernetes_node("x86-small-1"), kubernetes_node("arm-mid-1", **changes)]
    answers = {"x86-small-1": X86, "arm-mid-1": changes.get("answer", ARM)}
    images = {"x86-small-1": 10487689216, "arm-mid-1": changes.get("images", 10487689216)}
    rows = node_promises(nodes, CLUSTER.to_mapping(), answers, WANTED, image_disks=images)
    assert not [row for row in rows if row["node"] == "x86-small-1" and row["problem"]]
    return rows


def problems(**changes: Any) -> list[str]:
    return [row["problem"] for row in table(**changes) if row["problem"]]


def test_a_cluster_as_the_file_says_has_no_problem() -> None:
    rows = table()
    assert all(row["kept"] for row in rows)
    shown = {
        row["promise"]: (row["promised"], row["measured"], row["off"]) for row in rows if row["node"] == "arm-mid-1"
    }
    assert shown["CPU model"] == ("cortex-a57", "cortex-a57", "")
    assert shown["memory"] == ("2048 MB", "1968 MB", "-3.9 %")
    assert shown["root disk"] == ("10 GB", "10 GB", "")
    assert shown["storage of pods"] == ("10 GB", "9.8 GB", "-2.3 %")
    assert shown["storage of images"] == ("10 GB", "9.8 GB", "-2.3 %")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("aarch64", "x86_64", "architecture: x86_64 instead of aarch64"),
        ("0xd07", "0xd03", "CPU model: cortex-a53 instead of cortex-a57"),
        ("\n2\n", "\n1\n", "CPUs: 1 instead of 2"),
        ("2015044", "1490756", "memory: 1456 MB instead of 2048 MB"),
        ("2015044", "3015044", "memory: 2944 MB instead of 2048 MB"),
        ("20971520", "25165824", "root disk: 12 GB instead of 10 GB"),
    ],
)
def test_a_guest_that_is_not_as_the_file_says(old: str, new: str, problem: str) -> None:
    assert old in ARM
    assert problems(answer=ARM.replace(old, new)) == [f"arm-mid-1: {problem}"]


def test_what_kubernetes_reports_is_compared_too() -> None:
    [storage] = problems(storage="5241884Ki")
    assert storage == "arm-mid-1: storage of pods: 5.0 GB instead of 10 GB"
    [images] = problems(images=17065439232)
    assert images == "arm-mid-1: storage of images: 15.9 GB instead of 10 GB"
    [labels] = problems(labels={"q8s.io/emulated": "true"})
    assert labels == "arm-mid-1: labels: no q8s.io/type instead of q8s.io/type=arm-mid"


def test_a_kubelet_that_does_not_answer_is_no_broken_promise() -> None:
    rows = table(images=None)
    assert [row["promise"] for row in rows if row["kept"] is None] == ["storage of images"]
    assert not [row for row in rows if row["problem"]]


def test_a_taint_that_is_gone() -> None:
    taint = {"key": "arch", "value": "arm", "effect": "NoSchedule"}
    vm_type = next(server.vm_type for server in CLUSTER.servers() if server.node == "arm-mid-1")
    assert vm_type
    node = kubernetes_node("arm-mid-1")

    def taint_problem() -> str:
        rows = _promises.rows("arm-mid-1", vm_type, _promises.Shown(ARM, node), labels={}, taints=[taint])
        return next(str(row["problem"]) for row in rows if row["promise"] == "taints")

    assert taint_problem() == "arm-mid-1: taints: none instead of arch=arm:NoSchedule"
    node["spec"]["taints"] = [taint, {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]
    assert taint_problem() == ""


@pytest.mark.parametrize("answer", ["", "aarch64\n2\n", "sh: not found\na\nb\nc\n"])
def test_a_guest_that_does_not_answer_is_a_problem(answer: str) -> None:
    assert problems(answer=answer) == ["arm-mid-1: guest: no answer instead of an answer over ssh"]


def test_a_worker_that_has_not_joined_is_a_problem() -> None:
    rows = node_promises([], CLUSTER.to_mapping(), {"x86-small-1": X86, "arm-mid-1": ARM}, WANTED)
    assert [row["node"] for row in rows if row["problem"]] == ["x86-small-1", "arm-mid-1"]


def test_a_model_without_numbers_is_not_compared() -> None:
    assert _cpu_ids.of_model("aarch64", "max") == frozenset()
    assert _cpu_ids.of_model("x86_64", "Skylake-Server-noTSX-IBRS") == {(6, 85)}
    assert _cpu_ids.of_model("x86_64", "Icelake-Server-v3") == {(6, 106), (6, 134)}


def test_the_numbers_are_those_of_models_that_qemu_has() -> None:
    for architecture, models in _cpu_ids.MODELS.items():
        for model in models:
            assert any(_spec_qemu.has_cpu_model(system, architecture, model) for system in _spec_qemu.HOST_SYSTEMS), (
                model
            )


def link(source: str, *targets: str, state: str = "in force", impairment: str = "delay 40 ms") -> dict[str, Any]:
    ends = {"from": [source], "to": list(targets)}
    return {**ends, "impairment": impairment, "state": state, "in_force": state == "in force"}


def finding(source: str, target: str, measured: float | None, kept: bool | None, note: str = "") -> dict[str, Any]:
    ends = {"from": source, "to": target}
    return {**ends, "what": "delay", "unit": "ms", "promised": 40.0, "measured": measured, "kept": kept, "note": note}


def link_rows(links: list[dict[str, Any]], findings: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    rows = _links_promises.rows({"links": links, "findings": findings})
    return [tuple(row[name] for name in ("node", "promise", "promised", "measured", "off", "kept")) for row in rows]


def test_a_link_is_a_promise_of_its_sender_and_equal_ones_share_a_row() -> None:
    targets = [f"edge-{number}" for number in range(1, 6)]
    findings = [finding("cloud-1", name, 40 + number / 10, True) for number, name in enumerate(targets)]
    rows = link_rows([link("cloud-1", *targets)], findings)
    named = "delay to edge-1, edge-2, edge-3 and 2 more"
    assert rows == [("cloud-1", named, "40 ms", "40 to 40.4 ms", "+0.4 ms", True)]


def test_a_broken_link_is_named_alone_and_is_a_problem() -> None:
    findings = [finding("cloud-1", "edge-1", 40.2, True), finding("cloud-1", "edge-2", 3.0, False)]
    findings.append(finding("cloud-1", "edge-3", None, False, "edge-3 does not answer cloud-1"))
    report = {"links": [link("cloud-1", "edge-1", "edge-2", "edge-3")], "findings": findings}
    nodes = [kubernetes_node("x86-small-1"), kubernetes_node("arm-mid-1")]
    answers = {"x86-small-1": X86, "arm-mid-1": ARM}
    rows = node_promises(nodes, CLUSTER.to_mapping(), answers, WANTED, links=report)
    assert [row["problem"] for row in rows if row["problem"]] == [
        "cloud-1: delay to edge-2: 3 ms instead of 40 ms",
        "cloud-1: delay to edge-3: edge-3 does not answer cloud-1 instead of 40 ms",
    ]
    assert [row["off"] for row in rows if row["node"] == "cloud-1"] == ["+0.2 ms", "-37 ms", ""]


def test_links_that_are_not_measured_are_compared_with_what_is_in_force() -> None:
    other = "not in force: delay 200 ms is"
    unshaped = "not shaped: control planes run on the cloud's servers"
    rows = link_rows([link("a", "b", "c"), link("b", "a", state=other), link("cp-1", "cp-2", state=unshaped)], [])
    assert rows == [
        ("a", "link to b, c", "delay 40 ms", "in force", "", True),
        ("b", "link to a", "delay 40 ms", other, "", False),
        ("cp-1", "link to cp-2", "delay 40 ms", unshaped, "", None),
    ]


def test_a_link_that_the_file_does_not_have_is_a_broken_promise_although_it_cannot_be_measured() -> None:
    rows = link_rows([link("a", "b", state="not in force: loss 5% is", impairment="nothing")], [])
    assert rows == [("a", "link to b", "nothing", "not in force: loss 5% is", "", False)]


def test_a_measurement_that_does_not_tell_breaks_nothing() -> None:
    findings = [finding("a", "b", 43.0, None, "the pings differ too much to tell")]
    findings.append(finding("a", "c", None, None, "everything is lost"))
    assert link_rows([link("a", "b", "c")], findings) == [
        ("a", "delay to b", "40 ms", "43 ms", "+3 ms", None),
        ("a", "delay to c", "40 ms", "everything is lost", "", None),
    ]
