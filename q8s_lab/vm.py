"""A virtual machine: a disk image that a QEMU process boots, without KVM.

The folder of a machine holds its whole state: the process that started it may have exited. Standard library only:
Nova's driver imports this module in another virtual environment.
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

from q8s_lab.machine import MachineError, read, read_spec, recorded_process, wait, write_spec

FIRMWARE: Final = Path("/usr/share/OVMF")
_CODE, _VARIABLES = "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"
# An x86-64-v2 processor without AVX, which is slow to emulate. Model 28 is an Atom without speculation, for which Linux
# disables page table isolation: that would flush QEMU's address translations at each system call. It is an Intel model
# because Linux trusts its TSC on several CPUs. On an AMD model without `invtsc`, which QEMU cannot emulate, Linux would
# read the slow HPET.
_CPU: Final = "Nehalem,model=28"
_SECONDS_TO_START: Final = 60
_SECONDS_BETWEEN_PRESSES: Final = 10  # a machine that is still booting ignores the power button
# Record process id and start time of QEMU before QEMU runs: exec keeps both.
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
    """A virtio NIC and its tap device on the bridge."""

    link: str
    mac: str
    mtu: int
    address: str


@dataclass(frozen=True)
class Spec:
    """The definition of a virtual machine.

    :param image: path of the disk image
    :param memory: MB
    :param disk: GB; 0 for the image's virtual size
    :param uefi: whether the image boots with UEFI
    """

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
        """Return the address of the first port."""
        return self.ports[0].address


class VirtualMachine:
    """A virtual machine, stored in a folder."""

    soft_reboot_seconds: Final = 420  # libvirt-guests alone waits up to 300 s for guests of its own

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def spec(self) -> Spec:
        """Return the definition of the machine.

        :raises MachineError: its file is damaged
        """
        return read_spec(
            self._description, lambda data: Spec(**{**data, "ports": tuple(Port(**port) for port in data["ports"])})
        )

    @property
    def exists(self) -> bool:
        return self._description.exists()

    @property
    def _description(self) -> Path:
        return self.folder / "vm.json"

    def process(self) -> int | None:
        """Return QEMU's process id, or None if it does not run."""
        return recorded_process(self.folder / "run.pid")

    def running(self) -> bool:
        return self.process() is not None

    def create(self, spec: Spec, write_seed: Callable[[Path], None]) -> None:
        """Create the machine's folder: the root disk, which is an overlay on the image, and cloud-init's data source.

        :param write_seed: writes the data source as an ISO image to the path that it is called with
        :raises MachineError: QEMU cannot read the image, or the UEFI firmware is missing
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
        write_spec(self._description, asdict(spec))  # last: from here on the machine exists

    def start(self) -> None:
        """Start the machine, unless it runs.

        :raises MachineError: QEMU exited or did not answer in time; the message has the end of its output
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
        """Press the power button. Kill QEMU after ``timeout`` seconds; with 0, at once."""
        if timeout:
            self._power_off(timeout)
        self._reap()

    def reboot(self, timeout: float) -> bool:
        """Power the machine off and start it again. Return whether it powered off within ``timeout`` seconds."""
        if not self.running() or not self._power_off(timeout):
            return False
        self.start()
        return True

    def remove(self) -> None:
        """Kill QEMU and remove the machine's folder."""
        self._reap()
        self._description.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _power_off(self, timeout: float) -> bool:
        """Press the power button repeatedly. Return whether the machine is off within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(OSError):  # QEMU has just exited
                self._ask("system_powerdown")
            if wait(lambda: not self.running(), min(left, _SECONDS_BETWEEN_PRESSES)):
                return True
        return False

    def _reap(self) -> None:
        """Kill QEMU. The kernel then removes its tap devices."""
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
        """Run a command of the QEMU Machine Protocol (QMP) and return its result.

        :raises OSError: QEMU does not answer, or the command failed
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                # through /proc: the folder's path may be too long for a socket, unix(7)
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
    """Return the result of a QMP command, and skip events before it."""
    for line in lines:
        message = json.loads(line)
        if "return" in message:
            return message["return"]
        if "error" in message:
            raise OSError(message["error"]["desc"])
    raise ConnectionResetError("QEMU closed the connection")


def command(spec: Spec, taps: Sequence[int]) -> list[str]:
    """Return QEMU's command line. The machine's folder must be the current folder.

    :param taps: descriptors of the ports' tap devices
    """
    words = ["qemu-system-x86_64", "-name", f"{spec.hostname},process=q8s-lab-vm", "-uuid", spec.uuid]
    words += ["-nodefaults", "-no-user-config", "-machine", "q35", "-rtc", "base=utc"]
    words += ["-display", "none", "-vga", "std"]  # as in every cloud; GRUB hangs without a video BIOS
    words += ["-accel", "tcg,thread=multi", "-cpu", _CPU, "-smp", str(spec.vcpus), "-m", f"{spec.memory}M"]
    # the values of Nova's libvirt driver, by which cloud-init detects OpenStack
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
    """Create a tap device on the bridge, and yield its descriptor. QEMU inherits it, which keeps the device alive."""
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
    """A disk image file: its format, the virtual size in bytes, and its backing file (empty for none)."""

    format: str
    size: int
    backing: str


def inspect_image(path: Path) -> DiskImage:
    """Inspect a disk image with qemu-img.

    :raises MachineError: QEMU cannot read the image
    """
    found = json.loads(_qemu_img("info", "--output=json", str(path)))
    return DiskImage(found["format"], found["virtual-size"], found.get("backing-filename", ""))


def _qemu_img(*arguments: str) -> str:
    """Run qemu-img and return its output.

    :raises MachineError: it failed; the message is its error output
    """
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(done.stderr.strip()[-800:])
    return done.stdout


def write_iso(target: Path, label: str, folder: Path) -> None:
    """Write the files of a folder as an ISO 9660 file system. cloud-init finds it by its label.

    :raises MachineError: genisoimage failed
    """
    arguments = ["-quiet", "-J", "-r", "-V", label, "-o", str(target), str(folder)]
    done = subprocess.run(["genisoimage", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(f"Failed to write {target.name}: {done.stderr.strip()[-400:]}")
