"""A container of systemd-nspawn: create, start, stop, remove.

The folder of a machine holds its whole state: the process that started it may have exited. Standard library only:
Nova's driver imports this module in another virtual environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from q8s_lab.private_file import open_private

_RUNNER: Final = Path(__file__).parent / "runner.sh"
_POWER_OFF: Final = signal.SIGRTMIN + 4  # systemd(1), "SIGNALS"
_REBOOT: Final = signal.SIGRTMIN + 5


class MachineError(Exception):
    """An operation on a machine failed."""


@dataclass(frozen=True)
class Nic:
    """A network interface of a machine.

    :param prefix: prefix length of its subnet
    :param gateway: the subnet's gateway; empty for none
    :param link: name of the bridge's end of a further interface's veth link
    """

    address: str
    prefix: int
    gateway: str
    mac: str
    mtu: int = 1500
    link: str = ""


@dataclass(frozen=True)
class Spec:
    """The definition of a machine.

    :param name: name of the container, and of its link without ``vb-``
    :param lower: folder with the unpacked image, the lowest layer of the root file system
    :param nic: the first network interface, ``host0``
    :param memory: MB
    :param key: public SSH key
    :param proxy: URL of the package proxy; empty for none
    :param metadata: further keys of cloud-init's meta-data
    :param further_nics: ``host1`` and so on
    """

    name: str
    hostname: str
    lower: str
    bridge: str
    nic: Nic
    memory: int
    vcpus: int
    key: str = ""
    user_data: bytes = b""
    proxy: str = ""
    instance_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    further_nics: tuple[Nic, ...] = ()

    @property
    def address(self) -> str:
        """Return the address of the first network interface."""
        return self.nic.address

    @property
    def nics(self) -> tuple[Nic, ...]:
        """Return all network interfaces, in the order of their numbers."""
        return (self.nic, *self.further_nics)


def read(path: Path) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_spec[T](path: Path, build: Callable[[Any], T]) -> T:
    """Return the definition of a machine from the file that ``write_spec`` wrote.

    :param build: returns it from the file's data
    :raises MachineError: the file cannot be read, or is damaged
    """
    try:
        return build(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"it is damaged ({error})"
        raise MachineError(f"Failed to read {path}: {reason}; deleting the server removes it") from None


def write_spec(path: Path, data: Mapping[str, Any]) -> None:
    """Write the definition of a machine in one step, with mode 0600: user-data may contain keys."""
    new = path.with_name(f"{path.name}.new")
    with open_private(new) as stream:
        json.dump(data, stream)
    new.rename(path)


def recorded_process(path: Path) -> int | None:
    """Return the process id in a file that has it with its start time, or None if the process has exited."""
    words = read(path).split()
    alive = len(words) == 2 and words[0].isdecimal() and start_time(int(words[0])) == words[1]
    return int(words[0]) if alive else None


def start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot (proc_pid_stat(5)), or None if it has exited.

    Process id and start time together identify a process: the kernel reuses ids.
    """
    fields = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return None if not fields or fields[0] in "ZX" else fields[19]


