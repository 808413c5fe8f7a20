"""Fetch files whose checksums are known, over https; proxies and certificates are the environment's."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Final, cast, override
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from q8s_bundle.errors import BundleError
from q8s_bundle.progress import ended_by, say, step

PROBE_SECONDS: Final = 5.0
_STALL_SECONDS: Final = 30.0  # without a byte, until a download counts as broken
_ATTEMPTS: Final = 3
_REPORT_SECONDS: Final = 10.0
_CHUNK: Final = 1 << 20


class UnavailableError(BundleError):
    """A server cannot be reached or does not have the file: the same thing from elsewhere may do."""


class _Broken(Exception):
    """A download that began and did not arrive whole: worth another attempt."""


class _HttpsOnly(HTTPRedirectHandler):
    """Follow redirects, as upstream's addresses lead to other servers, but never to one without TLS."""

    @override
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def unreachable(url: str) -> str:
    """Why a URL's server cannot be reached, or "" if it answers, whatever it answers; in ``PROBE_SECONDS`` at most."""
    answer: list[str] = []

    def ask() -> None:
        try:
            _open(url, "HEAD", PROBE_SECONDS).close()
        except HTTPError:
            answer.append("")
        except (OSError, HTTPException) as error:
            answer.append(_reason(error))
        else:
            answer.append("")

    # In a thread: no timeout of ours ends a name look-up that gets no answer.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0] if answer else f"no answer in {PROBE_SECONDS:.0f} s"


def fetch(what: str, url: str, checksum: str, target: Path, hint: str) -> None:
    """Fetch a file to ``target``, which exists afterwards only if its content has the checksum (``sha512:HEX``, say).

    ``url`` is https, or a file of this machine (``file://``, or a path). A download that breaks is begun again, twice.
    Raises ``UnavailableError`` if the file is not to be had, and a plain ``BundleError`` with the hint if it is another
    file than the pinned one: then somebody must look, and no other source is tried.
    """
    algorithm, _, wanted = checksum.partition(":")
    file = local_file(url)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            found = _copy_file(what, file, target, algorithm) if file else _transfer(what, url, target, algorithm)
            break
        except _Broken as error:
            target.unlink(missing_ok=True)
            if attempt == _ATTEMPTS:
                raise UnavailableError(f"Failed to download {what}: {url}: {error}") from error
            say(f"download {what}: {error}; again ({attempt} of {_ATTEMPTS - 1})")
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    if found != wanted:
        target.unlink()
        do = "copy" if file else "download"
        raise BundleError(f"Failed to {do} {what}: {url} has the {algorithm} {found}, and {wanted} is pinned", hint)


def local_file(url: str) -> Path | None:
    """The file of this machine that a URL or an absolute path means, or None if it is elsewhere."""
    if url.startswith("/"):
        return Path(url)
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _copy_file(what: str, file: Path, target: Path, algorithm: str) -> str:
    """Copy a file of this machine to ``target``; gives the content's checksum (hex)."""
    try:
        with step(f"copy {what} from {file}"):
            shutil.copyfile(file, target)
            with target.open("rb") as copied:
                return hashlib.file_digest(copied, algorithm).hexdigest()
    except OSError as error:
        raise UnavailableError(f"Failed to copy {what}: {file}: {_reason(error)}") from error


def _transfer(what: str, url: str, target: Path, algorithm: str) -> str:
    """Download to ``target``; gives the content's checksum (hex)."""
    try:
        response = _open(url, "GET", _STALL_SECONDS)
    except (OSError, HTTPException) as error:
        raise UnavailableError(f"Failed to download {what}: {url}: {_reason(error)}") from error
    digest = hashlib.new(algorithm)
    broken_off = threading.Event()

    def stop() -> None:
        broken_off.set()
        # the reader, in another thread, gets an end instead of what it waits for
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(fileno=os.dup(response.fileno())) as connection,
        ):
            connection.shutdown(socket.SHUT_RDWR)

    with response, target.open("wb") as output, ended_by(stop):
        size = int(response.headers.get("Content-Length") or 0)
        with step(f"download {what} ({size / 1e6:.1f} MB from {urlsplit(url).hostname})"):
            try:
                _copy(response, size, output, digest, lambda got: say(f"download {what}: {got / 1e6:.1f} MB"))
            except _Broken as error:
                if broken_off.is_set():
                    raise BundleError(f"Failed to download {what}: it was broken off") from error
                raise
    return digest.hexdigest()


def _copy(
    response: HTTPResponse, size: int, output: IO[bytes], digest: hashlib._Hash, report: Callable[[int], None]
) -> None:
    got = 0
    said = time.monotonic()
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, HTTPException) as error:
            raise _Broken(_reason(error)) from error
        if not chunk:
            break
        output.write(chunk)
        digest.update(chunk)
        got += len(chunk)
        if time.monotonic() - said > _REPORT_SECONDS:
            said = time.monotonic()
            report(got)
    if size and got != size:
        raise _Broken(f"it ended after {got} of {size} bytes")


def _open(url: str, method: str, timeout: float) -> HTTPResponse:
    """Send a request; raises ``OSError`` (``HTTPError`` and ``TimeoutError`` are such) or ``HTTPException``."""
    _require_https(url)
    opener = build_opener(HTTPSHandler(context=ssl.create_default_context()), _HttpsOnly)
    return cast(HTTPResponse, opener.open(Request(url, method=method), timeout=timeout))


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise URLError(f"{url} is not https")


def _reason(error: Exception) -> str:
    """An error in words, without its number."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
