"""Clusters of one name in two clouds, the list of clusters, and the default cluster file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects
from local_cloud import PROJECT, Cloud, cluster_state, recorded

from q8s_wrapper import arguments, cli, invocation, state
from q8s_wrapper.errors import ExitCode, WrapperError
from q8s_wrapper.invocation import Invocation

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"
OTHER = replace(PROJECT, auth_url="https://other.example.org:5000", login="other-login")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of local state; no setting of the user's counts."""
    for name in [name for name in os.environ if name.startswith(("Q8S_", "OS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("Q8S_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


def test_a_run_that_changes_something_asks_the_cloud_who_it_is(project: Cloud, root: Path) -> None:
    first = recorded(root)
    project.found = OTHER
    assert state.cluster_folder("demo") == cluster_state(root, project=OTHER) != first
    assert project.asked == ["project"]
    project.found = PROJECT
    assert state.cluster_folder("demo", changes=False) == first
    assert project.asked == ["project"], "what a deploy recorded is enough to look"


def test_offline_a_record_is_enough(project: Cloud, root: Path) -> None:
    folder = recorded(root)
    project.problem = "Failed to log in to the cloud"
    assert state.cluster_folder("demo", changes=False) == folder == state.find("demo")
    with pytest.raises(WrapperError, match="Failed to log in"):
        state.cluster_folder("demo")


def test_offline_the_only_cluster_of_that_name_is_meant(
    project: Cloud, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(root, project=OTHER)
    project.problem = "Failed to log in to the cloud\nhint: set OS_CLOUD"
    assert state.find("demo") == folder
    assert (
        f"warning: Failed to log in to the cloud. Using the only cluster demo on this machine: {folder}"
        in capsys.readouterr().err
    )
    recorded(root, project=replace(OTHER, project_id="another"))
    with pytest.raises(WrapperError, match="several clusters demo") as refused:
        state.find("demo")
    assert "OS_CLOUD" in refused.value.hint


def test_the_kubeconfig_of_another_cloud_is_not_used(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recorded(root, project=OTHER) / "kubeconfig").write_text("theirs")
    assert cli.main(["kubeconfig", str(EXAMPLE)]) == ExitCode.FAILED
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: Failed to find local state of cluster demo in this cloud")
    assert "https://other.example.org:5000" in err and "hint: choose the cloud: OS_CLOUD" in err


def found(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_list(project: Cloud, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == ExitCode.DONE
    assert found(capsys) == ["no clusters"]
    here = recorded(root)
    (here / "id_ed25519").touch()
    (here / "runs" / "20261125-214011-000000-deploy").mkdir(parents=True)
    (recorded(root, "far", OTHER) / "kubeconfig").touch()
    (root / "old").mkdir()
    (root / "old" / "id_ed25519").touch()
    project.clusters_found = [
        _cloud_objects.FoundCluster("demo", {"ACTIVE": 2, "ERROR": 1}, True),
        _cloud_objects.FoundCluster("strange", {}, True),
    ]
    assert cli.main(["list"]) == ExitCode.DONE
    assert [line.split("  ")[0] for line in found(capsys)] == ["CLUSTER", "demo", "strange", "far", "old"]
    assert cli.main(["list", "--json"]) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    demo, strange, far, old = data["clusters"]
    assert data["problem"] is None and data["project"]["project_id"] == PROJECT.project_id
    assert demo["servers"] == {"ACTIVE": 2, "ERROR": 1} and demo["this_project"] and demo["state"]["key"]
    assert demo["state"]["last_run"] == "2026-11-25 21:40 deploy"
    assert strange["state"] is None and strange["security_group"]
    assert far["servers"] is None and far["project"]["auth_url"] == OTHER.auth_url and far["state"]["kubeconfig"]
    assert old["project"] is None and old["state"]["folder"] == str(root / "old")


def test_list_without_the_cloud(project: Cloud, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(root)
    project.problem = "Failed to log in to the cloud: no route\nhint: check auth_url"
    assert cli.main(["list"]) == ExitCode.DONE
    out, err = capsys.readouterr()
    assert "demo" in out and "unknown" in out and "(this project)" in out
    assert err.startswith(
        "warning: the clusters in the cloud are not known, so only the clusters on this machine are listed"
    )
    assert "no route" in err and err.endswith("hint: check auth_url\n")
    assert cli.main(["list", "--json"]) == ExitCode.DONE
    data = json.loads(capsys.readouterr().out)
    assert "no route" in data["problem"] and data["clusters"][0]["servers"] is None


@pytest.mark.parametrize(
    ("given", "words", "default"),
    [
        (["deploy"], ["deploy", "cluster.yaml"], True),
        (["deploy", "--limit", "arm-mid-1"], ["deploy", "cluster.yaml", "--limit", "arm-mid-1"], True),
        (["deploy", "--lim", "arm-mid-1", "-v"], ["deploy", "cluster.yaml", "--lim", "arm-mid-1", "-v"], True),
        (["deploy", "other.yaml"], ["deploy", "other.yaml"], False),
        (["ssh", "arm-mid-1"], ["ssh", "cluster.yaml", "arm-mid-1"], True),
        (["ssh", "other.yaml", "arm-mid-1"], ["ssh", "other.yaml", "arm-mid-1"], False),
        (["ssh", "other.yaml"], ["ssh", "other.yaml"], False),  # the parser says that NODE is missing
        (["ssh", "here"], ["ssh", "here"], False),  # there is a file of that name
        (["logs"], ["logs", "cluster.yaml"], True),
        (["logs", "-n", "5", "arm-mid-1"], ["logs", "cluster.yaml", "-n", "5", "arm-mid-1"], True),
        (["logs", "-n5", "other.yml"], ["logs", "-n5", "other.yml"], False),
        (["logs", "sub/file"], ["logs", "sub/file"], False),
        (["replace", "arm-mid-1", "--yes"], ["replace", "cluster.yaml", "arm-mid-1", "--yes"], True),
        (["init"], ["init", "cluster.yaml"], True),
        (["init", "-"], ["init", "-"], False),
        (["list"], ["list"], False),
        (["deploy", "--help"], ["deploy", "--help"], False),
    ],
)
def test_the_default_file(given: list[str], words: list[str], default: bool, tmp_path: Path) -> None:
    for name in ("cluster.yaml", "here"):
        (tmp_path / name).touch()
    assert arguments.insert_cluster_file(given) == (words, default)


def test_no_default_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ssh", "arm-mid-1"]) == ExitCode.WRONG_INPUT
    err = capsys.readouterr().err
    assert err.startswith(
        "error: ssh: no cluster file was given, and this folder has no cluster.yaml (arm-mid-1 is taken"
    )
    assert "hint: pass FILE, set Q8S_CLUSTER_FILE, or write one: q8s-run init cluster.yaml" in err
    assert arguments.insert_cluster_file(["init"]) == (["init", "cluster.yaml"], True)


def test_the_default_file_is_said_and_left_out_of_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.yaml").write_text(EXAMPLE.read_text())
    assert cli.main(["validate"]) == ExitCode.DONE
    assert capsys.readouterr() == ("cluster.yaml: OK\n", "cluster file: cluster.yaml\n")
    assert cli.main(["validate", "--quiet"]) == ExitCode.DONE
    assert capsys.readouterr() == ("cluster.yaml: OK\n", "")
    assert cli.main(["destroy"]) == ExitCode.WRONG_INPUT
    assert "hint: q8s-run destroy --yes\n" in capsys.readouterr().err


def test_commands_are_printed_as_this_user_has_to_type_them() -> None:
    given = Invocation("'/my tools/q8s-run'", "'my cluster.yaml'")
    assert given.command("deploy", "--yes") == "'/my tools/q8s-run' deploy 'my cluster.yaml' --yes"
    assert (
        given.adapt("q8s-run ssh FILE arm -- df: then") == "'/my tools/q8s-run' ssh 'my cluster.yaml' arm -- df: then"
    )
    assert Invocation().adapt("wait: q8s-run status FILE") == "wait: q8s-run status"


def test_how_the_user_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "q8s-run").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invocation.called_as(str(tmp_path / "q8s-run")) == "q8s-run"
    assert invocation.called_as(".venv/bin/q8s-run") == ".venv/bin/q8s-run"
    assert invocation.called_as("/a b/q8s-run") == "'/a b/q8s-run'"
    assert invocation.called_as("/x/q8s_wrapper/__main__.py").endswith(" -m q8s_wrapper")


def test_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["q8s-run", "ansible-core", "Kubernetes"]
    assert cli.main(["version"]) == ExitCode.DONE
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("text", ["clouds: [a", "clouds: 3"])
def test_a_clouds_file_that_is_malformed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.q8s.emu.plugins.module_utils import _cloud

    (tmp_path / "clouds.yaml").write_text(text)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    for ask in (_cloud.login, _cloud.connect):
        with pytest.raises(_cloud.CloudError, match=r"clouds\.yaml"):
            ask("a")


def options_of(name: str) -> set[str]:
    return {option.name for command in arguments.COMMANDS if command.name == name for option in command.options}


def test_every_command_on_a_cluster_can_be_quiet() -> None:
    quiet: dict[str, Any] = {command.name: options_of(command.name) for command in arguments.COMMANDS if command.file}
    assert all("quiet" in options for options in quiet.values())
