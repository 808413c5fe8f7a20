"""The option ``--build`` of deploy and plan, and the plan's lines on builds and uploads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from q8s_wrapper import argument_parser, cli, report
from q8s_wrapper.commands import runs
from q8s_wrapper.errors import ExitCode

EXAMPLE = str(Path(__file__).parents[3] / "examples/demo.yaml")


def test_where_to_build_reaches_the_playbook(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(words: list[str]) -> argparse.Namespace:
        return argument_parser.parser().parse_args(words)

    assert runs._build_options(parse(["deploy", EXAMPLE, "--build", "cluster"])) == ["-e", '{"q8s_build": "cluster"}']
    monkeypatch.setenv("Q8S_BUILD", "here")
    assert runs._build_options(parse(["plan", EXAMPLE])) == ["-e", '{"q8s_build": "here"}']
    monkeypatch.delenv("Q8S_BUILD")
    assert runs._build_options(parse(["plan", EXAMPLE])) == []


def test_another_place_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(["deploy", EXAMPLE, "--build", "there"])
    assert refused.value.code == ExitCode.WRONG_INPUT
    assert "invalid choice: 'there' (choose from 'auto', 'here', 'cluster')" in capsys.readouterr().err
    monkeypatch.setenv("Q8S_BUILD", "there")
    assert cli.main(["deploy", EXAMPLE]) == ExitCode.WRONG_INPUT
    assert "Q8S_BUILD: is 'there'; allowed is auto, here, cluster" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ({}, []),
        ({"missing": [], "on_cluster": False, "obstacles": [], "upload_bytes": 0}, []),
        (
            {"missing": [], "on_cluster": False, "obstacles": [], "upload_bytes": 611_000_000},
            ["upload: 611 MB, to the initial control plane"],
        ),
        (
            {"missing": ["image-aarch64"], "on_cluster": False, "obstacles": [], "upload_bytes": 611_000_000},
            [
                "build: image-aarch64, on this machine",
                "upload: 611 MB and the new artifacts, to the initial control plane",
            ],
        ),
        (
            {"missing": ["image-aarch64"], "on_cluster": True, "obstacles": ["no Linux"], "upload_bytes": 611_000_000},
            ["build: image-aarch64, on the initial control plane (this machine cannot build: no Linux)"],
        ),
        (
            {"missing": ["image-aarch64"], "on_cluster": False, "obstacles": ["no Linux"], "upload_bytes": 0},
            ["build: image-aarch64, on this machine, and this machine cannot build: no Linux"],
        ),
    ],
)
def test_the_plan_says_where_it_builds(build: dict[str, Any], expected: list[str]) -> None:
    assert report.plan({"changes": [], "build": build}, None, 120)[1:] == expected
