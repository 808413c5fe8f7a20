"""The files in a container's folder before it starts. These tests need no root."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from q8s_lab import cli, machine, servers
from q8s_lab.machine import Machine, Nic, Spec

SPEC = Spec(
    name="q8sl01234567",
    hostname="web",
    lower="/nowhere",
    bridge="br0",
    nic=Nic("10.0.0.5", 24, "10.0.0.1", "fa:16:3e:00:00:01", 1450),
    memory=2048,
    vcpus=2,
    key="ssh-ed25519 AAAA someone\n",
    user_data=b"#cloud-config\n# \xff\n",
    proxy="http://10.0.0.1:3142",
    instance_id="uuid",
    metadata={"q8s_cluster": "demo"},
)


@pytest.fixture
def made(tmp_path: Path) -> Machine:
    lower = tmp_path / "lower"
    (lower / "var" / "lib").mkdir(parents=True)
    (lower / "var" / "lib" / "note").write_text("from the image")
    made = Machine(tmp_path / "machine")
    assert not made.exists
    made.create(replace(SPEC, lower=str(lower)))
    return made


def test_what_is_made_is_read_again(made: Machine, tmp_path: Path) -> None:
    assert made.exists and made.spec == replace(SPEC, lower=str(tmp_path / "lower"))
    assert made.runner() is None and made.init() is None
    assert made.veth == "vb-q8sl01234567" and len(made.veth) <= 15


def test_a_shell_reads_what_a_machine_is_started_with(tmp_path: Path) -> None:
    lower = tmp_path / "the lower one"
    (lower / "var").mkdir(parents=True)
    made = Machine(tmp_path / "machine")
    made.create(replace(SPEC, hostname="a b; echo $HOME", lower=str(lower)))
    script = f'. {shlex.quote(str(made.folder / "runner.env"))}; printf "%s|%s" "$HOST" "$LOWER"'
    done = subprocess.run(["sh", "-uc", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"a b; echo $HOME|{lower}"


def test_secrets_are_the_owners_only(made: Machine) -> None:
    for path in (made.folder / "spec.json", *(made.folder / "var/lib/cloud/seed/nocloud").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    assert made.folder.stat().st_mode & 0o777 == 0o700


def test_cloud_init_finds_its_data(made: Machine) -> None:
    seed = made.folder / "var/lib/cloud/seed/nocloud"
    assert (seed / "user-data").read_bytes() == SPEC.user_data
    assert json.loads((seed / "meta-data").read_text()) == {
        "instance-id": "uuid",
        "local-hostname": "web",
        "public-keys": ["ssh-ed25519 AAAA someone"],
        "q8s_cluster": "demo",
    }
    assert (made.folder / "var/lib/note").read_text() == "from the image"


def test_the_network_is_what_neutron_gave(made: Machine) -> None:
    script = made.folder / "upper/etc/lab-host"
    lines = [shlex.split(line) for line in script.read_text().splitlines()]
    assert ["ip", "link", "set", "host0", "address", SPEC.nic.mac, "mtu", "1450"] in lines
    assert ["ip", "addr", "replace", "10.0.0.5/24", "dev", "host0"] in lines
    assert ["ip", "route", "replace", "default", "via", "10.0.0.1"] in lines
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    assert (made.folder / "upper/etc/resolv.conf").read_text() == "nameserver 10.0.0.1\n"


def test_a_container_may_have_more_nics(made: Machine, tmp_path: Path) -> None:
    storage = Nic("10.1.0.5", 28, "", "fa:16:3e:00:00:02", 1400, "vb-q8slfedcba98")
    box = Machine(tmp_path / "box")
    box.create(replace(made.spec, further_nics=(storage,)))
    assert box.spec.nics == (SPEC.nic, storage)
    lines = [shlex.split(line) for line in (box.folder / "upper/etc/lab-host").read_text().splitlines()]
    assert ["ip", "link", "set", "host1", "address", storage.mac, "mtu", "1400"] in lines
    assert ["ip", "addr", "replace", "10.1.0.5/28", "dev", "host1"] in lines
    assert [line for line in lines if "default" in line] == [["ip", "route", "replace", "default", "via", "10.0.0.1"]]
    values = dict(line.split("=", 1) for line in (box.folder / "runner.env").read_text().splitlines())
    assert values["LINKS"] == "vb-q8slfedcba98"


def test_a_subnet_without_a_gateway_gives_no_default_route(made: Machine, tmp_path: Path) -> None:
    box = Machine(tmp_path / "box")
    box.create(replace(made.spec, nic=replace(SPEC.nic, gateway="")))
    assert "default" not in (box.folder / "upper/etc/lab-host").read_text()
    assert (box.folder / "upper/etc/resolv.conf").read_text() == ""


def test_packages_come_through_the_proxy_if_there_is_one(made: Machine, tmp_path: Path) -> None:
    assert 'Proxy "http://10.0.0.1:3142"' in (made.folder / "upper/etc/apt/apt.conf.d/01lab-proxy").read_text()
    bare = Machine(tmp_path / "bare")
    bare.create(replace(made.spec, proxy="", key="", user_data=b"", name="q8sl89abcdef"))
    assert not (bare.folder / "upper/etc/apt").exists()
    assert (bare.folder / "var/lib/cloud/seed/nocloud/user-data").read_text().startswith("#cloud-config\n")


def test_limits_for_the_runner(made: Machine) -> None:
    values = dict(line.split("=", 1) for line in (made.folder / "runner.env").read_text().splitlines())
    assert values["MEMORY"] == str(2048 * 1024 * 1024) and values["VCPUS"] == "2" and values["BRIDGE"] == "br0"


def test_a_process_is_known_by_id_and_start(made: Machine) -> None:
    """An id that another process has now is not the machine's."""
    with subprocess.Popen(["sleep", "60"]) as process:
        started = machine.start_time(process.pid)
        (made.folder / "run.pid").write_text(f"{process.pid} {started}")
        assert made.runner() == process.pid
        (made.folder / "run.pid").write_text(f"{process.pid} {int(started or 0) - 1}")
        assert made.runner() is None
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert machine.start_time(process.pid) is None, "a zombie is gone"


def test_waiting_ends() -> None:
    answers = iter([False, False, True])
    assert machine.wait(lambda: next(answers), 5)
    assert not machine.wait(lambda: False, 0.1)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"name": "a"}', "\udcff", "[" * 100_000])
def test_a_damaged_definition_is_named_and_the_machine_can_be_removed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = tmp_path / "lab"
    folder = lab / "machines" / "one"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_bytes(text.encode(errors="surrogateescape"))
    (lab / "pids").mkdir()
    (lab / "pids" / "nova").write_text("four 4")
    monkeypatch.setenv("Q8S_LAB_DIR", str(lab))
    assert cli.main(["status"]) == 1
    error = capsys.readouterr().err
    assert f"error: Failed to show the status of the lab: Failed to read {folder}/spec.json: it is damaged" in error
    servers.remove(folder)
    assert not folder.exists()
    assert cli.main(["status"]) == 0
