"""How long a deploy takes with 52, 250 and 1000 nodes on machines with cores of their own, and what limits it.

``python -m benchmarks.deploy_simulation`` simulates the stage graph (``deploy_model``) with the jobs of a deploy that
was measured in the lab (``deploys/``). It prints Markdown: the simulation beside the
measured deploys, then predictions.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.deploy_calibration import Sizes, background, background_until, calibrate, pace, samples_of
from benchmarks.deploy_model import Build, Deploy, Result, Site, simulate, without_limits

DEPLOYS: Final = Path(__file__).parent / "deploys"
CALIBRATION: Final = "two-workers"
OTHER_CALIBRATION: Final = "four-workers"
# Of x86_64, as the lab fetched and uploaded them; bundle and image of arm64 are a tenth smaller.
LAB_SIZES: Final = Sizes(host_packages=53, control_packages=22, upload=539, download=288)
# The paper's cluster has both architectures: the control plane gets the artifacts of both.
CLOUD_SIZES: Final = Sizes(host_packages=53, control_packages=22, upload=821, download=288)
LAB_CORES: Final = 2.0
NODES: Final = (52, 250, 1000)
# Assumptions, not measurements, but for the servers: docs/reference/benchmarks.md names each.
CLOUD: Final = Site(
    controller_cores=4,
    control_cores=2,
    host_cores=2,
    uplink=110,
    link=110,
    mirror=110,
    upload=12.5,
    server=1.6,
    server_boot=40,
    join=0.5,
)


@dataclass(frozen=True)
class MeasuredBuild:
    """A build of everything for two architectures on the lab's two cores: docs/reference/benchmarks.md has them.

    :param seconds: duration of the programs, bundles and images
    :param pace: speed of the machine that day, relative to an undisturbed one
    :param bootstrap: seconds of the bootstrap of the arm64 guest, where it did not go on beside the programs
    """

    day: str
    seconds: float
    pace: float
    bootstrap: float = 0.0


BUILDS: Final = (
    MeasuredBuild("2026-11-25", 31 * 60, 158.2 / 440, 8.5 * 60),  # deploys took 440 s instead of 158.2 s
    MeasuredBuild("2026-11-26", 19 * 60 + 40 + 11 * 60 + 3, 0.55 / 1.9),  # ten million additions, 1.9 s instead of 0.55
)


def main() -> int:
    """Print the tables."""
    records = {file.stem: json.loads(file.read_text()) for file in sorted(DEPLOYS.glob("*.json"))}
    print("\n".join(checked(records)))
    print("\n" + recalibrated(records))
    print("\n" + "\n".join(checked_builds()))
    deploy = calibrate(records[CALIBRATION], CLOUD_SIZES)
    print("\n" + "\n".join(predicted(deploy, CLOUD)))
    print("\n" + "\n".join(predicted_cold(deploy, CLOUD)))
    print("\n" + "\n".join(limited(deploy, CLOUD)))
    return 0


@dataclass(frozen=True)
class Check:
    """A measured deploy beside its simulation.

    :param background: threads that competed with its jobs
    :param sampled: whether these follow from samples; otherwise they follow from when the servers were reached
    """

    name: str
    workers: int
    background: float
    sampled: bool
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Return the simulation's error in percent of the measured duration."""
        return 100 * (self.simulated / self.measured - 1)


def checks(records: Mapping[str, Any], calibration: str = CALIBRATION) -> list[Check]:
    """Return the measured deploys beside their simulations, the small ones first.

    The simulation knows of a deploy the number of workers, and how much other programs computed meanwhile.

    :param calibration: name of the deploy whose tasks all simulations have
    """
    deploy = calibrate(records[calibration], LAB_SIZES)
    found = []
    for name, record in records.items():
        workers, sampled = int(record["workers"]), "samples" in record
        samples = samples_of(record if sampled else records[calibration])
        site = Site(cores=LAB_CORES, pace=pace(samples))
        if sampled:
            threads = background(deploy, site, workers, statistics.fmean(sample.share for sample in samples))
        else:
            threads = background_until(deploy, site, workers, record["reached"])
        simulated = simulate(deploy, replace(site, background=threads), workers).seconds
        found.append(Check(name, workers, threads, sampled, float(record["seconds"]), simulated))
    return sorted(found, key=lambda check: (check.workers, check.name))


