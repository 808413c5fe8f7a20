"""Fault injection for tests: an HTTP proxy in front of a real service.

The proxy forwards every request, except those for which a fault is set. A fault selects requests by method and path:
"answer the second POST of a server with 503" is one line, and the service behind the proxy is a real one.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import yaml

from q8s_lab.private_file import open_private
from q8s_lab.settings import CLOUD_NAME, Settings

# The service of each type, and the path of its endpoint.
_SERVICES: Final = {
    "compute": ("nova", "/v2.1"),
    "image": ("glance", ""),
    "network": ("neutron", "/v2.0"),
    "placement": ("placement", ""),
    "identity": ("keystone", "/v3"),
}
_HOP_BY_HOP: Final = ("connection", "keep-alive", "transfer-encoding", "content-length")  # RFC 9110, 7.6.1
_NO_BODY: Final = (204, 304)


@dataclass(frozen=True)
class Request:
    """A request that the proxy received. ``status`` is that of the response; None if the connection was closed."""

    method: str
    path: str
    status: int | None


@dataclass
class _Fault:
    method: re.Pattern[str]
    path: re.Pattern[str]
    skip: int
    left: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    drop: bool = False
    delivered: bool = False


class FaultProxy:
    """A proxy that injects faults, on a free port of 127.0.0.1. A context manager; it runs in its own threads.

    The methods that set a fault share these parameters. If several faults match a request, the oldest one that is not
    used up applies.

    :param method: regular expression that matches the whole request method
    :param path: regular expression that matches anywhere in the path with its query
    :param times: number of requests to which the fault applies; None for all
    :param after: number of matching requests that pass before
    """

    def __init__(self, target: str, certificate: Path | None = None) -> None:
        """Create the proxy.

        :param target: the real service, as ``http://host:port``
        :param certificate: PEM file with certificate and key; if set, the proxy speaks TLS
        """
        parts = urllib.parse.urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._requests: list[Request] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.scheme = "http"
        if certificate:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return the URL of the proxy."""
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}"

    def requests(self, method: str = ".*", path: str = "") -> list[Request]:
        """Return the requests so far that match, in the order of their responses."""
        with self._lock:
            return [one for one in self._requests if re.fullmatch(method, one.method) and re.search(path, one.path)]

    def answer(
        self,
        method: str,
        path: str,
        status: int,
        *,
        times: int | None = 1,
        after: int = 0,
        retry_after: int | None = None,
    ) -> None:
        """Respond with an error instead of forwarding the request.

        :param status: HTTP status, such as 401 for an expired token, 429 or 503
        :param retry_after: seconds in the header Retry-After; None for no header
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._add(method, path, times, after, status=status, headers=headers)

    def hang(self, method: str, path: str, seconds: float, *, times: int | None = 1, after: int = 0) -> None:
        """Wait some seconds before forwarding the request."""
        self._add(method, path, times, after, seconds=seconds)

    def drop(self, method: str, path: str, *, times: int | None = 1, after: int = 0, delivered: bool = False) -> None:
        """Close the connection without a response.

        :param delivered: whether to forward the request to the service before, which then processes it
        """
        self._add(method, path, times, after, drop=True, delivered=delivered)

    def heal(self) -> None:
        """Remove all faults and all recorded requests."""
        with self._lock:
            self._faults.clear()
            self._requests.clear()

    def _add(self, method: str, path: str, times: int | None, after: int, **what: Any) -> None:
        left = float("inf") if times is None else times
        with self._lock:
            self._faults.append(_Fault(re.compile(method), re.compile(path), after, left, **what))

    def _take(self, method: str, path: str) -> _Fault | None:
        """Return the fault that applies to a request, or None, and count it down."""
        with self._lock:
            for fault in self._faults:
                if not fault.left or not fault.method.fullmatch(method) or not fault.path.search(path):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.left -= 1
                return fault
        return None

    def _note(self, method: str, path: str, status: int | None) -> None:
        """Record a request."""
        with self._lock:
            self._requests.append(Request(method, path, status))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors of connections: a client may have exited."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        fault = proxy._take(self.command, self.path)
        if fault and fault.seconds:
            proxy._closing.wait(fault.seconds)
        if fault and fault.status:
            error = {"message": f"spoiled by the test: {fault.status}", "code": fault.status}
            self._send(fault.status, fault.headers, json.dumps({"error": error}).encode())
            return
        if fault and fault.drop and not fault.delivered:
            self._hang_up()
            return
        connection = http.client.HTTPConnection(*proxy._target, timeout=300)
        try:
            # Keep the header Host, which names the proxy: otherwise the links in responses would bypass it.
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            self._hang_up()
            return
        finally:
            connection.close()
        if fault and fault.drop:
            self._hang_up()
            return
        # The service writes http:// links: it does not know that the proxy speaks TLS.
        content = content.replace(proxy.url.replace("https:", "http:").encode(), proxy.url.encode())
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        self._send(answer.status, kept, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.server.proxy._note(self.command, self.path, status)
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in _NO_BODY:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status not in _NO_BODY:
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.server.proxy._note(self.command, self.path, None)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def target(settings: Settings, service: str) -> str:
    """Return the URL of a service of the lab.

    :param service: type of the service: ``compute``, ``image``, ``network``, ``placement`` or ``identity``
    """
    return settings.url(_SERVICES[service][0])


def clouds_yaml(settings: Settings, service: str, proxy: FaultProxy, path: Path) -> dict[str, str]:
    """Write a copy of the lab's clouds.yaml in which one service is behind the proxy. The file has mode 0600.

    The service catalog does not change: an endpoint override selects the proxy.

    :param service: type of the service
    :param path: the file to write
    :returns: the environment variables that select the file
    """
    data = yaml.safe_load(settings.clouds_yaml.read_text())
    url = proxy.url + _SERVICES[service][1]
    for cloud in data["clouds"].values():
        if service == "identity":
            cloud["auth"]["auth_url"] = url
        else:
            cloud[f"{service}_endpoint_override"] = url
    with open_private(path) as stream:
        yaml.safe_dump(data, stream)
    return {"OS_CLIENT_CONFIG_FILE": str(path), "OS_CLOUD": CLOUD_NAME}
