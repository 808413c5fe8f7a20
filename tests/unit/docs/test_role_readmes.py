"""The README of each role: its playbook gives what the role requires, and its links and scenario exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from q8s_wrapper.config import PLAYBOOKS, REPOSITORY

ROLES = sorted(path for path in (PLAYBOOKS.parent / "roles").iterdir())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_playbook_gives_what_the_role_requires(role: Path) -> None:
    text = (role / "README.md").read_text()
    specs: dict[str, Any] = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    tasks = [task for play in yaml.safe_load(block) for task in play["tasks"]]
    assert tasks
    for task in tasks:
        include = task["ansible.builtin.include_role"]
        assert include["name"] == f"q8s.emu.{role.name}"
        options = specs[include.get("tasks_from", "main")]["options"]
        given = set(task["vars"])
        assert given <= set(options), "the role knows each variable"
        assert {name for name, option in options.items() if option.get("required")} <= given
        for name in given & {name for name, option in options.items() if option.get("type") == "list"}:
            keys = options[name].get("options", {})
            assert all(set(item) <= set(keys) for item in task["vars"][name])


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_links_and_scenario_exist(role: Path) -> None:
    text = (role / "README.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (role / link).exists(), link
    assert (REPOSITORY / "molecule" / re.findall(r"molecule test -s (\w+)", text)[0] / "molecule.yml").exists()
