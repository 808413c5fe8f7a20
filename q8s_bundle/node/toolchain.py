"""Find a Go toolchain, or fetch the pinned one as Go does: as the module golang.org/toolchain, from a module proxy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache as memoize
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from q8s_bundle import cache, download
from q8s_bundle.errors import BundleError
from q8s_bundle.node import versions

KIND: Final = "go"
_MODULE: Final = "golang.org/toolchain"
_OLDEST: Final = (1, 21)  # the first version that fetches the toolchain that GOTOOLCHAIN names
# SHA-256 of the module's zip of ``versions.GO``, by Go's name of the architecture. Each zip had the directory hash that
# Go's checksum database has for it.
CHECKSUMS: Final = {
    # h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=
    "amd64": "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7",
    # h1:sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc=
    "arm64": "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99",
}


def require() -> str:
    """Return a go command that builds with Go ``versions.GO``. Fetch the toolchain if this machine has none.

    :raises BundleError: there is none, and it cannot be fetched
    """
    if found := find():
        return found
    if reason := obstacle():
        raise reason
    folder, _ = cache.entry(KIND, *_entry(), _fetch)
    return str(_command(folder))


def find() -> str | None:
    """Return a go command that can build: from the PATH, beside our Python, in /usr/local/go, or fetched earlier."""
    for found in _installed():
        if _version(found) >= _OLDEST:
            return found
    folder = cache.find(KIND, *_entry())
    return str(_command(folder)) if folder else None


def obstacle() -> BundleError | None:
    """Return why this machine has no Go toolchain and cannot fetch it, or None if it has one or can."""
    if find() or _proxies():
        return None
    if os.environ.get("GOPROXY"):
        return BundleError(
            "Failed to build from source: there is no Go toolchain on this machine, and GOPROXY has no URL from which "
            "it can be fetched",
            "add the URL of a Go module proxy to GOPROXY (https, without user and password), or install Go (as root: "
            "apt-get install golang-go)",
        )
    return BundleError(
        "Failed to build from source: there is no Go toolchain on this machine, and no Go module proxy to fetch it",
        f"set GOPROXY to the URL (https) of a Go module proxy, or install Go: from version 1.21 it fetches "
        f"{versions.GO} itself; of an older one (as root: apt-get install golang-go) its proxy is used",
    )


def _installed() -> Iterator[str]:
    """Yield the go commands of this machine."""
    path = os.environ.get("PATH", "").split(os.pathsep)
    for folder in (*path, str(Path(sys.executable).parent), "/usr/local/go/bin"):
        if folder and (found := shutil.which("go", path=folder)):
            yield found


@memoize
def _version(go: str) -> tuple[int, int]:
    """Return the major and the minor version of a go command; (0, 0) if it does not say."""
    environment = dict(os.environ, GOTOOLCHAIN="local")
    done = subprocess.run([go, "version"], env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"\bgo(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _proxies() -> list[str]:
    """Return the URLs of the Go module proxies: of GOPROXY, else of the settings of a Go that is too old to build."""
    setting = os.environ.get("GOPROXY", "")
    if not setting and (old := next(_installed(), None)):
        done = subprocess.run([old, "env", "GOPROXY"], capture_output=True, text=True, check=False)
        setting = done.stdout.strip()
    urls = [urlsplit(part.strip()) for part in re.split(r"[,|]", setting)]
    # A password in a URL would be in messages. What is neither https nor a file is a word, such as "direct".
    return [url.geturl().rstrip("/") for url in urls if url.scheme in ("https", "file") and not url.username]


def _architecture() -> str:
    """Return Go's name of this machine's architecture."""
    known = versions.ARCHITECTURES.get(platform.machine())
    if known is None:
        raise BundleError(f"Failed to fetch Go: no toolchain is pinned for {platform.machine()}", "install Go")
    return known.go


def _release() -> str:
    """Return the version of the module for this machine, such as v0.0.1-go1.26.8.linux-amd64."""
    return f"v0.0.1-go{versions.GO}.linux-{_architecture()}"


def _entry() -> tuple[str, str]:
    """Return the name and the key of the toolchain in the cache."""
    architecture = _architecture()
    return f"go{versions.GO}-{architecture}", cache.content_key(CHECKSUMS[architecture])


def _command(folder: Path) -> Path:
    return folder / f"{_MODULE}@{_release()}" / "bin/go"


def _fetch(folder: Path) -> None:
    """Download the toolchain from the first proxy that has it, and unpack it."""
    packed = folder / "toolchain.zip"
    proxies = _proxies()
    for number, proxy in enumerate(proxies, 1):
        try:
            download.fetch(
                f"Go {versions.GO}",
                f"{proxy}/{_MODULE}/@v/{_release()}.zip",
                f"sha256:{CHECKSUMS[_architecture()]}",
                packed,
                "the Go module proxy of GOPROXY has another file than Go's own; use another proxy, or install Go",
            )
            break
        except download.UnavailableError:
            if number == len(proxies):
                raise
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
    packed.unlink()
    # A module has no modes and no module inside it, so Go adds both to a toolchain (cmd/go/internal/toolchain).
    root = _command(folder).parent.parent
    for program in (*(root / "bin").iterdir(), *(root / "pkg/tool").rglob("*")):
        program.chmod(0o755)
    for module in root.rglob("_go.mod"):
        module.rename(module.with_name("go.mod"))
