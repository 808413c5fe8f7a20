"""Download files with known checksums over https. Proxies and certificates are those of the environment."""

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
_STALL_SECONDS: Final = 30.0  # without data, after which a download is broken off
_ATTEMPTS: Final = 3
_REPORT_SECONDS: Final = 10.0
_CHUNK: Final = 1 << 20


class UnavailableError(BundleError):
    """The server is not reachable or does not have the file. Another source may have it."""


class _Broken(Exception):
    """A download that started and did not finish. It is retried."""


class _HttpsOnly(HTTPRedirectHandler):
    """Follow redirects, which upstream's URLs need, but never to a URL without TLS."""

    @override
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def unreachable(url: str) -> str:
    """Return why a URL's server is not reachable, or "" if it sends any response within ``PROBE_SECONDS``."""
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

    # In a thread, because the timeout of a request does not cover the name resolution.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0] if answer else f"no answer in {PROBE_SECONDS:.0f} s"


def fetch(what: str, url: str, checksum: str, target: Path, hint: str) -> None:
    """Download a file, or copy it from this machine, and verify its checksum. Retry a broken download twice.

    :param what: what the file is, for messages
    :param url: an https URL, or a file of this machine (``file://`` or an absolute path)
    :param checksum: the pinned checksum, such as ``sha512:HEX``
    :param target: the file to write. It exists afterwards only if its content has the checksum
    :param hint: what to do if the checksum differs
    :raises UnavailableError: the file is not available
    :raises BundleError: the checksum differs. Somebody must look at it: no other source is tried
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
            say(f"download {what}: {error}; retry {attempt} of {_ATTEMPTS - 1}")
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    if found != wanted:
        target.unlink()
        do = "copy" if file else "download"
        raise BundleError(f"Failed to {do} {what}: {url} has the {algorithm} {found}, and {wanted} is pinned", hint)


def local_file(url: str) -> Path | None:
    """Return the local file that a ``file://`` URL or an absolute path names, or None for another URL."""
    if url.startswith("/"):
        return Path(url)
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _copy_file(what: str, file: Path, target: Path, algorithm: str) -> str:
    """Copy a local file to ``target``. Return the checksum of its content (hex)."""
    try:
        with step(f"copy {what} from {file}"):
            shutil.copyfile(file, target)
            with target.open("rb") as copied:
                return hashlib.file_digest(copied, algorithm).hexdigest()
    except OSError as error:
        raise UnavailableError(f"Failed to copy {what}: {file}: {_reason(error)}") from error


def _transfer(what: str, url: str, target: Path, algorithm: str) -> str:
    """Download a file to ``target``. Return the checksum of its content (hex)."""
    try:
        response = _open(url, "GET", _STALL_SECONDS)
    except (OSError, HTTPException) as error:
        raise UnavailableError(f"Failed to download {what}: {url}: {_reason(error)}") from error
    digest = hashlib.new(algorithm)
    broken_off = threading.Event()

    def stop() -> None:
        broken_off.set()
        # the reader in another thread then sees the end of the stream
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
                    raise BundleError(f"Failed to download {what}: the download was interrupted") from error
                raise
    return digest.hexdigest()


def _copy(
    response: HTTPResponse, size: int, output: IO[bytes], digest: hashlib._Hash, report: Callable[[int], None]
) -> None:
    """Copy a response to a file.

    :param size: the expected number of bytes; 0 if it is not known
    :param digest: is updated with the content
    :param report: is called with the number of bytes so far, every ten seconds
    :raises _Broken: the connection failed, or ended too early
    """
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
        raise _Broken(f"the connection closed after {got} of {size} bytes")


def _open(url: str, method: str, timeout: float) -> HTTPResponse:
    """Send a request and return the response.

    :raises OSError: it failed; ``HTTPError`` and ``TimeoutError`` are subclasses
    :raises HTTPException: the response is not valid
    """
    _require_https(url)
    opener = build_opener(HTTPSHandler(context=ssl.create_default_context()), _HttpsOnly)
    return cast(HTTPResponse, opener.open(Request(url, method=method), timeout=timeout))


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise URLError(f"{url} is not https")


def _reason(error: Exception) -> str:
    """Format an error without its number."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, URLError) else error
    return (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
