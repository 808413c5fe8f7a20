"""The documentation: generated pages are up to date, and links have a target."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tools import command_line_docs, troubleshooting_docs

REPOSITORY = Path(__file__).parents[3]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


written = pytest.mark.parametrize("tool", [command_line_docs, troubleshooting_docs], ids=lambda tool: tool.PAGE.name)


@written
def test_the_committed_page_is_what_the_code_generates(tool: ModuleType) -> None:
    assert tool.PAGE.read_text() == tool.page(), "run make docs"


@written
def test_settings_of_the_user_do_not_change_a_generated_page(monkeypatch: pytest.MonkeyPatch, tool: ModuleType) -> None:
    before = tool.page()
    monkeypatch.setenv("Q8S_CLUSTER_FILE", "mine.yaml")
    monkeypatch.setenv("Q8S_YES", "1")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert tool.page() == before


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    docs = REPOSITORY / "docs"
    index = (docs / "index.md").read_text()
    names = [str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md")]
    assert [name for name in names if name != "index" and f"\n{name}\n" not in index] == []


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 80
