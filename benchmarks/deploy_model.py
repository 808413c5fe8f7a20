"""A deploy's stage graph as a discrete-event simulation: what it takes on other machines, and with more nodes.

The jobs are the tasks of a real deploy (``deploy_calibration``). A ``Site`` says on which machines they run, and how
fast links, mirror and cloud are. All amounts are seconds of one core, seconds, and megabytes. Same input, same result.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import simpy

Steps = Generator[simpy.Event, Any]
INFINITE: Final = math.inf


@dataclass(frozen=True)
class Job:
    """A task of the deploy on one host.

    :param main: seconds of Ansible's main process, which does one thing at a time
    :param controller: seconds of a core for Ansible's worker, connection and templates
    :param host: seconds of a core of the host
    :param kind: ``task``, or what else the job does: ``packages`` and ``download`` fetch megabytes, ``upload`` offers
        them, ``api`` starts the API server, ``start`` the guest, ``answer`` waits for it, ``ready`` for all guests
    """

    name: str
    stage: str
    main: float = 0.0
    controller: float = 0.0
    host: float = 0.0
    kind: str = "task"
    megabytes: float = 0.0


@dataclass(frozen=True)
class Build:
    """What a deploy builds when nothing is cached, on the machine that runs Ansible, before it creates servers.

    :param programs: seconds of a core for programs, bundles and images. Compilers use all cores
    :param bootstrap: seconds of a core for a guest's system under emulation: one thread, beside the programs
    """

    programs: float = 0.0
    bootstrap: float = 0.0


@dataclass(frozen=True)
class Deploy:
    """What a deploy does, as measured.

    :param local: jobs on the machine that runs Ansible, before servers exist
    :param create: seconds of a core that the cloud needs for no server, and for each
    :param ssh: jobs on every server, one after the other, each on all servers before the next
    :param identity: jobs on the control plane before hosts begin
    :param control: jobs on the control plane, beside those of the hosts
    :param worker: jobs on each host
    :param boot: seconds of a core for each phase of a guest's boot, by the milestone at its end
    :param final: jobs on the control plane after all hosts
    :param build: what is built first; nothing if it is cached
    """

    local: tuple[Job, ...]
    create: tuple[float, float]
    ssh: tuple[Job, ...]
    identity: tuple[Job, ...]
    control: tuple[Job, ...]
    worker: tuple[Job, ...]
    boot: tuple[tuple[str, float], ...]
    final: tuple[Job, ...]
    build: Build = Build()


@dataclass(frozen=True)
class Site:
    """Where a deploy runs.

    :param cores: cores that all machines share, as in the lab; 0 if each machine has its own
    :param pace: of these cores, relative to an undisturbed one
    :param background: threads of other programs that compete for them
    :param forks: hosts on which Ansible works at a time
    :param uplink: MB/s at which the control plane sends artifacts to all hosts together
    :param link: MB/s of one host
    :param mirror: MB/s of the package mirror for all hosts together
    :param upload: MB/s from the machine that runs Ansible to the control plane
    :param server: seconds per server in which the cloud creates it, if it does not run on the shared cores
    :param server_boot: seconds from then until SSH answers
    :param join: seconds of a core of the control plane for the join of a node
    """

    cores: float = 0.0
    pace: float = 1.0
    background: float = 0.0
    controller_cores: float = 4.0
    control_cores: float = 2.0
    host_cores: float = 2.0
    forks: int = 50
    uplink: float = INFINITE
    link: float = INFINITE
    mirror: float = INFINITE
    upload: float = INFINITE
    server: float = 0.0
    server_boot: float = 0.0
    join: float = 0.0


@dataclass
class Result:
    """When what happened, in seconds since the start. Lists have one entry for each worker."""

    seconds: float = 0.0
    built: float = 0.0
    active: float = 0.0
    reached: float = 0.0
    control_up: float = 0.0
    packages: list[float] = field(default_factory=list)
    downloaded: list[float] = field(default_factory=list)
    powered_on: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    share: float = 1.0  # of a core that a thread got on average, where all machines share cores


class Shared:
    """A resource that its users share evenly: cores, or a link.

    :param capacity: what it does per second
    :param most: what one user can use of it per second
    :param background: users that are always there
    """

    def __init__(
        self, env: simpy.Environment, capacity: float, most: float = INFINITE, background: float = 0.0
    ) -> None:
        self._env, self._capacity, self._most, self._background = env, capacity, most, background
        self._ends: list[tuple[float, int, simpy.Event]] = []
        self._shares = 0.0
        self._done = 0.0  # what each user that was always there would have got
        self._since = 0.0
        self._number = 0
        self._version = 0

    def use(self, amount: float) -> simpy.Event:
        """Return an event that occurs when a user has got an amount."""
        event = self._env.event()
        if amount <= 0 or self._rate(1) == INFINITE:
            return event.succeed()
        self._advance()
        self._number += 1
        heapq.heappush(self._ends, (self._done + amount, self._number, event))
        self._schedule()
        return event

    def _rate(self, users: int) -> float:
        return min(self._most, self._capacity / (users + self._background))

    def share(self) -> float:
        """Return the mean of what a user could get so far, relative to what it could get alone."""
        self._advance()
        return self._shares / self._env.now / self._most

    def _advance(self) -> None:
        rate = self._rate(max(len(self._ends), 1))
        self._shares += (self._env.now - self._since) * rate
        if self._ends:
            self._done += (self._env.now - self._since) * rate
        self._since = self._env.now

    def _schedule(self) -> None:
        self._version += 1
        if self._ends:
            left = max(self._ends[0][0] - self._done, 0.0) / self._rate(len(self._ends))
            timer, version = self._env.timeout(left), self._version
            assert timer.callbacks is not None
            timer.callbacks.append(lambda _: self._end(version))

    def _end(self, version: int) -> None:
        if version != self._version:
            return  # somebody came or went meanwhile
        self._advance()
        first = self._ends[0][0]
        while self._ends and self._ends[0][0] <= max(first, self._done) + 1e-9:
            heapq.heappop(self._ends)[2].succeed()
        self._schedule()


class _World:
    """The machines of a site, and the state of a deploy on them."""

    def __init__(self, deploy: Deploy, site: Site, workers: int) -> None:
        self.env = env = simpy.Environment()
        self.deploy, self.site, self.workers = deploy, site, workers
        lab = Shared(env, site.cores * site.pace, site.pace, site.background) if site.cores else None
        self.controller = lab or Shared(env, site.controller_cores, 1.0)
        self.control = lab or Shared(env, site.control_cores, 1.0)
        self.hosts = [lab or Shared(env, site.host_cores, 1.0) for _ in range(workers)]
        self.cloud = lab
        self.main = simpy.Resource(env, 1)
        self.forks = simpy.Resource(env, site.forks)
        self.uplink = Shared(env, site.uplink, site.link)
        self.mirror = Shared(env, site.mirror, site.link)
        self.upload = Shared(env, site.upload)
        self.uploaded, self.api = env.event(), env.event()
        self.answers = [env.event() for _ in range(workers)]
        self.nodes = [env.event() for _ in range(workers)]
        self.result = Result()

    def run(self) -> Result:
        """Run the deploy to its end."""
        self.env.process(self._deploy())
        self.env.run()
        return self.result

    def _deploy(self) -> Steps:
        env, result = self.env, self.result
        for job in self.deploy.local:
            yield from self._job(job, None)
        yield from self._build()
        result.built = env.now
        yield from self._create()
        result.active = env.now
        yield env.timeout(self.site.server_boot)
        for job in self.deploy.ssh:
            yield env.all_of([env.process(self._job(job, host)) for host in [None, *range(self.workers)]])
        result.reached = env.now
        for job in self.deploy.identity:
            yield from self._job(job, None)
        control = env.process(self._control())
        yield env.all_of([control, *(env.process(self._worker(host)) for host in range(self.workers))])
        for job in self.deploy.final:
            yield from self._job(job, None)
        result.seconds = env.now
        if self.cloud:
            result.share = self.cloud.share()

    def _build(self) -> Steps:
        build, threads = self.deploy.build, max(1, round(self.site.cores or self.site.controller_cores))
        parts = [build.programs / threads] * threads + [build.bootstrap]
        yield self.env.all_of([self.controller.use(part) for part in parts])

    def _create(self) -> Steps:
        base, each = self.deploy.create
        if self.cloud:
            yield self.cloud.use(base + each * (self.workers + 1))
        else:
            yield self.env.timeout(base + self.site.server * (self.workers + 1))

    def _control(self) -> Steps:
        for job in self.deploy.control:
            yield from self._job(job, None)
        self.result.control_up = self.env.now
        if not self.api.triggered:
            self.api.succeed()

    def _worker(self, host: int) -> Steps:
        for job in self.deploy.worker:
            yield from self._job(job, host)

    def _job(self, job: Job, host: int | None) -> Steps:
        """Run a job on a host, or on the control plane."""
        machine = self.control if host is None else self.hosts[host]
        with self.forks.request() as fork:
            yield fork
            with self.main.request() as turn:
                yield turn
                yield self.controller.use(job.main)
            yield self.controller.use(job.controller)
            if job.kind == "packages":
                yield self.mirror.use(job.megabytes)
            elif job.kind == "upload":
                yield self.upload.use(job.megabytes)
            elif job.kind == "download":
                yield self.uploaded
                yield self.uplink.use(job.megabytes)
            elif job.kind == "answer" and host is not None:
                yield self.answers[host]
            elif job.kind == "ready":
                yield self.env.all_of(self.nodes)
            yield machine.use(job.host)
        self._finish(job, host)

    def _finish(self, job: Job, host: int | None) -> None:
        now, result = self.env.now, self.result
        if job.kind == "upload":
            self.uploaded.succeed()
        elif job.kind == "api":
            self.api.succeed()
        elif job.kind == "packages" and host is not None:
            result.packages.append(now)
        elif job.kind == "download":
            result.downloaded.append(now)
        elif job.kind == "start" and host is not None:
            result.powered_on.append(now)
            self.env.process(self._guest(host))

    def _guest(self, host: int) -> Steps:
        machine = self.hosts[host]
        for milestone, seconds in self.deploy.boot:
            if milestone == "registered":
                yield self.api
                yield self.control.use(self.site.join)
            yield machine.use(seconds)
            if milestone == "containerd":
                self.answers[host].succeed()
        self.result.ready.append(self.env.now)
        self.nodes[host].succeed()


def simulate(deploy: Deploy, site: Site, workers: int) -> Result:
    """Return when what happens in a deploy with a control plane and some workers."""
    return _World(deploy, site, workers).run()


LIMITS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("more forks: 1000 instead of 50", {"forks": 1000}),
    ("artifacts without the limit of one uplink", {"uplink": INFINITE}),
    ("packages without the limit of one mirror", {"mirror": INFINITE}),
    ("a cloud that creates servers at once", {"server": 0.0}),
    ("joins that cost the control plane nothing", {"join": 0.0}),
    ("1000 forks, and artifacts without the limit of one uplink", {"forks": 1000, "uplink": INFINITE}),
)


def without_limits(deploy: Deploy, site: Site, workers: int) -> list[tuple[str, float]]:
    """Return the duration of a deploy without each of ``LIMITS``, and without the cost of Ansible's main process."""
    found = [(name, simulate(deploy, replace(site, **change), workers).seconds) for name, change in LIMITS]
    free = replace(deploy, control=_without_main(deploy.control), worker=_without_main(deploy.worker))
    found.insert(-1, ("Ansible's main process at no cost", simulate(free, site, workers).seconds))
    return found


def _without_main(jobs: Sequence[Job]) -> tuple[Job, ...]:
    return tuple(replace(job, main=0.0) for job in jobs)
