"""``q8s.emu.package_lock``: reports the process that holds the package lock, and takes no lock."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.q8s.emu.plugins.modules import package_lock

from q8s_wrapper.config import PLAYBOOKS

Call = Callable[..., dict[str, Any]]

# As apt does it: fcntl(2), not flock(2).
HOLD = """
import fcntl, sys
stream = open(sys.argv[1], "w")
fcntl.lockf(stream, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the module on lock files and return what it returned."""

    def run(*paths: Path, **options: object) -> dict[str, Any]:
        with patch_module_args({"paths": [str(path) for path in paths], **options}), pytest.raises(SystemExit):
            package_lock.main()
        returned: dict[str, Any] = json.loads(capsys.readouterr().out)
        return returned

    return run


def test_a_lock_that_is_free_or_not_there(call: Call, tmp_path: Path) -> None:
    (tmp_path / "free").touch()
    returned = call(tmp_path / "missing", tmp_path / "free")
    assert not returned.get("failed")
    assert not returned["changed"]
    assert not (tmp_path / "missing").exists()


def test_the_holder_of_a_lock_is_named(call: Call, cloud_init: Callable[[str], Path], tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    folder = cloud_init("touch asked")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        returned = call(tmp_path / "missing", lock)
        assert not (folder / "asked").exists(), "a cloud-init that hangs in apt is not waited for at each retry"
        name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        holder.communicate("")
    assert returned["failed"]
    assert returned["path"] == str(lock)
    assert returned["holder"] == f"{name} (process {holder.pid})"
    assert f"process {holder.pid}" in returned["msg"]
    assert str(lock) in returned["msg"]
    assert not call(lock).get("failed"), "it is free again"


def test_a_lock_that_cannot_be_read(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Failed to read the package locks" in call(tmp_path / "file" / "lock")["msg"]


@pytest.fixture
def cloud_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program of that name first on the PATH, which does what a server's does; gives its folder."""

    def install(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "cloud-init").write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
        (folder / "cloud-init").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return folder

    return install


def test_cloud_init_is_waited_for(call: Call, cloud_init: Callable[[str], Path]) -> None:
    """Its exit code says whether all of it went well, which is not asked here."""
    folder = cloud_init('[ "$*" = "status --wait" ] && sleep 1 && touch ended; exit 2')
    returned = call(folder / "lock")
    assert (folder / "ended").exists()
    assert not returned.get("failed")


def test_a_cloud_init_that_does_not_end_is_told(
    call: Call, cloud_init: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(package_lock.AnsibleModule, "warn", lambda _self, text: told.append(text))
    folder = cloud_init("exec sleep 60")
    returned = call(folder / "lock", cloud_init_seconds=1)
    assert not returned.get("failed")
    assert "cloud-init has not ended within 1 s" in told[0]


def test_check_mode_does_not_wait(call: Call, cloud_init: Callable[[str], Path]) -> None:
    folder = cloud_init("touch asked")
    call(folder / "lock", _ansible_check_mode=True)
    assert not (folder / "asked").exists()


def tasks_of(entries: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The lists of tasks in a file: those of its blocks, too."""
    yield entries
    for entry in entries:
        for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            yield from tasks_of(entry.get(key) or [])


def test_no_package_is_installed_before_other_installations_have_finished() -> None:
    """The first boot's unattended-upgrades holds the lock for minutes."""
    found = 0
    for file in [*PLAYBOOKS.rglob("*.yml"), *PLAYBOOKS.parent.glob("roles/*/tasks/*.yml")]:
        content = yaml.safe_load(file.read_text())
        for tasks in tasks_of(content if isinstance(content, list) else []):
            for before, task in itertools.pairwise([{}, *tasks]):
                if "ansible.builtin.apt" in task or "ansible.builtin.package" in task:
                    found += 1
                    assert "q8s.emu.package_lock" in before and before["retries"], f"{file}: {task['name']}"
    assert found >= 3


@pytest.mark.parametrize("check", [False, True])
def test_an_interrupted_installation_is_ended(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    """apt refuses to install anything before."""
    updates = tmp_path / "updates"
    assert not call(tmp_path / "lock", updates=str(updates))["changed"]
    updates.mkdir()
    (updates / "tmp.i").touch()  # dpkg keeps it there
    assert not call(tmp_path / "lock", updates=str(updates))["changed"]
    (updates / "0001").touch()
    (tmp_path / "dpkg").write_text(f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" > {tmp_path}/asked\n')
    (tmp_path / "dpkg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    returned = call(tmp_path / "lock", updates=str(updates), _ansible_check_mode=check)
    assert returned["changed"] and not returned.get("failed")
    assert (tmp_path / "asked").exists() is not check
    if not check:
        assert (tmp_path / "asked").read_text().split() == [
            "noninteractive", "--force-confdef", "--force-confold", "--configure", "-a",
        ]  # fmt: skip


def test_an_interrupted_installation_that_cannot_be_ended(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001").touch()
    (tmp_path / "dpkg").write_text("#!/bin/sh\necho 'dpkg: error: disk full' >&2; exit 2\n")
    (tmp_path / "dpkg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    returned = call(tmp_path / "lock", updates=str(tmp_path))
    assert returned["failed"]
    assert returned["msg"] == "Failed to end an interrupted installation: dpkg: error: disk full"
