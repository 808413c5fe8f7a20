"""The filter that merges the plan for the cloud with the plan for builds and uploads."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.filter.deploy_plan import deploy_plan

CLUSTER = {"name_of_initial_instance": "demo-control-plane"}
BUILT: dict[str, Any] = {
    "on_cluster": False,
    "bundle": {
        "missing": ["image-aarch64"],
        "obstacles": [{"reason": "no mmdebstrap", "hint": "install it"}],
        "artifacts": {"bundle-aarch64": {"size": 1000}, "root-aarch64": {"size": 0}},
    },
}


def preflight(*changes: tuple[str, str]) -> dict[str, Any]:
    listed = [{"action": action, "kind": "server", "name": name} for action, name in changes]
    return {"plan": {"changes": listed, "notes": ["a note"], "quota": {}}, "settled": False}


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (("create", "demo-control-plane"), 1000),
        (("replace", "demo-control-plane"), 1000),
        (("delete", "demo-control-plane"), 0),
        (("create", "demo-arm-1"), 0),
    ],
)
def test_a_new_control_plane_gets_what_is_cached(change: tuple[str, str], size: int) -> None:
    assert deploy_plan(preflight(change), BUILT, CLUSTER) == {
        "changes": preflight(change)["plan"]["changes"],
        "notes": ["a note"],
        "quota": {},
        "build": {
            "missing": ["image-aarch64"],
            "on_cluster": False,
            "obstacles": ["no mmdebstrap"],
            "upload_bytes": size,
        },
    }


def test_without_the_program_nothing_is_said_of_the_build() -> None:
    assert "build" not in deploy_plan(preflight(), {"skipped": True}, CLUSTER)
