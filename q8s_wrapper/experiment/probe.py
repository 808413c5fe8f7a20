"""Measure round trips between nodes while a scenario runs, with ping in the guests and control planes."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.experiment.machines import Machines
from q8s_wrapper.experiment.scenario import Record

INTERVAL: Final = 0.25  # seconds between two packets
_ANSWER: Final = re.compile(r" time=([\d.]+) ms")
_PAUSE: Final = 1  # seconds before ping is started again in a node that was away


@dataclass(frozen=True)
class Pair:
    """Two nodes: packets go from one to the other, and back."""

    source: str
    target: str


def parse(texts: Sequence[str], nodes: Sequence[str]) -> tuple[Pair, ...]:
    """Parse values of ``--ping``.

    :raises WrapperError: a value is not ``FROM:TO``, or one of them is no node of the cluster
    """
    pairs = []
    for text in texts:
        source, colon, target = text.partition(":")
        unknown = [name for name in (source, target) if name not in nodes]
        if not colon or source == target or unknown:
            raise WrapperError(
                f"--ping: is {text!r}; allowed is FROM:TO with two of {', '.join(nodes)}",
                "--ping edge-1:cloud-1 measures from edge-1 to cloud-1 and back",
                ExitCode.WRONG_INPUT,
            )
        pairs.append(Pair(source, target))
    return tuple(dict.fromkeys(pairs))


class Probes:
    """One ping for each pair. Each answer is written to the record, at the moment at which its packet was sent."""

    def __init__(self, machines: Machines, record: Record) -> None:
        self._machines = machines
        self._record = record
        self._addresses = machines.addresses()
        self._stopped = threading.Event()
        self._running: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []

    def start(self, pairs: Sequence[Pair]) -> None:
        """Start to measure."""
        for pair in pairs:
            thread = threading.Thread(target=self._measure, args=(pair,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _measure(self, pair: Pair) -> None:
        """Read the answers of a ping. A node that was away, and its ping with it, gets a new one."""
        command = f"exec ping -n -i {INTERVAL} {self._addresses[pair.target]}"
        while not self._stopped.is_set():
            with suppress(WrapperError, OSError):
                process = self._machines.open(self._machines.machine_of(pair.source), command)
                self._running.append(process)
                if self._stopped.is_set():
                    process.kill()
                for line in process.stdout or ():
                    if found := _ANSWER.search(line):
                        delay = float(found[1])
                        sent = round(self._record.now - delay / 1000, 3)
                        self._record.write("ping", **{"from": pair.source, "to": pair.target, "at": sent, "ms": delay})
                process.wait()
            self._stopped.wait(_PAUSE)

    def stop(self) -> None:
        """Measure no more."""
        self._stopped.set()
        for process in self._running:
            process.kill()
        for thread in self._threads:
            thread.join(10)
