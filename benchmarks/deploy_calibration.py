"""Turn a recorded deploy into the jobs of the simulation: how many seconds of a core each task needs. Pure functions.

A recorded deploy is what ``q8s-run timeline --output`` writes, with the samples that ``deploy_samples`` took of the
machine meanwhile. On a busy machine a task takes longer than it computes. How much, a probe in the samples says: a
task's seconds of a core are its duration times the share of a core that a thread got, times the pace of that core
relative to an undisturbed one. (The pace of a virtual core halves while its sibling or its neighbours work.)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from benchmarks.deploy_model import Deploy, Job, Site, simulate
from q8s_wrapper.experiment.task_log import Task
from q8s_wrapper.experiment.timeline_record import Guest, guests_of, tasks_of

_PLAYS: Final = ("Start the control plane, and boot guests", "Wait until guests answer")
_SSH: Final = "Wait for SSH"
_CREATE: Final = "Create the servers"
_UPLOAD: Final = "Upload the files that are missing"
_KINDS: Final = {
    "Install the packages": "packages",
    _UPLOAD: "upload",
    "Download missing files": "download",
    "Run kubeadm init": "api",
    "Start the guest": "start",
    "Wait until the guest answers": "answer",
    "Wait until every node is Ready, and the cluster's DNS": "ready",
}
# What the lab's Nova, Neutron and the machine itself compute for a server: docs/reference/benchmarks.md.
SERVER: Final = 2.0


@dataclass(frozen=True)
class Sizes:
    """Megabytes: the packages of a host and of the control plane, what is uploaded, and what a host downloads."""

    host_packages: float
    control_packages: float
    upload: float
    download: float


@dataclass(frozen=True)
class Sample:
    """The machine at a moment of a deploy.

    :param at: seconds since the start of the deploy
    :param share: share of a core that a thread got
    :param pace: of such a core, relative to an undisturbed one
    :param forks: seconds of a core that Ansible's workers and their children have used so far
    """

    at: float
    share: float
    pace: float
    forks: float

    @property
    def rate(self) -> float:
        """Return the share of an undisturbed core that a thread got."""
        return self.share * self.pace


def samples_of(record: Mapping[str, Any]) -> list[Sample]:
    """Return the samples of a recorded deploy."""
    return [Sample(**sample) for sample in record["samples"]]


def thread_share(probe: float, cores: float) -> float:
    """Return the share of a core that a thread gets, from that of the probe, which is one more thread."""
    return min(1.0, cores / max(cores / probe - 1.0, 1e-9))


def rate_between(samples: Sequence[Sample], start: float, end: float) -> float:
    """Return the mean rate of a thread between two moments; the nearest one if there is no sample."""
    inside = [sample.rate for sample in samples if start <= sample.at <= end]
    if inside:
        return statistics.fmean(inside)
    return min(samples, key=lambda sample: abs(sample.at - (start + end) / 2)).rate


def pace(samples: Sequence[Sample]) -> float:
    """Return the mean pace of the machine's cores."""
    return statistics.fmean(sample.pace for sample in samples)


def background(deploy: Deploy, site: Site, workers: int, share: float) -> float:
    """Return how many threads competed besides those of the jobs, from the share of a core that a thread got.

    They are those of other programs, and of the deploy's own machines while they do nothing for it.

    :param share: mean during the deploy
    """
    return _bisect(lambda site: simulate(deploy, site, workers).share > share, site)


def background_until(deploy: Deploy, site: Site, workers: int, reached: float) -> float:
    """Return how many threads competed besides those of the jobs, from when every server was reached on SSH.

    For a deploy of which there are no samples. The part of the deploy after that moment is not used.
    """
    return _bisect(lambda site: simulate(deploy, site, workers).reached < reached, site)


def _bisect(too_few: Callable[[Site], bool], site: Site) -> float:
    low, high = 0.0, 64.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if too_few(replace(site, background=middle)) else (low, middle)
    return low


def calibrate(record: Mapping[str, Any], sizes: Sizes) -> Deploy:
    """Return the jobs of a recorded deploy. Those of its workers are averaged."""
    tasks, samples = tasks_of(record), samples_of(record)

    def cost(start: float, end: float) -> float:
        return max(end - start, 0.0) * rate_between(samples, start, end)

    control = next(task.host for task in tasks if task.task == "Run kubeadm init")
    workers = list(dict.fromkeys(task.host for task in tasks if task.task == "Start the guest"))
    free = [task for task in tasks if task.play in _PLAYS]
    began, ended = min(task.start for task in free), max(task.end for task in free)
    main = _main(free, cost)
    make = _Maker(
        cost,
        main,
        _fork(samples, tasks, began, ended),
        sizes,
        next(task.end for task in tasks if task.task == _UPLOAD),
        _guests(record),
    )
    before = make.linear([task for task in tasks if task.play not in _PLAYS and task.start < began], since=0.0)
    create = next(job for task, job in before if task.task == _CREATE)
    local, ssh, identity = [], [], []
    for task, job in before:
        if task.stage == _SSH:
            # Every server has this job. What Ansible does once before it, such as reading the inventory, it does once.
            local.append(Job("Before", _SSH, job.main))
            ssh += [replace(job, main=main)] if task.host == control else []
        elif task.host == control:
            identity.append(job)
        elif job is not create:
            local.append(job)
    whole = create.controller + create.main
    return Deploy(
        local=tuple(local),
        create=(max(whole - SERVER * (len(workers) + 1), 0.0), SERVER),
        ssh=tuple(ssh),
        identity=tuple(identity),
        control=tuple(make.jobs([task for task in free if task.host == control], control=True)),
        worker=_mean([make.jobs([task for task in free if task.host == host], control=False) for host in workers]),
        boot=_boot(guests_of(record), tasks, cost),
        final=tuple(job for _, job in make.linear([task for task in tasks if task.start >= ended], ended)),
    )


