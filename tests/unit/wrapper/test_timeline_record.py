"""The record of a deploy: milestones of its guests, and which deploys are kept."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path

from q8s_wrapper.experiment import timeline_record
from tests.unit.wrapper.local_cloud import recorded
from tests.unit.wrapper.recorded_deploy import deploy


def test_milestones_of_a_later_boot_are_left_out() -> None:
    record = deploy()
    began = datetime.fromisoformat(record["started"]).timestamp()
    fact = {"node": "arm-mid-1", "host": "cli-arm-mid-1", "kernel": None, "containerd": None, "kubelet": None}
    during = {**fact, "power_on": began + 175.5, "registered": began + 220, "ready": began + 5000}
    later = {**fact, "node": "x86-small-1", "power_on": began + 4000, "registered": began + 220, "ready": began + 4100}
    unread = {**fact, "node": "x86-small-2", "power_on": None, "registered": None, "ready": None}
    guests = timeline_record.with_guests(record, [during, later, unread])["guests"]
    assert guests == [{"node": "arm-mid-1", "host": "cli-arm-mid-1", "times": {"power_on": 175.5, "registered": 220.0}}]


def test_clocks_that_differ_by_a_second_put_no_milestone_before_an_earlier_one() -> None:
    record = deploy()
    began = datetime.fromisoformat(record["started"]).timestamp()
    fact = {"node": "a", "host": "h", "power_on": began + 100, "kernel": began + 99.4, "registered": began + 130}
    [guest] = timeline_record.with_guests(record, [fact])["guests"]
    assert guest["times"] == {"power_on": 100.0, "kernel": 100.0, "registered": 130.0}


def test_what_is_known_of_a_guest_stays_when_it_has_booted_again_or_is_gone() -> None:
    record = deploy()
    began = datetime.fromisoformat(record["started"]).timestamp()
    boot = {"node": "arm-mid-1", "host": "cli-arm-mid-1", "power_on": began + 100, "registered": began + 130}
    first = timeline_record.with_guests(record, [boot])
    later = timeline_record.with_guests(first, [{**boot, "power_on": began + 4000, "registered": began + 4100}])
    assert later["guests"] == first["guests"]
    assert timeline_record.with_guests(first, [])["guests"] == first["guests"]
    [guest] = timeline_record.with_guests(first, [{**boot, "kernel": began + 101, "registered": None}])["guests"]
    assert list(guest["times"].items()) == [("power_on", 100.0), ("kernel", 101.0), ("registered", 130.0)]


def test_the_last_deploy_that_created_servers_is_kept(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "state")
    first = deploy()
    again = {**deploy("again"), "servers_created": 0}
    timeline_record.write(folder, first)
    timeline_record.write(folder, again)
    assert timeline_record.read(folder) == first
    assert timeline_record.read(folder, last=True) == again
    assert stat.S_IMODE((folder / timeline_record.CREATED).stat().st_mode) == 0o600
