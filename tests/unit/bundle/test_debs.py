"""Debian mirrors, read from a machine's apt sources."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from q8s_bundle import debs, requirements
from q8s_bundle.debs import Mirrors, Source, choose_mirrors, parse_sources
from q8s_bundle.errors import BundleError

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
"""

CLASSIC = """\
# deb http://commented.example/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main contrib  # a comment
deb-src http://mirror.example/debian trixie main
"""


def test_deb822() -> None:
    assert parse_sources(DEB822, deb822=True) == [
        Source("http://mirror.example/debian", ("bookworm", "bookworm-updates")),
        Source("http://mirror.example/debian-security", ("bookworm-security",)),
    ]


def test_one_line_format() -> None:
    assert parse_sources(CLASSIC, deb822=False) == [Source("http://mirror.example/debian", ("trixie",))]


def test_the_mirror_is_the_one_of_the_machines_own_release() -> None:
    sources = [
        Source("http://other.example", ("nodistro",)),
        Source("http://d.example", ("bookworm",)),
        Source("http://s.example", ("bookworm-security",)),
    ]
    assert choose_mirrors(sources, "bookworm") == Mirrors("http://d.example", "http://s.example")
    assert choose_mirrors(sources[:2], "bookworm") == Mirrors("http://d.example", None)
    assert choose_mirrors(sources, "trixie") is None


@pytest.fixture
def ubuntu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ubuntu 24.04, with sources that have a mirror for its release."""
    release = {"NAME": "Ubuntu", "ID": "ubuntu", "ID_LIKE": "debian", "VERSION_CODENAME": "noble"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    (tmp_path / "sources.list").write_text("deb http://archive.ubuntu.example/ubuntu noble main\n")
    monkeypatch.setattr(debs, "_SOURCES", tmp_path)
    monkeypatch.setattr(debs, "_KEYRING", tmp_path / "sources.list")
    monkeypatch.delenv("Q8S_DEBIAN_MIRROR", raising=False)


@pytest.mark.usefixtures("ubuntu")
def test_mirrors_of_another_distribution_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="this machine is not Debian") as refused:
        debs.mirrors()
    assert refused.value.hint is not None and "set Q8S_DEBIAN_MIRROR" in refused.value.hint
    monkeypatch.setenv("Q8S_DEBIAN_MIRROR", "http://mirror.example/debian")
    assert debs.mirrors() == Mirrors("http://mirror.example/debian", None)


@pytest.mark.usefixtures("ubuntu")
def test_a_machine_without_a_debian_mirror_cannot_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a deploy with --build auto builds on the cluster."""

    def mirror_reasons(artifact: str) -> list[str]:
        return [one.hint for one in requirements.obstacles([artifact]) if "is not Debian" in one.reason]

    assert all("set Q8S_DEBIAN_MIRROR" in hint for hint in mirror_reasons("image-x86_64"))
    assert mirror_reasons("image-x86_64") and mirror_reasons("bundle-x86_64")
    assert mirror_reasons("addon-metrics_server-x86_64") == []
    monkeypatch.setenv("Q8S_DEBIAN_MIRROR", "http://mirror.example/debian")
    assert mirror_reasons("image-x86_64") == []


def test_a_machine_without_os_release_has_no_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, where the cache can be listed."""

    def missing() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    with pytest.raises(BundleError, match="os-release is missing"):
        debs.machine_suite()


def test_a_mirror_that_is_not_reachable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt is the machine's own."""
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path))
    monkeypatch.setenv("Q8S_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(BundleError, match=r"^Failed to read the package lists of trixie for amd64: exit") as failed:
        debs.fetch("amd64", "trixie", ["hello"])
    assert "127.0.0.1" in str(failed.value)
