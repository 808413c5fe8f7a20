"""Hosts that are virtual machines, without OpenStack, and playbooks on them."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from q8s_lab import cloud_image, hosts, settings
from q8s_lab.machine import wait

# Names of the lab's images, or files, that the tests of this folder boot.
IMAGES: Final = shlex.split(os.environ.get("Q8S_VM_IMAGES", " ".join(cloud_image.STOCK_NAMES)))
REPOSITORY: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
PLAYBOOKS: Final = Path(__file__).parent / "playbooks"
SSH_SECONDS: Final = 900
_FIRST_LOGIN_SECONDS: Final = 600  # after sshd has answered
_PLAYBOOK_SECONDS: Final = 5400
# sshd of OpenSSH 9.8 and newer refuses a client for a while that connects often and does not log in.
_SECONDS_BETWEEN_LOGINS: Final = 10
_ATTEMPTS: Final = 2  # QEMU without KVM at times loses an interrupt, and the machine hangs in its boot
# Memory in MB that a virtual machine, its lab and the tests need to be free.
_MEMORY: Final = 5120


def require_virtual_machines() -> None:
    """Skip the test, and say why, where no virtual machine can run."""
    if os.geteuid() != 0:
        pytest.skip("virtual machines need root")
    if not Path("/dev/net/tun").exists():
        pytest.skip("virtual machines need /dev/net/tun, which is missing on this machine")
    for program in ("qemu-system-x86_64", "genisoimage"):
        if shutil.which(program) is None:
            pytest.skip(f"virtual machines need {program}, which is missing on this machine (make setup installs it)")
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(words[1]) // 1024 for words in lines if words[0] == "MemAvailable:")
    if available < _MEMORY:
        pytest.skip(f"virtual machines need {_MEMORY} MB of free memory, and this machine has {available} MB")


@dataclass(frozen=True)
class Host:
    """A virtual machine, and how to log in to it."""

    name: str
    address: str
    proxy: str
    folder: Path
    user: str

    @property
    def _options(self) -> list[str]:
        known = self.folder / "known_hosts"
        options = [f"UserKnownHostsFile={known}", "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes"]
        options += ["BatchMode=yes", "IdentitiesOnly=yes", "ConnectTimeout=60", "LogLevel=ERROR"]
        return [part for option in options for part in ("-o", option)]

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    def ssh(self, command: str, *, seconds: int = 300) -> subprocess.CompletedProcess[str]:
        """Run a command as root. A host that does not answer in time gives exit code 255, as a refused login does."""
        arguments = ["ssh", "-F", "none", *self._options, "-i", str(self.key), f"{self.user}@{self.address}"]
        try:
            return subprocess.run(
                [*arguments, "sudo", "sh", "-s"],
                input=command,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(arguments, 255, "", f"no answer within {seconds} s")

    def read(self, command: str) -> str:
        """Return what a command prints; fail if it fails."""
        done = self.ssh(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def boot_id(self) -> str:
        return self.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def reboot(self) -> None:
        """Reboot from inside, and wait until one can log in again."""
        before = self.boot_id()
        assert before
        self.ssh("systemctl reboot")
        self.wait_for_login(SSH_SECONDS, before)

    def wait_for_login(self, seconds: int, before: str = "") -> None:
        """Wait until one can log in, to another boot than ``before``."""
        end = time.monotonic() + seconds
        while True:
            done = self.ssh("cat /proc/sys/kernel/random/boot_id", seconds=120)
            if done.stdout.strip() not in ("", before):
                return
            if time.monotonic() > end:
                console = hosts.console(settings.load(), self.name)[-3000:]
                pytest.fail(
                    f"Failed to log in to {self.name} within {seconds} s: {done.stderr}\nIts console:\n{console}"
                )
            time.sleep(_SECONDS_BETWEEN_LOGINS)

    def play(self, playbook: str, variables: Mapping[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the tests' playbooks on the host, with the collection of this checkout.

        One that takes too long gives exit code 124, as timeout(1) does.
        """
        inventory = self.folder / "inventory.yml"
        host = {
            "ansible_host": self.address,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": " ".join(["-F none", *self._options]),
        }
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {"node": host}}}))
        extra = self.folder / "variables.json"
        extra.write_text(json.dumps(variables))
        config = self.folder / "ansible.cfg"
        config.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
            "ANSIBLE_CONFIG": str(config),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_TIMEOUT": "60",
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
            "LC_ALL": "C.UTF-8",
        }
        command: list[str | Path] = [
            BIN / "ansible-playbook",
            "-i",
            inventory,
            "-e",
            f"@{extra}",
            PLAYBOOKS / playbook,
            *arguments,
        ]
        log = self.folder / f"{playbook}.log"  # shows how far a playbook is
        with log.open("w") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as play:
            try:
                code = play.wait(_PLAYBOOK_SECONDS)
            except subprocess.TimeoutExpired:
                play.terminate()
                code = 124
        text = log.read_text()
        print(text)
        return subprocess.CompletedProcess(command, code, text, "")


