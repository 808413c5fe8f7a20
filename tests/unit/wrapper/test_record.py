"""The command ``record``: what is in a record, what never is, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _state

from q8s_wrapper import cli
from q8s_wrapper.commands import load, records
from q8s_wrapper.errors import ExitCode
from q8s_wrapper.experiment import crate, secrets, timeline_record
from tests.unit.wrapper.local_cloud import recorded
from tests.unit.wrapper.recorded_deploy import deploy

EXAMPLE = Path(__file__).parents[3] / "examples/demo.yaml"
FACTS: dict[str, Any] = {
    "guests": [],
    "nodes": [{"name": "demo-control-plane", "conditions": [{"type": "Ready", "status": "True"}]}],
    "pods": [{"namespace": "kube-system", "name": "coredns-1", "nodeName": "arm-mid-1", "schedulingLatency": 12000}],
    "events": [
        {"kind": "Node", "name": "arm-mid-1", "reason": "NodeReady", "message": "Node arm-mid-1 status is now Ready"}
    ],
    "installed": {"manifest": {"kubernetes": "1.36.3"}, "artifacts": [{"name": "bundle.qcow2", "sha256": "ab" * 32}]},
    "hosts": [{"name": "demo-arm-mid-1", "kernel": "6.12", "packages": {"qemu-system-arm": "1:10.0.8"}}],
}
RESULTS = json.dumps({"cluster": "demo", "complete": True})
SECRET = "q8sAppCredSecret-7d1f"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a deployed cluster, as a deploy leaves it, and the user's credentials."""
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    state = recorded(tmp_path / "state")
    (state / _state.KEY).unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(state / _state.KEY)], check=True)
    user = {"name": "admin", "user": {"client-key-data": "UFJJVkFURQ" * 9, "token": "kubeToken-0123456789"}}
    (state / _state.KUBECONFIG).write_text(yaml.safe_dump({"users": [user]}))
    timeline_record.write(state, deploy())
    clouds = {
        "clouds": {"lab": {"auth": {"application_credential_id": "an-id", "application_credential_secret": SECRET}}}
    }
    (tmp_path / "clouds.yaml").write_text(yaml.safe_dump(clouds))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    monkeypatch.setenv("OS_PASSWORD", "osPassword-42")
    monkeypatch.setattr(records, "read_facts", lambda *_, **__: FACTS)
    result = {"event": "result", "exit_code": 0, "promises": [], "log": str(state / "runs/ansible.log")}
    monkeypatch.setattr(records, "verify_result", lambda *_: result)
    return state


