"""Clusters of one name in two clouds, and the list of clusters."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud_objects

from q8s_wrapper import cli, state
from q8s_wrapper.errors import ExitCode, WrapperError
from tests.unit.wrapper.local_cloud import PROJECT, Cloud, cluster_state, recorded

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
    assert state.cluster_folder("demo", online=False) == first
    assert project.asked == ["project"], "what a deploy recorded is enough to look"


def test_offline_a_record_is_enough(project: Cloud, root: Path) -> None:
    folder = recorded(root)
    project.problem = "Failed to log in to the cloud"
    assert state.cluster_folder("demo", online=False) == folder == state.find("demo")
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
