"""A server of the lab behaves like a cloud's: one server, seen through the API, ssh, and this machine's kernel."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from q8s_lab import settings
from q8s_lab.firewall import Port, port_chain
from q8s_lab.machine import wait
from tests.clouds import connect
from tests.integration.lab.boxes import Box, allow, boxes

pytestmark = pytest.mark.lab

MEMORY = 3072 * 1024 * 1024


@pytest.fixture(scope="module")
def box(lab: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with boxes(lab, tmp_path_factory.mktemp("lab")) as (one,):
        yield one


def test_the_key_pair_logs_in(box: Box) -> None:
    assert box.status == "ACTIVE"
    box.wait_for_ssh()
    assert box.ssh("hostname").stdout.strip() == box.name
    assert box.ssh("sudo", "id", "-u").stdout.strip() == "0"


def test_the_database_is_not_open_to_other_users(box: Box) -> None:
    """Over TCP anybody on this machine reaches it; its root is only who is root here."""
    place = settings.load()
    ask = ["mariadb", "--no-defaults", "--user=root", "--execute=select current_user()"]
    away = [*ask, "--protocol=tcp", "--host=127.0.0.1", f"--port={place.ports['mariadb']}"]
    refused = subprocess.run(away, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "Access denied for user 'root'" in refused.stderr, refused.stderr
    allowed = subprocess.run([*ask, f"--socket={place.folder / 'mysql.sock'}"], capture_output=True, check=False)
    assert allowed.returncode == 0, allowed.stderr


def test_no_other_key_does(box: Box, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    refused = Box(box.cloud, box.id, box.name, box.address, box.group, other).ssh("true")
    assert refused.returncode == 255 and "Permission denied" in refused.stderr


def test_the_address_is_neutrons(box: Box) -> None:
    (port,) = box.cloud.network.ports(device_id=box.id)
    link = box.ssh("ip", "-brief", "address", "show", "dev", "host0").stdout.split()
    assert f"{box.address}/{settings.load().subnet.prefixlen}" in link
    assert port.fixed_ips[0]["ip_address"] == box.address
    assert port.mac_address in box.ssh("cat", "/sys/class/net/host0/address").stdout


def test_the_console_is_in_the_api(box: Box) -> None:
    output = box.cloud.compute.get_server_console_output(box.id)["output"]
    assert "Debian GNU/Linux" in output, output[-500:]


def test_a_closed_port_opens_with_a_rule(box: Box) -> None:
    """Something listens on both ports; the group has a rule for neither, then for one."""
    for port in (8080, 8081):
        done = box.ssh("sudo", "systemd-run", f"--unit=web{port}", "python3", "-m", "http.server", str(port))
        assert done.returncode == 0, done.stderr
    # from inside both answer, so that it is the firewall that is tested
    asked = "for port in (8080, 8081): socket.create_connection(('127.0.0.1', port), 1)"
    listening = f"python3 -c {asked!r}".replace("for port", "import socket\nfor port", 1)
    assert wait(lambda: box.ssh(listening).returncode == 0, 15), box.ssh(listening).stderr
    assert not box.opens(8080) and not box.opens(8081)
    allow(box.cloud, box.group, 8080)
    assert wait(lambda: box.opens(8080), 15)
    assert not box.opens(8081)


def test_the_flavor_limits_processors(box: Box) -> None:
    quota = cgroup_value(box, "cpu.cfs_quota_us")
    period = cgroup_value(box, "cpu.cfs_period_us")
    assert quota / period == 2


def test_the_flavor_limits_memory(box: Box) -> None:
    assert cgroup_value(box, "memory.limit_in_bytes") == MEMORY
    # A unit of its own, or the kernel's kill would end the ssh session, too. The server itself lives on.
    eat = f"import mmap; mmap.mmap(-1, {MEMORY}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)"
    eaten = box.ssh("sudo", "systemd-run", "--wait", "python3", "-c", f"'{eat}'")
    assert eaten.returncode != 0 and "status=9/KILL" in eaten.stderr, eaten.stderr
    quarter = eat.replace(str(MEMORY), str(MEMORY // 4))
    fits = box.ssh("sudo", "systemd-run", "--wait", "python3", "-c", f"'{quarter}'")
    assert fits.returncode == 0, fits.stderr


def cgroup_value(box: Box, name: str) -> int:
    (value,) = [int(path.read_text()) for path in cgroup_files(box, name) if path.exists()]
    return value


def cgroup_files(box: Box, name: str) -> list[Path]:
    return [Path(line) / name for line in (box.machine.folder / "cgroups").read_text().split()]


def test_a_flavor_of_one_processor_gets_no_second(lab: Mapping[str, str], tmp_path: Path) -> None:
    """Two that want all they can get, in a server with one: together they get one."""
    place = {"OS_CLIENT_CONFIG_FILE": str(settings.load().admin_clouds_yaml), "OS_CLOUD": settings.ADMIN_CLOUD_NAME}
    with connect(place) as admin:
        name = f"itest-{secrets.token_hex(3)}"
        flavor = admin.compute.create_flavor(name=name, vcpus=1, ram=512, disk=5)
        try:
            with boxes(lab, tmp_path, flavor=name) as (box,):
                box.wait_for_ssh()
                # whatever else this machine does, the server is not kept waiting by anything but its limit
                (shares,) = [path for path in cgroup_files(box, "cpu.shares") if path.exists()]
                shares.write_text("262144")
                spin = "import time\nend = time.time() + 3\nwhile time.time() < end: pass"
                before, begin = cgroup_value(box, "cpuacct.usage"), time.monotonic()
                done = box.ssh(f"python3 -c '{spin}' & python3 -c '{spin}'; wait")
                wall, used = time.monotonic() - begin, cgroup_value(box, "cpuacct.usage") - before
                assert done.returncode == 0, done.stderr
                assert used / 1e9 < 1.15 * wall
                stat = "".join(path.read_text() for path in cgroup_files(box, "cpu.stat") if path.exists())
                throttled = re.search(r"^nr_throttled (\d+)$", stat, re.MULTILINE)
                assert throttled and int(throttled[1]) > 5, "the limit was what held it"
        finally:
            admin.compute.delete_flavor(flavor)


def test_soft_reboot(box: Box) -> None:
    before = box.boot_id()
    assert before and box.ssh("echo kept > /var/tmp/note").returncode == 0
    box.cloud.compute.reboot_server(box.id, "SOFT")
    assert box.booted_since(before)
    assert wait(lambda: box.status == "ACTIVE", 30)
    assert box.ssh("cat /var/tmp/note").stdout == "kept\n"


def test_stop_and_start(box: Box) -> None:
    before = box.boot_id()
    assert before
    box.cloud.compute.stop_server(box.id)
    assert wait(lambda: box.status == "SHUTOFF", 60)
    assert box.ssh("true").returncode == 255
    assert processes_of(box.machine.folder) == []
    box.cloud.compute.start_server(box.id)
    assert wait(lambda: box.status == "ACTIVE", 60)
    assert box.booted_since(before)
    assert box.ssh("cat /var/tmp/note").stdout == "kept\n"


def test_a_crash_shows_and_a_hard_reboot_cures_it(box: Box) -> None:
    runner = box.machine.runner()
    assert runner
    for pid in {int(pid) for path in cgroup_files(box, "cgroup.procs") for pid in path.read_text().split()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert wait(lambda: box.status == "SHUTOFF", 45)
    box.cloud.compute.reboot_server(box.id, "HARD")
    assert wait(lambda: box.status == "ACTIVE", 60)
    box.wait_for_ssh()
    assert box.ssh("cat /var/tmp/note").stdout == "kept\n"


def processes_of(folder: Path) -> list[str]:
    """Commands of this machine's processes that have to do with a machine's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def q8s_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("q8s-run")
    return subprocess.run([program, "lab", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_a_second_up_says_that_it_is_up(box: Box) -> None:
    before = q8s_lab("status", "--json").stdout
    again = q8s_lab("up")
    assert again.returncode == 0
    assert "the lab is up already, since " in again.stderr
    assert f"OS_CLOUD={settings.CLOUD_NAME}" in again.stdout, "what to type next is the same"
    assert q8s_lab("status", "--json").stdout == before


def test_status_names_the_server(box: Box) -> None:
    lines = [line.split() for line in q8s_lab("status").stdout.splitlines()]
    assert [box.name, box.address, "running"] in lines


def test_delete_leaves_nothing(box: Box) -> None:
    machine = box.machine
    link = Path("/sys/class/net") / machine.veth
    groups = [Path(line) for line in (machine.folder / "cgroups").read_text().split()]
    bridge = settings.load().bridge
    chain = port_chain(Port(machine.veth, box.address, ()), bridge)
    # all of it is there before, or its absence would say nothing
    assert link.exists() and all(group.exists() for group in groups) and groups
    assert processes_of(machine.folder) and chain in firewall()
    box.cloud.compute.delete_server(box.id)
    assert wait(lambda: not is_listed(box), 60)
    assert not machine.folder.exists() and processes_of(machine.folder) == []
    assert not link.exists() and [group for group in groups if group.exists()] == []
    assert str(machine.folder) not in Path("/proc/self/mountinfo").read_text()
    assert list(box.cloud.network.ports(device_id=box.id)) == []
    assert wait(lambda: chain not in firewall(), 10)


def is_listed(box: Box) -> bool:
    return box.id in {server.id for server in box.cloud.compute.servers()}


def firewall() -> str:
    rules: Sequence[str] = ["iptables", "-w", "-S"]
    return subprocess.run(rules, capture_output=True, text=True, check=True).stdout
