"""A controller without a cache uses the artifacts that the cluster serves, if they are of its recipe and all there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.artifact_record import artifact_record
from ansible_collections.q8s.emu.plugins.filter.recorded_artifacts import recorded_artifacts

NAME = "root-x86_64-0123456789ab.qcow2"
ANSWER: dict[str, Any] = {
    "changed": True,
    "recipe": "5f2c",
    "cmdlines": {"x86_64": "root=x"},
    "pod_images": {"flannel": "flannel:1"},
    "artifacts": {"root-x86_64": {"name": NAME, "path": "/cache/root.qcow2", "sha256": "0123", "size": 7}},
    "missing": [],
}
BUILT = {"bundle": ANSWER}
LACKING = {
    "bundle": {"recipe": "5f2c", "missing": ["image-x86_64"], "obstacles": [{"reason": "no gcc"}]},
    "on_cluster": True,
    "arguments": ["ensure", "--arch=x86_64"],
}


def test_what_one_controller_built_another_one_uses() -> None:
    found = recorded_artifacts(LACKING, artifact_record(BUILT), ["artifacts.json", NAME])
    assert found["artifacts"] == {"root-x86_64": {"name": NAME, "sha256": "0123"}}
    assert found["bundle"]["cmdlines"] == {"x86_64": "root=x"}
    assert found["bundle"]["artifacts"]["root-x86_64"]["size"] == 7
    assert (found["files"], found["on_cluster"], found["bundle"]["missing"]) == ([], False, [])
    assert found["arguments"] == LACKING["arguments"]


def test_the_record_is_the_same_from_a_controller_that_uses_it() -> None:
    record = artifact_record(BUILT)
    assert "/cache" not in record
    assert artifact_record(recorded_artifacts(LACKING, record, [NAME])) == record


@pytest.mark.parametrize(
    ("record", "files"),
    [
        ("", []),
        (artifact_record(BUILT), ["artifacts.json"]),
        (artifact_record({"bundle": {**ANSWER, "recipe": "6a3d"}}), [NAME]),
        (artifact_record(BUILT)[:-20], [NAME]),
        ("[]", [NAME]),
        (json.dumps({"recipe": "5f2c", "artifacts": [NAME]}), [NAME]),
        (json.dumps({"recipe": "5f2c", "artifacts": {"root-x86_64": NAME}}), [NAME]),
    ],
    ids=["none", "no file", "another recipe", "cut", "no record", "no kinds", "no checksum"],
)
def test_another_record_is_not_used(record: str, files: list[str]) -> None:
    assert recorded_artifacts(LACKING, record, files) == {}
