"""Programs from upstream's releases, served by a real https server on loopback in upstream's layout."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from q8s_bundle import cache, download
from q8s_bundle.download import UnavailableError
from q8s_bundle.errors import BundleError
from q8s_bundle.node import gobuild, minors, upstream, versions
from q8s_bundle.node.gobuild import Program
from q8s_bundle.node.supply import Choice, Supply
from q8s_bundle.node.upstream import Releases
from q8s_bundle.node.versions import Architecture
from tests.upstream import Everything, Server, archive

pytestmark = pytest.mark.usefixtures("direct")

X86 = versions.ARCHITECTURES["x86_64"]
PROGRAMS = (*gobuild.NODE_PROGRAMS, *gobuild.CONTROL_PLANE_PROGRAMS)
RELEASED = ("cni", "cni-flannel", "crictl", "etcd", "kubernetes-control-plane", "kubernetes-node", "runc")
# The smallest ELF file: a header of a 64-bit program that needs nothing.
STATIC = (
    b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00\x01" + bytes(31) + b"\x40\x00\x38\x00\x00\x00\x40" + bytes(5)
)
DYNAMIC = Path("/bin/sh").resolve()


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Stand in for Go builds, which take minutes; gives the names of the programs that were to be built."""
    names: list[str] = []

    def build(program: Program, architecture: Architecture) -> tuple[Path, bool]:
        names.append(program.name)
        return tmp_path / "built" / program.name, True

    monkeypatch.setattr(gobuild, "build", build)
    return names


def publish(server: Server, program: Program, architecture: Architecture = X86, content: bytes = STATIC) -> Releases:
    """Serve a program's release, with the same content for every binary."""
    return server.publish(program, architecture, lambda binary: content)


def leftovers() -> list[str]:
    """What is in the cache of programs, besides lock files."""
    return [str(file) for file in (cache.cache_root() / "programs").rglob("*") if file.suffix != ".lock"]


def programs(*names: str) -> list[Program]:
    return [program for program in PROGRAMS if program.name in names]


# What we pin


def test_every_pinned_file_is_of_a_program_at_our_versions_and_every_architecture_has_the_same() -> None:
    releases = Releases()
    used = set()
    for version in minors.MINORS:
        with minors.selected(version):
            for architecture in versions.ARCHITECTURES.values():
                offered = {program.name: releases.files(program, architecture) for program in PROGRAMS}
                assert tuple(sorted(name for name, files in offered.items() if files)) == RELEASED
                used |= {file.url for files in offered.values() for file in files}
    assert used == set(releases.pins), "a pin that nothing uses is of another version"


def test_pins_are_https_and_sha256() -> None:
    for url, checksum in Releases().pins.items():
        assert url.startswith("https://")
        assert len(bytes.fromhex(checksum)) == 32
    assert len(set(Releases().pins.values())) == len(Releases().pins)


# A release that is there


@pytest.mark.parametrize("architecture", versions.ARCHITECTURES.values(), ids=lambda a: a.name)
@pytest.mark.parametrize("program", programs(*RELEASED), ids=lambda p: p.name)
def test_a_release_gives_the_binaries_that_a_build_gives(
    server: Server, built: list[str], program: Program, architecture: Architecture
) -> None:
    folder, origin = Supply("auto", publish(server, program, architecture)).obtain(program, architecture)
    assert origin == "upstream"
    assert sorted(file.name for file in folder.iterdir()) == sorted(program.packages)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o755}
    assert {file.read_bytes() for file in folder.iterdir()} == {STATIC}
    assert built == []


def test_redirects_are_followed(server: Server) -> None:
    releases = publish(server, gobuild.RUNC)
    (path,) = server.files
    server.files["/elsewhere"] = server.files.pop(path)
    server.moved[path] = f"{server.url}/elsewhere"
    assert Supply("upstream", releases).obtain(gobuild.RUNC, X86)[1] == "upstream"


def test_what_is_cached_is_taken_without_asking_anybody(server: Server, built: list[str]) -> None:
    releases = publish(server, gobuild.RUNC)
    first, _ = Supply("upstream", releases).obtain(gobuild.RUNC, X86)
    server.asked.clear()
    assert Supply("auto", releases).obtain(gobuild.RUNC, X86) == (first, "upstream")
    cache.entry("programs", "cni-x86_64", gobuild.key(gobuild.CNI, X86), lambda folder: None)
    assert Supply("auto", publish(server, gobuild.CNI)).obtain(gobuild.CNI, X86)[1] == "source"
    assert server.asked == []
    assert built == []


