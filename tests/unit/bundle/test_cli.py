"""The command line of ``q8s-run bundle``: the JSON that playbooks read, and error messages."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from q8s_bundle import artifacts, cache, cli, image, namespace, node, requirements
from q8s_bundle.cache import Artifact
from q8s_bundle.errors import BundleError
from q8s_bundle.image.cloud import CloudImage
from q8s_bundle.node import NodeArtifacts, minors
from q8s_bundle.progress import run
from q8s_lab.machine import wait


def artifact(name: str) -> Artifact:
    return Artifact(Path("/cache") / name, "00" * 32, 7)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the builds; gives what was asked of them. Images and nodes are built side by side."""
    asked: list[str] = []

    def control_plane(architecture: object, supply: node.Supply) -> NodeArtifacts:
        asked.append(f"control-plane {supply.choice}")
        return NodeArtifacts(artifact("control-plane.tar.zst"), False, {"etcd": "upstream", "pause": "source"})

    def worker(architecture: object, supply: node.Supply) -> NodeArtifacts:
        asked.append(f"worker {supply.choice}")
        return NodeArtifacts(artifact("bundle.qcow2"), True, {"pause": "source"})

    def guest(arch: str, source: CloudImage | None) -> SimpleNamespace:
        asked.append(f"image {arch} {source.url}" if source else f"image {arch}")
        return SimpleNamespace(
            root=artifact("root"), kernel=artifact("kernel"), initrd=artifact("initrd"), cmdline="quiet", changed=False
        )  # fmt: skip

    monkeypatch.setattr(node, "ensure_control_plane", control_plane)
    monkeypatch.setattr(node, "ensure_worker", worker)
    monkeypatch.setattr(image, "ensure", guest, raising=False)
    return asked


def test_the_answer_names_every_artifact(built: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ensure", "--arch", "aarch64", "--arch", "aarch64", "--control-plane", "x86_64"]
    assert cli.main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sorted(built) == ["control-plane auto", "image aarch64", "worker auto"]
    assert answer["changed"] is True
    assert answer["kubernetes_version"].startswith("v1.")
    assert sorted(answer["pod_images"]) == ["flannel", "pause", "probe"]
    assert answer["cmdlines"] == {"aarch64": "quiet"}
    assert sorted(answer["artifacts"]) == [
        "bundle-aarch64", "control-plane-x86_64", "initrd-aarch64", "kernel-aarch64", "root-aarch64",
    ]  # fmt: skip
    assert answer["artifacts"]["bundle-aarch64"] == {
        "path": "/cache/bundle.qcow2", "name": "bundle-aarch64-000000000000.qcow2", "sha256": "00" * 32, "size": 7,
    }  # fmt: skip
    assert answer["source"] == {
        "control-plane-x86_64": {"etcd": "upstream", "pause": "source"},
        "bundle-aarch64": {"pause": "source"},
        "image-aarch64": "source",
    }


def test_a_look_builds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*arguments: object) -> object:
        raise AssertionError("something is built")

    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("q8s_bundle.node.upstream.fetch", build)
    monkeypatch.setattr("q8s_bundle.node.gobuild.build", build)
    monkeypatch.setattr("q8s_bundle.download.unreachable", build)
    assert cli.main(["ensure", "--check", "--arch", "aarch64", "--control-plane", "x86_64"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["missing"] == ["control-plane-x86_64", "bundle-aarch64", "image-aarch64"] and answer["changed"]
    assert {file["sha256"] for file in answer["artifacts"].values()} == {"missing"}
    assert not (tmp_path / "cache").exists()


def test_a_machine_that_cannot_build_may_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(requirements, "obstacles", lambda *_: [requirements.Obstacle("no gcc", "install it")])
    arguments = ["ensure", "--arch", "aarch64"]
    assert cli.main([*arguments, "--if-able"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["missing"] == ["bundle-aarch64", "image-aarch64"]
    assert answer["obstacles"] == [{"reason": "no gcc", "hint": "install it"}]
    assert cli.main(arguments) == 1
    assert "no gcc" in capsys.readouterr().err


def test_a_build_can_depend_on_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(*_: object) -> object:
        raise AssertionError("something is built")

    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(artifacts, "ensure", build)
    assert cli.main(["ensure", "--if-cached", "--arch", "x86_64", "--control-plane", "x86_64"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["missing"] == ["control-plane-x86_64", "bundle-x86_64", "image-x86_64"]


def test_a_recipe_is_that_of_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))

    def recipe(*arguments: str) -> str:
        assert cli.main(["ensure", "--check", "--control-plane", "x86_64", *arguments]) == 0
        return str(json.loads(capsys.readouterr().out)["recipe"])

    choices = [
        ["--arch=x86_64"],
        ["--arch=aarch64"],
        ["--arch=x86_64", "--source=source"],
        ["--arch=x86_64", "--addon=metrics_server"],
        ["--arch=x86_64", f"--kubernetes={list(minors.MINORS)[1]}"],
        ["--arch=x86_64", f"--image=x86_64,https://example.org/debian.qcow2,sha256:{'0' * 64}"],
        ["--arch=x86_64", f"--image=x86_64,https://example.org/debian.qcow2,sha256:{'1' * 64}"],
    ]
    assert len({recipe(*choice) for choice in choices}) == len(choices)
    assert recipe(*choices[0]) == recipe(*choices[0])


def test_a_look_finds_what_is_cached(built: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ensure", "--arch", "x86_64", "--control-plane", "x86_64"]
    assert cli.main(arguments) == 0
    whole = json.loads(capsys.readouterr().out)
    assert cli.main([*arguments, "--check"]) == 0
    assert json.loads(capsys.readouterr().out) == whole and whole["missing"] == []


# What virt-aa-helper's AppArmor profile of Debian 12 lets it read, of the suffixes that are of use.
@pytest.mark.parametrize("name", ["root-x86_64", "root-aarch64", "bundle-x86_64"])
def test_a_disk_has_a_name_that_virt_aa_helper_may_read(name: str) -> None:
    assert re.fullmatch(rf"{name}-[0-9a-f]{{12}}\.(img|raw|qcow2?)", artifacts.served_name(name, "ab" * 32))


def test_a_served_name_changes_with_the_content() -> None:
    assert artifacts.served_name("kernel-x86_64", "ab" * 32) == "kernel-x86_64-abababababab"
    assert artifacts.served_name("kernel-x86_64", "cd" * 32) == "kernel-x86_64-cdcdcdcdcdcd"


def test_the_source_that_was_chosen_is_the_one_asked_for(built: list[str]) -> None:
    assert cli.main(["ensure", "--arch", "x86_64", "--control-plane", "x86_64", "--source", "upstream"]) == 0
    assert sorted(built) == ["control-plane upstream", "image x86_64", "worker upstream"]


def test_a_cloud_image_is_of_its_architecture_alone(built: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = f"--image=aarch64,https://cloud.example.org/a.qcow2,sha512:{'00' * 64}"
    assert cli.main(["ensure", "--arch", "x86_64", "--arch", "aarch64", given]) == 0
    assert [asked for asked in built if asked.startswith("image")] == [
        "image x86_64", "image aarch64 https://cloud.example.org/a.qcow2",
    ]  # fmt: skip
    sources = json.loads(capsys.readouterr().out)["source"]
    assert (sources["image-x86_64"], sources["image-aarch64"]) == ("source", "https://cloud.example.org/a.qcow2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (f"aarch64,/a.qcow2,sha256:{'00' * 32}", "error: --image is for aarch64, which no --arch names"),
        ("x86_64,/a.qcow2", "'x86_64,/a.qcow2' is not ARCH,URL,CHECKSUM: one of aarch64, x86_64; "),
    ],
)
def test_a_wrong_image_is_wrong_input(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["ensure", "--arch", "x86_64", "--image", given])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_unknown_source_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["ensure", "--source", "internet"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("auto", "upstream", "source"))


def test_a_failure_is_a_message_and_a_hint(
    built: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(architecture: object, supply: object) -> NodeArtifacts:
        raise BundleError("Failed to build kubelet for x86_64: exit code 1", "free some memory")

    monkeypatch.setattr(node, "ensure_worker", fail)
    assert cli.main(["ensure", "--arch", "x86_64"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "error: Failed to build kubelet for x86_64: exit code 1",
        "hint: free some memory",
    ]


def test_an_error_of_the_system_names_what_the_command_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pack", str(tmp_path / "missing/archive")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Failed to pack the sources: [Errno 2] No such file") and "hint" not in said


def test_a_full_disk_is_explained(
    built: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(architecture: object, supply: object) -> NodeArtifacts:
        run("write the disk", ["dd", "if=/dev/zero", "of=/dev/full", "count=1"], log=tmp_path / "log")
        raise AssertionError

    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(node, "ensure_worker", fill)
    for arguments, expected in (
        (["pack", "/dev/full"], "error: Failed to pack the sources: [Errno 28] No space left on device"),
        (["ensure", "--arch", "x86_64"], "error: Failed to write the disk: exit code 1"),
    ):
        assert cli.main(arguments) == 1
        error, *_, hint = capsys.readouterr().err.splitlines()
        assert error.startswith(expected)
        assert re.match(rf"hint: free are [\d.]+ [kMG]B in {tmp_path}/cache, [\d.]+ [kMG]B in /", hint), hint
        assert "q8s-run bundle prune" in hint and "Q8S_CACHE" in hint and "TMPDIR" in hint


def test_a_failure_ends_what_runs_beside_it(
    built: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(architecture: object, supply: object) -> NodeArtifacts:
        cache.require_builds("a worker")
        assert wait((tmp_path / "started").exists, 10)
        raise BundleError("Failed to build kubelet for x86_64: exit code 1")

    def bootstrap(arch: str, source: CloudImage | None) -> None:
        cache.require_builds("an image")
        script = f"sleep 60 & trap 'kill $!; touch {tmp_path}/ended; exit 1' TERM; touch {tmp_path}/started; wait"
        run("bootstrap", ["sh", "-c", script], log=tmp_path / "log")

    monkeypatch.setattr(node, "ensure_worker", fail)
    monkeypatch.setattr(image, "ensure", bootstrap)
    begin = time.monotonic()
    assert cli.main(["ensure", "--arch", "x86_64"]) == 1
    assert time.monotonic() - begin < 30
    assert (tmp_path / "ended").exists(), "politely: it may have something to clean up"
    assert capsys.readouterr().err.splitlines()[-1] == "error: Failed to build kubelet for x86_64: exit code 1"


def test_an_unknown_architecture_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["ensure", "--arch", "arm_64"])
    assert ended.value.code == 2
    assert "aarch64" in capsys.readouterr().err


def test_a_refresh_that_fails_changes_nothing(
    built: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(architecture: object, supply: object) -> NodeArtifacts:
        generations.append(cache.generation())
        kept.append((tmp_path / "cache/generation").read_text())
        inherited.append(namespace.environment(os.environ).get("Q8S_BUNDLE_GENERATION", ""))
        raise BundleError("Failed to fetch 12 Debian packages")

    generations: list[str] = []
    kept: list[str] = []
    inherited: list[str] = []
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    assert cli.main(["refresh", "--arch", "x86_64"]) == 0
    first = cache.generation()
    assert first
    monkeypatch.setattr(node, "ensure_worker", fail)
    assert cli.main(["refresh", "--arch", "x86_64"]) == 1
    assert generations[0] not in ("", first), "the build looked for packages of today"
    assert kept == [first], "a refresh that is killed now changes nothing"
    assert inherited == generations, "a build in a user namespace belongs to the same generation"
    assert cache.generation() == first
    assert "nothing was refreshed" in capsys.readouterr().err