def contents(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_record_has_everything_and_describes_it(folder: Path, tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    (bench / "raw").mkdir(parents=True)
    (bench / "results.json").write_text(RESULTS)
    (bench / "raw/one.csv").write_text("a,b\n")
    assert cli.main(["record", str(EXAMPLE), "out", "--verify", "--bench", "bench", "--zip"]) == ExitCode.DONE
    out = tmp_path / "out"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        *(
            "README.md",
            "demo.yaml",
            "plan.json",
            "versions.json",
            "nodes.json",
            "pods.json",
            "events.json",
            "verify.json",
        ),
        *("timeline/timeline.json", "timeline/timeline.svg", "timeline/index.html"),
        *("bench/results.json", "bench/raw/one.csv", "ro-crate-metadata.json"),
    }
    graph = {entity["@id"]: entity for entity in json.loads((out / crate.METADATA).read_text())["@graph"]}
    assert {entity for entity in graph if graph[entity]["@type"] == "File"} == files - {crate.METADATA}
    for name in files - {crate.METADATA}:
        assert graph[name]["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
    parts = [entity["hasPart"] for entity in graph.values() if "hasPart" in entity]
    referred = [part["@id"] for value in parts for part in (value if isinstance(value, list) else [value])]
    assert {*referred} == {*files, "timeline/", "bench/"} - {crate.METADATA}
    assert graph["#deploy"]["instrument"]["@id"] in graph
    assert graph["#deploy"]["object"] == {"@id": "demo.yaml"}
    assert graph["./"]["license"] == "No licence was chosen yet: ask the authors before you use this record."
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == {f"out/{name}" for name in files}


def test_names_of_files_are_uris_in_the_metadata(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "my cluster #1.yaml"
    file.write_text(EXAMPLE.read_text())
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "results.json").write_text(RESULTS)
    (bench / "größe 100%.csv").write_text("a,b\n")
    assert cli.main(["record", str(file), "out", "--bench", "bench"]) == ExitCode.DONE
    graph = {entity["@id"]: entity for entity in json.loads((tmp_path / "out" / crate.METADATA).read_text())["@graph"]}
    assert graph["#deploy"]["object"] == {"@id": "my%20cluster%20%231.yaml"}
    assert graph["my%20cluster%20%231.yaml"]["name"] == "my cluster #1.yaml"
    assert {"@id": "bench/gr%C3%B6%C3%9Fe%20100%25.csv"} in graph["bench/"]["hasPart"]
    assert {"@id": "my%20cluster%20%231.yaml"} in graph["./"]["hasPart"]
    named = {identifier for identifier, entity in graph.items() if entity["@type"] == "File"}
    assert all((tmp_path / "out" / unquote(identifier)).is_file() for identifier in named)


def test_the_cluster_of_a_record_is_the_same(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["record", str(EXAMPLE), "out"]) == ExitCode.DONE
    assert load(str(tmp_path / "out/demo.yaml")) == load(str(EXAMPLE))
    resolved = json.loads((tmp_path / "out/plan.json").read_text())
    assert [server["name"] for server in resolved["servers"]] == [s.name for s in load(str(EXAMPLE)).servers()]


def test_a_matrix_in_a_file_of_its_own_is_in_the_record(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    file.write_text(EXAMPLE.read_text() + "\nnetwork:\n  matrix: latencies.csv\n")
    (tmp_path / "latencies.csv").write_text(",x86-small-1\narm-mid-1,40\n")
    assert cli.main(["record", str(file), "out"]) == ExitCode.DONE
    again = load(str(tmp_path / "out/demo.yaml"))
    assert again == load(str(file)) and len(again.links.rules) == 1
    assert b'"@id": "latencies.csv"' in (tmp_path / "out" / crate.METADATA).read_bytes()


def test_no_secret_is_in_a_record(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(EXAMPLE.read_text() + "git_url: https://user:ghp_0123456789abcdef@git.example.org/q8s.git\n")
    assert cli.main(["record", str(file), "out", "--verify", "--zip"]) == ExitCode.DONE
    written = contents(tmp_path / "out")
    key = (folder / _state.KEY).read_text().splitlines()[1:-1]
    for secret in (
        *key,
        SECRET,
        "osPassword-42",
        "kubeToken-0123456789",
        "ghp_0123456789",
        "proxyPass-1",
        "UFJJVkFURQ",
    ):
        assert secret.encode() not in written
    for trace in (b"PRIVATE KEY", b"client-key-data", str(folder).encode(), str(tmp_path).encode()):
        assert trace not in written
    assert b"git_url: https://git.example.org/q8s.git" in written
    assert b"they were removed" in (tmp_path / "out/README.md").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cluster": "other", "complete": true}', "has the results of the cluster other, not of demo"),
        ("{}", "results.json: it is damaged ('cluster')"),
        ("[", "results.json: it is damaged"),
    ],
)
def test_other_results_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/results.json").write_text(text)
    assert cli.main(["record", str(EXAMPLE), "out", "--bench", "bench"]) == ExitCode.WRONG_INPUT
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_partial_results_are_marked_as_such(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/results.json").write_text('{"cluster": "demo", "complete": false}')
    assert cli.main(["record", str(EXAMPLE), "out", "--bench", "bench"]) == ExitCode.DONE
    assert "figures of the benchmark: its results are partial" in (tmp_path / "out/README.md").read_text()
    graph = json.loads((tmp_path / "out" / crate.METADATA).read_text())["@graph"]
    failed = [entity["name"] for entity in graph if entity.get("actionStatus", "").endswith("FailedActionStatus")]
    assert failed == ["q8s-run bench demo.yaml"]


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        (SECRET, "contains a secret of "),
        ("osPassword-42", "contains a secret of the variable OS_PASSWORD"),
        ("abcdef.0123456789abcdef", "contains a bootstrap token"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "contains a private key"),
        ("http://me:pass@proxy", "contains a URL with a password"),
    ],
)
def test_a_secret_in_the_bench_results_stops_the_record(
    leak: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/results.json").write_text(json.dumps({**json.loads(RESULTS), "output": leak}))
    assert cli.main(["record", str(EXAMPLE), "out", "--bench", "bench"]) == ExitCode.FAILED
    shown = capsys.readouterr().err
    assert f"bench/results.json {message}" in shown
    assert leak not in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench", "clouds.yaml", "state"]


def test_figures_and_names_are_no_secrets() -> None:
    content = b'{"at": 294525.12345678901, "pod": "x86-small-1.18a9f0c0ffee1234", "url": "http://10.0.0.1:15300/v3"}'
    assert secrets.find({"a": content}, {}) == []


def test_what_exists_is_not_replaced_without_force(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["record", str(EXAMPLE), "out"]) == ExitCode.DONE
    (tmp_path / "out/mine.txt").write_text("mine")
    assert cli.main(["record", str(EXAMPLE), "out"]) == ExitCode.WRONG_INPUT
    assert "replace this one with --force" in capsys.readouterr().err
    assert (tmp_path / "out/mine.txt").exists()
    assert cli.main(["record", str(EXAMPLE), "out", "--force"]) == ExitCode.DONE
    assert not (tmp_path / "out/mine.txt").exists()
    assert cli.main(["record", str(EXAMPLE), "state", "--force"]) == ExitCode.WRONG_INPUT
    assert cli.main(["record", str(EXAMPLE), "no/such"]) == ExitCode.WRONG_INPUT
    assert cli.main(["record", str(EXAMPLE), "other", "--bench", "state"]) == ExitCode.WRONG_INPUT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clouds.yaml", "out", "state"]


def test_nothing_is_left_under_the_final_name_if_a_file_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "pods.json":
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.main(["record", str(EXAMPLE), "out"]) == ExitCode.FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clouds.yaml", "state"]


def test_a_cluster_that_does_not_answer_is_not_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(records, "read_facts", lambda *_, **__: {**FACTS, "nodes": [], "installed": {}})
    assert cli.main(["record", str(EXAMPLE), "out"]) == ExitCode.FAILED
    shown = capsys.readouterr().err
    assert "did not answer; nothing was written" in shown
    assert f"q8s-run status {EXAMPLE}" in shown
    assert not (tmp_path / "out").exists()


def test_a_broken_promise_is_recorded_and_the_exit_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "verify_result", lambda *_: {"event": "result", "exit_code": 1, "log": "/x"})
    assert cli.main(["record", str(EXAMPLE), "out", "--verify"]) == ExitCode.FAILED
    assert json.loads((tmp_path / "out/verify.json").read_text()) == {"event": "result", "exit_code": 1}
    graph = {entity["@id"]: entity for entity in json.loads((tmp_path / "out" / crate.METADATA).read_text())["@graph"]}
    assert graph["#verify"]["actionStatus"] == "http://schema.org/FailedActionStatus"
