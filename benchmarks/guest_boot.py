"""How long a guest takes from power-on to Ready, over the boot of a stock image of its architecture to ssh's answer.

    python -m benchmarks.guest_boot examples/demo.yaml [--rounds N] [--node NAME]

The cluster must be deployed, within the last day (a bootstrap token lives that long). On each worker's host, in turn:
the node is removed and its machine ended; a stock image boots under the same QEMU, CPU model, vCPUs and memory until
sshd answers; then the node's machine starts with new disks until Kubernetes says that it is Ready. The other workers'
machines are suspended meanwhile: in the lab they share the host's cores. The two clocks of "ours" are the host's and
the control plane's: on machines of a cloud they are as equal as NTP makes them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import stock_image
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.report import table

add_collections_to_path()

from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec, load_file  # noqa: E402

_FOLDER: Final = "/var/lib/q8s-guest"  # emulated_worker_directory
_STOCK: Final = "/var/tmp/q8s-benchmark-stock.qcow2"
_PORT: Final = 2299
_DEADLINE: Final = 600  # seconds, for each boot
_KUBECTL: Final = "sudo /var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
_VIRSH: Final = "sudo virsh --quiet --connect qemu:///system"

# Runs on the host: QEMU from its start until the guest's sshd sends its greeting.
_BOOT_STOCK: Final = """
import json, socket, subprocess, sys, time
command, port, deadline = json.loads(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
start = time.monotonic()
machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
try:
    while machine.poll() is None and time.monotonic() - start < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                if connection.recv(8).startswith(b"SSH-"):
                    print(time.monotonic() - start)
                    sys.exit()
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit("no answer of sshd: " + (machine.stderr.read().decode() if machine.poll() is not None else "too late"))
finally:
    machine.kill()
    machine.wait()
"""


# Runs on the host: new overlays on the same images, for a first boot.
_NEW_DISKS: Final = r"""
set -eu
cd "$1"
for disk in "$2.qcow2" "$2-bundle.qcow2"; do
  base=$(qemu-img info "$disk" | sed -n 's/^backing file: \([^ ]*\).*/\1/p')
  size=$(qemu-img info "$disk" | sed -n 's/^virtual size:.*(\([0-9]*\) bytes)/\1/p')
  rm "$disk"
  qemu-img create -q -f qcow2 -F qcow2 -b "$base" "$disk" "$size"
done
"""


@dataclass(frozen=True)
class Boot:
    """One boot of each kind; seconds, and the load average before each."""

    node: str
    stock: float
    stock_load: float
    ready: float
    ready_load: float


class Benchmark:
    """One deployed cluster."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.cluster: Cluster = load_file(file)
        self._control_plane = next(spec.name for spec in self.cluster.servers() if spec.initial)

    def _on(self, host: str, command: str, stdin: str | Path = "") -> str:
        """What a command says on a host of the cluster.

        :raises SystemExit: it failed
        """
        arguments = ["q8s-run", "ssh", self._file, host, "--", command]
        program = [str(Path(sys.executable).parent / arguments[0]), *arguments[1:]]
        if isinstance(stdin, Path):
            with stdin.open("rb") as stream:
                done = subprocess.run(program, stdin=stream, capture_output=True, check=False)
        else:
            done = subprocess.run(program, input=stdin.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"Failed on {host}: {command}\n{done.stderr.decode().strip()}")
        return done.stdout.decode()

    def bring_stock_image(self, spec: ServerSpec) -> None:
        assert spec.vm_type is not None
        self._on(spec.name, f"cat > {_STOCK}", stock_image.ensure(spec.vm_type.architecture))

    def remove_stock_image(self, spec: ServerSpec) -> None:
        self._on(spec.name, f"rm -f {_STOCK}")

    @contextlib.contextmanager
    def alone(self, spec: ServerSpec) -> Iterator[None]:
        """Suspend the machines of all other workers."""
        others = [other for other in self.cluster.servers() if other.vm_type and other.name != spec.name]
        for other in others:
            self._on(other.name, f"{_VIRSH} suspend {other.node}")
        try:
            yield
        finally:
            for other in others:
                self._on(other.name, f"{_VIRSH} resume {other.node}")

    def boot(self, spec: ServerSpec) -> Boot:
        """Boot a stock guest, then ours."""
        self._take_away(spec)
        stock_load = _load()
        stock = self._boot_stock(spec)
        ready_load = _load()
        return Boot(spec.node, stock, stock_load, self._boot_ours(spec), ready_load)

    def _take_away(self, spec: ServerSpec) -> None:
        self._on(spec.name, f"{_VIRSH} destroy {spec.node} || true")
        self._on(self._control_plane, f"{_KUBECTL} delete node {spec.node} --ignore-not-found")

    def _boot_stock(self, spec: ServerSpec) -> float:
        vm = spec.vm_type
        assert vm is not None
        # The newest kernel and initrd that deploy brought to the host are those that the node boots.
        xml = self._on(spec.name, f"{_VIRSH} dumpxml {spec.node}")
        kernel, initrd, cmdline = (_between(xml, tag) for tag in ("kernel", "initrd", "cmdline"))
        gic = ",gic-version=3" if vm.architecture == "aarch64" else ""
        command = [
            f"qemu-system-{vm.architecture}", "-accel", "tcg", "-machine", f"{vm.machine_model}{gic}",
            "-cpu", vm.cpu_model, "-smp", str(vm.num_cpus), "-m", str(vm.ram_mb), "-display", "none", "-no-reboot",
            "-kernel", kernel, "-initrd", initrd, "-append", _stock_cmdline(cmdline),
            "-drive", f"file={_STOCK},if=virtio,format=qcow2,snapshot=on,cache=unsafe",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{_PORT}-:22", "-device", "virtio-net-pci,netdev=net",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip
        remote = f"sudo python3 - {shlex.quote(json.dumps(command))} {_PORT} {_DEADLINE}"
        return float(self._on(spec.name, remote, _BOOT_STOCK))

    def _boot_ours(self, spec: ServerSpec) -> float:
        self._on(spec.name, f"sudo sh -s - {_FOLDER} {spec.node}", _NEW_DISKS)
        start = float(self._on(spec.name, f"date +%s.%N; {_VIRSH} start {spec.node}").split()[0])
        wait = (
            f"{_KUBECTL} wait --for=create node/{spec.node} --timeout={_DEADLINE}s"
            f" && {_KUBECTL} wait --for=condition=Ready node/{spec.node} --timeout={_DEADLINE}s && date +%s.%N"
        )
        return float(self._on(self._control_plane, wait).split()[-1]) - start


def _between(xml: str, tag: str) -> str:
    return xml.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]


def _stock_cmdline(cmdline: str) -> str:
    """The node's command line without what is there for speed."""
    return " ".join(word for word in cmdline.split() if word not in {"kpti=off", "audit=0"})


def _load() -> float:
    return os.getloadavg()[0]


def main(argv: Sequence[str]) -> int:
    """Measure, and print the table on stdout."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.guest_boot", description="Boot of a guest to Ready, over a stock image's to ssh."
    )
    parser.add_argument("file", help="the cluster file of a deployed cluster")
    parser.add_argument("--rounds", type=int, default=2, help="boots of each kind on each node (2)")
    parser.add_argument("--node", action="append", help="only this node; can be given again")
    arguments = parser.parse_args(argv)
    benchmark = Benchmark(arguments.file)
    workers = [spec for spec in benchmark.cluster.servers() if spec.vm_type]
    chosen = [spec for spec in workers if not arguments.node or spec.node in arguments.node]
    if not chosen:
        parser.error(f"no such node; there are {', '.join(spec.node for spec in workers)}")
    rows: list[Mapping[str, Any]] = []
    for spec in chosen:
        assert spec.vm_type is not None
        benchmark.bring_stock_image(spec)
        boots = []
        for count in range(arguments.rounds):
            boots.append(benchmark.boot(spec))
            last = boots[-1]
            when = time.strftime("%H:%M:%S")
            print(
                f"{when} {spec.node} {count + 1}: stock {last.stock:.1f} s, Ready {last.ready:.1f} s", file=sys.stderr
            )
        benchmark.remove_stock_image(spec)
        stock, ready = (statistics.median(getattr(boot, kind) for boot in boots) for kind in ("stock", "ready"))
        rows.append({
            "node": spec.node,
            "cpu": f"{spec.vm_type.num_cpus} x {spec.vm_type.cpu_model}",
            "stock to ssh": f"{stock:.1f} s",
            "ours to Ready": f"{ready:.1f} s",
            "ratio": f"{ready / stock:.2f}",
            "load before": " ".join(f"{boot.stock_load:.1f}/{boot.ready_load:.1f}" for boot in boots),
        })  # fmt: skip
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
