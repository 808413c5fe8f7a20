"""The reference of the cluster file and its JSON Schema: up to date, and consistent with the validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _spec, _spec_fields
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.test_cluster_files import CASES, FILES, GOOD, content
from tools import cluster_file_docs

REPOSITORY = Path(__file__).parents[3]
SCHEMA = json.loads(cluster_file_docs.schema())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


class Loader(yaml.SafeLoader):
    """What an editor reads: tags of ours are only names."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_mapping(node, deep=True))


def test_the_committed_files_are_what_the_declarations_give() -> None:
    assert cluster_file_docs.PAGE.read_text() == cluster_file_docs.page(), "run make docs"
    assert cluster_file_docs.SCHEMA.read_text() == cluster_file_docs.schema(), "run make docs"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_field_has_its_line_on_the_page_and_its_links_lead_somewhere() -> None:
    page = cluster_file_docs.page()
    anchors = {cluster_file_docs._anchor(line[3:]) for line in page.splitlines() if line.startswith("## ")}
    assert {part.split(")")[0] for part in page.split("](#")[1:]} <= anchors
    sections = {section.partition("\n")[0]: section for section in page.split("\n## ")}
    groups = {
        "Fields": _spec_fields.CLUSTER,
        "cluster_definition": _spec_fields.DEFINITION,
        "vm_types.types.NAME": _spec_fields.VM_TYPE,
        "access": _spec_fields.ACCESS,
    }
    for path, group in groups.items():
        for field in group.fields:
            assert sections[path].count(f"\n| `{field.name}`") == 1, field.name


@pytest.mark.parametrize(
    "path", [*sorted((REPOSITORY / "examples").glob("*.yaml")), FILES / "good.yaml"], ids=lambda p: p.name
)
def test_the_schema_takes_good_files(path: Path) -> None:
    VALIDATOR.validate(yaml.load(path.read_text(), Loader))
    VALIDATOR.validate(json.loads(json.dumps(_spec.load_file(str(path)).to_mapping())))


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES if "bytes" not in case])
def test_the_schema_refuses_what_the_table_says_it_does(case: dict[str, Any]) -> None:
    try:
        data = yaml.load(content(case), Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        assert case.get("schema") is False, "no editor gets as far as the schema"
        return
    refused = "says" in case and case.get("schema", True)
    assert VALIDATOR.is_valid(data) is not refused


WORDS = st.text(max_size=8) | st.sampled_from(["tcg", "10.1.0.0/16", "a:NoExecute", "~/k", "type", "http_proxy"])
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(0, 70000) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    *[((), field.name) for field in _spec_fields.CLUSTER.fields],
    *[(("cluster_definition",), field.name) for field in _spec_fields.DEFINITION.fields],
    *[(("vm_types", "types", "arm"), field.name) for field in _spec_fields.VM_TYPE.fields],
]


@given(st.sampled_from(PLACES), VALUES)
def test_the_schema_takes_whatever_the_checker_takes(place: tuple[tuple[str, ...], str], value: Any) -> None:
    data = yaml.safe_load(GOOD)
    parent = data
    for key in place[0]:
        parent = parent[key]
    parent[place[1]] = value
    try:
        _spec.load_mapping(data, "data")
    except _spec.SpecError:
        return
    VALIDATOR.validate(data)