def _guests(record: Mapping[str, Any]) -> float:
    """Return when the last guest was Ready."""
    return max((guest.times["ready"] for guest in guests_of(record)), default=0.0)


def _main(tasks: Sequence[Task], cost: Callable[[float, float], float]) -> float:
    """Return the seconds of a core that Ansible's main process needs between two tasks of a host.

    Its processor time would be too long: it polls while it waits.
    """
    hosts: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.start):
        hosts.setdefault(task.host, []).append(task)
    return statistics.fmean(cost(one.end, other.start) for host in hosts.values() for one, other in pairwise(host))


def _fork(samples: Sequence[Sample], tasks: Sequence[Task], began: float, ended: float) -> float:
    """Return the seconds of a core that a worker of Ansible needs for a task."""
    inside = [sample for sample in samples if began <= sample.at <= ended]
    count = sum(1 for task in tasks if began <= task.start < ended)
    return (inside[-1].forks - inside[0].forks) * pace(inside) / count


@dataclass(frozen=True)
class _Maker:
    """Makes jobs of tasks.

    :param cost: seconds of a core of what ran between two moments
    :param uploaded: when the artifacts were uploaded
    :param ready: when the last guest was Ready
    """

    cost: Callable[[float, float], float]
    main: float
    fork: float
    sizes: Sizes
    uploaded: float
    ready: float

    def jobs(self, tasks: Sequence[Task], *, control: bool) -> list[Job]:
        """Return the jobs of a host in the play in which hosts do not wait for one another."""
        return [self.job(task, self.main, control=control) for task in tasks]

    def linear(self, tasks: Sequence[Task], since: float) -> list[tuple[Task, Job]]:
        """Return the jobs of plays in which one task follows the other. What Ansible does in between is part of a job.

        :param since: when the first play began
        """
        found = []
        for task in sorted(tasks, key=lambda task: task.start):
            found.append((task, self.job(task, self.cost(since, task.start), control=True)))
            since = max(since, task.end)
        return found

    def job(self, task: Task, main: float, *, control: bool) -> Job:
        """Return the job of a task."""
        kind = _KINDS.get(task.task, "task")
        start = task.start
        if kind == "download":
            start = max(start, self.uploaded)
        elif kind == "ready":
            start = max(start, self.ready)
        whole = 0.0 if kind == "answer" else self.cost(start, task.end)
        alone = task.kind == "ansible" or task.host == "localhost"
        ours = whole if alone else min(whole, self.fork)
        packages = self.sizes.control_packages if control else self.sizes.host_packages
        megabytes = {"packages": packages, "upload": self.sizes.upload, "download": self.sizes.download}
        return Job(task.task, task.stage, main, ours, whole - ours, kind, megabytes.get(kind, 0.0))


def _mean(lists: Sequence[Sequence[Job]]) -> tuple[Job, ...]:
    """Return the jobs of a worker: those of the first one, with the mean of all workers that have the same job."""
    found = []
    for job in lists[0]:
        same = [other for jobs in lists for other in jobs if (other.stage, other.name) == (job.stage, job.name)]
        controller = statistics.fmean(other.controller for other in same)
        host = statistics.fmean(other.host for other in same)
        found.append(Job(job.name, job.stage, job.main, controller, host, job.kind, job.megabytes))
    return tuple(found)


def _boot(
    guests: Sequence[Guest], tasks: Sequence[Task], cost: Callable[[float, float], float]
) -> tuple[tuple[str, float], ...]:
    """Return the phases of a guest's boot. Waiting for the API server does not count."""
    api = next(task.end for task in tasks if task.task == "Run kubeadm init")
    names = list(guests[0].times)
    found = []
    for before, after in pairwise(names):
        spent = []
        for guest in guests:
            start = guest.times[before]
            if after == "registered":
                start = max(start, min(api, guest.times[after]))
            spent.append(cost(start, guest.times[after]))
        found.append((after, statistics.fmean(spent)))
    return tuple(found)
