"""The check of etcd's majority, and its restore, with a folder in the place of a control plane's files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane/files/majority.py"
# As kubeadm writes it.
MANIFEST = "spec:\n  containers:\n  - command:\n    - etcd\n    - --name=cp\n"
FORCED = MANIFEST.replace("    - etcd\n", "    - etcd\n    - --force-new-cluster\n")


class Etcd:
    """An etcd that has a leader once it was started as the only member."""

    def __init__(self, manifest: Path) -> None:
        self.manifest = manifest
        self.leads = False
        self.seen: list[str] = []

    def ask(self, path: str, **request: Any) -> dict[str, Any]:
        text = self.manifest.read_text()
        if not self.seen or self.seen[-1] != text:
            self.seen.append(text)
        self.leads = self.leads or text == FORCED
        if path == "maintenance/status":
            return {"leader": "7"} if self.leads else {"errors": ["etcdserver: no leader"]}
        assert request == {"linearizable": False}, "without a leader, the others cannot be asked"
        return {"members": [{"name": "cp"}] if self.leads else [{"name": "cp-2"}, {"name": "cp"}]}


@pytest.fixture
def majority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("majority", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    source = SCRIPT.read_text().replace("/etc/kubernetes", str(tmp_path))
    exec(compile(source, SCRIPT, "exec"), module.__dict__)
    for name in ("q8s/initialised", "manifests/etcd.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(MANIFEST)
    etcd = Etcd(tmp_path / "manifests/etcd.yaml")
    for name, value in {"etcd": etcd, "ask": etcd.ask, "SECONDS_TO_RESTART": 0}.items():
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(module, "runs_as_usual", lambda: True)
    return module


def test_with_a_leader_nothing_is_changed(majority: Any, capsys: pytest.CaptureFixture[str]) -> None:
    majority.etcd.leads = True
    for option in ("", "--restore", "--check"):
        majority.main("0", option)
    assert majority.etcd.seen == [MANIFEST] and capsys.readouterr().out == ""


@pytest.mark.parametrize("option", ["", "--check"])
def test_without_one_the_members_and_the_way_out_are_named(majority: Any, option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        majority.main("0", option)
    assert "no majority of its members answers (its members are cp, cp-2)" in str(ended.value)
    assert "deploy FILE -- -e q8s_restore_etcd=true" in str(ended.value)
    assert majority.etcd.manifest.read_text() == MANIFEST


def test_a_restore_starts_it_alone_and_then_as_before(majority: Any, capsys: pytest.CaptureFixture[str]) -> None:
    majority.main("0", "--restore")
    assert majority.etcd.seen == [MANIFEST, FORCED, MANIFEST]
    assert "etcd has one member" in capsys.readouterr().out
    assert sorted(path.name for path in (majority.etcd.manifest.parents[1] / "q8s").iterdir()) == ["initialised"]


def test_a_restore_that_was_interrupted_is_ended(majority: Any, tmp_path: Path) -> None:
    majority.etcd.manifest.write_text(FORCED)
    (tmp_path / "q8s/etcd.yaml").write_text(MANIFEST)
    with pytest.raises(SystemExit, match="the next deploy ends it"):
        majority.main("0", "--check")
    assert majority.etcd.manifest.read_text() == FORCED
    majority.main("0")
    assert majority.etcd.manifest.read_text() == MANIFEST and not (tmp_path / "q8s/etcd.yaml").exists()


def test_an_etcd_that_does_not_run_is_left_to_the_rest_of_the_deploy(
    majority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, **request: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(majority, "ask", refuse)
    majority.main("0", "--restore")
    assert majority.etcd.manifest.read_text() == MANIFEST


def test_without_a_cluster_nothing_is_asked(majority: Any, tmp_path: Path) -> None:
    (tmp_path / "q8s/initialised").unlink()
    majority.main("0", "--restore")
    assert majority.etcd.seen == []
