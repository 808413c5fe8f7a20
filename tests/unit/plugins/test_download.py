"""``q8s.emu.download``: waits for files while they are uploaded, and keeps no file that is not the one asked for."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.q8s.emu.plugins.modules import download

CONTENT = b"a guest image\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Call = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Server:
    folder: Path
    url: str


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An artifact server as the role runs it: ``python3 -m http.server``."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield Server(folder, f"http://127.0.0.1:{serving.server_port}")
        serving.shutdown()


@pytest.fixture
def call(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Download ``image`` into the folder ``host``, and return what the module returned."""
    monkeypatch.setattr(download, "_PAUSE", 0.1)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # of the host's environment: not for this server
    (tmp_path / "host").mkdir()

    def run(**arguments: Any) -> dict[str, Any]:
        given = {
            "url": server.url,
            "directory": str(tmp_path / "host"),
            "files": [{"name": "image", "sha256": SHA256}],
            **arguments,
        }
        with patch_module_args(given), pytest.raises(SystemExit):
            download.main()
        returned: dict[str, Any] = json.loads(capsys.readouterr().out)
        return returned

    return run


def test_a_file_is_downloaded_once(call: Call, server: Server, tmp_path: Path) -> None:
    (server.folder / "image").write_bytes(CONTENT)
    would = call(_ansible_check_mode=True)
    assert would["changed"] and would["downloaded"] == ["image"]
    assert list((tmp_path / "host").iterdir()) == []
    done = call()
    assert done["changed"] and done["downloaded"] == ["image"]
    assert (tmp_path / "host" / "image").read_bytes() == CONTENT
    again = call()
    assert not again["changed"] and again["downloaded"] == []
    assert [path.name for path in (tmp_path / "host").iterdir()] == ["image"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    call: Call, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, [path.name for path in (tmp_path / "host").iterdir()]))
        real(descriptor)

    synced: list[tuple[int, list[str]]] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    (server.folder / "image").write_bytes(CONTENT)
    assert call()["downloaded"] == ["image"]
    assert synced == [(len(CONTENT), ["image.part"])]


def test_a_file_that_is_being_uploaded_is_waited_for(call: Call, server: Server, tmp_path: Path) -> None:
    """The upload takes twice as long as nothing may happen."""
    part = server.folder / "another.part"

    def upload() -> None:
        for _ in range(10):
            time.sleep(0.2)
            with part.open("ab") as stream:
                stream.write(b"piece")
        (server.folder / "image").write_bytes(CONTENT)

    thread = threading.Thread(target=upload)
    thread.start()
    done = call(idle_seconds=1)
    thread.join()
    assert done.get("downloaded") == ["image"], done


def test_a_server_on_which_nothing_happens(call: Call, server: Server) -> None:
    (server.folder / "image.part").write_bytes(b"an upload that has stopped")
    begin = time.monotonic()
    failed = call(idle_seconds=1)
    assert failed["msg"] == (
        f"Failed to download {server.url}/image: HTTP Error 404: File not found. "
        "Nothing has changed on the server for 1 s"
    )
    assert time.monotonic() - begin < 5


def test_another_content_is_refused_at_once(call: Call, server: Server, tmp_path: Path) -> None:
    (server.folder / "image").write_bytes(b"something else")
    failed = call(idle_seconds=60)
    digest = hashlib.sha256(b"something else").hexdigest()
    assert failed["msg"] == (
        f"Failed to download {server.url}/image: its SHA-256 is {digest}, expected {SHA256}. Remove image from the "
        "folder of the artifact server (/var/lib/q8s-artifacts on the initial control plane), and run this again"
    )
    assert list((tmp_path / "host").iterdir()) == []


def test_a_full_disk_is_said_at_once(call: Call, server: Server, tmp_path: Path) -> None:
    (server.folder / "image").write_bytes(CONTENT)
    (tmp_path / "host" / "image.part").symlink_to("/dev/full")
    failed = call(idle_seconds=60)
    assert failed["msg"] == f"Failed to download {server.url}/image: [Errno 28] No space left on device"


def test_a_server_that_is_not_there(call: Call) -> None:
    failed = call(url="http://127.0.0.1:9", idle_seconds=1)
    assert "Connection refused. Nothing has changed on the server for 1 s" in failed["msg"].replace(">", "")
