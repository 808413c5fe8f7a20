"""Which direction the benchmark of links measures if none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.deployed import DeployedCluster
from benchmarks.link_accuracy import choose_direction
from q8s_wrapper.config import REPOSITORY


@pytest.mark.parametrize(
    ("file", "source", "direction"),
    [
        ("demo", "", ("x86-small-1", "arm-mid-1")),
        ("demo", "arm-mid-1", ("arm-mid-1", "x86-small-1")),
        ("edge", "", ("cloud-1", "edge-1")),
    ],
)
def test_a_worker_sends_to_another_node(file: str, source: str, direction: tuple[str, str]) -> None:
    cluster = DeployedCluster(str(REPOSITORY / f"examples/{file}.yaml")).cluster
    assert choose_direction(cluster, source) == direction


def test_a_single_worker_sends_to_the_control_plane_and_a_cluster_without_one_is_refused(tmp_path: Path) -> None:
    text = (REPOSITORY / "examples/demo.yaml").read_text()
    assert "    x86-small: 1\n    arm-mid: 1\n" in text
    file = tmp_path / "cluster.yaml"
    file.write_text(text.replace("    arm-mid: 1\n", "    arm-mid: 0\n"))
    assert choose_direction(DeployedCluster(str(file)).cluster) == ("x86-small-1", "demo-control-plane")
    file.write_text(text.replace("    x86-small: 1\n    arm-mid: 1\n", "    arm-mid: 0\n"))
    with pytest.raises(SystemExit, match="the cluster has no worker"):
        choose_direction(DeployedCluster(str(file)).cluster)
