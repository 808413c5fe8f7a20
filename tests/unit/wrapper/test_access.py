"""Commands that log in to hosts, run for real on hosts with a local connection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from q8s_wrapper import cli, inventory, kubeconfig
from q8s_wrapper.commands import access
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.invocation import Invocation
from tests.unit.wrapper.local_cloud import cluster_state, recorded
from tests.upstream import Server

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "demo.yaml")
HERE = {"ansible_connection": "local"}


@pytest.fixture(autouse=True)
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the inventory has; the pattern ``none`` matches nothing."""
    found: dict[str, Any] = {"demo-control-plane": HERE, "arm-mid-1": HERE}
    monkeypatch.setattr(inventory, "read", lambda _cluster: found)
    monkeypatch.setattr(inventory, "select", lambda _file, pattern: {} if pattern == "none" else found)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("Q8S_CLUSTER_FILE", raising=False)
    return found


def test_one_argument_is_a_command_line_on_this_machine_too(capfd: pytest.CaptureFixture[str]) -> None:
    """As through ssh."""
    assert cli.main(["exec", EXAMPLE, "all", "--", "printf a; printf b"]) == ExitCode.DONE
    assert sorted(line.split() for line in capfd.readouterr().out.splitlines()) == [
        ["arm-mid-1", "ab"],
        ["demo-control-plane", "ab"],
    ]


def test_exec_puts_the_nodes_name_before_each_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exec", EXAMPLE, "all", "--", "printf", r"one\ntwo\n"]) == ExitCode.DONE
    assert sorted(capfd.readouterr().out.splitlines()) == [
        "arm-mid-1           one",
        "arm-mid-1           two",
        "demo-control-plane  one",
        "demo-control-plane  two",
    ]


