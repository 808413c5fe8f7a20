"""A program of the bundle is built on a machine without Go, with the toolchain of the real Go module proxy."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path

import pytest

from q8s_bundle.download import UnavailableError
from q8s_bundle.node import gobuild, toolchain, versions

pytestmark = pytest.mark.long("downloads 70 MB")


def test_a_program_is_the_same_with_the_toolchain_of_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = toolchain._proxies()
    architecture = versions.ARCHITECTURES[platform.machine()]
    ours, _ = gobuild.build(gobuild.PAUSE, architecture)
    monkeypatch.setenv("GOPROXY", ",".join(proxies))
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "_installed", lambda: iter(()))
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    try:
        built, _ = gobuild.build(gobuild.PAUSE, architecture)
    except UnavailableError as error:
        warnings.warn(f"not tested: the Go module proxy is not reachable: {error}", stacklevel=1)
        pytest.skip(f"the Go module proxy is not reachable: {error}")
    assert Path(toolchain.require()).is_relative_to(tmp_path)
    assert (built / "pause").read_bytes() == (ours / "pause").read_bytes()
