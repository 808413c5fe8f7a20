"""``q8s.emu.node_labels``: sets labels, removes only labels that it set before, and is idempotent."""

from __future__ import annotations

import copy
import json
from typing import Any

from ansible_collections.q8s.emu.plugins.modules.node_labels import ANNOTATION, Change, plan, plan_node
from hypothesis import given
from hypothesis import strategies as st

NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2026-11-24T19:00:00Z"}
SLOW = {"key": "slow", "value": "", "effect": "NoExecute"}
ARM = {"key": "dedicated", "value": "arm", "effect": "NoSchedule"}


def node(labels: dict[str, str], *taints: dict[str, str], **record: Any) -> dict[str, Any]:
    annotations = {ANNOTATION: json.dumps(record)} if record else {"other": "x"}
    metadata = {"name": "arm-1", "resourceVersion": "7", "labels": labels, "annotations": annotations}
    return {"metadata": metadata, "spec": {"taints": list(taints)} if taints else {}}


def patched(before: dict[str, Any], change: Change) -> dict[str, Any]:
    """What the API server makes of a merge patch (RFC 7386)."""

    def merge(target: Any, patch: Any) -> Any:
        if not isinstance(patch, dict):
            return patch
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merge(result.get(key), value)
        return result

    assert change.patch["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    result: dict[str, Any] = merge(copy.deepcopy(before), change.patch)
    return result


def test_a_node_that_registered_with_all_is_only_recorded() -> None:
    registered = node({"disk": "ssd", "kubernetes.io/arch": "arm64"}, {"key": "slow", "effect": "NoExecute"}, NOT_READY)
    change = plan_node(registered, {"disk": "ssd"}, [SLOW])
    assert change and set(change.patch["metadata"]) == {"annotations", "resourceVersion"} and "spec" not in change.patch
    assert change.before == change.after


def test_labels_and_taints_come_and_go_and_those_of_others_stay() -> None:
    first = node({"theirs": "1"}, NOT_READY)
    change = plan_node(first, {"disk": "ssd", "rank": "1"}, [SLOW, ARM])
    assert change
    second = patched(first, change)
    assert second["metadata"]["labels"] == {"theirs": "1", "disk": "ssd", "rank": "1"}
    assert [taint["key"] for taint in second["spec"]["taints"]] == [NOT_READY["key"], "slow", "dedicated"]
    assert plan_node(second, {"disk": "ssd", "rank": "1"}, [SLOW, ARM]) is None
    change = plan_node(second, {"rank": "2"}, [ARM | {"value": "x"}])
    assert change
    third = patched(second, change)
    assert third["metadata"]["labels"] == {"theirs": "1", "rank": "2"}
    assert third["spec"]["taints"] == [NOT_READY, ARM | {"value": "x"}]
    assert "arm-1: taint dedicated=arm:NoSchedule\n" in change.before
    assert "arm-1: rank=2\n" in change.after and "disk" not in change.after


def test_only_nodes_that_are_wanted_and_there() -> None:
    assert plan([node({})], {"arm-2": {"labels": {"a": "b"}}}) == []
    assert [change.node for change in plan([node({})], {"arm-1": {"labels": {"a": "b"}}})] == ["arm-1"]


def test_an_annotation_that_someone_broke() -> None:
    broken = node({"a": "b"})
    broken["metadata"]["annotations"][ANNOTATION] = "{"
    assert plan_node(broken, {"a": "b"}, [])


WORD = st.sampled_from(["a", "b", "c"])
TAINTS = st.lists(
    st.fixed_dictionaries({"key": WORD, "value": WORD, "effect": st.sampled_from(["NoSchedule", "NoExecute"])}),
    max_size=3,
    unique_by=lambda taint: (taint["key"], taint["effect"]),
)


@given(
    st.dictionaries(WORD, WORD),
    TAINTS,
    st.lists(st.tuples(st.dictionaries(WORD, WORD), TAINTS), min_size=1, max_size=3),
)
def test_whatever_came_before_one_change_is_enough(labels: Any, taints: Any, wishes: Any) -> None:
    now = node(labels, *taints)
    for wanted_labels, wanted_taints in wishes:
        change = plan_node(now, wanted_labels, wanted_taints)
        now = patched(now, change) if change else now
        assert plan_node(now, wanted_labels, wanted_taints) is None
        assert wanted_labels.items() <= now["metadata"]["labels"].items()
        assert all(taint in now["spec"].get("taints", []) for taint in wanted_taints)
        pairs = [(taint["key"], taint["effect"]) for taint in now["spec"].get("taints", [])]
        assert len(pairs) == len(set(pairs))
