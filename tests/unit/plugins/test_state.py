"""The folder of the local state: one for each cloud, project and cluster."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _cloud, _cloud_objects, _state

ONE = _state.Project("https://one.example.org:5000", "p1", "north", "login-1")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIATbSFIAoKCLyojckQoDUv+sRJPfwQtsZYqckaz2L3fo"


def earlier(root: Path) -> Path:
    """Create a state folder of the layout before clouds had folders."""
    folder = root / "demo"
    (folder / "runs" / "20260101-000000-000000-deploy").mkdir(parents=True)
    (folder / "id_ed25519").write_text("private")
    (folder / "id_ed25519.pub").write_text(f"{KEY} q8s demo\n")
    return folder


def test_clouds_projects_regions_and_names_have_folders_of_their_own() -> None:
    others = [
        replace(ONE, auth_url="https://two.example.org:5000"),
        replace(ONE, project_id="p2"),
        replace(ONE, region=""),
    ]
    folders = {_state.folder("/state", project, name) for project in (ONE, *others) for name in ("demo", "other")}
    assert len(folders) == 8
    assert all(folder.startswith("/state/") and len(folder) < 60 for folder in folders)
    same = replace(ONE, auth_url="HTTPS://One.example.org:5000/v3/", login="another")
    assert _state.folder("/state", same, "demo") == _state.folder("/state", ONE, "demo")


def test_a_login_has_no_secret_in_it() -> None:
    auth = {"auth_url": ONE.auth_url, "application_credential_id": "a", "application_credential_secret": "s"}
    assert _state.fingerprint(auth, "") == _state.fingerprint({**auth, "application_credential_secret": "t"}, "")
    assert _state.fingerprint(auth, "") != _state.fingerprint({**auth, "application_credential_id": "b"}, "")
    assert _state.fingerprint(auth, "") != _state.fingerprint(auth, "south")


def test_a_record_tells_the_project_again(tmp_path: Path) -> None:
    place = Path(_state.folder(str(tmp_path), ONE, "demo"))
    place.mkdir(parents=True)
    (place / "cluster.json").write_text(_state.record_text(str(place), ONE, "demo"))
    text = _state.record_text(str(place), replace(ONE, login="login-2"), "demo")
    assert json.loads(text)["logins"] == ["login-1", "login-2"], "both are known from here on"
    assert _state.known_project(str(tmp_path), "demo", "login-1") == ONE
    assert _state.known_project(str(tmp_path), "demo", "login-3") is None
    assert _state.known_project(str(tmp_path), "other", "login-1") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auth_url": 3}', "\xff"])
def test_a_record_that_is_damaged_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(text)
    assert _state.read_record(str(tmp_path)) is None


def test_a_folder_of_another_cluster_is_refused(tmp_path: Path) -> None:
    place = Path(_state.folder(str(tmp_path), ONE, "demo"))
    place.mkdir(parents=True)
    (place / "cluster.json").write_text(_state.record_text(str(place), replace(ONE, project_id="p2"), "demo"))
    with pytest.raises(_state.StateError, match="names cluster demo in project p2 of https") as refused:
        _state.settle(str(tmp_path), ONE, "demo", lambda: None)
    assert "\nhint: " in str(refused.value) and "OS_CLOUD" in str(refused.value)


def test_an_earlier_layout_is_moved_if_the_cloud_has_its_key(tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    used = _state.settle(str(tmp_path), ONE, "demo", lambda: f"{KEY} Q8S cluster demo", move=False)
    assert used.folder == str(folder) and folder.exists(), "in check mode it is used where it is"
    place = _state.settle(str(tmp_path), ONE, "demo", lambda: f"{KEY} Q8S cluster demo")
    assert place.moved and place.folder == _state.folder(str(tmp_path), ONE, "demo") and place.folder in place.note
    assert not folder.exists() and (Path(place.folder) / "id_ed25519").read_text() == "private"
    assert len(list(Path(place.folder, "runs").iterdir())) == 1
    record = _state.read_record(place.folder)
    assert record is not None and record.project == ONE
    assert _state.settle(str(tmp_path), ONE, "demo", lambda: None) == _state.Place(place.folder)


@pytest.mark.parametrize("key", [None, KEY.replace("3fo", "3fp"), ""])
def test_an_earlier_layout_without_proof_is_left_alone(key: str | None, tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    place = _state.settle(str(tmp_path), ONE, "demo", lambda: key)
    assert place.folder != str(folder) and (folder / "id_ed25519").exists() and not place.moved
    assert "Nothing proves" in place.note and place.folder in place.note


def test_an_earlier_layout_that_a_run_uses_is_not_moved(tmp_path: Path) -> None:
    folder = earlier(tmp_path)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(_state.StateError, match="another run is working on cluster demo"):
            _state.settle(str(tmp_path), ONE, "demo", lambda: KEY)
    assert (folder / "id_ed25519").exists()


def test_folders_on_this_machine(tmp_path: Path) -> None:
    place = Path(_state.folder(str(tmp_path), ONE, "demo"))
    place.mkdir(parents=True)
    (tmp_path / ".ansible" / "tmp").mkdir(parents=True)
    (tmp_path / "file").touch()
    folder = earlier(tmp_path)
    assert _state.local_folders(str(tmp_path)) == [str(place), str(folder)]
    assert _state.local_folders(str(tmp_path), "other") == []
    assert _state.local_folders(str(tmp_path / "nowhere")) == []


def test_clusters_are_known_by_what_carries_their_name() -> None:
    def server(name: str, status: str, cluster: str) -> _cloud_objects.Server:
        return _cloud_objects.Server(f"id-{name}", name, status, (), {"q8s_cluster": cluster} if cluster else {})

    servers = [
        server("a", "ACTIVE", "one"),
        server("b", "ACTIVE", "one"),
        server("c", "ERROR", "two"),
        server("d", "ACTIVE", ""),
    ]
    assert _cloud_objects.found_clusters(
        servers, [_cloud_objects.mark("one"), _cloud_objects.mark("three"), "default"]
    ) == [
        _cloud_objects.FoundCluster("one", {"ACTIVE": 2}, True),
        _cloud_objects.FoundCluster("three", {}, True),
        _cloud_objects.FoundCluster("two", {"ERROR": 1}, False),
    ]


@pytest.mark.parametrize(
    "text", ["clouds: [a", "[1, 2]", "hello", "clouds: 3", "clouds: {a: 3}", "clouds: {a: {auth: 3}}", ""]
)
def test_a_clouds_file_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    path = tmp_path / "clouds.yaml"
    path.write_text(text)
    with pytest.raises(_cloud.CloudError, match=f"Failed to read {path}: ") as refused:
        _cloud.check_clouds_file(str(path))
    assert str(refused.value).endswith("\nhint: fix the file")
    path.write_text("clouds: {a: {auth: {auth_url: x}}}")
    _cloud.check_clouds_file(str(path))
