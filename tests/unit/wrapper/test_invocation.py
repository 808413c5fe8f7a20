"""Commands are printed as the user has to type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from q8s_wrapper import config, invocation
from q8s_wrapper.invocation import Invocation


def test_commands_are_printed_as_this_user_has_to_type_them() -> None:
    given = Invocation("'/my tools/q8s-run'", "'my cluster.yaml'")
    assert given.command("deploy", "--yes") == "'/my tools/q8s-run' deploy 'my cluster.yaml' --yes"
    assert (
        given.adapt("q8s-run ssh FILE arm -- df: then") == "'/my tools/q8s-run' ssh 'my cluster.yaml' arm -- df: then"
    )
    adapted = given.command("link clear")
    assert given.adapt("`q8s-run link clear FILE` restores") == f"`{adapted}` restores"
    assert given.adapt(adapted) == adapted, "a second time changes nothing"
    assert Invocation().adapt("wait: q8s-run status FILE") == "wait: q8s-run status"


def test_how_the_user_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "q8s-run").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert invocation.called_as(str(tmp_path / "q8s-run")) == "q8s-run"
    assert invocation.called_as(".venv/bin/q8s-run") == ".venv/bin/q8s-run"
    assert invocation.called_as("/a b/q8s-run") == "'/a b/q8s-run'"
    assert invocation.called_as("/x/q8s_wrapper/__main__.py").endswith(" -m q8s_wrapper")


def test_ansible_reads_the_cluster_file_under_the_name_that_was_given(tmp_path: Path) -> None:
    """Files that it names are beside a link, not beside what the link leads to."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "a.yaml").touch()
    link = tmp_path / "cluster.yaml"
    link.symlink_to("experiments/a.yaml")
    assert json.loads(config.cluster_variable(link)[1]) == {"q8s_cluster_file": str(link)}
