"""A first cluster file from what the lab's cloud offers fits that cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.cloud.clusters import Cluster

pytestmark = pytest.mark.lab


def test_a_new_file_fits_the_cloud(cluster: Cluster) -> None:
    file = cluster.folder / "My Cluster.yaml"
    made = cluster.run(["q8s-run", "init", file])
    assert made.returncode == 0, made.stderr
    planned = cluster.run(["q8s-run", "plan", file])
    assert planned.returncode == 0, planned.stderr
    assert "create   3 servers         my-cluster-control-plane, my-cluster-x86-small-1," in planned.stdout
    text = file.read_text()
    again = cluster.run(["q8s-run", "init", file, "--name", "other"])
    assert again.returncode == 2 and "it exists already, and is left as it is" in again.stderr
    assert file.read_text() == text
    printed = cluster.run(["q8s-run", "init", "-", "--name", "other"])
    assert "cluster_name: other " in printed.stdout


@pytest.mark.parametrize("command", ["init", "ssh", "exec", "status", "plan"])
def test_a_cloud_that_does_not_answer_is_said(command: str, cluster: Cluster) -> None:
    """And not taken for one that has nothing."""
    more = {"ssh": [cluster.worker], "exec": ["all", "--", "true"]}.get(command, [])
    file = "-" if command == "init" else cluster.file()
    refused = cluster.run(["q8s-run", command, file, *more], OS_CLOUD="nowhere")
    assert refused.returncode == 1 and refused.stdout == ""
    assert "Failed to log in to the cloud nowhere" in refused.stderr and "hint: set OS_CLOUD" in refused.stderr
    assert "has no server" not in refused.stderr