def wait(condition: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition. Return whether it became true within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Machine:
    """A machine, stored in a folder."""

    soft_reboot_seconds: Final = 60

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def spec(self) -> Spec:
        """Return the definition of the machine.

        :raises MachineError: its file is damaged
        """

        def build(data: Any) -> Spec:
            nics = {
                "nic": Nic(**data["nic"]),
                "further_nics": tuple(Nic(**nic) for nic in data.get("further_nics", ())),
            }
            return Spec(**{**data, **nics, "user_data": bytes.fromhex(data["user_data"])})

        return read_spec(self.folder / "spec.json", build)

    @property
    def exists(self) -> bool:
        return (self.folder / "spec.json").exists()

    @property
    def veth(self) -> str:
        """Return the name of the bridge's end of the machine's veth link, as systemd-nspawn names it."""
        return f"vb-{self.spec.name}"[:15]

    def runner(self) -> int | None:
        """Return the process id of the runner (runner.sh), or None if it does not run."""
        return recorded_process(self.folder / "run.pid")

    def running(self) -> bool:
        return self.runner() is not None

    def init(self) -> int | None:
        """Return the process id, on this machine, of the container's process 1. It is a grandchild of the runner."""
        runner = self.runner()
        for nspawn in _children(runner) if runner else ():
            for child in _children(nspawn):
                status = read(Path(f"/proc/{child}/status"))
                ids = [line.split() for line in status.splitlines() if line.startswith("NSpid:")]
                if ids and len(ids[0]) > 2 and ids[0][-1] == "1":
                    return child
        return None

    def create(self, spec: Spec) -> None:
        """Create the machine's folder: the upper layer of its root file system, and /var.

        /var is a real folder instead of an overlay: containerd and libvirt mount file systems in it.
        """
        upper = self.folder / "upper"
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        upper.chmod(0o755)
        subprocess.run(["cp", "-a", f"{spec.lower}/var", str(self.folder / "var")], check=True)
        for path, text, mode in _files(spec):
            base = self.folder if path.startswith("var/") else upper
            target = base / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)
            target.chmod(mode)
        data = {**asdict(spec), "user_data": spec.user_data.hex()}
        (self.folder / "runner.env").write_text(
            f"NAME={spec.name}\nHOST={shlex.quote(spec.hostname)}\nBRIDGE={spec.bridge}\n"
            f"LOWER={shlex.quote(spec.lower)}\n"
            f"MEMORY={spec.memory * 1024 * 1024}\nVCPUS={spec.vcpus}\n"
            f"LINKS={shlex.quote(' '.join(nic.link for nic in spec.further_nics))}\n"
        )
        write_spec(self.folder / "spec.json", data)  # last: the machine exists when this file does

    def start(self) -> None:
        """Start the machine, unless it runs.

        :raises MachineError: its process 1 did not appear within 30 s
        """
        if self.runner():
            return
        self._reap()
        with (self.folder / "console.log").open("ab") as console:
            subprocess.run(
                [
                    "setsid",
                    "--fork",
                    "unshare",
                    "--mount",
                    "--propagation",
                    "slave",
                    "bash",
                    str(_RUNNER),
                    str(self.folder),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                check=True,
            )
        if not wait(self.init, 30):
            tail = read(self.folder / "console.log")[-400:]
            self._reap()
            raise MachineError(f"Failed to start {self.spec.name}: {tail}")

    def stop(self, timeout: float) -> None:
        """Power the machine off. Kill it after ``timeout`` seconds; with 0, at once."""
        init = self.init()
        if init and timeout:
            os.kill(init, _POWER_OFF)
            wait(lambda: not self.runner(), timeout)
        self._reap()

    def reboot(self, timeout: float) -> bool:
        """Reboot the machine. Return whether it rebooted within ``timeout`` seconds."""
        init, generation = self.init(), read(self.folder / "generation")
        if not init:
            return False
        os.kill(init, _REBOOT)
        return wait(lambda: read(self.folder / "generation") != generation and self.init(), timeout)

    def remove(self) -> None:
        """Kill the machine and remove its folder."""
        self._reap()
        (self.folder / "spec.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reap(self) -> None:
        """Kill the processes in the machine's cgroups, and remove the cgroups and the links. Names do not matter."""
        groups = [Path(line) for line in read(self.folder / "cgroups").split()]

        def processes() -> set[int]:
            found = {int(pid) for group in groups for sub in _tree(group) for pid in read(sub / "cgroup.procs").split()}
            return found | ({runner} if (runner := self.runner()) else set())

        def none_left() -> bool:
            left = processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait(none_left, 15)
        for group in groups:
            for sub in _tree(group):
                wait(partial(_remove_group, sub), 3)
        with contextlib.suppress(MachineError):  # without its definition, the links' names are not known
            for name in (self.veth, *(nic.link for nic in self.spec.further_nics)):
                if not wait(partial(_has_no_link, name), 2):
                    subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
        for name in ("run.pid", "cgroups"):
            (self.folder / name).unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in read(Path(f"/proc/{pid}/task/{pid}/children")).split()]


def _tree(group: Path) -> Iterator[Path]:
    """Yield a cgroup and its descendants, deepest first."""
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)


def _remove_group(group: Path) -> bool:
    """Remove a cgroup. Return whether it is gone."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _has_no_link(name: str) -> bool:
    return not (Path("/sys/class/net") / name).exists()


def _files(spec: Spec) -> Iterator[tuple[str, bytes, int]]:
    """Yield path, content and mode of the files to write into a machine."""
    gateway = next((nic.gateway for nic in spec.nics if nic.gateway), "")
    yield "etc/hostname", f"{spec.hostname}\n".encode(), 0o644
    yield "etc/hosts", f"127.0.0.1 localhost\n{spec.address} {spec.hostname}\n".encode(), 0o644
    yield "etc/resolv.conf", f"nameserver {gateway}\n".encode() if gateway else b"", 0o644
    interfaces = "".join(_commands(f"host{number}", nic) for number, nic in enumerate(spec.nics))
    # All networks share the bridge: without this, any interface would answer for the addresses of the others.
    strict = "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2\n" if spec.further_nics else ""
    route = f"ip route replace default via {gateway}\n" if gateway else ""
    # systemd-nspawn mounts cgroups of version 1 read-only, and the kubelet needs to write to them.
    host = f"""\
set -e
ip link set lo up
{strict}{interfaces}{route}for group in cpu cpuacct cpuset memory devices freezer blkio pids; do
    [ ! -d /sys/fs/cgroup/$group ] || mount -o remount,rw,bind /sys/fs/cgroup/$group
done
"""
    yield "etc/lab-host", host.encode(), 0o644
    if spec.proxy:
        yield "etc/apt/apt.conf.d/01lab-proxy", f'Acquire::http::Proxy "{spec.proxy}";\n'.encode(), 0o644
    meta = {
        "instance-id": spec.instance_id or spec.name,
        "local-hostname": spec.hostname,
        "public-keys": [spec.key.strip()] if spec.key else [],
        **spec.metadata,
    }
    yield "var/lib/cloud/seed/nocloud/meta-data", json.dumps(meta).encode(), 0o600
    yield "var/lib/cloud/seed/nocloud/user-data", spec.user_data or b"#cloud-config\n{}\n", 0o600


def _commands(name: str, nic: Nic) -> str:
    """Return the commands that configure a network interface of a machine."""
    # A veth device leaves checksums to hardware that does not exist; VXLAN behind DNAT would forward wrong ones.
    return f"""\
ip link set {name} address {nic.mac} mtu {nic.mtu}
ip addr replace {nic.address}/{nic.prefix} dev {name}
ip link set {name} up
ethtool -K {name} tx-checksum-ip-generic off
"""
