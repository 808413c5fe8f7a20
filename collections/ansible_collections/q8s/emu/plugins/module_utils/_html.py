# Copyright: Q8S contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Self-contained HTML pages of results: the skeleton, tables, and figures. Pure functions."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_LONG = 40  # characters; a longer cell may be wrapped
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1f2328; --quiet: #59636e; --line: #d1d9e0; --head: #f6f8fa; }
:root { --warn: #fff1e5; --warn-line: #bc4c00; }
@media (prefers-color-scheme: dark) {
:root { --page: #0d1117; --ink: #e6edf3; --quiet: #9198a1; --line: #3d444d; --head: #151b23; }
:root { --warn: #2a1a0d; --warn-line: #d47616; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); }
body { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .9rem; }
th, td { border: 1px solid var(--line); padding: .25rem .6rem; text-align: left; white-space: nowrap; }
td.text { white-space: normal; min-width: 16rem; }
th { background: var(--head); } .note { color: var(--quiet); font-size: .9rem; }
.scroll svg { min-width: 44rem; width: 100%; height: auto; } svg text { fill: var(--ink); }
.partial { background: var(--warn); border: 1px solid var(--warn-line); padding: .5rem 1rem; overflow-wrap: anywhere; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a page.

    :param parts: the content of its body, as HTML
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, which scrolls where the page is too narrow for it."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure(svg: str) -> str:
    """Return a chart, which scrolls where the page is too narrow to read it."""
    return f'<div class="scroll">{svg}</div>'


def note(text: str) -> str:
    """Return a paragraph that explains what is beside it."""
    return f'<p class="note">{escape(text)}</p>'


def escape(value: object) -> str:
    """Return a value as text for HTML and SVG."""
    return html.escape(str(value))


def _cell(text: str) -> str:
    attribute = ' class="text"' if len(text) > _LONG else ""
    return f"<td{attribute}>{escape(text)}</td>"
