"""How long a guest takes from power-on to Ready, over the boot of a stock image of its architecture to ssh's answer.

    python -m benchmarks.guest_boot examples/demo.yaml [--rounds N] [--node NAME] [--direct]

The cluster must be deployed, within the last day (a bootstrap token lives that long). On each worker's host, in turn:
the node is removed and its machine ended; a stock image boots under the same QEMU, CPU model, vCPUs and memory, from
its firmware on, until sshd answers; then the node's machine starts with new disks until Kubernetes says that it is
Ready. The other workers' machines are suspended meanwhile: in the lab they share the host's cores. The two clocks of
"ours" are the host's and the control plane's: on machines of a cloud they are as equal as NTP makes them.

``--direct`` boots the stock image once more, with QEMU loading its kernel and initrd: neither firmware nor GRUB.
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
from benchmarks.stock_image import StockImage
from q8s_wrapper.config import add_collections_to_path
from q8s_wrapper.report import table

add_collections_to_path()

from ansible_collections.q8s.emu.plugins.module_utils._spec import Cluster, ServerSpec, VmType, load_file  # noqa: E402

_FOLDER: Final = "/var/lib/q8s-guest"  # emulated_worker_directory
_STOCK: Final = "/var/tmp/q8s-benchmark-stock"
_PORT: Final = 2299
_DEADLINE: Final = 600  # seconds, for each boot
_ATTEMPTS: Final = 3  # at a stock boot; QEMU without KVM at times loses an interrupt, and the guest hangs
_HINT: Final = "hint: a worker may be without its node now; `q8s-run deploy` brings it back"
_KUBECTL: Final = "sudo /var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
_VIRSH: Final = "sudo virsh --quiet --connect qemu:///system"

# Runs on the host: QEMU from its start until the guest's sshd sends its greeting. Prints when the kernel said its first
# word and when sshd did, in seconds, or why it did not and the console's last lines. A guest that boots is never idle.
_BOOT_STOCK: Final = """
import json, os, re, socket, subprocess, sys, threading, time
command, port, console, deadline = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])

def said():
    try:
        with open(console, errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""

def greet():
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=4) as connection:
            if connection.recv(8).startswith(b"SSH-"):
                greeted.append(time.monotonic() - start)
    except OSError:
        pass

def cpu_seconds():
    with open(f"/proc/{machine.pid}/stat") as stream:
        words = stream.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

start = time.monotonic()
machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
answer, since, busy, greeted, asked = {"kernel": None}, start, 0.0, [], start
try:
    while True:
        now = time.monotonic()
        if answer["kernel"] is None and "Linux version" in said():
            answer["kernel"] = now - start
        if machine.poll() is not None:
            sys.exit("QEMU ended: " + machine.stderr.read().decode().strip().rpartition("\\n")[2])
        elif now - start > deadline:
            answer["failed"] = f"did not answer in {deadline:.0f} s"
        elif now - since > 30:
            before, busy, since = busy, cpu_seconds(), now
            if busy - before < 3:
                answer["failed"] = "hangs: it did nothing for 30 s"
        if now - asked > 1:  # beside one another: QEMU takes a connection at once, and it hangs until the guest answers
            asked = now
            threading.Thread(target=greet, daemon=True).start()
        if greeted:
            answer["ssh"] = greeted[0]
        if "ssh" in answer or "failed" in answer:
            break
        time.sleep(0.2)
finally:
    machine.kill()
    machine.wait()
lines = re.sub(r"\\x1b\\[[0-9;?!]*[A-Za-z]", "", said()).splitlines()
answer["console"] = [line.strip() for line in lines if line.strip()][-10:]
print(json.dumps(answer))
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

    kernel: float
    stock: float
    stock_load: float
    direct: float | None
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
            sys.exit(f"Failed on {host}: {command}\n{done.stderr.decode().strip()}\n{_HINT}")
        return done.stdout.decode()

    @contextlib.contextmanager
    def stock_image(self, spec: ServerSpec) -> Iterator[StockImage]:
        """Bring the stock image of a worker's architecture to its host, and remove it afterwards."""
        assert spec.vm_type is not None
        image = stock_image.ensure(spec.vm_type.architecture)
        try:
            self._on(spec.name, f"mkdir -p {_STOCK}")
            for file in image.files:
                self._on(spec.name, f"cat > {_STOCK}/{file.name}", file)
            yield image
        finally:
            self._on(spec.name, f"sudo rm -rf {_STOCK}")

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

    def boot(self, spec: ServerSpec, image: StockImage, direct: bool) -> Boot:
        """Boot a stock guest, then ours."""
        self._take_away(spec)
        stock_load = _load()
        kernel, stock = self._boot_stock(spec, image, direct=False)
        without = self._boot_stock(spec, image, direct=True)[1] if direct else None
        ready_load = _load()
        return Boot(kernel, stock, stock_load, without, self._boot_ours(spec), ready_load)

    def _take_away(self, spec: ServerSpec) -> None:
        self._on(spec.name, f"{_VIRSH} destroy {spec.node} || true")
        self._on(self._control_plane, f"{_KUBECTL} delete node {spec.node} --ignore-not-found")

    def _boot_stock(self, spec: ServerSpec, image: StockImage, *, direct: bool) -> tuple[float, float]:
        """Seconds until its kernel's first word, and until sshd's."""
        assert spec.vm_type is not None
        console = f"{_STOCK}/console"
        new_disk = (
            f"cd {_STOCK} && sudo rm -f console && qemu-img create -q -f qcow2"
            f" -F qcow2 -b {image.disk.name} disk.qcow2 {spec.vm_type.storage_gb}G"
        )
        command = json.dumps(_stock_command(spec.vm_type, image, direct=direct))
        remote = f"sudo python3 - {shlex.quote(command)} {_PORT} {console} {_DEADLINE}"
        for attempt in range(1, _ATTEMPTS + 1):
            self._on(spec.name, new_disk)
            answer = json.loads(self._on(spec.name, remote, _BOOT_STOCK))
            if "ssh" in answer:
                return float(answer["kernel"]), float(answer["ssh"])
            again = f"again ({attempt} of {_ATTEMPTS - 1})" if attempt < _ATTEMPTS else "given up"
            lines = "\n".join(f"  {line}" for line in answer["console"])
            print(f"{spec.node}: the stock guest {answer['failed']}; {again}. Its console:\n{lines}", file=sys.stderr)
        sys.exit(
            f"Failed to boot the stock guest on {spec.name}: {_ATTEMPTS} boots, none of which reached ssh\n{_HINT}"
        )

    def _boot_ours(self, spec: ServerSpec) -> float:
        self._on(spec.name, f"sudo sh -s - {_FOLDER} {spec.node}", _NEW_DISKS)
        start = float(self._on(spec.name, f"date +%s.%N; {_VIRSH} start {spec.node}").split()[0])
        wait = (
            f"{_KUBECTL} wait --for=create node/{spec.node} --timeout={_DEADLINE}s"
            f" && {_KUBECTL} wait --for=condition=Ready node/{spec.node} --timeout={_DEADLINE}s && date +%s.%N"
        )
        return float(self._on(self._control_plane, wait).split()[-1]) - start


