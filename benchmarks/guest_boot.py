"""How long a guest takes from power-on to Ready, over the boot of a stock image of its architecture to ssh's answer.

    python -m benchmarks.guest_boot examples/demo.yaml [--rounds N] [--node NAME] [--direct]

The cluster must be deployed. Meanwhile the bootstrap tokens of the guests' data disks are valid again. On each worker's
host, in turn: the node is removed and its machine ended; a stock image boots under the same QEMU, CPU model, vCPUs and
memory, from its firmware on, until sshd answers; then the node's machine starts with new disks until Kubernetes says
that it is Ready. The other workers' machines are suspended meanwhile: in the lab they share the host's cores. The two
clocks of "ours" are the host's and the control plane's: on machines of a cloud they are as equal as NTP makes them.

``--direct`` boots the stock image once more, with QEMU loading its kernel and initrd: neither firmware nor GRUB.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.deployed import (
    DEADLINE,
    HINT,
    STOCK,
    DeployedCluster,
    ServerSpec,
    new_disk,
    parse,
    stock_command,
    vm_type,
)
from benchmarks.stock_image import StockImage
from q8s_wrapper.text_layout import table

_PORT: Final = 2299
_ATTEMPTS: Final = 3  # at a stock boot; QEMU without KVM at times loses an interrupt, and the guest hangs

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
    """The boots on a deployed cluster."""

    def __init__(self, deployed: DeployedCluster) -> None:
        self._deployed = deployed

    def boot(self, spec: ServerSpec, image: StockImage, direct: bool) -> Boot:
        """Boot a stock guest, then ours."""
        self._deployed.take_away(spec)
        stock_load = _load()
        kernel, stock = self._boot_stock(spec, image, direct=False)
        without = self._boot_stock(spec, image, direct=True)[1] if direct else None
        ready_load = _load()
        return Boot(kernel, stock, stock_load, without, self._deployed.boot(spec), ready_load)

    def _boot_stock(self, spec: ServerSpec, image: StockImage, *, direct: bool) -> tuple[float, float]:
        """Boot the stock image. Return the seconds until its kernel's first line, and until sshd's."""
        command = json.dumps(
            stock_command(vm_type(spec), image, forward=f",hostfwd=tcp:127.0.0.1:{_PORT}-:22", direct=direct)
        )
        remote = f"sudo python3 - {shlex.quote(command)} {_PORT} {STOCK}/console {DEADLINE}"
        for attempt in range(1, _ATTEMPTS + 1):
            self._deployed.run(spec.name, new_disk(vm_type(spec), image))
            answer = json.loads(self._deployed.run(spec.name, remote, _BOOT_STOCK))
            if "ssh" in answer:
                return float(answer["kernel"]), float(answer["ssh"])
            again = f"again ({attempt} of {_ATTEMPTS - 1})" if attempt < _ATTEMPTS else "given up"
            lines = "\n".join(f"  {line}" for line in answer["console"])
            print(f"{spec.node}: the stock guest {answer['failed']}; {again}. Its console:\n{lines}", file=sys.stderr)
        sys.exit(f"Failed to boot the stock guest on {spec.name}: {_ATTEMPTS} boots, none of which reached ssh\n{HINT}")


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
    """Return the table's row of a node, with medians."""
    kernel, stock, ready = (
        statistics.median(getattr(boot, kind) for boot in boots) for kind in ("kernel", "stock", "ready")
    )
    direct = [boot.direct for boot in boots if boot.direct is not None]
    return {
        "node": spec.node,
        "cpu": f"{vm_type(spec).num_cpus} x {vm_type(spec).cpu_model}",
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
    parser.add_argument("--rounds", type=int, default=2, help="boots of each kind on each node (2)")
    parser.add_argument("--direct", action="store_true", help="boot the stock image without firmware and GRUB as well")
    arguments, deployed, chosen = parse(parser, argv)
    benchmark = Benchmark(deployed)
    rows: list[Mapping[str, Any]] = []
    for spec in chosen:
        boots = []
        with deployed.stock_image(spec) as image, deployed.token(spec):
            for count in range(arguments.rounds):
                with deployed.alone(spec):
                    boots.append(benchmark.boot(spec, image, arguments.direct))
                _report(f"{spec.node} {count + 1}", boots[-1])
        rows.append(_row(spec, boots))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
