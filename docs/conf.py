"""Configuration of the documentation (Sphinx): ``make docs`` builds it, and treats every warning as an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

project = "Q8S"
author = "Q8S contributors"
copyright = "Q8S contributors. Licence: GPL-3.0-or-later"
release = re.search(r'^version = "(.*)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
version = release

extensions = ["myst_parser", "sphinx_antsibull_ext"]
# antsibull-docs writes the collection's pages into reference/collections before Sphinx runs.
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# A link to a file that is no page of the site, such as ../../examples/demo.yaml, becomes a download.
nitpicky = True
nitpick_ignore_regex = [
    # antsibull-docs links to Ansible's own documentation, which is not part of this site.
    (r"(std:)?ref", r"action_plugins|common_return_values"),
    (r"(std:)?ref", r"ansible_configuration_settings|ansible_collections\.ansible\..*"),
    (r"(std:)?envvar", r"ANSIBLE_.*"),
]

html_theme = "furo"
html_title = f"Q8S {release}"
html_static_path = ["_static"]
html_css_files = ["q8s.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
highlight_language = "text"


def _adapt_collection_page(app: object, name: str, source: list[str]) -> None:
    """Adapt a page of antsibull-docs: the theme has its own contents, and the collection is not on Galaxy."""
    if name.startswith("reference/collections/"):
        text = re.sub(r"(?m)^\.\. contents::\n(   .*\n)*", "", source[0])
        source[0] = re.sub(r"(?m)^ *To install it,? use: :code:`ansible[^`]*`\.\n", "", text)


def setup(app: Any) -> None:
    """Sphinx's entry point."""
    app.connect("source-read", _adapt_collection_page)
