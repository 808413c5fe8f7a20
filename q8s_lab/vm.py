"""A virtual machine: a disk image booted by a QEMU of its own, without KVM.

Everything about a machine is in its folder, so that whoever started it may be gone. Standard library only: Nova's
driver imports this in an environment of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from q8s_lab.machine import MachineError, read, start_time, wait

FIRMWARE: Final = Path("/usr/share/OVMF")
_CODE, _VARIABLES = "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"
# An x86-64-v2 processor without AVX, whose long instructions are slow to emulate. Linux takes model 28 for an Atom that
# does not speculate, and so leaves out page table isolation, which flushes QEMU's translated addresses at each system
# call. The clock of an Intel processor is trusted on several CPUs; an AMD one without `invtsc`, which QEMU cannot
# emulate, would read the slow HPET.
_CPU: Final = "Nehalem,model=28"
_SECONDS_TO_START: Final = 60
_SECONDS_BETWEEN_PRESSES: Final = 10  # a guest that is still booting does not notice the power button
# Records QEMU's process ("pid starttime") before QEMU runs: exec keeps both.
_LAUNCH: Final = """\
read -r -a stat < "/proc/$BASHPID/stat"
echo "$BASHPID ${stat[21]}" > run.pid.new
mv run.pid.new run.pid
exec "$@"
"""
_TUNSETIFF: Final = 0x400454CA  # linux/if_tun.h
_TAP_FLAGS: Final = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR


@dataclass(frozen=True)
class Port:
    """A virtio NIC, and its tap device on the bridge."""

    link: str
    mac: str
    mtu: int
    address: str


@dataclass(frozen=True)
class Spec:
    """A virtual machine. Memory in MB; disk in GB, 0 for the image's own size."""

    hostname: str
    uuid: str
    image: str
    image_format: str
    bridge: str
    ports: tuple[Port, ...]
    memory: int
    vcpus: int
    disk: int
    uefi: bool = False

    @property
    def address(self) -> str:
        return self.ports[0].address


class VirtualMachine:
    """The virtual machine of a folder."""

    soft_reboot_seconds: Final = 420  # libvirt-guests alone waits up to 300 s for guests of its own

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def spec(self) -> Spec:
        data = json.loads(self._description.read_text())
        return Spec(**{**data, "ports": tuple(Port(**port) for port in data["ports"])})

    @property
    def exists(self) -> bool:
        return self._description.exists()

    @property
    def _description(self) -> Path:
        return self.folder / "vm.json"

    def process(self) -> int | None:
        """Return QEMU's process id, or None if it does not run."""
        words = read(self.folder / "run.pid").split()
        return int(words[0]) if len(words) == 2 and start_time(int(words[0])) == words[1] else None

    def running(self) -> bool:
        return self.process() is not None

    def create(self, spec: Spec, write_seed: Callable[[Path], None]) -> None:
        """Create the root disk, an overlay on the image, and cloud-init's data source, which ``write_seed`` writes.

        :raises MachineError: the image is not a disk image that QEMU can read
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = [f"{spec.disk}G"] if spec.disk else []
        backing = ["-b", spec.image, "-F", spec.image_format]
        _qemu_img("create", "-q", "-f", "qcow2", *backing, str(self.folder / "disk.qcow2"), *size)
        write_seed(self.folder / "seed.iso")
        if spec.uefi:
            if not (FIRMWARE / _VARIABLES).exists():
                raise MachineError(f"the image boots by UEFI, and {FIRMWARE} is missing: install the package ovmf")
            shutil.copyfile(FIRMWARE / _VARIABLES, self.folder / "variables.fd")
        (self.folder / "console.log").touch()
        self._description.write_text(json.dumps(asdict(spec)))  # last: from here on the machine exists

    def start(self) -> None:
        """Start it, unless it runs.

        :raises MachineError: QEMU ended at once, or did not answer in time; its last messages are in the error
        """
        if self.running():
            return
        self._reap()
        spec = self.spec
        with ExitStack() as stack, (self.folder / "qemu.log").open("wb") as log:
            taps = [stack.enter_context(_tap(port, spec.bridge)) for port in spec.ports]
            subprocess.run(
                ["setsid", "--fork", "bash", "-c", _LAUNCH, "launch", *command(spec, taps)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=taps,
                check=True,
            )

        def answers() -> bool:
            try:
                self._ask("query-status")
            except OSError:
                return False
            return True

        recorded = self.folder / "run.pid"
        wait(lambda: answers() or (recorded.exists() and not self.running()), _SECONDS_TO_START)
        if not self.running() or not answers():
            self._reap()
            said = read(self.folder / "qemu.log").strip()[-800:]
            raise MachineError(f"Failed to start {spec.hostname}: {said or 'QEMU does not answer'}")

    def stop(self, timeout: float) -> None:
        """Press the power button; after ``timeout`` seconds, or at once if that is 0, end QEMU."""
        if timeout:
            self._power_off(timeout)
        self._reap()

    def reboot(self, timeout: float) -> bool:
        """Power the machine off and on again. Return whether it powered off within ``timeout`` seconds."""
        if not self.running() or not self._power_off(timeout):
            return False
        self.start()
        return True

    def remove(self) -> None:
        """End QEMU and remove the machine's folder."""
        self._reap()
        self._description.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _power_off(self, timeout: float) -> bool:
        """Press the power button until the machine is off. Return whether it is."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(OSError):  # it has just ended
                self._ask("system_powerdown")
            if wait(lambda: not self.running(), min(left, _SECONDS_BETWEEN_PRESSES)):
                return True
        return False

    def _reap(self) -> None:
        """End QEMU. Its tap devices end with it."""
        for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 15)):
            pid = self.process()
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            wait(lambda: not self.running(), seconds)
        for name in ("run.pid", "qmp.sock"):
            (self.folder / name).unlink(missing_ok=True)

    def _ask(self, name: str) -> Any:
        """Run a command of the QEMU Machine Protocol (QMP). Raises OSError if QEMU does not answer."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                # the folder's own path may be longer than a socket's may be, unix(7)
                connection.connect(f"/proc/self/fd/{descriptor}/qmp.sock")
                with connection.makefile("rw", encoding="utf-8") as stream:
                    stream.readline()  # the greeting
                    answer: Any = None
                    for request in ("qmp_capabilities", name):
                        stream.write(json.dumps({"execute": request}) + "\n")
                        stream.flush()
                        answer = _answer(stream)
                    return answer
        finally:
            os.close(descriptor)


