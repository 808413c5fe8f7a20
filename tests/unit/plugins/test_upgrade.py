"""Which version of Kubernetes a cluster may get, and what a user reads where it may not."""

from __future__ import annotations

import pytest
from ansible_collections.q8s.emu.plugins.filter.version_refused import version_refused
from ansible_collections.q8s.emu.plugins.module_utils import _upgrade


@pytest.mark.parametrize(
    ("has", "wanted"),
    [("v1.36.3", "1.36.3"), ("1.36.1", "1.36.3"), ("1.35.4", "1.36.3"), ("v1.35.20", "v1.36.3")],
)
def test_the_same_version_a_newer_patch_and_the_next_minor_version(has: str, wanted: str) -> None:
    assert _upgrade.refusal(has, wanted, upgrades=True) is None


@pytest.mark.parametrize("upgrades", [True, False])
@pytest.mark.parametrize(("has", "wanted"), [("1.36.3", "1.35.4"), ("1.36.10", "1.36.9"), ("2.0.0", "1.36.3")])
def test_an_older_version(has: str, wanted: str, upgrades: bool) -> None:
    text = _upgrade.refusal(has, wanted, upgrades=upgrades)
    assert text == (
        f"kubernetes_version is {wanted} in the cluster file, but the cluster has {has}. Kubernetes does not support "
        "downgrades, and the data in etcd may be of the newer version. "
        f"Set it back to {has}, or destroy the cluster and deploy it again."
    )


@pytest.mark.parametrize("upgrades", [True, False])
def test_a_minor_version_is_not_skipped_and_the_way_is_named(upgrades: bool) -> None:
    text = _upgrade.refusal("v1.34.4", "1.36.3", upgrades=upgrades) or ""
    assert "Kubernetes cannot skip a minor version: set it to 1.35.4 and run `q8s-run upgrade FILE`" in text
    assert "first use a release of Q8S" in (_upgrade.refusal("1.30.0", "1.36.3", upgrades=upgrades) or "")


@pytest.mark.parametrize("has", ["1.36.1", "v1.35.4"])
def test_a_deploy_does_not_upgrade(has: str) -> None:
    text = _upgrade.refusal(has, "1.36.3", upgrades=False) or ""
    assert text.endswith(
        f"deploy does not upgrade a cluster. Run `q8s-run upgrade FILE`, or set it back to {has.lstrip('v')}."
    )


def test_a_control_plane_that_does_not_exist_yet() -> None:
    assert version_refused([], "1.36.3") == ""


def test_an_upgrade_that_has_not_ended() -> None:
    # the control planes are upgraded, and not all workers
    assert version_refused(["v1.36.3", "v1.36.3"], "1.36.3", upgrades=True) == ""
    # killed before the first one was
    assert version_refused(["v1.35.4", "v1.36.3"], "1.36.3", upgrades=True) == ""
    for found in (["v1.36.3", "v1.36.3"], ["v1.35.4", "v1.36.3"]):
        for wanted in ("1.36.3", "1.35.4"):
            text = version_refused(found, wanted)
            assert text.startswith("An upgrade of the cluster to 1.36.3 has begun and not ended")
            assert text.endswith("With 1.36.3, `q8s-run upgrade FILE` continues it.")
    assert "continues it" in version_refused(["v1.35.4", "v1.36.3"], "1.35.4", upgrades=True)
