"""The state of a run: its stages, what hosts do now, and what failed. ``events`` computes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

# Kinds of ansible-runner's events that end a task on a host.
TASK_RESULTS: Final = frozenset({"runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"})
# Plays that build bundles and guest images. They take minutes, or no time if everything is cached.
BUILDS: Final = frozenset({"Build node bundles and guest images", "Build on the initial control plane"})
_NUMBER: Final = re.compile(r" \(\d+\)$")
# Plays in which hosts run several roles concurrently. Each role is a stage, named after the task that includes it.
# Every other play is one stage.
PLAYS_OF_ROLES: Final = frozenset({"Start the control plane, and boot guests"})


@dataclass(frozen=True)
class Stage:
    """A stage of a run: a play, or a role of a play whose roles run concurrently.

    The name of a stage that runs once more in the run, as in an upgrade, ends with its number: ``Wait for SSH (2)``.

    :param start: seconds from the start of the run to the stage's first task
    :param end: seconds from the start of the run to the stage's last event
    :param hosts: hosts on which a task of the stage ran; skipped tasks do not count
    :param play: name of the play
    """

    name: str
    start: float
    end: float
    hosts: frozenset[str] = frozenset()
    play: str = ""

    @property
    def seconds(self) -> float:
        """Return the duration of the stage in seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class RunningTask:
    """The task that a host runs now.

    :param since: seconds from the start of the run to the start of the task
    :param tries: number of failed attempts of a task with retries
    """

    stage: str
    task: str
    since: float
    tries: int = 0


@dataclass(frozen=True)
class BuildProgress:
    """A running build of an artifact.

    :param number: position of the artifact among those that are built, from 1
    :param total: number of artifacts that are built
    :param step: the current step of the build
    :param since: seconds from the start of the run to the start of the step
    :param text: the latest progress message of the step
    """

    artifact: str
    number: int
    total: int
    step: str
    since: float
    text: str = ""


@dataclass(frozen=True)
class Failure:
    """A failed task.

    :param reason: the error message
    :param place: file and line of the task
    :param refused: whether the task refused the cluster file or the command, so that the exit code is 2
    """

    host: str
    task: str
    reason: str
    place: str
    refused: bool = False


@dataclass(frozen=True)
class State:
    """The state of a run, computed from the events so far.

    :param seconds: time of the latest event, in seconds since the start of the run
    :param current: the running task of each host
    :param results: variables ``q8s_*`` that debug tasks showed
    :param notes: messages that debug tasks showed
    :param play: name of the current play, with its number as a stage has it
    :param plays: the number of each play's name among those of the same name, from 1, by Ansible's id of the play
    :param includes: name of the task with which each host last included a role; "" for a part of a role
    :param titles: name of the task that includes each role; it is the role's stage name
    :param failed_items: error message of the first failed loop item of each host's running task
    :param builds: artifacts that are being built or uploaded
    :param built: seconds that each finished build took
    :param uploaded: size, duration and rate of each finished upload, as text
    :param lines: what tasks said about their progress, in words of their own
    """

    started: datetime | None = None
    seconds: float = 0.0
    stages: tuple[Stage, ...] = ()
    current: Mapping[str, RunningTask] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    changed: int = 0
    finished: bool = False
    play: str = ""
    plays: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    includes: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    failed_items: Mapping[str, str] = field(default_factory=dict)
    builds: Mapping[str, BuildProgress] = field(default_factory=dict)
    built: Mapping[str, float] = field(default_factory=dict)
    uploaded: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    @property
    def active(self) -> frozenset[str]:
        """Return the names of the stages in which a host runs a task now."""
        return frozenset(running.stage for running in self.current.values())

    def ended(self, stage: Stage) -> bool:
        """Return whether a stage has ended, which is when its play has: until then, another host may start it."""
        return self.finished or stage.play != self.play

    def hosts(self, stage: Stage) -> frozenset[str]:
        """Return the hosts of a stage: those that ran a task in it, and those that run one now."""
        return stage.hosts | {host for host, running in self.current.items() if running.stage == stage.name}

    @property
    def busy(self) -> tuple[Stage, ...]:
        """Return the stages in which at least one host ran a task."""
        return tuple(stage for stage in self.stages if self.hosts(stage))

    def duration(self, stage: Stage) -> float:
        """Return the duration of a stage in seconds, up to now if a host is still in it."""
        return self.seconds - stage.start if stage.name in self.active else stage.seconds

    @property
    def refused(self) -> bool:
        """Return whether the run failed only because Q8S refused the cluster file or the command."""
        return bool(self.failures) and all(failure.refused for failure in self.failures)

    @property
    def failed(self) -> frozenset[str]:
        """Return the hosts that failed."""
        return frozenset(failure.host for failure in self.failures)


def is_build(stage: str) -> bool:
    """Return whether a stage builds bundles and guest images."""
    return _NUMBER.sub("", stage) in BUILDS
