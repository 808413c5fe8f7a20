"""The wheel in an empty environment, as an ordinary user in an empty folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("command", ["", "init", "plan", "deploy", "lab", "bundle", "bundle ensure"])
def test_help(user: Any, command: str) -> None:
    done = user.run("q8s-run", *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: q8s-run" in done.stdout


def test_a_cluster_file_is_validated(user: Any, cluster_file: str) -> None:
    done = user.run("q8s-run", "validate", cluster_file)
    assert done.returncode == 0, done.stderr
    (user.folder / "wrong.yaml").write_text("worker_port_range_min: many\n")
    wrong = user.run("q8s-run", "validate", "wrong.yaml")
    assert wrong.returncode == 2
    assert "wrong.yaml:1:" in wrong.stdout + wrong.stderr


def test_plan_and_check_mode(user: Any, cluster_file: str, cloud: dict[str, str]) -> None:
    plan = user.run("q8s-run", "plan", cluster_file, **cloud)
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert "demo-control-plane" in plan.stdout
    check = user.run("q8s-run", "deploy", "--check", cluster_file, **cloud)
    assert check.returncode == 0, check.stdout + check.stderr


def test_sources_of_bundles_are_data_of_the_wheel(user: Any) -> None:
    """No folder of the wheel lacks a file that the checkout has."""
    site = next((user.programs.parent / "lib").glob("python3.*/site-packages"))
    for package in ("q8s_wrapper", "q8s_lab", "q8s_bundle"):
        source = Path(__file__).parents[3] / package
        expected = {
            str(file.relative_to(source))
            for file in source.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        found = {str(file.relative_to(site / package)) for file in (site / package).rglob("*")}
        assert expected <= found, expected - found
