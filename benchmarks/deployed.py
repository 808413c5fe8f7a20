"""A deployed cluster whose guests a benchmark boots again."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import stock_image
from benchmarks.stock_image import StockImage
from q8s_wrapper.config import add_collections_to_path

add_collections_to_path()

from ansible_collections.q8s.emu.plugins.module_utils._spec import (  # noqa: E402
    Cluster,
    ServerSpec,
    VmType,
    load_file,
)

__all__ = [
    "DEADLINE",
    "HINT",
    "STOCK",
    "Api",
    "Cluster",
    "DeployedCluster",
    "ServerSpec",
    "new_disk",
    "parse",
    "stock_command",
    "vm_type",
]

STOCK: Final = "/var/tmp/q8s-benchmark-stock"  # on a host: what a stock guest needs
DEADLINE: Final = 600  # seconds, for a boot
HINT: Final = "hint: a worker may be without its node now; `q8s-run deploy` brings it back"
_FOLDER: Final = "/var/lib/q8s-guest"  # as in the vars/main.yml of the role emulated_worker
_KUBECTL: Final = "sudo /var/lib/q8s/bin/kubectl --kubeconfig=/etc/kubernetes/admin.conf"
_VIRSH: Final = "sudo virsh --quiet --connect qemu:///system"
_TOKEN_HOURS: Final = 3

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


# Runs on the control plane: the API server's URL and address, and the hash of the CA's key as kubeadm wants it.
_ASK_API: Final = f"""
set -eu
{_KUBECTL} config view --minify --output='jsonpath={{.clusters[0].cluster.server}}{{"\\n"}}'
{_KUBECTL} get endpointslices --selector=kubernetes.io/service-name=kubernetes \\
  --output='jsonpath={{.items[0].endpoints[0].addresses[0]}}{{"\\n"}}'
sudo openssl x509 -in /etc/kubernetes/pki/ca.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum
"""


@dataclass(frozen=True)
class Api:
    """Where a cluster's API server is: its name, its address, and the hash of its CA's key."""

    name: str
    address: str
    ca_hash: str


class DeployedCluster:
    """A deployed cluster, whose workers' nodes can be removed and set up again."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.cluster: Cluster = load_file(file)
        self._control_plane = next(spec.name for spec in self.cluster.servers() if spec.initial)

    @property
    def workers(self) -> list[ServerSpec]:
        """Return the workers' hosts."""
        return [spec for spec in self.cluster.servers() if spec.vm_type]

    def _program(self, host: str, command: str) -> list[str]:
        return [str(Path(sys.executable).parent / "q8s-run"), "ssh", self._file, host, "--", command]

    def run(self, host: str, command: str, stdin: str | Path = "") -> str:
        """Run a command on a host, and return what it prints.

        :raises SystemExit: it failed
        """
        program = self._program(host, command)
        if isinstance(stdin, Path):
            with stdin.open("rb") as stream:
                done = subprocess.run(program, stdin=stream, capture_output=True, check=False)
        else:
            done = subprocess.run(program, input=stdin.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"Failed on {host}: {command}\n{done.stderr.decode().strip()}\n{HINT}")
        return done.stdout.decode()

    def start(self, host: str, command: str) -> subprocess.Popen[str]:
        """Start a command on a host, with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self._program(host, command), stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def on_control_plane(self, command: str, stdin: str = "") -> str:
        """Run a command on the control plane, and return what it prints.

        :raises SystemExit: it failed
        """
        return self.run(self._control_plane, command, stdin)

    def api(self) -> Api:
        """Return where the API server is.

        :raises SystemExit: the control plane does not say
        """
        url, address, ca_hash = self.on_control_plane("sh", _ASK_API).splitlines()[:3]
        return Api(url.removeprefix("https://").rpartition(":")[0], address, ca_hash.split()[0])

    @contextlib.contextmanager
    def stock_image(self, spec: ServerSpec) -> Iterator[StockImage]:
        """Copy the stock image of a worker's architecture to its host, and remove it afterwards."""
        image = stock_image.ensure(vm_type(spec).architecture)
        try:
            self.run(spec.name, f"mkdir -p -m 700 {STOCK}")
            for file in image.files:
                self.run(spec.name, f"cat > {STOCK}/{file.name}", file)
            yield image
        finally:
            self.run(spec.name, f"sudo rm -rf {STOCK}")

    @contextlib.contextmanager
    def alone(self, spec: ServerSpec) -> Iterator[None]:
        """Suspend the guests of all other workers."""
        others = [other for other in self.workers if other.name != spec.name]
        for other in others:
            self.run(other.name, f"{_VIRSH} suspend {other.node}")
        try:
            yield
        finally:
            for other in others:
                self.run(other.name, f"{_VIRSH} resume {other.node}")

    @contextlib.contextmanager
    def token(self, spec: ServerSpec) -> Iterator[str]:
        """Make the bootstrap token of a worker's data disk valid again: a deploy removed it when all nodes had joined.

        :raises SystemExit: the disk has none
        """
        member = "etc/kubernetes/bootstrap-kubelet.conf"
        archive = f"{_FOLDER}/{spec.node}-data.img"
        conf = self.run(spec.name, f"sudo tar --extract --to-stdout --file {archive} {member}")
        token = next(
            (line.split()[1] for line in conf.splitlines() if line.split()[:1] == ["token:"] and line.split()[1:]), ""
        )
        if not token:
            sys.exit(f"Failed to find a bootstrap token on {spec.node}'s data disk; `q8s-run replace` writes a new one")
        name = f"bootstrap-token-{token.partition('.')[0]}"
        self.on_control_plane(f"{_KUBECTL} apply -f - > /dev/null", json.dumps(_secret(name, token)))
        try:
            yield token
        finally:
            self.on_control_plane(f"{_KUBECTL} --namespace=kube-system delete secret {name} --ignore-not-found")

    def remove_node(self, node: str) -> None:
        """Delete a node from Kubernetes."""
        self.on_control_plane(f"{_KUBECTL} delete node {node} --ignore-not-found")

    def take_away(self, spec: ServerSpec) -> None:
        """End a worker's guest, and delete its node."""
        self.run(spec.name, f"{_VIRSH} destroy {spec.node} || true")
        self.remove_node(spec.node)

    def wait_for_ready(self, node: str, deadline: int = DEADLINE) -> subprocess.Popen[str]:
        """Start a program that waits until a node is Ready, and then prints the time."""
        wait = f"{_KUBECTL} wait node/{node} --timeout={deadline}s"
        return self.start(self._control_plane, f"{wait} --for=create && {wait} --for=condition=Ready && date +%s.%N")

    def boot(self, spec: ServerSpec) -> float:
        """Start a worker's guest with new disks, and return the seconds until its node is Ready.

        :raises SystemExit: it did not become Ready
        """
        self.run(spec.name, f"sudo sh -s - {_FOLDER} {spec.node}", _NEW_DISKS)
        start = float(self.run(spec.name, f"date +%s.%N; {_VIRSH} start {spec.node}").split()[0])
        waiter = self.wait_for_ready(spec.node)
        stdout, stderr = waiter.communicate()
        if waiter.returncode != 0:
            sys.exit(f"Failed to boot {spec.node}: {stderr.strip()}\n{HINT}")
        return float(stdout.split()[-1]) - start


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, DeployedCluster, list[ServerSpec]]:
    """Return the arguments of a benchmark, its cluster, and the workers that it measures."""
    parser.add_argument("file", help="the cluster file of a deployed cluster")
    parser.add_argument("--node", action="append", help="only this node; can be given again")
    arguments = parser.parse_args(argv)
    deployed = DeployedCluster(arguments.file)
    chosen = [spec for spec in deployed.workers if not arguments.node or spec.node in arguments.node]
    if not chosen:
        parser.error(f"no such node; there are {', '.join(spec.node for spec in deployed.workers)}")
    return arguments, deployed, chosen