@contextmanager
def host(name: str, image: str, folder: Path, memory: int, user: str = hosts.USER) -> Iterator[Host]:
    """Boot a virtual machine that the user can log in to; memory in MB. It is removed at the end."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id_ed25519"], check=True)
    lab: list[str | Path] = [BIN / "q8s-run", "lab", "host"]
    options: list[str | Path] = [
        "--machine",
        "vm",
        "--image",
        image,
        "--key",
        folder / "id_ed25519.pub",
        "--memory",
        str(memory),
        "--user",
        user,
    ]
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                machine = _up(name, [*lab, "up", name, *options], folder, user)
                break
            except pytest.fail.Exception as failure:
                if attempt == _ATTEMPTS:
                    raise
                print(f"attempt {attempt} of {_ATTEMPTS}: {failure}")
                subprocess.run([*lab, "down", name], check=True)
        yield machine
    finally:
        subprocess.run([*lab, "down", name], check=False)


def _up(name: str, command: list[str | Path], folder: Path, user: str) -> Host:
    # its progress is shown
    up = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if up.returncode != 0:
        pytest.fail("q8s-run lab host up failed; its messages are above")
    found = json.loads(up.stdout)
    (folder / "known_hosts").write_text(f"{found['address']} {found['host_key']}\n")
    machine = Host(name, found["address"], found["proxy"], folder, user)
    machine.wait_for_login(_FIRST_LOGIN_SECONDS)
    return machine


@contextmanager
def served(folder: Path, address: str) -> Iterator[str]:
    """Serve a folder's files to hosts, from this machine's address on their network. Gives the URL."""
    command: list[str | Path] = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "--bind",
        address,
        "--directory",
        folder,
        "0",
    ]
    log = folder.with_name("http.log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        assert wait(lambda: "port " in log.read_text(), 30), log.read_text()
        yield f"http://{address}:{log.read_text().split('port ')[1].split()[0]}"
    finally:
        process.terminate()
        process.wait()


def bundle() -> dict[str, Any]:
    """Return the answer of ``bundle ensure``: artifacts, kernel command lines, versions. What is missing is built."""
    command = [sys.executable, "-m", "q8s_bundle", "ensure", "--arch", "x86_64", "--control-plane", "x86_64"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, "bundle ensure failed; its message is above"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def artifacts(folder: Path, answer: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Fill a folder with what a host fetches for its guest: the kernel of the bundle, and empty disks."""
    for name in ("kernel", "initrd"):
        file = answer["artifacts"][f"{name}-x86_64"]
        (folder / name).symlink_to(file["path"])
    for name in ("root", "bundle"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / f"{name}.qcow2", "1G"], check=True)
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.stem] = {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return found


def worker_variables(
    machine: Host, guest: str, url: str, files: Mapping[str, Mapping[str, str]], cmdline: str
) -> dict[str, Any]:
    """Return the variables of a worker's roles, for a guest that nobody waits for."""
    return {
        "qemu_host_architecture": "x86_64",
        "qemu_host_guest_address": "192.168.250.2",
        "qemu_host_guest_gateway": "192.168.250.1",
        "qemu_host_proxy": {"http_proxy": machine.proxy},
        "emulated_worker_name": guest,
        "emulated_worker_architecture": "x86_64",
        "emulated_worker_num_cpus": 1,
        "emulated_worker_cpu_model": "EPYC-Rome",
        "emulated_worker_machine": "q35",
        "emulated_worker_ram_mb": 512,
        "emulated_worker_storage_gb": 6,
        "emulated_worker_boot_timeout": 1,
        "emulated_worker_mac": "52:54:00:00:00:02",
        "emulated_worker_address": "192.168.250.2",
        "emulated_worker_gateway": "192.168.250.1",
        "emulated_worker_artifact_url": url,
        "emulated_worker_artifacts": files,
        "emulated_worker_cmdline": cmdline,
        "emulated_worker_authorized_key": machine.key.with_suffix(".pub").read_text().strip(),
        "emulated_worker_api_name": "api.gate.test",
        "emulated_worker_api_address": machine.address,
        "emulated_worker_ca_certificate": "none\n",
        "emulated_worker_bootstrap_token": "abcdef.0123456789abcdef",
    }


def displaced(read: Callable[[str], str]) -> list[str]:
    """Return the first rules of iptables' chains that are not Q8S's jumps; none if each is first.

    :param read: runs a command on the host, and returns what it prints
    """
    first = {}
    for table, chain, ours in (
        ("nat", "PREROUTING", "Q8S_PRE"),
        ("nat", "POSTROUTING", "Q8S_POST"),
        ("filter", "INPUT", "Q8S_IN"),
        ("filter", "FORWARD", "Q8S_FWD"),
    ):
        first[ours] = read(f"iptables --wait --table {table} --list-rules {chain} | sed -n 2p").strip()
    return [rule for ours, rule in first.items() if not rule.endswith(f"-j {ours}")]


def denied(read: Callable[[str], str]) -> list[str]:
    """Return what AppArmor has denied of Q8S's on a host since its boot.

    :param read: runs a command there, and returns what it prints
    """
    text = read("journalctl --boot --dmesg --output cat --no-pager")
    assert "apparmor" in text.lower(), "the kernel's messages do not name AppArmor at all"
    return [line for line in text.splitlines() if "DENIED" in line and "q8s" in line]


@dataclass(frozen=True)
class Guest:
    """What a host shows of its emulated guest: its state, the AppArmor label of its QEMU, and its console."""

    state: str
    confined: str
    console: str


def guest_of(machine: Host, name: str) -> Guest:
    """Return what a host shows of a guest."""
    text = machine.read(
        f"""virsh --connect qemu:///system domstate {name} 2>&1 | head -n 1
cat "/proc/$(cat /run/libvirt/qemu/{name}.pid 2>/dev/null)/attr/current" 2>/dev/null || echo none
cat /var/lib/q8s-guest/{name}.console 2>/dev/null || true
"""
    )
    state, confined, *console = text.replace("\0", "").splitlines()
    return Guest(state, confined, "\n".join(console))
