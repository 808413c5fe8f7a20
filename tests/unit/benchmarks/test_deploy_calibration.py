"""The calibration of the simulation, from a made-up deploy whose costs are known."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.deploy_calibration import (
    Sizes,
    background,
    background_until,
    calibrate,
    rate_between,
    samples_of,
    thread_share,
)
from benchmarks.deploy_model import Site, simulate

SIZES = Sizes(host_packages=50, control_packages=20, upload=500, download=300)
PLAY = "Start the control plane, and boot guests"
# Seconds of a core of each task, in order.
LOCAL = [("Create the SSH key", 2.0), ("Create the servers", 10.0)]
CONTROL = [("Upload the files that are missing", 10.0), ("Install the packages", 5.0), ("Run kubeadm init", 15.0)]
WORKER = [("Install the packages", 20.0), ("Download missing files", 5.0), ("Start the guest", 1.0)]
BOOT = {"kernel": 4.0, "containerd": 20.0, "kubelet": 1.0, "registered": 10.0, "ready": 5.0}
# Of each task, on whichever host.
FORK = 0.5


def recorded(slowdown: float, workers: int = 1, pace: float = 1.0) -> dict[str, Any]:
    """A deploy on machines of their own, each of which other programs slow down by a factor, on cores of some pace."""
    costs = slowdown / pace
    tasks: list[dict[str, Any]] = []

    def add(host: str, stage: str, play: str, work: list[tuple[str, float]], at: float) -> float:
        for name, cost in work:
            end = at + cost * costs
            action = "wait_for_connection" if name == "Wait for SSH" else "command"
            tasks.append({"host": host, "stage": stage, "play": play, "task": name, "action": action,
                          "start": at, "end": end, "result": "ok"})  # fmt: skip
            at = end
        return at

    reached = add("localhost", "Create servers", "Create servers", LOCAL, 0.0)
    hosts = ["control", *(f"host-{number}" for number in range(workers))]
    for host in hosts:
        began = add(host, "Wait for SSH", "Wait for SSH", [("Wait for SSH", 2.0)], reached)
    uploaded = began + 10 * costs
    done = add("control", "Control", PLAY, CONTROL, began)
    guests = []
    for host in hosts[1:]:
        started = add(host, "Boot guests", PLAY, WORKER[:1], began)
        started = add(host, "Boot guests", PLAY, WORKER[1:], max(started, uploaded))
        times, at = {"power_on": started}, started
        for name, cost in BOOT.items():
            at = (max(at, done) if name == "registered" else at) + cost * costs
            times[name] = at
        answers = (times["containerd"] - started) / costs
        add(host, "Boot guests", PLAY, [("Wait until the guest answers", answers)], started)
        guests.append({"node": f"node-{host}", "host": host, "times": times})
    free = max(task["end"] for task in tasks)
    ready = max(guest["times"]["ready"] for guest in guests)
    name = "Wait until every node is Ready, and the cluster's DNS"
    seconds = add("control", "Ready", "Ready", [(name, (ready - free) / costs + 3.0)], free)
    count = sum(1 for task in tasks if task["play"] == PLAY)
    span = free - began
    samples = [
        {"at": at, "share": 1 / slowdown, "pace": pace,
         "forks": FORK * count * (at - began) / (span - 1)}
        for at in map(float, range(1, int(seconds)))
    ]  # fmt: skip
    return {"seconds": seconds, "tasks": tasks, "guests": guests, "samples": samples}


def test_a_busy_machine_changes_no_cost() -> None:
    quiet, busy = (calibrate(one, SIZES) for one in (recorded(1.0), recorded(3.0, pace=0.5)))
    assert dict(quiet.boot) == pytest.approx(BOOT)
    assert dict(busy.boot) == pytest.approx(BOOT)
    for one, other in zip(quiet.worker, busy.worker, strict=True):
        assert (one.name, one.kind, one.megabytes) == (other.name, other.kind, other.megabytes)
        assert one.controller + one.host == pytest.approx(other.controller + other.host)
    costs = {job.name: job.controller + job.host for job in quiet.worker}
    assert costs == pytest.approx({**dict(WORKER), "Wait until the guest answers": 0.0})


def test_ansibles_part_of_a_task_is_not_the_hosts() -> None:
    deploy = calibrate(recorded(1.0), SIZES)
    init = next(job for job in deploy.control if job.name == "Run kubeadm init")
    assert init.controller == pytest.approx(FORK, rel=0.05)
    assert init.host == pytest.approx(15 - FORK, rel=0.05)
    assert all(job.host == 0 for job in deploy.local)


def test_tasks_have_the_kinds_that_the_simulation_knows() -> None:
    deploy = calibrate(recorded(1.0), SIZES)
    assert [job.kind for job in deploy.worker] == ["packages", "download", "start", "answer"]
    assert [job.kind for job in deploy.control] == ["upload", "packages", "api"]
    assert [job.megabytes for job in (*deploy.control, *deploy.worker)] == [500, 20, 0, 50, 300, 0, 0]
    assert [job.kind for job in deploy.final] == ["ready"]


def test_the_simulation_of_the_calibration_is_the_deploy() -> None:
    record = recorded(1.0)
    deploy = calibrate(record, SIZES)
    site = Site(server=2.0)  # each server costs the cloud two seconds; the rest of the task is counted once
    assert simulate(deploy, site, 1).seconds == pytest.approx(record["seconds"], rel=0.02)


def test_the_probe_is_a_thread_itself() -> None:
    assert thread_share(1.0, 2) == 1.0
    assert thread_share(0.5, 2) == pytest.approx(2 / 3)  # four threads with the probe, three without
    assert thread_share(0.1, 2) == pytest.approx(2 / 19)


def test_the_background_follows_from_the_share_that_a_thread_got() -> None:
    deploy = calibrate(recorded(1.0), SIZES)
    share = simulate(deploy, Site(cores=2, pace=0.5, background=3.0), 2).share
    assert 2 / 6 < share < 2 / 4
    assert background(deploy, Site(cores=2, pace=0.5), 2, share) == pytest.approx(3.0, abs=0.03)


def test_the_nearest_sample_counts_for_a_task_without_one() -> None:
    assert rate_between(samples_of(recorded(2.0)), 5.0, 5.1) == 0.5


def test_the_background_follows_from_when_the_servers_were_reached() -> None:
    deploy = calibrate(recorded(1.0), SIZES)
    reached = simulate(deploy, Site(cores=2, background=3.0), 2).reached
    assert background_until(deploy, Site(cores=2), 2, reached) == pytest.approx(3.0, abs=0.03)
