"""Builds without root: missing prerequisites of a machine, and the environment in the namespace."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.action.cluster_build import Order

from q8s_bundle import cache, cli, namespace, requirements
from q8s_bundle.node import versions
from q8s_lab import cli as lab_cli

FOREIGN = next(name for name in versions.ARCHITECTURES if name != platform.machine())


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ("", True),
        ("somebody:100000:65536\n", True),
        ("me:100000:1000\n", True),
        ("me:100000:65536\n", False),
        ("1000:100000:65536\n", False),
        ("somebody:100000:65536\nme:165536:65536\n", False),
        ("me:abc:def\n", True),
    ],
)
def test_range_of_ids(content: str, missing: bool, tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text(content)
    assert namespace.range_missing(tmp_path / "subuid", ["me", "1000"]) is missing


def test_no_file_gives_no_range(tmp_path: Path) -> None:
    assert namespace.range_missing(tmp_path / "subuid", ["me"])


def test_environment_keeps_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("Q8S_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    made = namespace.environment({"PATH": "/usr/bin", "https_proxy": "http://proxy:3128"})
    assert made["Q8S_CACHE"] == str(tmp_path / ".cache/q8s")
    assert made["PATH"].split(":")[0] == "/usr/bin" and "/usr/sbin" in made["PATH"].split(":")
    assert made["https_proxy"] == "http://proxy:3128"


@pytest.mark.parametrize("main", [cli.main, lab_cli.main], ids=["bundle", "lab"])
def test_programs_of_root_are_found_with_the_path_of_cron(
    main: Callable[[Sequence[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert shutil.which("mke2fs") is None
    with pytest.raises(SystemExit):
        main(["--help"])
    assert shutil.which("mke2fs") is not None
    assert os.environ["PATH"].startswith("/usr/bin:/bin:")


def refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, switches: dict[str, str]
) -> tuple[str, str] | None:
    """Return what is said of an unshare that fails, on a kernel with these switches."""
    for name in ("_APPARMOR", "_DEBIAN_SWITCH", "_MAXIMUM"):
        monkeypatch.setattr(namespace, name, tmp_path / name)
        if name in switches:
            (tmp_path / name).write_text(switches[name] + "\n")
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: failed)
    return namespace.refusal()


@pytest.mark.parametrize(
    ("switches", "reason", "hint"),
    [
        ({"_APPARMOR": "1"}, "kernel.apparmor_restrict_unprivileged_userns is 1", "_unprivileged_userns=0"),
        ({"_DEBIAN_SWITCH": "0"}, "kernel.unprivileged_userns_clone is 0", "kernel.unprivileged_userns_clone=1"),
        ({"_MAXIMUM": "0", "_APPARMOR": "0"}, "user.max_user_namespaces is 0", "user.max_user_namespaces=10000"),
        ({}, "refuses a user namespace with mounts: unshare: no", "build as root"),
    ],
)  # fmt: skip
def test_reason_for_a_refused_namespace(
    switches: dict[str, str], reason: str, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = refused(monkeypatch, tmp_path, "unshare: no", switches)
    assert found is not None and reason in found[0] and hint in found[1]


def test_an_old_unshare_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = refused(monkeypatch, tmp_path, "unshare: unrecognized option '--map-auto'", {})
    assert found is not None and "too old" in found[0] and "2.38" in found[1]


def test_nothing_missing_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **options: None)
    assert requirements.obstacles([]) == []


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "needed", lambda: True)
    monkeypatch.setattr(namespace, "range_missing", lambda file, names: False)
    monkeypatch.setattr(namespace, "refusal", lambda: pytest.fail("tried without the programs for it"))
    lacking = {"newuidmap", "newgidmap", "mke2fs", "mmdebstrap"}
    monkeypatch.setattr(shutil, "which", lambda name, **options: None if name in lacking else f"/usr/bin/{name}")
    (found,) = requirements.obstacles([f"image-{platform.machine()}"])
    assert found.reason == "these programs are missing: mke2fs, mmdebstrap, newgidmap, newuidmap"
    assert found.hint == "as root: apt-get install e2fsprogs mmdebstrap uidmap"


def test_a_machine_without_a_range_and_with_a_cloud_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "needed", lambda: True)
    monkeypatch.setattr(namespace, "user_names", lambda: ["ada", "1000"])
    monkeypatch.setattr(namespace, "range_missing", lambda file, names: file.name == "subgid")
    monkeypatch.setattr(shutil, "which", lambda name, **options: f"/usr/bin/{name}")
    machine = platform.machine()
    found = requirements.obstacles([f"image-{machine}"], [machine])
    assert [obstacle.reason for obstacle in found] == [
        "/etc/subgid gives the user ada no range of 65536 ids",
        f"the guest image for {machine} is made from a cloud image, which needs a loop device, and the kernel gives "
        "those to root only",
    ]
    error = requirements.explain(found, [f"image-{machine}"])
    assert error.hint is not None and "usermod --add-subuids" in error.hint and "--build cluster" in error.hint


@pytest.mark.parametrize(
    ("missing", "on_server", "said"),
    [
        (["bundle-x86_64", "control-plane-x86_64", "image-x86_64", "addon-metrics_server-x86_64"], False, True),
        (["bundle-x86_64", "bench-x86_64"], False, False),
        (["conformance-agnhost-x86_64"], False, False),
        (["bundle-x86_64"], True, False),
    ],
)
def test_a_build_on_the_cluster_is_proposed_where_it_helps(
    missing: list[str], on_server: bool, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Order([], "/sources", "/build", {}).environment_file if on_server else ""
    for name, value in re.findall(r'^(Q8S_BUNDLE\w+)="(\w+)"$', environment, re.MULTILINE):
        monkeypatch.setenv(name, value)
    error = requirements.explain([requirements.Obstacle("no gcc", "install it")], missing)
    assert error.hint is not None and ("--build cluster" in error.hint) is said


def test_a_guest_image_needs_systemctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "needed", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name, **options: None if name == "systemctl" else f"/usr/bin/{name}")
    (found,) = requirements.obstacles([f"image-{platform.machine()}"])
    assert found.hint == "as root: apt-get install systemd"


def test_root_needs_no_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespace, "needed", lambda: False)
    monkeypatch.setattr(namespace, "refusal", lambda: pytest.fail("root tried a namespace"))
    monkeypatch.setattr(shutil, "which", lambda name, **options: f"/usr/bin/{name}")
    monkeypatch.setattr(requirements.toolchain, "obstacle", lambda: None)
    assert requirements.obstacles([f"bundle-{FOREIGN}", f"image-{FOREIGN}"]) == []


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert requirements.obstacles(["bundle-x86_64"])[0].reason == "this machine runs Darwin"


def test_the_namespace_ends_when_nobody_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program inside watches its standard input, and is asked to end when that ends."""
    script = "import time; from q8s_bundle import namespace; namespace.end_with_parent(); time.sleep(60)"
    reader, writer = os.pipe()
    package = str(Path(cache.__file__).parents[1])
    environment = {**os.environ, "Q8S_BUNDLE_NAMESPACE": "1", "PYTHONPATH": package}
    with subprocess.Popen([sys.executable, "-c", script], stdin=reader, env=environment) as process:
        os.close(reader)
        os.close(writer)
        assert process.wait(20) == -15
