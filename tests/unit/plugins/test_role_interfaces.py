"""The roles' argument specifications say what the roles do with their arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).parents[3] / "collections/ansible_collections/q8s/emu/roles"
NAMES = sorted(path.name for path in ROLES.iterdir())


def load(role: str, file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROLES / role / file).read_text())
    return found


@pytest.fixture(params=NAMES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def options(role: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the options of all entry points of a role."""
    entries = load(role, "meta/argument_specs.yml")["argument_specs"].values()
    return [option for entry in entries for option in entry.get("options", {}).items()]


def test_a_required_argument_has_no_default(role: str) -> None:
    """Ansible takes a default for an argument, so that nothing would be required. A play may have no facts."""
    defaults = load(role, "defaults/main.yml")
    constants = {name for name, value in defaults.items() if "ansible_facts" not in str(value)}
    assert {name for name, option in options(role) if option.get("required")} & constants == set()


def test_the_documented_defaults_are_the_defaults(role: str) -> None:
    defaults = load(role, "defaults/main.yml")
    for name, option in options(role):
        # one that is an integer in the end cannot be documented as the expression that it is
        is_expression = option["type"] == "int" and isinstance(defaults.get(name), str)
        if name in defaults and not option.get("required") and not is_expression:
            assert option.get("default") == defaults[name], name


def test_every_default_is_documented(role: str) -> None:
    assert set(load(role, "defaults/main.yml")) <= {name for name, _option in options(role)}


def test_every_argument_is_used(role: str) -> None:
    """A default of its own does not count."""
    folders = ("tasks", "templates", "vars", "files", "handlers")
    files = [path for folder in folders for path in (ROLES / role / folder).rglob("*") if path.is_file()]
    text = "\n".join(path.read_text() for path in files)
    assert [name for name, _option in options(role) if not re.search(rf"\b{name}\b", text)] == []


def test_every_entry_point_has_its_tasks(role: str) -> None:
    for entry in load(role, "meta/argument_specs.yml")["argument_specs"]:
        assert (ROLES / role / "tasks" / f"{entry}.yml").is_file()


def test_a_role_takes_no_file_from_another_folder(role: str) -> None:
    """A file that two roles need is a symbolic link in one of them."""
    for path in (ROLES / role / "tasks").glob("*.yml"):
        assert "role_path" not in path.read_text(), path


def step_files(role: str, name: str) -> list[str]:
    """Return a task file of a role and those that it imports or includes."""
    text = (ROLES / role / "tasks" / name).read_text()
    return [
        name,
        *(f for inner in re.findall(r"(?:_tasks|file): (\w+\.yml)", text) for f in step_files(role, inner)),
    ]


def test_each_step_runs_alone_with_its_tag(role: str) -> None:
    """What another step registers has a default, unless that step has the tag, too."""
    steps = yaml.safe_load((ROLES / role / "tasks/main.yml").read_text())
    tags = {step["ansible.builtin.import_tasks"]: set(step["tags"]) - {role} for step in steps}
    texts = {
        step: "\n".join((ROLES / role / "tasks" / file).read_text() for file in step_files(role, step)) for step in tags
    }
    for step, text in texts.items():
        own = set(re.findall(r"register: (\w+)", text))
        for other, registering in texts.items():
            if not tags[step] <= tags[other]:
                for name in set(re.findall(r"register: (\w+)", registering)) - own:
                    assert not re.findall(rf"\b{name}\b(?!(?:\.\w+)* \| default\()", text), (step, name)