def test_a_strict_choice_takes_nothing_of_the_other_source(server: Server, built: list[str]) -> None:
    releases = publish(server, gobuild.RUNC)
    cache.entry("programs", "runc-x86_64", gobuild.key(gobuild.RUNC, X86), lambda folder: None)
    assert Supply("upstream", releases).obtain(gobuild.RUNC, X86)[1] == "upstream"
    server.asked.clear()
    assert Supply("source", publish(server, gobuild.CNI)).obtain(gobuild.CNI, X86)[1] == "source"
    assert built == ["cni"]
    assert server.asked == []


def test_keys_tell_sources_and_contents_apart(server: Server) -> None:
    program = gobuild.RUNC
    one = Supply("auto", publish(server, program)).key(program, X86, "upstream")
    other = Supply("auto", publish(server, program, X86, STATIC + b"x")).key(program, X86, "upstream")
    assert len({one, other, Supply("auto").key(program, X86, "source")}) == 3
    assert Supply("auto").key(program, X86, "source") == gobuild.key(program, X86)


@pytest.mark.parametrize("choice", ["auto", "upstream"])
def test_a_program_without_a_pinned_release_is_built(server: Server, built: list[str], choice: Choice) -> None:
    for program in programs("containerd", "coredns", "flannel", "pause", "probe"):
        assert Supply(choice, server.releases()).obtain(program, X86)[1] == "source"
    assert built == [program.name for program in programs("containerd", "coredns", "flannel", "pause", "probe")]
    assert server.asked == []


def test_which_mixtures_serve(server: Server) -> None:
    releases = publish(server, gobuild.RUNC)
    pair = [gobuild.RUNC, gobuild.CONTAINERD]
    mixed = {"runc": "upstream", "containerd": "source"}
    plain = {"runc": "source", "containerd": "source"}
    assert Supply("auto", releases).preferences(pair, X86) == [mixed, plain]
    assert Supply("upstream", releases).preferences(pair, X86) == [mixed]
    assert Supply("source", releases).preferences(pair, X86) == [plain]


# A release that is not what it must be


@pytest.mark.parametrize("choice", ["auto", "upstream"])
def test_another_file_than_the_pinned_one_is_refused(server: Server, built: list[str], choice: Choice) -> None:
    releases = publish(server, gobuild.CNI)
    (path,) = server.files
    server.files[path] = archive(dict.fromkeys(gobuild.CNI.packages, STATIC + b"evil"))
    with pytest.raises(
        BundleError, match=r"^Failed to download cni-plugins-\S+ for x86_64: .* and [0-9a-f]{64} is pinned$"
    ) as error:
        Supply(choice, releases).obtain(gobuild.CNI, X86)
    assert not isinstance(error.value, UnavailableError)
    assert error.value.hint and "--source source" in error.value.hint
    assert (leftovers(), built) == ([], [])


def test_a_release_without_a_wanted_file_is_refused(server: Server) -> None:
    publish(server, gobuild.CNI)
    (path,) = server.files
    server.files[path] = archive({"bridge": STATIC})
    with pytest.raises(BundleError, match=r"^Failed to unpack cni-plugins-\S+: it has no file bandwidth$"):
        Supply("upstream", server.releases()).obtain(gobuild.CNI, X86)
    assert leftovers() == []


def test_only_kubelet_may_need_the_nodes_c_library(server: Server) -> None:
    content = DYNAMIC.read_bytes()
    node = publish(server, gobuild.KUBERNETES_NODE, X86, content)
    with pytest.raises(BundleError, match=r"^Failed to use kubeadm from .*: it needs .*libc\.so\.6"):
        Supply("upstream", node).obtain(gobuild.KUBERNETES_NODE, X86)
    assert leftovers() == []
    publish(server, gobuild.KUBERNETES_NODE)
    server.files.update({path: content for path in server.files if path.endswith("/kubelet")})
    folder, _ = Supply("upstream", server.releases()).obtain(gobuild.KUBERNETES_NODE, X86)
    assert (folder / "kubelet").read_bytes() == content


# A release that is not to be had


def test_a_missing_file_sends_auto_to_source_for_that_program_only(
    server: Server, built: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server, gobuild.RUNC)
    releases = publish(server, gobuild.CRICTL)
    server.files = {path: content for path, content in server.files.items() if "runc" not in path}
    supply = Supply("auto", releases)
    assert [supply.obtain(program, X86)[1] for program in (gobuild.RUNC, gobuild.CRICTL)] == ["source", "upstream"]
    assert "HTTP 404 Not Found; building from source instead" in capsys.readouterr().err
    assert built == ["runc"]
    with pytest.raises(UnavailableError, match=r"^Failed to download runc\.amd64 for x86_64: .* HTTP 404 Not Found$"):
        Supply("upstream", releases).obtain(gobuild.RUNC, X86)