def _stock_command(vm: VmType, image: StockImage, *, direct: bool) -> list[str]:
    """QEMU's command line: the machine of our guests, and what a cloud gives a stock one."""
    gic = ",gic-version=3" if vm.architecture == "aarch64" else ""
    if direct:
        kernel, initrd = (f"{_STOCK}/{file.name}" for file in (image.kernel, image.initrd))
        start = ["-kernel", kernel, "-initrd", initrd, "-append", image.cmdline]
    else:
        flash = "if=pflash,format=raw"
        start = [
            "-drive", f"{flash},unit=0,readonly=on,file={_STOCK}/{image.firmware.name}",
            "-drive", f"{flash},unit=1,snapshot=on,file={_STOCK}/{image.variables.name}",
        ]  # fmt: skip
    return [
        f"qemu-system-{vm.architecture}", "-accel", "tcg", "-machine", f"{vm.machine_model}{gic}",
        "-cpu", vm.cpu_model, "-smp", str(vm.num_cpus), "-m", str(vm.ram_mb), "-no-reboot",
        "-display", "none", "-vga", "none", "-serial", f"file:{_STOCK}/console", *start,
        "-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={_STOCK}/disk.qcow2",
        "-device", "virtio-blk-pci,drive=disk,bootindex=1",
        "-drive", f"if=none,id=seed,format=raw,readonly=on,file={_STOCK}/{image.seed.name}",
        "-device", "virtio-blk-pci,drive=seed",
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{_PORT}-:22", "-device", "virtio-net-pci,netdev=net",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def _load() -> float:
    return os.getloadavg()[0]


def _report(what: str, boot: Boot) -> None:
    direct = f", {boot.direct:.1f} s with its kernel given" if boot.direct is not None else ""
    print(
        f"{time.strftime('%H:%M:%S')} {what}: stock {boot.stock:.1f} s (kernel from {boot.kernel:.1f} s on{direct}),"
        f" Ready {boot.ready:.1f} s",
        file=sys.stderr,
    )


def _row(spec: ServerSpec, boots: Sequence[Boot]) -> Mapping[str, Any]:
    """The table's line of a node: medians."""
    assert spec.vm_type is not None
    kernel, stock, ready = (
        statistics.median(getattr(boot, kind) for boot in boots) for kind in ("kernel", "stock", "ready")
    )
    direct = [boot.direct for boot in boots if boot.direct is not None]
    return {
        "node": spec.node,
        "cpu": f"{spec.vm_type.num_cpus} x {spec.vm_type.cpu_model}",
        "stock kernel": f"{kernel:.1f} s",
        "stock ssh": f"{stock:.1f} s",
        **({"direct ssh": f"{statistics.median(direct):.1f} s"} if direct else {}),
        "Ready": f"{ready:.1f} s",
        "ratio": f"{ready / stock:.2f}",
        "load before": " ".join(f"{boot.stock_load:.1f}/{boot.ready_load:.1f}" for boot in boots),
    }


def main(argv: Sequence[str]) -> int:
    """Measure, and print the table on stdout."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.guest_boot", description="Boot of a guest to Ready, over a stock image's to ssh."
    )
    parser.add_argument("file", help="the cluster file of a deployed cluster")
    parser.add_argument("--rounds", type=int, default=2, help="boots of each kind on each node (2)")
    parser.add_argument("--direct", action="store_true", help="boot the stock image without firmware and GRUB as well")
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
        boots = []
        with benchmark.stock_image(spec) as image:
            for count in range(arguments.rounds):
                with benchmark.alone(spec):
                    boots.append(benchmark.boot(spec, image, arguments.direct))
                _report(f"{spec.node} {count + 1}", boots[-1])
        rows.append(_row(spec, boots))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
