"""A server that stands for upstream's: real https on loopback, with the releases that a test publishes on it."""

from __future__ import annotations

import hashlib
import io
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.upstream import Releases
from q8s_bundle.node.versions import Architecture


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``cut`` says how often a file is cut off in its middle, ``moved`` where it is now."""

    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.moved: dict[str, str] = {}
        self.asked: list[str] = []
        self.begun: list[str] = []  # paths of files whose first half was sent
        self.hold = threading.Event()  # unset: answers stop in their middle
        self.hold.set()

    def releases(self) -> Releases:
        """Releases of this server, that pin what it serves."""
        pins = {f"{self.url}{path}": hashlib.sha256(content).hexdigest() for path, content in self.files.items()}
        return Releases(f"{self.url}/release", self.url, pins)

    def publish(self, program: Program, architecture: Architecture, content: Callable[[str], bytes]) -> Releases:
        """Serve a program's release in upstream's layout; ``content`` gives each binary's, by its name."""
        anything = Releases(f"{self.url}/release", self.url, Everything())
        for file in anything.files(program, architecture):
            archived = {member: content(binary) for binary, member in file.members.items() if member}
            single = b"".join(content(binary) for binary, member in file.members.items() if not member)
            self.files[urlsplit(file.url).path] = archive(archived) if archived else single
        return self.releases()


class Everything(dict[str, str]):
    """Pins for any URL: to ask for the layout alone."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        if place := self.server.moved.get(self.path):
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.wfile.flush()
        self.server.begun.append(self.path)
        if self.server.cut.get(self.path, 0) > 0:
            self.server.cut[self.path] -= 1
            self.close_connection = True
            return
        self.server.hold.wait(30)
        self.wfile.write(content[half:])


def archive(members: dict[str, bytes]) -> bytes:
    """A .tar.gz as upstream makes them: a folder, a file that nobody wants, and the wanted ones with ./ before them."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz", compresslevel=1) as packed:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        packed.addfile(folder)
        for name, content in {"README.md": b"read me", **{f"./{name}": data for name, data in members.items()}}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return output.getvalue()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its own certificate for 127.0.0.1."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    options = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=q8s-test".split()
    options += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(["openssl", "req", "-x509", *options], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy stands between the test and loopback."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(certificate: Path, direct: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, whose certificate the test's process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Server(certificate) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.hold.set()
        running.shutdown()
        thread.join()