def test_exec_fails_where_one_fails(hosts: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exec", EXAMPLE, "all", "--", "sh", "-c", "echo oh >&2; exit 3"]) == ExitCode.FAILED
    err = capfd.readouterr().err
    assert "arm-mid-1           oh\n" in err
    assert "exec: failed on 2 of 2: demo-control-plane (3), arm-mid-1 (3)" in err


def test_exec_needs_a_command_and_a_host(hosts: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exec", EXAMPLE, "all"]) == ExitCode.WRONG_INPUT
    assert "the command is missing" in capsys.readouterr().err
    assert cli.main(["exec", EXAMPLE, "none", "--", "true"]) == ExitCode.WRONG_INPUT
    assert "Failed to find none; known are: arm-mid-1, demo-control-plane" in capsys.readouterr().err
    hosts.clear()
    assert cli.main(["exec", EXAMPLE, "none", "--", "true"]) == ExitCode.FAILED
    assert f"hint: q8s-run deploy {EXAMPLE}" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["", " ", ","])
def test_exec_with_a_pattern_that_names_nothing_runs_nowhere(
    pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in ``q8s-run exec FILE "$NODE" -- reboot``: for Ansible, that is all hosts."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["exec", EXAMPLE, pattern, "--", "touch", str(tmp_path / "ran")])
    assert ended.value.code == ExitCode.WRONG_INPUT and not (tmp_path / "ran").exists()
    assert f"error: argument NODES: is {pattern!r}, which names nothing\nhint: " in capsys.readouterr().err


SERVER = {
    "ansible_host": "10.0.0.3",
    "ansible_user": "debian",
    "ansible_port": 2222,
    "ansible_ssh_common_args": "-o 'KnownHostsCommand=/bin/echo %H key'",
}


def test_ssh_checks_the_host_and_passes_the_command_on(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.write_text("a key\n")
    variables = {**SERVER, "ansible_ssh_private_key_file": str(key)}
    checks = ["-o", "KnownHostsCommand=/bin/echo %H key", "-o", "ConnectTimeout=30"]
    start = ["ssh", *checks, "-i", str(key), "-p", "2222", "debian@10.0.0.3"]
    assert inventory.ssh_command(variables, []) == start
    assert inventory.ssh_command(variables, ["echo", "a b"]) == [*start, "echo 'a b'"]
    assert inventory.ssh_command(variables, ["lscpu; free"]) == [*start, "lscpu; free"], "as with ssh itself"


def test_a_lost_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(WrapperError, match="the servers accept no other key") as error:
        inventory.ssh_command({**SERVER, "ansible_ssh_private_key_file": str(tmp_path / "gone")}, [])
    assert "destroy the cluster and deploy it again" in error.value.hint and "ssh_private_key" in error.value.hint


def test_a_host_is_found_by_its_nodes_name() -> None:
    found = {"q8s-master": {"q8s_node_name": "master"}}
    invocation = Invocation(file=EXAMPLE)
    assert inventory.find(found, "master", invocation) is inventory.find(found, "q8s-master", invocation)
    with pytest.raises(WrapperError, match="Failed to find arm; known are: q8s-master"):
        inventory.find(found, "arm", invocation)


def test_logs_of_the_last_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", EXAMPLE]) == ExitCode.FAILED
    assert "this machine has no log of cluster demo" in capsys.readouterr().err
    runs = ("20260101-000000-000000-deploy", "20260101-000001-000000-replace", "20260101-000002-000000-verify")
    folder = cluster_state(tmp_path / "state")
    for run in runs:
        log = folder / "runs" / run / "ansible.log"
        log.parent.mkdir(parents=True)
        log.write_text("".join(f"\x1b[0;32m{run[16:]} line {number}\x1b[0m\n" for number in range(50)))
    assert cli.main(["logs", EXAMPLE, "--lines", "2"]) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert out == "000000-replace line 48\n000000-replace line 49\n", "the last that may have changed something"
    assert err == f"log: {folder}/runs/20260101-000001-000000-replace/ansible.log\n"


OURS = """\
apiVersion: v1
kind: Config
clusters: [{name: kubernetes, cluster: {server: "https://10.254.1.5:6443", certificate-authority-data: QQ==}}]
contexts: [{name: kubernetes-admin@kubernetes, context: {cluster: kubernetes, user: kubernetes-admin}}]
users: [{name: kubernetes-admin, user: {client-key-data: QQ==}}]
current-context: kubernetes-admin@kubernetes
"""
# The same, under the cluster's name.
NAMED = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [
        {"name": "demo", "cluster": {"server": "https://10.254.1.5:6443", "certificate-authority-data": "QQ=="}}
    ],
    "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
    "users": [{"name": "demo", "user": {"client-key-data": "QQ=="}}],
    "current-context": "demo",
}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The kubeconfig that deploy left."""
    path = recorded(tmp_path / "state") / "kubeconfig"
    path.write_text(OURS)
    return path


def test_kubeconfig_is_printed_or_written(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kubeconfig", EXAMPLE]) == ExitCode.DONE
    assert yaml.safe_load(capsys.readouterr().out) == NAMED
    target = tmp_path / "deep" / "kubeconfig"
    assert cli.main(["kubeconfig", EXAMPLE, "--write", str(target)]) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert out == "" and f"export KUBECONFIG={target}" in err
    assert yaml.safe_load(target.read_text()) == NAMED and target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["kubeconfig"]
    assert cli.main(["kubeconfig", EXAMPLE, "--write", str(target), "--merge"]) == ExitCode.WRONG_INPUT


def test_kubeconfig_is_merged_with_a_backup(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", f"{target}:/nowhere/else")
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.DONE
    assert "kubectl --context demo get nodes" in capsys.readouterr().err
    assert list(tmp_path.glob("config.q8s-*")) == [], "there was nothing to keep"
    other = kubeconfig.merged_with(yaml.safe_load(target.read_text()), yaml.safe_load(OURS), "other")
    before = yaml.safe_dump(other)
    target.write_text(before)
    stored.write_text(OURS.replace("10.254.1.5", "10.254.1.6"))
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.DONE
    merged = yaml.safe_load(target.read_text())
    servers = {entry["name"]: entry["cluster"]["server"] for entry in merged["clusters"]}
    assert servers == {"demo": "https://10.254.1.6:6443", "other": "https://10.254.1.5:6443"}
    assert {c["name"]: c["context"] for c in merged["contexts"]}["demo"] == {"cluster": "demo", "user": "demo"}
    assert sorted(user["name"] for user in merged["users"]) == ["demo", "other"]
    assert merged["current-context"] == "demo"
    assert [path.read_text() for path in tmp_path.glob("config.q8s-*")] == [before]
    assert target.stat().st_mode & 0o777 == 0o600
    changed = target.read_text()
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.DONE
    backups = [path.read_text() for path in sorted(tmp_path.glob("config.q8s-*"))]
    assert backups == [before, changed], "also within the same second"


@pytest.mark.parametrize("text", ["[1, 2]", "clusters: 3", "a: [b"])
def test_what_is_no_kubeconfig_is_left_as_it_is(
    text: str, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config"
    target.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(target))
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.WRONG_INPUT
    assert f"Failed to merge into {target}: " in capsys.readouterr().err
    assert target.read_text() == text


@pytest.mark.parametrize(
    "text", ["mine: yes", "a: [b", "{clusters: [{name: other}], contexts: [], users: []}", "\udcff", "# a note\n"]
)
def test_a_file_of_the_user_s_is_not_replaced(
    text: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "config"
    content = text.encode(errors="surrogateescape")
    target.write_bytes(content)
    assert cli.main(["kubeconfig", EXAMPLE, "--write", str(target)]) == ExitCode.WRONG_INPUT
    err = capsys.readouterr().err
    assert f"error: {target} exists, and is not the kubeconfig of cluster demo alone: nothing was changed" in err
    assert "hint: choose another file; --merge adds" in err
    assert target.read_bytes() == content


def test_what_is_no_file_is_not_replaced(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "stdout"
    os.mkfifo(pipe)
    assert cli.main(["kubeconfig", EXAMPLE, "--write", str(pipe)]) == ExitCode.WRONG_INPUT
    assert "nothing was changed" in capsys.readouterr().err and pipe.is_fifo()


def test_the_cluster_s_own_file_is_written_again_through_a_link(stored: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "demo", tmp_path / "config"
    real.parent.mkdir()
    real.touch()
    link.symlink_to(real)
    for port in ("6443", "6444"):
        stored.write_text(OURS.replace("6443", port))
        assert cli.main(["kubeconfig", EXAMPLE, "--write", str(link)]) == ExitCode.DONE
        assert f"10.254.1.5:{port}" in real.read_text() and link.is_symlink()


def test_a_link_in_the_place_of_the_user_s_kubeconfig_stays(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = tmp_path / "dotfiles" / "config", tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", f":{link}")  # kubectl skips what is empty
    real.parent.mkdir()
    real.write_text("apiVersion: v1\nkind: Config\n")
    link.symlink_to(real)
    assert cli.main(["kubeconfig", EXAMPLE, "--merge"]) == ExitCode.DONE
    assert yaml.safe_load(real.read_text()) == NAMED and link.is_symlink()


@pytest.mark.parametrize("text", ["", "a: [b", "clusters: []", "[1]", "a: b"])
def test_a_kubeconfig_that_cannot_be_read_is_fetched_again(
    text: str, stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.write_text(text)
    monkeypatch.setattr(access, "fetch_kubeconfig", lambda *_: stored.write_text(OURS) and ExitCode.DONE)
    assert cli.main(["kubeconfig", EXAMPLE]) == ExitCode.DONE
    assert yaml.safe_load(capsys.readouterr().out) == NAMED
    stored.write_text(text)
    monkeypatch.setattr(access, "fetch_kubeconfig", lambda *_: ExitCode.DONE)
    assert cli.main(["kubeconfig", EXAMPLE]) == ExitCode.FAILED
    assert f"Failed to read {stored}: it is not a kubeconfig" in capsys.readouterr().err


def test_of_several_control_planes_one_that_is_ready_is_named(
    server: Server, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        Path(EXAMPLE).read_text().replace("number_additional_master_nodes: 0", "number_additional_master_nodes: 2")
    )
    here = OURS.replace("10.254.1.5:6443", f"127.0.0.1:{server.server_port}")
    server.files["/readyz"] = b"ok"
    asked = []

    def fetch(*_: Any) -> ExitCode:
        asked.append("cloud")
        stored.write_text(OURS.replace("10.254.1.5", "10.254.1.6"))
        return ExitCode.DONE

    monkeypatch.setattr(access, "fetch_kubeconfig", fetch)
    stored.write_text(here)
    assert cli.main(["kubeconfig", str(file)]) == ExitCode.DONE
    assert not asked and "https://127.0.0.1:" in capsys.readouterr().out
    del server.files["/readyz"]  # it listens, and is not ready
    assert cli.main(["kubeconfig", str(file)]) == ExitCode.DONE
    assert asked and "https://10.254.1.6:6443" in capsys.readouterr().out