def nowhere() -> Releases:
    """Releases on a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
    return Releases(url, url, Everything())


def test_upstream_out_of_reach_sends_auto_to_source_and_says_so_once(
    built: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    supply = Supply("auto", nowhere())
    begun = time.monotonic()
    assert {supply.obtain(program, X86)[1] for program in PROGRAMS} == {"source"}
    assert time.monotonic() - begun < download.PROBE_SECONDS
    assert built == [program.name for program in PROGRAMS]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Failed to reach upstream at 127.0.0.1: Connection refused; building from source instead")


def test_upstream_out_of_reach_is_a_failure_with_a_hint_when_nothing_else_will_do(built: list[str]) -> None:
    with pytest.raises(UnavailableError, match=r"^Failed to reach upstream at 127\.0\.0\.1: .*refused$") as error:
        Supply("upstream", nowhere()).obtain(gobuild.RUNC, X86)
    assert error.value.hint and "HTTPS_PROXY" in error.value.hint and "--source source" in error.value.hint
    assert built == []


def test_a_server_that_does_not_answer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        assert download.unreachable(f"https://127.0.0.1:{silent.getsockname()[1]}/")
        assert time.monotonic() - begun < 2


def test_a_server_that_we_cannot_trust_is_not_reached(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.unreachable(server.url) == ""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    assert "certificate" in download.unreachable(server.url)


def test_nothing_goes_without_tls(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1/x is not https"):
        download.fetch("x", "http://127.0.0.1/x", "sha256:", tmp_path / "x", "")
    server.moved["/x"] = "http://127.0.0.1/x"
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1/x is not https"):
        download.fetch("x", f"{server.url}/x", "sha256:", tmp_path / "x", "")
    assert not (tmp_path / "x").exists()


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        asked: list[bytes] = []

        def refuse() -> None:
            connection, _ = proxy.accept()
            asked.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        assert "403 Forbidden" in download.unreachable("https://upstream.invalid/file")
        thread.join()
    assert asked[0].startswith(b"CONNECT upstream.invalid:443 ")


# A download that breaks


def test_a_download_that_is_cut_off_is_begun_again(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    releases = publish(server, gobuild.CNI)
    (path,) = server.files
    server.cut[path] = 2
    folder, _ = Supply("upstream", releases).obtain(gobuild.CNI, X86)
    assert sorted(file.name for file in folder.iterdir()) == sorted(gobuild.CNI.packages)
    size = len(server.files[path])
    assert f"the connection closed after {size // 2} of {size} bytes; retry 2 of 2" in capsys.readouterr().err


def test_a_download_that_is_always_cut_off_leaves_nothing(server: Server, built: list[str]) -> None:
    releases = publish(server, gobuild.CNI)
    (path,) = server.files
    server.cut[path] = 99
    with pytest.raises(UnavailableError, match=r"the connection closed after \d+ of \d+ bytes"):
        Supply("upstream", releases).obtain(gobuild.CNI, X86)
    assert leftovers() == []
    assert Supply("auto", releases).obtain(gobuild.CNI, X86)[1] == "source"
    assert built == ["cni"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_nothing_that_counts(server: Server, how: signal.Signals) -> None:
    releases = publish(server, gobuild.RUNC)
    (path,) = server.files
    server.hold.clear()
    script = (
        "from q8s_bundle.node import gobuild, upstream, versions\n"
        f"releases = upstream.Releases({releases.kubernetes!r}, {releases.github!r}, {dict(releases.pins)!r})\n"
        "arch = versions.ARCHITECTURES['x86_64']\n"
        "upstream.fetch(gobuild.RUNC, arch, releases.files(gobuild.RUNC, arch))\n"
    )
    running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while path not in server.begun:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(how)
    assert running.wait(20) != 0
    assert cache.find("programs", "runc-x86_64", Supply("auto", releases).key(gobuild.RUNC, X86, "upstream")) is None
    if how == signal.SIGINT:
        assert leftovers() == []
    server.hold.set()
    folder, _ = Supply("upstream", releases).obtain(gobuild.RUNC, X86)
    assert leftovers() == [str(folder), str(folder / "runc")], "what the killed one left is gone"


def test_pins_are_read_as_sha256sum_writes_them() -> None:
    assert upstream.read_pins("# of x\n\nab  https://x/y\n") == {"https://x/y": "ab"}
