"""Write docs/reference/command-line.md from the argument parsers of q8s-run, its lab and its bundle.

``make docs`` runs it; a test fails while the committed page differs from what this would write.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from q8s_bundle import cli as bundle_cli
from q8s_lab import cli as lab_cli
from q8s_wrapper import argument_parser
from q8s_wrapper.command_table import HANDED_OVER
from q8s_wrapper.errors import ExitCode

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PAGE: Final = REPOSITORY / "docs" / "reference" / "command-line.md"

_INTRODUCTION: Final = """\
<!-- Written by tools/command_line_docs.py (make docs) from the argument parsers. Do not edit. -->
# Command line

Options are also environment variables: `Q8S_` and the option's name in capital letters. The tables name the variable; a few options of
`lab` and `bundle` have none. An option on the command line takes precedence. A switch accepts `1`, `true`, `yes`, `on` and `0`, `false`, `no`, `off`; another value is an error.
Options that may be repeated take several values from their variable, separated by spaces.
"""

_EXIT_CODES: Final = {
    ExitCode.DONE: "Done. `status`: every node is well.",
    ExitCode.FAILED: "Failed. The last lines name the cause and the next command. `status`: a node is not well, or its state is unknown.",
    ExitCode.WRONG_INPUT: "Wrong input: an argument, an environment variable or the cluster file. Nothing was changed.",
    ExitCode.INTERRUPTED: "Interrupted by Ctrl-C or a signal. The same command continues where it stopped.",
}

_VARIABLES: Final = {
    "Q8S_CLUSTER_FILE": "The cluster file, where a command gets none.",
    "Q8S_STATE": "Folder of the local state: keys, logs, run times. Default: `q8s` in `XDG_STATE_HOME`, else `~/.local/state/q8s`.",
    "Q8S_CACHE": "Folder of bundles, guest images and everything else that is built once. Default: `q8s` in `XDG_CACHE_HOME`, else `~/.cache/q8s`.",
    "Q8S_DEBIAN_MIRROR": "Mirror of Debian's packages, for bundles and guest images. Needed where a build does not run on Debian.",
    "OS_CLOUD, OS_CLIENT_CONFIG_FILE, OS_*": "The cloud, as for every OpenStack client.",
    "KUBECONFIG": "The file that `kubeconfig --merge` adds the cluster to. Default: `~/.kube/config`.",
}


def page() -> str:
    """Return the reference page."""
    with _without_settings():
        top = argument_parser.parser()
        parsers = [
            *_commands(top, skip=set(HANDED_OVER)),
            *_commands(lab_cli._parser()),
            *_commands(bundle_cli._parser()),
        ]
        sections = [_section(parser, about) for parser, about in parsers]
    codes = [f"| {code.value} | {text} |" for code, text in _EXIT_CODES.items()]
    variables = [f"| `{'`, `'.join(name.split(', '))}` | {text} |" for name, text in _VARIABLES.items()]
    return "\n".join(
        [
            _INTRODUCTION,
            *("## Exit codes\n", "| code | meaning |", "|---|---|", *codes, ""),
            *("## Environment variables\n", "Besides those of the options:\n"),
            *("| variable | meaning |", "|---|---|", *variables, ""),
            *("## Commands\n", *sections),
        ]
    )


@contextmanager
def _without_settings() -> Iterator[None]:
    """Hide the user's Q8S_* variables, which change the defaults of the parsers."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("Q8S_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _commands(
    parser: argparse.ArgumentParser, skip: set[str] | None = None
) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Yield every command below a parser that has no commands of its own, with its line of help."""
    for group in (action for action in parser._actions if isinstance(action, argparse._SubParsersAction)):
        about = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for name, command in group.choices.items():
            if name in (skip or ()):
                continue
            inner = list(_commands(command))
            yield from inner or [(command, about.get(name, ""))]


def _section(parser: argparse.ArgumentParser, about: str) -> str:
    description = parser.description or (f"{about[0].upper()}{about[1:]}." if about else "")
    lines = [f"### {parser.prog}\n", f"```text\n{_usage(parser)}\n```\n"]
    if description:
        lines.append(f"{_text(description)}\n")
    rows = [_row(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    if rows:
        lines += ["| argument | variable | meaning |", "|---|---|---|", *rows, ""]
    if parser.epilog:
        label, _, example = parser.epilog.partition("example: ")
        lines.append(f"Example: `{example}`\n" if example and not label else f"{_text(parser.epilog)}\n")
    return "\n".join(lines)


def _usage(parser: argparse.ArgumentParser) -> str:
    if parser.usage:
        return parser.usage % {"prog": parser.prog}
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    options = " [OPTIONS]" if any(action.option_strings for action in actions) else ""
    return parser.prog + options + "".join(f" {_operand(a)}" for a in actions if not a.option_strings)


def _operand(action: argparse.Action) -> str:
    name = _value(action)
    return f"[{name}]" if action.nargs in ("?", "*") else name


def _value(action: argparse.Action) -> str:
    """Return how help names the value of an argument."""
    return str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper()))


def _row(action: argparse.Action) -> str:
    help_text, variable = _split(action.help or "")
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {_value(action)}"
        names = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
    else:
        names = f"`{_operand(action)}`"
    default = action.default
    if action.option_strings and default not in (None, False, 0, "", []) and "default" not in help_text:
        help_text += f" Default: `{default}`."
    return f"| {_cell(names)} | {f'`{variable}`' if variable else ''} | {_cell(_text(help_text))} |"


def _split(text: Any) -> tuple[str, str]:
    """Split a line of help into its text, as a sentence, and the environment variable that ends it in brackets."""
    found = re.fullmatch(r"(?s)(.*?)\s*\[(Q8S_[A-Z_]+)\]", str(text))
    words, variable = (found[1], found[2]) if found else (str(text), "")
    return (f"{words[0].upper()}{words[1:]}{'' if words.endswith('.') else '.'}" if words else ""), variable


def _text(text: str) -> str:
    """Return help as Markdown: what is between < and > is no HTML, and globs are no emphasis."""
    return re.sub(r"([*<_])", r"\\\1", text.replace("%%", "%"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
