"""The fault injection proxy, in front of a service that answers every request."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from q8s_lab.faults import FaultProxy


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        seen = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.seen.append(f"{self.command} {self.path} {seen}".strip())  # type: ignore[attr-defined]
        answer = json.dumps({"host": self.headers["Host"], "token": self.headers["X-Auth-Token"]}).encode()
        self.send_response_only(202)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST


@pytest.fixture
def service() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(service: Any) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{service.server_port}") as proxy:
        yield proxy


def call(proxy: FaultProxy, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(proxy.url + path, body, {"X-Auth-Token": "t"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]


def test_all_is_passed_on(proxy: FaultProxy, service: Any) -> None:
    status, answer = call(proxy, "POST", "/servers?all=1", b"body")
    assert status == 202 and service.seen == ["POST /servers?all=1 body"]
    assert answer == {"host": proxy.url.removeprefix("http://"), "token": "t"}, "links of the service lead to the proxy"
    assert [(one.method, one.path, one.status) for one in proxy.requests()] == [("POST", "/servers?all=1", 202)]


def test_an_error_so_many_times(proxy: FaultProxy, service: Any) -> None:
    proxy.answer("POST", r"/servers$", 429, times=2, after=1, retry_after=3)
    assert call(proxy, "GET", "/servers")[0] == 202, "another method"
    assert call(proxy, "POST", "/servers/1")[0] == 202, "another path"
    statuses = [call(proxy, "POST", "/servers") for _ in range(4)]
    assert [status for status, _ in statuses] == [202, 429, 429, 202] and statuses[1][1] == "3"
    assert len(service.seen) == 4, "the service saw nothing of the spoiled ones"
    assert len(proxy.requests("POST", r"/servers$")) == 4


def test_faults_queue_up(proxy: FaultProxy) -> None:
    proxy.answer("GET", "/", 500)
    proxy.answer("GET", "/", 503, times=None)
    assert [call(proxy, "GET", "/x")[0] for _ in range(3)] == [500, 503, 503]
    proxy.heal()
    assert call(proxy, "GET", "/x")[0] == 202


def test_hanging(proxy: FaultProxy, service: Any) -> None:
    proxy.hang("GET", "/slow", 3)
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(call, proxy, "GET", "/slow")
        assert call(proxy, "GET", "/quick")[0] == 202 and not slow.done()
        assert slow.result()[0] == 202 and time.monotonic() - begin >= 3


@pytest.mark.parametrize("delivered", [False, True])
def test_a_dropped_connection(proxy: FaultProxy, service: Any, delivered: bool) -> None:
    proxy.drop("POST", "/servers", delivered=delivered)
    with pytest.raises((http.client.RemoteDisconnected, urllib.error.URLError)):
        call(proxy, "POST", "/servers")
    assert bool(service.seen) == delivered
    assert [one.status for one in proxy.requests()] == [None]
    assert call(proxy, "POST", "/servers")[0] == 202


def test_a_chunked_body(proxy: FaultProxy, service: Any) -> None:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"))
    connection.request(
        "POST", "/images", iter([b"one", b"two"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert connection.getresponse().status == 202
    connection.close()
    assert service.seen == ["POST /images onetwo"]


def test_a_service_that_is_down(proxy: FaultProxy, service: Any) -> None:
    service.shutdown()
    service.server_close()
    with pytest.raises((http.client.RemoteDisconnected, urllib.error.URLError)):
        call(proxy, "GET", "/")
