"""What verify says of a worker that is as the cluster file says, and of one that is not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.node_promises import node_promises
from ansible_collections.q8s.emu.plugins.module_utils import _cpu_ids, _inventory, _promises, _spec, _spec_qemu

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
    rows = node_promises(nodes, CLUSTER.to_mapping(), answers, WANTED, images)
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
        rows = _promises.rows("arm-mid-1", vm_type, ARM, node, labels={}, taints=[taint])
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