def checked(records: Mapping[str, Any]) -> list[str]:
    """Return the table of measured deploys."""
    heads = ("workers", "competing threads", "measured", "simulated", "error")
    rows = []
    for one in checks(records):
        threads = f"{one.background:.1f}, {'sampled' if one.sampled else 'inferred'}"
        error = f"{one.error:+.0f} %" + (" (calibration)" if one.name == CALIBRATION else "")
        rows.append((str(one.workers), threads, f"{one.measured:.0f} s", f"{one.simulated:.0f} s", error))
    return _table(heads, rows)


def recalibrated(records: Mapping[str, Any]) -> str:
    """Return what would be different if another deploy calibrated."""
    errors = [check.error for check in checks(records, OTHER_CALIBRATION) if check.name != OTHER_CALIBRATION]
    whole = simulate(calibrate(records[OTHER_CALIBRATION], CLOUD_SIZES), CLOUD, 249).seconds
    between = f"{min(errors):+.0f} to {max(errors):+.0f} %"
    return (
        f"Calibrated with {OTHER_CALIBRATION}, the others' errors are {between}, and 250 nodes take {_minutes(whole)}."
    )


def build_of(measured: MeasuredBuild) -> Build:
    """Return what a build costs, from one that was measured: both cores were busy."""
    return Build(measured.seconds * LAB_CORES * measured.pace, measured.bootstrap * measured.pace)


def build_seconds(build: Build, pace: float) -> float:
    """Return the duration of a build on the lab's cores."""
    nothing = Deploy((), (0.0, 0.0), (), (), (), (), (), (), build)
    return simulate(nothing, Site(cores=LAB_CORES, pace=pace), 0).seconds


def checked_builds() -> list[str]:
    """Return the table of measured builds. The first one calibrates; its own bootstrap came after the programs."""
    first, *others = BUILDS
    rows = [(first.day, f"{first.pace:.2f}", _minutes(first.seconds + first.bootstrap), "-", "(calibration)")]
    for one in others:
        simulated = build_seconds(build_of(first), one.pace)
        error = f"{100 * (simulated / one.seconds - 1):+.0f} %"
        rows.append((one.day, f"{one.pace:.2f}", _minutes(one.seconds), _minutes(simulated), error))
    return _table(("build on", "pace", "measured", "simulated", "error"), rows)


def predicted_cold(deploy: Deploy, site: Site, sizes: Sequence[int] = NODES) -> list[str]:
    """Return the table of deploys with nothing cached, by the machine that runs Ansible and builds first."""
    build = build_of(BUILDS[0])
    cold = replace(deploy, build=build)
    rows = []
    for cores in (2, 4, 8):
        results = [simulate(cold, replace(site, controller_cores=cores), nodes - 1) for nodes in sizes]
        built = results[0].built - simulate(deploy, replace(site, controller_cores=cores), 1).built
        rows.append((f"{cores} cores", _minutes(built), *(_minutes(result.seconds) for result in results)))
    return _table(("machine that builds", "the build", *(f"{nodes} nodes" for nodes in sizes)), rows)


def predicted(deploy: Deploy, site: Site, sizes: Sequence[int] = NODES) -> list[str]:
    """Return the table of predictions: when the last server, host or node has reached something."""
    results = [simulate(deploy, site, nodes - 1) for nodes in sizes]
    moments: tuple[tuple[str, Callable[[Result], float]], ...] = (
        ("servers active", lambda one: one.active),
        ("servers answer on SSH", lambda one: one.reached),
        ("control plane up", lambda one: one.control_up),
        ("packages installed", lambda one: max(one.packages)),
        ("artifacts downloaded", lambda one: max(one.downloaded)),
        ("first guest Ready", lambda one: min(one.ready)),
        ("last guest Ready", lambda one: max(one.ready)),
        ("**deployed**", lambda one: one.seconds),
    )
    lines = [(what, *(_minutes(moment(result)) for result in results)) for what, moment in moments]
    return _table(("the last one, after", *(f"{nodes} nodes" for nodes in sizes)), lines)


def limited(deploy: Deploy, site: Site, sizes: Sequence[int] = NODES) -> list[str]:
    """Return the table of what the duration would be without one limit."""
    columns = [dict(without_limits(deploy, site, nodes - 1)) for nodes in sizes]
    names = list(columns[0])
    rows = [(name, *(_minutes(column[name]) for column in columns)) for name in names]
    return _table(("without one limit", *(f"{nodes} nodes" for nodes in sizes)), rows)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]


if __name__ == "__main__":
    sys.exit(main())
