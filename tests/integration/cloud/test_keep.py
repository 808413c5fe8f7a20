"""What ``destroy --keep`` leaves, and that the next deploy uses it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.cloud.clusters import snapshot

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


def test_what_is_kept_is_used_again(cloud: Any, cluster: Cluster) -> None:
    for name in ("keypair", "security_group", "servers"):
        assert cluster.module(name)["changed"]
    before = snapshot(cloud, cluster)
    key = cluster.state / "id_ed25519"
    private = key.read_text()
    keep = ["--keep", "keypair", "--keep", "security_group"]
    done = cluster.run(["q8s-run", "destroy", cluster.file(), "--yes", *keep])
    assert done.returncode == 0, done.stdout + done.stderr
    after = snapshot(cloud, cluster)
    kept = {kind: before[kind] for kind in ("key pair", "security group", "rule")}
    assert after == {**{kind: {} for kind in before}, **kept}, "these and nothing else, untouched"
    assert key.read_text() == private

    planned = cluster.run(["q8s-run", "plan", cluster.file(), "--json"])
    assert planned.returncode == 0, planned.stdout + planned.stderr
    changes = {(c["action"], c["kind"], c["name"]) for c in json.loads(planned.stdout)["changes"]}
    assert changes == {("create", "server", name) for name in (cluster.initial, cluster.worker)}
    assert not cluster.module("keypair")["changed"] and not cluster.module("security_group")["changed"]
    assert cluster.module("servers")["changed"]
    again = snapshot(cloud, cluster)
    assert {kind: again[kind] for kind in kept} == kept
    assert set(again["member"]) == {cluster.initial, cluster.worker}

    done = cluster.run(["q8s-run", "destroy", cluster.file(), "--yes"], Q8S_KEEP="keypair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert snapshot(cloud, cluster) == {**{kind: {} for kind in before}, "key pair": before["key pair"]}
