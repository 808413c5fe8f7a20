"""The action plugin that uploads large files. Its shell commands run locally instead of over ssh."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.q8s.emu.plugins.action import upload

CONTENT = bytes(range(256)) * 40


class Here(upload.ActionModule):
    """The plugin, on this machine. The connection breaks ``breaks`` times, in the middle of what is sent.

    :param away: how many commands after that the host is not reached
    """

    def __init__(self, breaks: int = 0, check: bool = False, away: int = 0) -> None:
        self._task = SimpleNamespace(check_mode=check)
        self._connection = SimpleNamespace(reset=lambda: None)
        self.breaks = breaks
        self.away = away
        self.left = 0
        self.sent = 0

    def _low_level_execute_command(self, cmd: str, in_data: bytes | None = None, **_: object) -> dict[str, Any]:
        if self.left:
            self.left -= 1
            raise AnsibleConnectionFailure("no route to host")
        if in_data is not None and self.breaks:
            self.breaks -= 1
            self.left = self.away
            subprocess.run(["sh", "-c", cmd], input=in_data[:100], check=True)
            raise AnsibleConnectionFailure("the connection broke")
        self.sent += len(in_data or b"")
        done = subprocess.run(["sh", "-c", cmd], input=in_data, capture_output=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout.decode(), "stderr": done.stderr.decode()}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(upload, "show", events.append)
    monkeypatch.setattr(upload, "_PIECE", 1000)
    monkeypatch.setattr(upload, "_PAUSE", 0)
    return events


@pytest.fixture
def file(tmp_path: Path) -> upload.File:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    (tmp_path / "served").mkdir()
    return upload.File(str(source), str(tmp_path / "served/bundle-1.qcow2"), len(CONTENT), 1, 2)


def test_a_file_arrives_whole(file: upload.File, shown: list[dict[str, Any]]) -> None:
    here = Here()
    assert here._upload(file) == len(CONTENT)
    assert Path(file.target).read_bytes() == CONTENT
    assert Path(file.target).stat().st_mode & 0o777 == 0o644
    assert not Path(file.part).exists()
    assert shown[0]["event"] == "step"
    assert shown[-1]["event"] == "uploaded"
    assert shown[-1]["artifact"] == "bundle-1.qcow2"


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    file: upload.File, shown: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("sync")
    (tmp_path / "sync").write_text(f'#!/bin/sh\nls "{tmp_path}/served" >>"{tmp_path}/synced"\nexec {real} "$@"\n')
    (tmp_path / "sync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    Here()._upload(file)
    assert (tmp_path / "synced").read_text() == "bundle-1.qcow2.part\n"
    assert Path(file.target).read_bytes() == CONTENT


def test_a_copy_with_another_checksum_is_named(
    file: upload.File, shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "pieces", lambda source, offset: iter([b"x" * len(CONTENT)]))
    with pytest.raises(AnsibleActionFail, match=re.escape(f"Remove {file.part} on the host")):
        Here()._upload(file)
    assert not Path(file.target).exists()


def test_a_damaged_file_does_not_get_the_name_of_the_good_one(file: upload.File, shown: list[dict[str, Any]]) -> None:
    good = replace(file, sha256=hashlib.sha256(CONTENT).hexdigest())
    Path(file.source).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(AnsibleActionFail, match=r"source is damaged: its SHA-256 is .*, expected .*Remove its folder"):
        Here()._upload(good)
    assert not Path(file.target).exists() and not Path(file.part).exists()
    Path(file.source).write_bytes(CONTENT)
    assert Here()._upload(good) == len(CONTENT)


def test_an_interrupted_upload_is_resumed(file: upload.File, shown: list[dict[str, Any]]) -> None:
    Path(file.part).write_bytes(CONTENT[:7000])
    assert Here()._upload(file) == len(CONTENT) - 7000
    assert Path(file.target).read_bytes() == CONTENT
    assert shown[0]["text"] == "upload from 0.0 of 0.0 MB"


def test_a_broken_connection_costs_a_piece(file: upload.File, shown: list[dict[str, Any]]) -> None:
    assert Here(breaks=2)._upload(file) == len(CONTENT)
    assert Path(file.target).read_bytes() == CONTENT


def test_an_outage_may_last_as_long_as_five_attempts(file: upload.File, shown: list[dict[str, Any]]) -> None:
    assert Here(breaks=1, away=3)._upload(file) == len(CONTENT)
    assert Path(file.target).read_bytes() == CONTENT
    with pytest.raises(AnsibleConnectionFailure, match="no route to host"):
        Here(breaks=1, away=4)._upload(upload.File(file.source, f"{file.target}-2", file.size, 2, 2))


def test_a_connection_that_stays_broken_is_a_failure(file: upload.File, shown: list[dict[str, Any]]) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="the connection broke"):
        Here(breaks=99)._upload(file)
    assert not Path(file.target).exists()


def test_the_rest_of_another_upload_is_thrown_away(file: upload.File, shown: list[dict[str, Any]]) -> None:
    Path(file.part).write_bytes(b"x" * 3000)
    assert Here()._upload(file) == 2 * len(CONTENT) - 3000
    assert hashlib.sha256(Path(file.target).read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


def test_a_folder_that_is_missing_is_named(file: upload.File, shown: list[dict[str, Any]]) -> None:
    nowhere = upload.File(file.source, f"{file.target}/in/bundle-1.qcow2", file.size, 1, 1)
    with pytest.raises(AnsibleActionFail, match=r"Failed to upload: .*/in/bundle-1\.qcow2\.part"):
        Here()._upload(nowhere)


def test_names_are_read_from_a_terminal_too(tmp_path: Path) -> None:
    """Ansible's ssh asks for a terminal when it has nothing to send."""

    class OnTerminal(Here):
        def _low_level_execute_command(self, cmd: str, in_data: bytes | None = None, **_: object) -> dict[str, Any]:
            command = ["script", "--quiet", "--return", "--command", cmd, "/dev/null"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    assert OnTerminal()._names(str(tmp_path)) == {"a", "b", "c"}
    assert OnTerminal()._names(str(tmp_path / "missing")) == frozenset()


def test_progress_has_bytes_and_rate(file: upload.File) -> None:
    seconds = iter([0.0, 2.0, 2.5, 40.0, 50.0])
    events: list[dict[str, Any]] = []
    large = upload.File("", "/var/lib/a.qcow2", 200_000_000, 1, 2)
    progress = upload.Progress(large, events.append, lambda: next(seconds))
    progress.begin(0)
    clock = 2.0
    progress._clock = lambda: clock
    progress.arrived(20_000_000)
    clock = 2.5
    progress.arrived(25_000_000)
    clock = 40.0
    progress.arrived(80_000_000)
    assert [(event["event"], event["text"]) for event in events] == [
        ("step", "upload"),
        ("note", "upload: 20 of 200 MB, 10.0 MB/s"),
        ("step", "upload: 80 of 200 MB, 2.0 MB/s"),
    ]
