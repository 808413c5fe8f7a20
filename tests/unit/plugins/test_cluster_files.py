"""Errors in cluster files: the table cluster_files/bad.yaml with expected messages, and randomly generated files."""

from __future__ import annotations

import base64
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.q8s.emu.plugins.module_utils import _spec
from hypothesis import given
from hypothesis import strategies as st

FILES = Path(__file__).parent / "cluster_files"
EXAMPLES = Path(__file__).parents[3] / "examples"
GOOD = (FILES / "good.yaml").read_text()
CASES: list[dict[str, Any]] = yaml.safe_load((FILES / "bad.yaml").read_text())


def content(case: dict[str, Any]) -> str | bytes:
    """The file that a case of the table describes."""
    if "bytes" in case:
        return base64.b64decode(case["bytes"])
    if "text" in case:
        text = case["text"]
        return str(text) if isinstance(text, str) else text[0] * text[1]
    changed = GOOD
    for old, new, *more in case.get("change", ()):
        assert old in changed, old
        changed = changed.replace(old, new + (more[0] * more[1] if more else ""), 1)
    return changed + str(case.get("append", ""))


def explained(text: str | bytes) -> _spec.Cluster | _spec.SpecError:
    """The cluster or the mistakes; anything else that is raised fails the test. Each mistake is in the file."""
    try:
        cluster = _spec.load_text(text, "c.yaml")
    except _spec.SpecError as error:
        assert error.problems
        for problem in error.problems:
            assert_inside(problem, text)
        return error
    for warning in cluster.warnings:
        assert_inside(warning, text)
    return cluster


def assert_inside(problem: _spec.Problem, text: str | bytes) -> None:
    """The place is one of the text, or just behind a line; the message is one line, printable and not endless."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", words)
    assert 1 <= problem.line <= len(lines), problem
    assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
    assert problem.message and str(problem).isprintable() and problem.hint.isprintable(), problem
    assert len(str(problem)) < 1000 and len(problem.hint) < 1000, problem


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_what_is_said(case: dict[str, Any]) -> None:
    result = explained(content(case))
    if "says" in case:
        assert isinstance(result, _spec.SpecError)
        assert result.text() == case["says"].rstrip()
    else:
        assert isinstance(result, _spec.Cluster)
        assert _spec.SpecError(result.warnings).text() == case["warns"].rstrip()


def test_the_good_file_has_neither_mistake_nor_warning() -> None:
    cluster = _spec.load_text(GOOD, "c.yaml")
    assert cluster.warnings == () and len(cluster.servers()) == 4


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("cluster_name", "\ufeffcluster_name"), ("\n", "  # why\n")])
def test_line_ends_marks_and_comments_change_nothing(change: tuple[str, str]) -> None:
    text = GOOD.replace(*change)
    assert (
        _spec.load_text(text, "c.yaml") == _spec.load_text(text.encode(), "c.yaml") == _spec.load_text(GOOD, "c.yaml")
    )


def test_anchors_and_merges_are_what_they_stand_for() -> None:
    text = GOOD.replace("    x86:\n      arch", "    x86: &machine\n      arch")
    start = text.index("    arm:\n")
    text = text[:start] + "    arm: {<<: *machine, architecture: arm_64, cpu_model: cortex-a57}\n"
    arm = _spec.load_text(text, "c.yaml").vm_type("arm")
    assert (arm.architecture, arm.cpu_model, arm.ram_mb) == ("aarch64", "cortex-a57", 2048)


def test_a_bomb_of_aliases_is_small() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefghi")
    )
    assert isinstance(explained(bomb), _spec.SpecError)
    merges = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(200)) + "}\n" + f"b: {{<<: [{', '.join(['*a'] * 300)}]}}\n"
    result = explained(merges)
    assert isinstance(result, _spec.SpecError) and "<< brings in more than 10000 keys" in result.text()


def test_an_alias_of_what_it_is_in() -> None:
    assert isinstance(explained("&a\nvm_types: *a\n"), _spec.SpecError)


# -- Files made at random -----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert isinstance(explained(data), _spec.SpecError)


@given(st.text(max_size=100) | st.text(alphabet="ab:-[]{}!&*?|>'\"#%@,<~ \n\t\r0.\x85", max_size=60))
def test_any_text(text: str) -> None:
    assert isinstance(explained(text), _spec.SpecError)


WORDS = st.sampled_from(
    [
        *"~ on 012 1e3 22:22 0x1F 2048 -1 .inf <<: *a { } [ ] ' \" # @ virt q8s-cluster 10.0.0.0/8 x86: ü".split(),
        *("!VmType ", "!!set ", "!x ", "&a ", "- ", ": ", "? ", "% ", "arm: 3\n", "|\n", "---\n", "\n", "  ", "\t"),
        *("\0", "\x07", "\x85", "\u2028", "\ufeff", "9" * 40),
    ]
)


@given(st.sampled_from([GOOD, *[path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))]]), st.data())
def test_a_good_file_with_some_text_changed(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(WORDS | st.text(max_size=3)) + text[end:]
    result = explained(text)
    if isinstance(result, _spec.Cluster):
        assert _spec.load_mapping(result.to_mapping(), "again") == result


@given(st.data())
def test_a_good_file_with_lines_moved(data: st.DataObject) -> None:
    lines = GOOD.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        line = lines.pop(data.draw(st.integers(0, len(lines) - 1)))
        for _ in range(data.draw(st.integers(0, 2))):
            lines.insert(data.draw(st.integers(0, len(lines))), " " * data.draw(st.integers(0, 3)) + line)
    result = explained("".join(lines))
    if isinstance(result, _spec.Cluster):
        assert _spec.load_mapping(result.to_mapping(), "again") == result


def test_a_file_that_is_something_else_is_said_to_be_in_few_words() -> None:
    result = explained(GOOD + "".join(f"key{number}: 1\n" for number in range(300)))
    assert isinstance(result, _spec.SpecError) and len(result.problems) == 300
    assert result.text().splitlines()[-1] == "and 250 more mistakes" and len(result.text()) < 10000


@pytest.mark.parametrize(
    "word", ["{http_proxy: 'http://me:s3cret@p:1'}", "'http://me:s3cret@p:1'", "['http://me:s3cret@p:1']"]
)
def test_a_password_is_never_said(word: str) -> None:
    for field in ("proxy", "git_url"):
        result = explained(f"{GOOD}{field}: {word}\nunknown: 1\n")
        assert isinstance(result, _spec.SpecError) and "s3cret" not in result.text()
