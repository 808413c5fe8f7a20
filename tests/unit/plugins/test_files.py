"""``q8s.emu.files``: creates files, reports changes truthfully, and never overwrites a file of another kind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.q8s.emu.plugins.modules import files

Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the module on items; gives what it returned."""

    def run(*items: dict[str, Any], check: bool = False, **more: str) -> dict[str, Any]:
        with patch_module_args({"files": list(items), "_ansible_check_mode": check, **more}), pytest.raises(SystemExit):
            files.main()
        returned: dict[str, Any] = json.loads(capsys.readouterr().out)
        return returned

    return run


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    return [
        {"path": str(tmp_path / "a" / "folder"), "mode": "0700"},
        {"path": str(tmp_path / "a" / "file"), "content": "one\r\ntwo\n", "mode": "0640"},
        {"path": str(tmp_path / "a" / "link"), "link": "file"},
    ]


def test_each_kind_is_made_and_a_second_call_changes_nothing(
    call: Call, items: list[dict[str, Any]], tmp_path: Path
) -> None:
    first = call(*items)
    assert first["changed"] and first["paths"] == [item["path"] for item in items]
    folder, file, link = (Path(item["path"]) for item in items)
    assert folder.is_dir() and folder.stat().st_mode & 0o7777 == 0o700
    assert file.read_bytes() == b"one\r\ntwo\n" and file.stat().st_mode & 0o7777 == 0o640
    assert str(link.readlink()) == "file"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["file", "folder", "link"]
    second = call(*items)
    assert (second["changed"], second["paths"], second["diff"]) == (False, [], [])


def test_check_mode_announces_what_a_run_does(call: Call, items: list[dict[str, Any]], tmp_path: Path) -> None:
    announced = call(*items, check=True)
    assert list(tmp_path.iterdir()) == []
    done = call(*items)
    assert (announced["changed"], announced["paths"], announced["diff"]) == (True, done["paths"], done["diff"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"content": "old"}, {"content": "new"}),
        ({"content": "same", "mode": "0600"}, {"content": "same", "mode": "0644"}),
        ({"link": "old"}, {"link": "new"}),
        ({"link": "elsewhere"}, {"content": "new"}),
        ({"content": "old"}, {"link": "new"}),
        ({"mode": "0700"}, {"mode": "0755"}),
    ],
)
def test_what_differs_is_mended(before: dict[str, str], after: dict[str, str], call: Call, tmp_path: Path) -> None:
    path = str(tmp_path / "it")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not ours")
    call({"path": path, **before})
    changed = call({"path": path, **after})
    assert changed["paths"] == [path]
    assert changed["diff"][0]["before"] != changed["diff"][0]["after"]
    assert not call({"path": path, **after})["changed"]
    assert elsewhere.read_text() == "not ours"


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"path": "relative", "content": ""}, "must be absolute"),
        ({"path": "/x", "content": "", "link": "y"}, "content and link cannot be used together"),
        ({"path": "/x", "content": "", "mode": "rw-r--r--"}, "mode 'rw-r--r--' must be octal"),
    ],
)
def test_a_wrong_item_stops_all_of_them(item: dict[str, Any], reason: str, call: Call, tmp_path: Path) -> None:
    failed = call({"path": str(tmp_path / "good"), "content": "x"}, item)
    assert failed["failed"] and reason in failed["msg"]
    assert list(tmp_path.iterdir()) == []


def test_another_kind_is_not_overwritten(call: Call, tmp_path: Path) -> None:
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    for item in ({"path": "folder", "content": "x"}, {"path": "file"}, {"path": "pipe", "content": "x"}):
        path = str(tmp_path / item["path"])
        failed = call({**item, "path": path})
        assert failed["failed"] and failed["msg"].startswith(f"Failed to write {path}: ")
    assert (tmp_path / "folder" / "kept").is_dir()
    assert (tmp_path / "file").read_text() == "kept"


def test_handlers_that_a_killed_run_has_not_reached_are_notified_again(call: Call, tmp_path: Path) -> None:
    item = {"path": str(tmp_path / "haproxy.cfg"), "content": "new\n"}
    pending = tmp_path / "run" / "haproxy"
    assert call(item, check=True, pending=str(pending))["changed"] and not pending.exists()
    assert call(item, pending=str(pending))["changed"] and pending.exists()
    for check in (True, False):
        again = call(item, check=check, pending=str(pending))
        assert again["changed"] and again["paths"] == []
        assert again["diff"] == [{"before": f"new files are not in force yet: {pending}\n", "after": ""}]
    pending.unlink()
    assert not call(item, pending=str(pending))["changed"] and not pending.exists()
