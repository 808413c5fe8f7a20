"""Lay text out for terminals and logs: tables, and lines that fit a width. Pure functions."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

# A command in a message: in backquotes, or from q8s-run to the end of the clause.
_COMMAND: Final = re.compile(r"`[^`]*`|\S*q8s-run .*?(?=: |; |\), |$)")
_KEPT_SPACE: Final = "\0"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows with the same keys as an aligned table with a heading. Return "" for no rows."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[head.upper() for head in heads]] + [[str(row.get(head, "")) for head in heads] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def wrap(text: str, width: int, indent: str = "  ") -> list[str]:
    """Wrap a text. Do not break names with hyphens, nor commands, which users copy.

    :param indent: what all lines but the first begin with
    """
    protected = _COMMAND.sub(lambda found: found[0].replace(" ", _KEPT_SPACE), text)
    lines = textwrap.wrap(protected, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return [line.replace(_KEPT_SPACE, " ") for line in lines]
