"""The simulation of a deploy: what limits it grows as it must, and what does not limit it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import simpy

from benchmarks.deploy_model import INFINITE, Build, Deploy, Job, Shared, Site, simulate, without_limits

NOTHING = Deploy(
    local=(), create=(0.0, 0.0), ssh=(), identity=(), control=(Job("Upload", "", kind="upload"),), worker=(), boot=(),
    final=(),
)  # fmt: skip
GUEST = (Job("Start", "", kind="start"), Job("Wait", "", kind="answer"))
BOOT = (("kernel", 2.0), ("containerd", 10.0), ("kubelet", 1.0), ("registered", 5.0), ("ready", 4.0))
READY = (Job("Ready", "", kind="ready"),)


def seconds(deploy: Deploy, site: Site, workers: int) -> float:
    return simulate(deploy, site, workers).seconds


def ends(capacity: float, amounts: list[float], starts: list[float] | None = None, **more: Any) -> list[float]:
    """When users of a shared resource have got their amounts."""
    env = simpy.Environment()
    shared = Shared(env, capacity, **more)
    found = [0.0] * len(amounts)

    def user(number: int, amount: float, start: float) -> Any:
        yield env.timeout(start)
        yield shared.use(amount)
        found[number] = round(env.now, 6)

    for number, amount in enumerate(amounts):
        env.process(user(number, amount, (starts or [0.0] * len(amounts))[number]))
    env.run()
    return found


def test_users_of_a_resource_share_it_evenly() -> None:
    assert ends(10, [100]) == [10]
    assert ends(10, [100, 100]) == [20, 20]
    # Ten seconds alone, ten together, and the rest of the first one alone.
    assert ends(10, [200, 50], [0, 10]) == [25, 20]
    assert ends(2, [10, 10, 10], most=1.0) == [15, 15, 15]
    assert ends(2, [10], most=1.0) == [10]
    assert ends(2, [10], most=1.0, background=3) == [20]
    assert ends(INFINITE, [10, 20]) == [0, 0]


def test_artifacts_through_one_uplink_take_time_in_proportion_to_the_hosts() -> None:
    deploy = replace(NOTHING, worker=(Job("Download", "", kind="download", megabytes=300.0),))
    site = Site(uplink=100.0, forks=1000)
    assert [seconds(deploy, site, workers) for workers in (1, 50, 500)] == pytest.approx([3, 150, 1500])
    # Without this limit it is the host's own link.
    assert seconds(deploy, replace(site, uplink=INFINITE, link=100.0), 500) == pytest.approx(3)


def test_hosts_wait_until_the_artifacts_are_uploaded() -> None:
    upload = Job("Upload", "", kind="upload", megabytes=700.0)
    deploy = replace(NOTHING, control=(upload,), worker=(Job("Download", "", kind="download", megabytes=300.0),))
    result = simulate(deploy, Site(upload=7.0, uplink=100.0), 2)
    assert result.downloaded == pytest.approx([106, 106])


def test_ansible_works_on_as_many_hosts_as_it_has_forks() -> None:
    deploy = replace(NOTHING, worker=(Job("First", "", host=10.0), Job("Second", "", host=5.0)))
    assert [seconds(deploy, Site(forks=50), workers) for workers in (1, 50, 51, 150)] == [15, 15, 25, 45]
    assert seconds(deploy, Site(forks=1000), 150) == 15


def test_guests_boot_while_ansible_waits_for_others() -> None:
    deploy = replace(NOTHING, worker=GUEST, boot=BOOT, final=READY)
    assert seconds(deploy, Site(), 1) == pytest.approx(22)
    assert seconds(deploy, Site(forks=50), 150) == pytest.approx(22)


def test_the_main_process_of_ansible_does_one_thing_at_a_time() -> None:
    deploy = replace(NOTHING, worker=(Job("Task", "", main=0.1, controller=0.5, host=1.0),) * 10)
    few, many = (seconds(deploy, Site(controller_cores=1000), workers) for workers in (1, 500))
    assert few == pytest.approx(16)
    assert many >= 500
    names = dict(without_limits(deploy, Site(controller_cores=1000, forks=1000), 500))
    assert names["Ansible's main process at no cost"] == pytest.approx(15)


def test_machines_that_share_cores_slow_one_another_down() -> None:
    deploy = replace(NOTHING, worker=(Job("Work", "", host=30.0),))
    assert seconds(deploy, Site(), 4) == pytest.approx(30)
    assert seconds(deploy, Site(cores=2), 4) == pytest.approx(60)
    assert seconds(deploy, Site(cores=2, background=4), 4) == pytest.approx(120)


def test_guests_register_when_the_api_server_answers_and_joins_cost_it() -> None:
    init = Job("Run kubeadm init", "", host=60.0, kind="api")
    deploy = replace(NOTHING, control=(*NOTHING.control, init), worker=GUEST, boot=BOOT, final=READY)
    assert seconds(deploy, Site(), 1) == pytest.approx(60 + 9)
    # 100 joins of 1.2 s on two cores.
    assert seconds(deploy, Site(join=1.2, forks=200), 100) == pytest.approx(60 + 60 + 9, rel=0.02)


def test_the_cloud_creates_servers_one_after_the_other() -> None:
    deploy = replace(NOTHING, create=(5.0, 2.0))
    assert simulate(deploy, Site(server=1.6, server_boot=40.0), 249).active == pytest.approx(5 + 400)
    assert simulate(deploy, Site(server=1.6, server_boot=40.0), 249).reached == pytest.approx(5 + 400 + 40)


def test_a_build_comes_before_the_servers_and_uses_all_cores_but_for_the_bootstrap() -> None:
    deploy = replace(NOTHING, create=(5.0, 0.0), build=Build(programs=400.0, bootstrap=10.0))
    result = simulate(deploy, Site(controller_cores=4), 1)
    assert result.built == pytest.approx(102.5, abs=1.5)  # 410 s of a core on four
    assert result.active == pytest.approx(result.built + 5)
    # One thread cannot be faster than one core.
    alone = replace(NOTHING, build=Build(programs=40.0, bootstrap=60.0))
    assert seconds(alone, Site(controller_cores=8), 1) == pytest.approx(60, rel=0.02)
    # On a machine of half the speed, it takes twice as long.
    assert seconds(alone, Site(cores=8, pace=0.5), 1) == pytest.approx(120, rel=0.02)
    assert simulate(NOTHING, Site(), 1).built == 0
