"""Shell completion: a script for each shell, and the candidates that all scripts ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from q8s_wrapper import command_table
from q8s_wrapper.arguments import default_file, expects_value, is_file_name, positional_arguments
from q8s_wrapper.command_table import COMMANDS, HANDED_OVER, Command

SHELLS: Final = ("bash", "zsh", "fish")
HIDDEN: Final = "_complete"  # hidden command that the scripts call: q8s-run _complete WORD...

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
    """Return the completion script of a shell, or None if the shell is not supported."""
    return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}.get(shell)


def candidates(arguments: Sequence[str]) -> list[str]:
    """Return the completions of the last word of the command line.

    :param arguments: the command line after ``q8s-run``; its last word may be unfinished
    :returns: the candidates; if there are none, the scripts complete file names
    """
    *before, unfinished = arguments or [""]
    if not before:
        first = dict.fromkeys(command.name.split()[0] for command in COMMANDS)
        names = [*first, *HANDED_OVER, *(["--version"] if unfinished else [])]
        return [name for name in names if name.startswith(unfinished)]
    seconds = command_table.second_words(before[0])
    if seconds and len(before) == 1:
        return [second for second in seconds if second.startswith(unfinished)]
    if seconds:
        before = [" ".join(before[:2]), *before[2:]]
    command = command_table.find(before[0])
    if command is None or "--" in before:
        return []
    if unfinished.startswith("-"):
        flags = ["--help", *(f"--{option.name}" for option in command.options)]
        return [flag for flag in flags if flag.startswith(unfinished)]
    choices = {f"--{option.name}": option.choices for option in command.options if option.choices}
    if before[-1] in choices:
        return [choice for choice in choices[before[-1]] if choice.startswith(unfinished)]
    if len(before) > 1 and before[-1].startswith("-") and expects_value(before[-1], command):
        return []
    positionals = positional_arguments(before[1:], command)
    if command.node == "SHELL":
        return [shell for shell in SHELLS if shell.startswith(unfinished) and not positionals]
    file = _cluster_file(positionals, command)
    if file is None:
        return []
    return [name for name in _node_names(Path(file).expanduser()) if name.startswith(unfinished)]


def _cluster_file(positionals: Sequence[str], command: Command) -> str | None:
    """Return the cluster file whose nodes are candidates for the next argument, or None if it is not a node."""
    if command.node in ("", "DIR") or len(positionals) > 1:
        return None
    if not positionals:
        return default_file()
    return positionals[0] if is_file_name(positionals[0]) else None


def _node_names(file: Path) -> list[str]:
    """Return the names of the nodes and hosts in a cluster file; none if the file cannot be loaded."""
    from q8s_wrapper.commands import load
    from q8s_wrapper.errors import WrapperError

    try:
        cluster = load(str(file), warn=False)
    except WrapperError:
        return []
    return list(dict.fromkeys(name for spec in cluster.servers() for name in (spec.node, spec.name)))
