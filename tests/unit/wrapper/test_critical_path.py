"""The critical path of a deploy."""

from __future__ import annotations

from itertools import pairwise

from q8s_wrapper.experiment import timeline
from q8s_wrapper.experiment.critical_path import critical_path
from q8s_wrapper.experiment.timeline_record import MILESTONES, Guest
from tests.unit.wrapper.recorded_deploy import deploy, task


def test_the_critical_path_goes_through_the_host_that_was_last() -> None:
    """The first x86_64 guest of this run answered after nine minutes, the others long before."""
    path = timeline.analysis(deploy())["critical_path"]
    named = [(segment["host"], segment["stage"]) for segment in path if segment["kind"] != "ansible"]
    assert named == [
        ("localhost", "Check the cloud and the quota"),
        ("localhost", "Create servers"),
        ("cli-x86-small-1", "Wait for SSH"),
        ("cli-control-plane", "Create the CA and the bootstrap token"),
        ("cli-x86-small-1", "Install QEMU and libvirt"),
        ("cli-x86-small-1", "Boot guests"),
        ("cli-x86-small-1", "Boot guests"),
        ("cli-control-plane", "Wait until every node is Ready"),
    ]


def test_the_wait_for_ready_nodes_leads_through_the_slowest_boot_to_the_task_that_started_it() -> None:
    ready = "q8s.emu.nodes_ready"
    tasks = [
        task("fast", 0, 5, "Start the guest", play="Boot"),
        task("slow", 0, 8, "Start the guest", play="Boot"),
        task("plane", 9, 30, "Wait until every node is Ready", ready, "Ready"),
    ]
    times = {"power_on": 7.0, "kernel": 8.0, "containerd": 12.0, "kubelet": 13.0, "registered": 20.0, "ready": 28.0}
    guests = [Guest("a", "fast", {"power_on": 4.0, "ready": 21.0}), Guest("b", "slow", times)]
    path = critical_path(tasks, guests, 30.0)
    assert [(segment.start, segment.end, segment.host) for segment in path] == [
        (0.0, 7.0, "slow"),
        *((times[a], times[b], "b") for a, b in pairwise(MILESTONES)),
        (28.0, 30.0, "plane"),
    ]
    assert path[1].what == "firmware and kernel's start"


def test_a_short_task_has_waited_for_its_own_host() -> None:
    play = "Start the control plane, and boot guests"
    tasks = [
        task("slow", 0, 8, "Install", play=play),
        task("other", 0, 8.01, "Upload", play=play),
        task("slow", 8.02, 8.04, "Check", play=play),
        task("slow", 8.05, 10, "Boot", play=play),
    ]
    assert {segment.host for segment in critical_path(tasks, [], 10.0)} == {"slow"}
