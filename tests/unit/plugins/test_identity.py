"""Edits of the cluster file that are refused: the message has both values, the reason and what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.q8s.emu.plugins.module_utils import _identity, _spec
from ansible_collections.q8s.emu.plugins.module_utils._cloud_objects import Server
from ansible_collections.q8s.emu.plugins.modules import cloud_preflight

CLUSTER = _spec.load_file(str(Path(__file__).parents[3] / "examples" / "demo.yaml"))
ROLES = {"demo-control-plane": "control_plane", "demo-x86-small-1": "worker_host"}


def servers(*, recorded: bool, **changes: str) -> list[Server]:
    """Servers of the demo as a deploy of today creates them, or as an earlier release did, which recorded nothing."""
    more = {**_identity.metadata(CLUSTER), **changes} if recorded else {}
    return [
        Server(f"id-{name}", name, "ACTIVE", ("10.254.1.9",), {"q8s_cluster": "demo", "q8s_role": role, **more})
        for name, role in ROLES.items()
    ]


EDITS: dict[str, Any] = {
    "remote_ip_prefix": "10.254.0.0/23",
    "name_of_initial_instance": "other",
    "guest_ip_prefix": "172.30.0.0/16",
    "pod_cidr": "10.245.0.0/16",
    "service_cidr": "10.97.0.0/16",
    "worker_port_range_min": 20000,
    "worker_port_range_max": 31999,
}


def test_every_field_that_a_server_records_is_tested_here() -> None:
    assert {*EDITS, "kubernetes_version"} == set(_identity.FIELDS)


@pytest.mark.parametrize("field", EDITS)
def test_an_edit_is_refused_with_both_values_and_a_way_out(field: str) -> None:
    edited = replace(CLUSTER, **{field: EDITS[field]})
    (text,) = _identity.refused_edits(edited, servers(recorded=True))
    has = getattr(CLUSTER, field)
    assert text.startswith(f"{field} is {EDITS[field]} in the cluster file, but the cluster has {has}. ")
    assert f"Set it back to {has}, or destroy the cluster and deploy it again." in text
    assert ".." not in text


def test_all_refused_edits_come_together_and_others_are_none() -> None:
    assert len(_identity.refused_edits(replace(CLUSTER, **EDITS), servers(recorded=True))) == len(EDITS)
    for recorded in (True, False):
        assert _identity.refused_edits(CLUSTER, servers(recorded=recorded)) == ()
        assert _identity.refused_edits(replace(CLUSTER, cluster_name="new", **EDITS), servers(recorded=recorded)) == ()
    assert _identity.refused_edits(replace(CLUSTER, **EDITS), []) == ()


@pytest.mark.parametrize("upgrades", [True, False])
def test_kubernetes_goes_upwards_only(upgrades: bool) -> None:
    newer = servers(recorded=True, q8s_kubernetes_version="1.100.0")
    (text,) = _identity.refused_edits(CLUSTER, [*servers(recorded=True), *newer], upgrades=upgrades)
    assert (
        f"kubernetes_version is {CLUSTER.kubernetes_version} in the cluster file, but the cluster has 1.100.0" in text
    )
    assert "Set it back to 1.100.0" in text


def test_a_newer_version_needs_an_upgrade() -> None:
    has = servers(recorded=True, q8s_kubernetes_version="1.35.4")
    (text,) = _identity.refused_edits(replace(CLUSTER, kubernetes_version="1.36.3"), has)
    assert text.endswith("Run `q8s-run upgrade FILE`, or set it back to 1.35.4.")
    assert _identity.refused_edits(replace(CLUSTER, kubernetes_version="1.36.3"), has, upgrades=True) == ()


def test_an_upgrade_records_the_version_where_it_is_another_or_none() -> None:
    cluster = replace(CLUSTER, kubernetes_version="1.36.3")
    metadata = _identity.version_metadata(cluster)
    assert metadata == {"q8s_kubernetes_version": "1.36.3", "q8s_upgrading": ""}
    old, new = (servers(recorded=True, q8s_kubernetes_version=version) for version in ("1.35.4", "1.36.3"))
    none, foreign = servers(recorded=False), [Server("x", "x", "ACTIVE", (), {})]
    begun = servers(recorded=True, q8s_kubernetes_version="1.36.3", q8s_upgrading="1.36.3")
    assert _identity.outdated(cluster, [*old, *new, *none, *begun, *foreign], metadata) == (*old, *none, *begun)
    begins = _identity.version_metadata(cluster, begins=True)
    assert _identity.outdated(cluster, [*old, *begun], begins) == tuple(old)


@pytest.mark.parametrize("has", ["1.35.4", "1.36.3"], ids=["no server has the version", "a new one has"])
def test_an_upgrade_that_has_not_ended_is_continued_and_nothing_else(has: str) -> None:
    there = servers(recorded=True, q8s_kubernetes_version=has, q8s_upgrading="1.36.3")
    target, before = (replace(CLUSTER, kubernetes_version=version) for version in ("1.36.3", "1.35.4"))
    for cluster, upgrades in ((target, False), (before, False), (before, True)):
        (text,) = _identity.refused_edits(cluster, there, upgrades=upgrades)
        assert text.startswith("An upgrade of the cluster to 1.36.3 has begun and not ended")
        assert "`q8s-run upgrade FILE` continues it" in text
    assert _identity.refused_edits(target, there, upgrades=True) == ()


def test_a_cluster_of_an_earlier_release_records_nothing_and_is_looked_at() -> None:
    there = servers(recorded=False)
    (text,) = _identity.refused_edits(replace(CLUSTER, name_of_initial_instance="other"), there)
    assert "the cluster has demo-control-plane. " in text
    (text,) = _identity.refused_edits(replace(CLUSTER, remote_ip_prefix="10.1.0.0/16"), there)
    assert "the server demo-control-plane has the address 10.254.1.9. " in text
    # the initial instance is somebody else's, and the second control plane is ours
    second = Server("id", "demo-control-plane-2", "ACTIVE", ("10.254.1.9",), there[0].metadata)
    assert _identity.refused_edits(CLUSTER, [second]) == ()


def test_a_server_records_what_the_file_calls_its_image() -> None:
    (first, *_), (old, *_) = servers(recorded=True), servers(recorded=False)
    assert (_identity.recorded_image(first), _identity.recorded_image(old)) == ("debian-13", "")


def test_the_preflight_fails_before_it_does_anything() -> None:
    cloud: Any = SimpleNamespace(keypairs=SimpleNamespace(find_public_key=lambda name: None))
    cloud.clusters = SimpleNamespace(find_existing=lambda cluster: SimpleNamespace(servers=servers(recorded=True)))

    def fail(**result: Any) -> None:
        raise SystemExit(result)

    module: Any = SimpleNamespace(fail_json=fail, params={"upgrade": False})
    with pytest.raises(SystemExit) as failed:
        cloud_preflight.check(module, replace(CLUSTER, guest_ip_prefix="172.30.0.0/16"), cloud)
    result: Any = failed.value.code
    assert len(result["refused"]) == 1
    assert result["refused"][0] in result["msg"]