def vm_type(spec: ServerSpec) -> VmType:
    """Return what a worker's guest is."""
    assert spec.vm_type is not None
    return spec.vm_type


def new_disk(vm: VmType, image: StockImage) -> str:
    """Return the command that gives a stock guest a new disk, and a console without text."""
    create = f"qemu-img create -q -f qcow2 -F qcow2 -b {image.disk.name} disk.qcow2 {vm.storage_gb}G"
    return f"cd {STOCK} && sudo rm -f console && {create}"


def stock_command(vm: VmType, image: StockImage, *, forward: str = "", direct: bool = False) -> list[str]:
    """Return QEMU's command line: the machine of our guests, and what a cloud gives a stock one.

    :param forward: more options of QEMU's user network
    :param direct: whether QEMU loads the image's kernel and initrd, instead of firmware and GRUB
    """
    gic = ",gic-version=3" if vm.architecture == "aarch64" else ""
    if direct:
        kernel, initrd = (f"{STOCK}/{file.name}" for file in (image.kernel, image.initrd))
        start = ["-kernel", kernel, "-initrd", initrd, "-append", image.cmdline]
    else:
        flash = "if=pflash,format=raw"
        start = [
            "-drive", f"{flash},unit=0,readonly=on,file={STOCK}/{image.firmware.name}",
            "-drive", f"{flash},unit=1,snapshot=on,file={STOCK}/{image.variables.name}",
        ]  # fmt: skip
    return [
        f"qemu-system-{vm.architecture}", "-accel", "tcg", "-machine", f"{vm.machine_model}{gic}",
        "-cpu", vm.cpu_model, "-smp", str(vm.num_cpus), "-m", str(vm.ram_mb), "-no-reboot",
        "-display", "none", "-vga", "none", "-serial", f"file:{STOCK}/console", *start,
        "-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={STOCK}/disk.qcow2",
        "-device", "virtio-blk-pci,drive=disk,bootindex=1",
        "-drive", f"if=none,id=seed,format=raw,readonly=on,file={STOCK}/{image.seed.name}",
        "-device", "virtio-blk-pci,drive=seed",
        "-netdev", f"user,id=net{forward}", "-device", "virtio-net-pci,netdev=net",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def _secret(name: str, token: str) -> dict[str, object]:
    """Return a bootstrap token as Kubernetes' object, valid for some hours."""
    identifier, _, secret = token.partition(".")
    expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _TOKEN_HOURS * 3600))
    data = {
        "token-id": identifier,
        "token-secret": secret,
        "expiration": expiration,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }
