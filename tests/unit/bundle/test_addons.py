"""The container images of add-ons."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
from ansible_collections.q8s.emu.plugins.action.bundle import command_line
from ansible_collections.q8s.emu.plugins.filter.addon_artifacts import addon_artifacts
from ansible_collections.q8s.emu.plugins.filter.addon_changes import addon_changes
from ansible_collections.q8s.emu.plugins.module_utils import _spec_fields

from q8s_bundle import addons, cli, pod_image
from q8s_bundle.node import gobuild, versions

X86 = versions.ARCHITECTURES["x86_64"]
METRICS = addons.ADDONS["metrics_server"]
MODULES = Path(gobuild.__file__).parent / "go"
ROLE = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles/control_plane"


def test_a_cluster_file_may_name_every_add_on() -> None:
    assert tuple(addons.ADDONS) == _spec_fields.ADDONS
    for name in addons.ADDONS:
        assert (ROLE / "templates" / f"{name}.yaml.j2").exists()


def test_the_stated_version_is_the_pinned_one() -> None:
    module = MODULES / METRICS.program.module
    pin = rf"^\s*sigs\.k8s\.io/metrics-server v{re.escape(addons.METRICS_SERVER)}\b"
    assert re.search(pin, (module / "go.mod").read_text(), re.MULTILINE)
    assert f"sigs.k8s.io/metrics-server v{addons.METRICS_SERVER} h1:" in (module / "go.sum").read_text()
    (package,) = METRICS.program.packages.values()
    assert f"\ntool {package}\n" in (module / "go.mod").read_text()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("Q8S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_only_who_asks_for_an_add_on_gets_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ensure", "--check", "--control-plane", "x86_64"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert cli.main(["ensure", "--check", "--control-plane", "x86_64", "--addon", "metrics_server"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sorted(without["artifacts"]) == ["control-plane-x86_64"] and without["addon_images"] == {}
    assert answer["missing"] == ["control-plane-x86_64", "addon-metrics_server-x86_64"]
    assert answer["artifacts"]["control-plane-x86_64"] == without["artifacts"]["control-plane-x86_64"]
    assert answer["artifacts"]["addon-metrics_server-x86_64"]["name"].endswith(".tar.gz")
    assert addon_artifacts({"bundle": answer, **answer}, ["metrics_server"])["metrics_server"] == {
        "image": METRICS.image,
        **{key: answer["artifacts"]["addon-metrics_server-x86_64"][key] for key in ("name", "sha256")},
    }


def test_an_add_on_needs_a_control_plane(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ensure", "--check", "--arch", "x86_64", "--addon", "metrics_server"])
    assert "--addon needs a --control-plane" in capsys.readouterr().err


def test_a_deploy_asks_for_the_file_s_add_ons() -> None:
    given = {"architectures": ["x86_64"], "control_planes": ["x86_64"], "source": "auto", "guest_images": {}}
    assert not [word for word in command_line(given, check=False) if "addon" in word]
    assert "--addon=metrics_server" in command_line({**given, "addons": ["metrics_server"]}, check=False)


def test_the_archive_has_the_program_under_the_image_s_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = root / "program"
    program.mkdir(parents=True)
    (program / "metrics-server").write_bytes(b"program")
    monkeypatch.setattr(gobuild, "build", lambda *_: (program, False))
    made = pod_image.ensure(addons.recipe(METRICS, X86))
    assert made.name == METRICS.image and made.changed
    with tarfile.open(made.archive.path) as archive:
        index = archive.extractfile("index.json")
        assert index
        (entry,) = json.load(index)["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == METRICS.image
    assert not pod_image.ensure(addons.recipe(METRICS, X86)).changed


def deployments(*metadata: dict[str, object]) -> str:
    """Return what kubectl prints of Deployments."""
    return json.dumps({"items": [{"metadata": one} for one in metadata]})


def test_which_add_ons_are_removed() -> None:
    dns = {"name": "coredns", "labels": {"k8s-app": "kube-dns"}}
    ours = {"name": "metrics-server", "labels": {"q8s.io/addon": "metrics_server"}}
    assert addon_changes(deployments(dns), []) == {"removed": [], "foreign": []}
    assert addon_changes(deployments(dns, ours), ["metrics_server"]) == {"removed": [], "foreign": []}
    assert addon_changes(deployments(dns, ours), []) == {"removed": ["metrics_server"], "foreign": []}


def test_the_user_s_own_is_not_replaced() -> None:
    theirs = deployments({"name": "metrics-server"})
    assert addon_changes(theirs, ["metrics_server"])["foreign"] == ["metrics_server"]
    assert addon_changes(theirs, []) == {"removed": [], "foreign": []}
