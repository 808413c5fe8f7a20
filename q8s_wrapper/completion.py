"""Completion for shells: a script each, and what may stand at a place of the command line, for all of them alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from q8s_wrapper.arguments import COMMANDS, HANDED_OVER

SHELLS: Final = ("bash", "zsh", "fish")
HIDDEN: Final = "_complete"  # what the scripts call: q8s-run _complete WORD...

_BASH: Final = """\
# q8s-run: completion for bash. source <(q8s-run completion bash)
_q8s_run() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _q8s_run q8s-run
"""

_ZSH: Final = """\
#compdef q8s-run
# q8s-run: completion for zsh. source <(q8s-run completion zsh)
_q8s_run() {
    local -a found
    found=(${(f)"$(${words[1]} _complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
compdef _q8s_run q8s-run
"""

_FISH: Final = """\
# q8s-run: completion for fish. q8s-run completion fish | source
function __q8s_run
    set -l words (commandline -opc) (commandline -ct)
    $words[1] _complete $words[2..-1] 2>/dev/null
end
complete -c q8s-run -a '(__q8s_run)'
"""


def script(shell: str) -> str | None:
    """The script of a shell, or None for one that is not known."""
    return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}.get(shell)


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of these words, which may be unfinished, may become. Nothing means a file's name."""
    *before, unfinished = words or [""]
    if not before:
        names = [*(command.name for command in COMMANDS), *HANDED_OVER]
        return [name for name in names if name.startswith(unfinished)]
    command = next((command for command in COMMANDS if command.name == before[0]), None)
    if command is None or "--" in before:
        return []
    if unfinished.startswith("-"):
        flags = ["--help", *(f"--{option.name}" for option in command.options)]
        return [flag for flag in flags if flag.startswith(unfinished)]
    choices = {f"--{option.name}": option.choices for option in command.options if option.choices}
    if before[-1] in choices:
        return [choice for choice in choices[before[-1]] if choice.startswith(unfinished)]
    positional = _positional(before[1:], {f"--{o.name}" for o in command.options if o.metavar})
    if positional is None:
        return []
    if command.node == "SHELL":
        return [shell for shell in SHELLS if shell.startswith(unfinished) and not positional]
    default = os.environ.get("Q8S_CLUSTER_FILE")
    file = positional[0] if positional else default
    if not command.node or file is None or len(positional) > 1:
        return []
    return [name for name in _names(Path(file).expanduser()) if name.startswith(unfinished)]


def _positional(words: Sequence[str], with_value: set[str]) -> list[str] | None:
    """The words that are no options; None where the word to complete is an option's value."""
    found = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in with_value:
            skip = True
        elif not word.startswith("-"):
            found.append(word)
    return None if skip else found


def _names(file: Path) -> list[str]:
    """Names of a cluster file's nodes and hosts; a file that cannot be read has none."""
    from q8s_wrapper.commands import load
    from q8s_wrapper.errors import WrapperError

    try:
        cluster = load(str(file), warn=False)
    except WrapperError:
        return []
    return list(dict.fromkeys(name for spec in cluster.servers() for name in (spec.node, spec.name)))
