"""An upgrade starts only when every server of the cluster runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from q8s_wrapper.config import PLAYBOOKS
from tests.integration.collection.plays import copy_collections, play, said


@pytest.mark.parametrize(("status", "goes_on"), [("ACTIVE", True), ("ERROR", True), ("SHUTOFF", False)])
def test_a_server_that_is_off_is_named_before_anything_is_changed(tmp_path: Path, status: str, goes_on: bool) -> None:
    (play_of,) = [p for p in yaml.safe_load((PLAYBOOKS / "upgrade.yml").read_text()) if p.get("hosts") == "localhost"]
    tasks = [task for task in play_of["tasks"] if task["name"] == "Stop when servers are off"]
    assert len(tasks) == 1
    (tmp_path / "play.yml").write_text(json.dumps([{**play_of, "tasks": tasks}]))
    hosts = {"cp": {"q8s_status": "ACTIVE"}, "demo-arm-mid-1": {"q8s_status": status}}
    groups = {"control_plane": {"hosts": {"cp": {}}}, "worker_hosts": {"hosts": {"demo-arm-mid-1": {}}}}
    inventory = {"all": {"hosts": {"localhost": {}, **hosts}, "children": groups}}
    (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
    copy_collections(tmp_path)
    done = play(tmp_path, tmp_path / "play.yml")
    assert (done.returncode == 0) == goes_on, said(done)
    assert goes_on or "demo-arm-mid-1: not ACTIVE (SHUTOFF). Bring every server to ACTIVE first" in said(done)