def _answer(lines: Iterator[str]) -> Any:
    """Return the answer to a command; events may come before it."""
    for line in lines:
        message = json.loads(line)
        if "return" in message:
            return message["return"]
        if "error" in message:
            raise OSError(message["error"]["desc"])
    raise ConnectionResetError("QEMU closed the connection")


def command(spec: Spec, taps: Sequence[int]) -> list[str]:
    """Return QEMU's command line, for the machine's folder as current one and open tap devices."""
    words = ["qemu-system-x86_64", "-name", f"{spec.hostname},process=q8s-lab-vm", "-uuid", spec.uuid]
    words += ["-nodefaults", "-no-user-config", "-machine", "q35", "-rtc", "base=utc"]
    words += ["-display", "none", "-vga", "std"]  # GRUB waits for ever for a video BIOS, as every cloud has one
    words += ["-accel", "tcg,thread=multi", "-cpu", _CPU, "-smp", str(spec.vcpus), "-m", f"{spec.memory}M"]
    # what Nova's libvirt driver says of itself, and what cloud-init looks for
    words += ["-smbios", f"type=1,manufacturer=OpenStack Foundation,product=OpenStack Nova,uuid={spec.uuid}"]
    words += ["-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"]
    words += ["-chardev", "socket,id=qmp,path=qmp.sock,server=on,wait=off", "-mon", "chardev=qmp,mode=control"]
    if spec.uefi:
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE / _CODE}"]
        words += ["-drive", "if=pflash,format=raw,file=variables.fd"]
    words += ["-drive", "if=none,id=root,file=disk.qcow2,format=qcow2,cache=unsafe,discard=unmap"]
    words += ["-device", "virtio-blk-pci,drive=root,bootindex=1"]
    words += ["-drive", "if=none,id=seed,file=seed.iso,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=seed"]
    words += ["-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random"]
    for number, (port, tap) in enumerate(zip(spec.ports, taps, strict=True)):
        words += ["-netdev", f"tap,id=net{number},fd={tap}"]
        words += ["-device", f"virtio-net-pci,netdev=net{number},mac={port.mac},host_mtu={port.mtu},romfile="]
    return words


@contextmanager
def _tap(port: Port, bridge: str) -> Iterator[int]:
    """Create a tap device on the bridge. It lasts as long as somebody has its file open, which is QEMU after this."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    try:
        try:
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", port.link.encode(), _TAP_FLAGS))
        except OSError as error:
            raise MachineError(f"Failed to create the tap device {port.link}: {error.strerror}") from error
        attach = ["ip", "link", "set", "dev", port.link, "mtu", str(port.mtu), "master", bridge, "up"]
        done = subprocess.run(attach, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MachineError(f"Failed to attach {port.link} to {bridge}: {done.stderr.strip()}")
        yield tap
    finally:
        os.close(tap)


@dataclass(frozen=True)
class DiskImage:
    """A disk image file: its format, its disk's size in bytes, and the file that it is a layer over, if any."""

    format: str
    size: int
    backing: str


def inspect_image(path: Path) -> DiskImage:
    """Return what QEMU finds in a disk image.

    :raises MachineError: it is not a disk image that QEMU can read
    """
    found = json.loads(_qemu_img("info", "--output=json", str(path)))
    return DiskImage(found["format"], found["virtual-size"], found.get("backing-filename", ""))


def _qemu_img(*arguments: str) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(done.stderr.strip()[-800:])
    return done.stdout


def write_iso(target: Path, label: str, folder: Path) -> None:
    """Write a folder's files as an ISO 9660 file system, for cloud-init to find by its label.

    :raises MachineError: genisoimage failed
    """
    arguments = ["-quiet", "-J", "-r", "-V", label, "-o", str(target), str(folder)]
    done = subprocess.run(["genisoimage", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"Failed to write {target.name}: {done.stderr.strip()[-400:]}")
