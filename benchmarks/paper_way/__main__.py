"""How long a guest takes from power-on to Ready, set up as in the paper and by Q8S, alternating on the same host.

    python -m benchmarks.paper_way examples/demo.yaml [--rounds N] [--node NAME]

The cluster must be deployed. On each worker's host, in turn: the worker's node is removed and its guest ended; a stock
image boots under the same QEMU, CPU model, vCPUs and memory, cloud-init installs containerd and Kubernetes in it and
joins the cluster (see ``guest.py``), until Kubernetes says that the node is Ready; then that node is removed, and the
worker's guest starts with new disks until its node is Ready. The other workers' guests are suspended meanwhile.

Not measured: the paper's way polls every 60 s, so it sees a node that is Ready up to 60 s later.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.deployed import HINT, STOCK, DeployedCluster, ServerSpec, new_disk, parse, stock_command, vm_type
from benchmarks.paper_way import guest, host, packages
from benchmarks.stock_image import StockImage, write_seed
from q8s_wrapper.text_layout import table

_DEADLINE: Final = 1800  # seconds
_ATTEMPTS: Final = 3  # QEMU without KVM at times loses an interrupt, and the guest hangs or panics
_PHASES: Final = ("cloud_init", "installed", "pulled", "joined")


@dataclass(frozen=True)
class Setup:
    """One setup of a guest of each kind: seconds from power-on, and the load average before each."""

    phases: Mapping[str, float]
    cpu: float
    paper: float
    paper_load: float
    ours: float
    ours_load: float


class Baseline:
    """The paper's way on a deployed cluster."""

    def __init__(self, deployed: DeployedCluster) -> None:
        self._deployed = deployed
        self._api = deployed.api()

    def copy_files(self, spec: ServerSpec) -> None:
        """Copy packages and pod images to a worker's host. ``DeployedCluster.stock_image`` removes them."""
        folder = packages.ensure(vm_type(spec).architecture)
        with tempfile.NamedTemporaryFile(prefix="q8s-paper-way-") as archive:
            subprocess.run(["tar", "--create", "--file", archive.name, "--directory", folder, "."], check=True)
            extract = f"mkdir {STOCK}/served && tar --extract --directory {STOCK}/served"
            self._deployed.run(spec.name, extract, Path(archive.name))
        self._deployed.run(spec.name, f"cat > {STOCK}/host.py", Path(host.__file__))

    def set_up(self, spec: ServerSpec, image: StockImage, token: str) -> Setup:
        """Set up a guest as in the paper, then ours."""
        self._deployed.take_away(spec)
        node = f"{spec.node}-paper"
        self._write_seed(spec, image, node, token)
        paper_load = os.getloadavg()[0]
        try:
            seen, ready = self._until_ready(spec, image, node)
        finally:
            self._deployed.remove_node(node)
        ours_load = os.getloadavg()[0]
        ours = self._deployed.boot(spec)
        return Setup(seen["phases"], float(seen["cpu"]), ready - float(seen["started"]), paper_load, ours, ours_load)

    def _write_seed(self, spec: ServerSpec, image: StockImage, node: str, token: str) -> None:
        proxy = self._deployed.run(spec.name, "apt-config dump --format '%v%n' Acquire::http::Proxy").strip()
        with tempfile.TemporaryDirectory(prefix="q8s-paper-way-") as work:
            disk = Path(work) / image.seed.name
            write_seed(disk, guest.seed(node, self._api, token, proxy))
            self._deployed.run(spec.name, f"cat > {STOCK}/{image.seed.name}", disk)

    def _until_ready(self, spec: ServerSpec, image: StockImage, node: str) -> tuple[Mapping[str, Any], float]:
        """Return what the host saw, and when the node was Ready (seconds since the epoch)."""
        command = json.dumps(stock_command(vm_type(spec), image))
        words = ["sudo", "python3", f"{STOCK}/host.py", command, str(guest.PORT), f"{STOCK}/served"]
        remote = shlex.join([*words, f"{STOCK}/console", str(_DEADLINE)])
        for attempt in range(1, _ATTEMPTS + 1):
            self._deployed.run(spec.name, new_disk(vm_type(spec), image))
            waiter = self._deployed.wait_for_ready(node, _DEADLINE)
            watcher = self._deployed.start(spec.name, remote)
            while waiter.poll() is None and watcher.poll() is None:
                time.sleep(1)
            waiter.terminate()
            ready, trouble = waiter.communicate()
            answer, complaint = watcher.communicate()
            if watcher.returncode != 0:
                sys.exit(f"Failed to run the guest on {spec.name}: {complaint.strip()}\n{HINT}")
            seen: Mapping[str, Any] = json.loads(answer)
            if waiter.returncode == 0:
                return seen, float(ready.split()[-1])
            why = seen["failed"] or f"is not Ready: {trouble.strip()}"
            again = f"again ({attempt} of {_ATTEMPTS - 1})" if attempt < _ATTEMPTS else "given up"
            lines = "\n".join(f"  {line}" for line in seen["console"])
            print(f"{node}: the guest {why}; {again}. Its console:\n{lines}", file=sys.stderr)
            self._deployed.remove_node(node)
        sys.exit(f"Failed to set up {node}: {_ATTEMPTS} boots, none of which reached Ready\n{HINT}")


def _report(what: str, setup: Setup) -> None:
    phases = ", ".join(f"{name} {setup.phases[name]:.1f} s" for name in _PHASES if name in setup.phases)
    print(
        f"{time.strftime('%H:%M:%S')} {what}: paper's way {setup.paper:.1f} s ({phases}; {setup.cpu:.0f} s of processor"
        f" time; load {setup.paper_load:.1f}), ours {setup.ours:.1f} s (load {setup.ours_load:.1f})",
        file=sys.stderr,
    )


def _row(spec: ServerSpec, setups: Sequence[Setup]) -> Mapping[str, Any]:
    """Return the table's line of a node: medians."""
    phases = {
        name: statistics.median(setup.phases[name] for setup in setups if name in setup.phases)
        for name in _PHASES
        if any(name in setup.phases for setup in setups)
    }
    paper, ours = (statistics.median(getattr(setup, kind) for setup in setups) for kind in ("paper", "ours"))
    return {
        "node": spec.node,
        "cpu": f"{vm_type(spec).num_cpus} x {vm_type(spec).cpu_model}",
        **{name: f"{seconds:.0f} s" for name, seconds in phases.items()},
        "paper's Ready": f"{paper:.0f} s",
        "ours": f"{ours:.1f} s",
        "ratio": f"{paper / ours:.1f}",
        "load before": " ".join(f"{setup.paper_load:.1f}/{setup.ours_load:.1f}" for setup in setups),
    }


def main(argv: Sequence[str]) -> int:
    """Measure, and print the table on stdout."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.paper_way", description="A guest from power-on to Ready: the paper's way, over Q8S's."
    )
    parser.add_argument("--rounds", type=int, default=1, help="setups of each kind on each node (1)")
    arguments, deployed, chosen = parse(parser, argv)
    baseline = Baseline(deployed)
    rows: list[Mapping[str, Any]] = []
    for spec in chosen:
        setups = []
        with deployed.stock_image(spec) as image, deployed.token(spec) as token:
            baseline.copy_files(spec)
            for count in range(arguments.rounds):
                with deployed.alone(spec):
                    setups.append(baseline.set_up(spec, image, token))
                _report(f"{spec.node} {count + 1}", setups[-1])
        rows.append(_row(spec, setups))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
