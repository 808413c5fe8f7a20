"""Sample the machine while a deploy runs on its lab, for the calibration of the simulation.

``python -m benchmarks.deploy_samples CLUSTER_FILE OUTPUT`` deploys the cluster with q8s-run, which has to be new, and
writes its timeline with the samples. The lab has to run, and the variables of its cloud to be set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.deploy_calibration import Sample, thread_share

# Parent, command, and the seconds of a core of itself and of its ended children.
_Process = tuple[str, list[str], float, float]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_RUN: Final = Path(sys.executable).with_name("q8s-run")
_KEPT: Final = ("started", "seconds", "guests", "tasks")
_EVERY: Final = 2.0
_PROBE: Final = 0.06  # seconds of a core
_FASTEST: Final = 9000.0  # rounds of the probe in a second of an undisturbed core of the machine of the records


def main() -> int:
    """Deploy, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the cluster file")
    parser.add_argument("output", type=Path, help="file to write")
    arguments = parser.parse_args()
    sampler = Sampler()
    thread = threading.Thread(target=sampler.run, daemon=True)
    thread.start()
    deployed = subprocess.run([_RUN, "deploy", arguments.file, "--yes"], stdin=subprocess.DEVNULL, check=False)
    sampler.stop.set()
    thread.join()
    if deployed.returncode:
        return deployed.returncode
    with tempfile.TemporaryDirectory() as work:
        shown = [_RUN, "timeline", arguments.file, "--output", f"{work}/timeline"]
        subprocess.run(shown, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        record = json.loads(Path(work, "timeline/timeline.json").read_text())
    arguments.output.write_text(json.dumps(with_samples(record, sampler.samples), separators=(",", ":")) + "\n")
    return 0


def with_samples(record: Mapping[str, Any], samples: list[Sample]) -> dict[str, Any]:
    """Return what the simulation needs of a timeline, with the samples of the deploy in seconds since its start."""
    began = datetime.fromisoformat(record["started"]).timestamp()
    inside = [sample for sample in samples if began <= sample.at <= began + record["seconds"]]
    rows = [{name: round(value, 3) for name, value in {**asdict(one), "at": one.at - began}.items()} for one in inside]
    return {**{key: record[key] for key in _KEPT}, "workers": len(record["guests"]), "samples": rows}


class Sampler:
    """Takes samples in a thread."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.stop = threading.Event()
        self._ended = 0.0  # seconds of a core of Ansible's workers that have ended

    def run(self) -> None:
        """Take samples until told to stop."""
        while not self.stop.wait(_EVERY):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        processes, own = _processes(), str(os.getpid())
        running = 0.0
        for pid, (parent, command, seconds, waited) in processes.items():
            if _is_playbook(command) and _descends(pid, own, processes):
                if parent in processes and _is_playbook(processes[parent][1]):
                    running += seconds
                else:
                    self._ended = max(self._ended, waited)
        share, pace = _probe()
        return Sample(time.time(), thread_share(share, os.cpu_count() or 1), pace, self._ended + running)


def _probe() -> tuple[float, float]:
    """Return the share of a core that a thread gets now, and the pace of that core."""
    wall, used = time.perf_counter(), time.thread_time()
    rounds = number = 0
    while time.thread_time() - used < _PROBE:
        for step in range(2000):
            number = (number * 31 + step) & 0xFFFFFF
        rounds += 1
    spent = time.thread_time() - used
    return spent / (time.perf_counter() - wall), rounds / spent / _FASTEST


def _is_playbook(command: Sequence[str]) -> bool:
    return any(word.endswith("/ansible-playbook") for word in command[:2])


def _processes() -> dict[str, _Process]:
    """Return each process by its id."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError):
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                own, waited = (sum(map(int, words[first : first + 2])) / _TICKS for first in (11, 13))
                command = (folder / "cmdline").read_text().split("\0")
                found[folder.name] = (words[1], command, own, waited)
    return found


def _descends(pid: str, ancestor: str, processes: Mapping[str, _Process]) -> bool:
    """Return whether a process descends from another one."""
    while pid in processes:
        if pid == ancestor:
            return True
        pid = processes[pid][0]
    return False


if __name__ == "__main__":
    sys.exit(main())
