"""The Go toolchain: found on the machine, or fetched from a Go module proxy."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import zipfile
from pathlib import Path

import pytest

from q8s_bundle import cache, requirements
from q8s_bundle.errors import BundleError
from q8s_bundle.node import gobuild, toolchain, versions

MACHINE = versions.ARCHITECTURES[platform.machine()]


@pytest.fixture
def no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Go: its PATH has the folder that is returned, and the system's folders."""
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "bin"
    folder.mkdir()
    installed = (str(folder / "go"),)
    monkeypatch.setattr(toolchain, "_installed", lambda: (go for go in installed if Path(go).exists()))
    monkeypatch.delenv("GOPROXY", raising=False)
    return folder


def script(folder: Path, proxy: str) -> None:
    """Write a Go of Debian 12: too old to build, but with a proxy in its settings."""
    go = folder / "go"
    go.write_text(
        f'#!/bin/sh\ncase "$1" in version) echo go version go1.19.8 linux/amd64 ;; env) echo {proxy} ;; esac\n'
    )
    go.chmod(0o755)


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module proxy with a small toolchain, pin it, and return its URL."""
    version = f"v0.0.1-go{versions.GO}.linux-{MACHINE.go}"
    place = folder / "golang.org/toolchain/@v"
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / f"{version}.zip", "w") as archive:
        for name, text in {
            "bin/go": "#!/bin/sh\necho fetched\n",
            "pkg/tool/x/link": "#!/bin/sh\n",
            "src/_go.mod": "m",
        }.items():
            archive.writestr(f"golang.org/toolchain@{version}/{name}", text)
    checksum = hashlib.sha256((place / f"{version}.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(toolchain, "CHECKSUMS", {MACHINE.go: checksum})
    return folder.as_uri()


def test_each_architecture_has_a_checksum() -> None:
    assert set(toolchain.CHECKSUMS) == {architecture.go for architecture in versions.ARCHITECTURES.values()}


def test_without_go_it_is_fetched_from_the_proxy_once(
    no_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY", f"{(tmp_path / 'empty').as_uri()},{publish(tmp_path / 'proxy', monkeypatch)}|direct")
    assert toolchain.obstacle() is None and toolchain.find() is None
    go = Path(toolchain.require())
    assert subprocess.run([go], capture_output=True, text=True, check=True).stdout == "fetched\n"
    assert os.access(go.parent.parent / "pkg/tool/x/link", os.X_OK)
    assert (go.parent.parent / "src/go.mod").read_text() == "m"
    monkeypatch.setenv("GOPROXY", "off")
    assert toolchain.require() == str(go)


def test_an_old_go_says_where_to_fetch_it(no_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(no_go, publish(tmp_path / "proxy", monkeypatch))
    assert toolchain.require().startswith(str(cache.cache_root()))


def test_another_file_is_refused(no_go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", publish(tmp_path / "proxy", monkeypatch))
    monkeypatch.setattr(toolchain, "CHECKSUMS", {MACHINE.go: "0" * 64})
    with pytest.raises(BundleError, match=f"Failed to copy Go {versions.GO}: .* is pinned"):
        toolchain.require()
    assert toolchain.find() is None


@pytest.mark.parametrize("proxy", ["", "off", "direct", "https://user:secret@proxy.example.org"])
def test_without_go_and_proxy_a_build_is_refused(no_go: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("GOPROXY", proxy)
    monkeypatch.setattr(requirements.namespace, "needed", lambda: False)
    reasons = [one for one in requirements.obstacles(["conformance-agnhost-aarch64"]) if "Go" in one.reason]
    assert len(reasons) == 1 and "secret" not in reasons[0].hint
    # The hint does not ask for what is done.
    assert ("add the URL of a Go module proxy to GOPROXY" if proxy else "set GOPROXY to the URL") in reasons[0].hint
    with pytest.raises(BundleError, match="no Go toolchain on this machine"):
        toolchain.require()


SETTINGS = {
    "GOAMD64": "v3",
    "GOARM64": "v9.0",
    "GOFIPS140": "latest",
    "GO111MODULE": "off",
    "CGO_CFLAGS": "-march=native",
}
SETTINGS |= {"CGO_LDFLAGS": "-lnowhere", "CGO_CPPFLAGS": "-DNOWHERE"}


@pytest.mark.parametrize("persistent", [False, True], ids=["exported", "go env -w"])
def test_a_user_s_settings_of_go_change_no_program(
    persistent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = toolchain.find()
    if go is None:
        pytest.skip("this machine has no Go")

    def settings() -> str:
        command = [go, "env", *SETTINGS, "GOEXPERIMENT"]
        environment = gobuild._go_environment("-mod=readonly")
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    monkeypatch.setenv("GOENV", str(tmp_path / "env"))
    before = settings()
    if persistent:
        known = {name: value for name, value in SETTINGS.items() if name != "CGO_CPPFLAGS"}
        (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in known.items()))
    else:
        for name, value in {**SETTINGS, "GOEXPERIMENT": "nocoverageredesign", "GOROOT": "/usr/lib/go-1.19"}.items():
            monkeypatch.setenv(name, value)
    assert settings() == before
    assert before.splitlines()[:2] == ["v1", "v8.0"]
